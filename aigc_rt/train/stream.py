"""The training images in the order in which they are trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aigc_rt import noise
from aigc_rt.errors import InputError
from aigc_rt.train.augment import UNIFORMS, Augment, augment
from aigc_rt.train.data import Dataset, permutation
from aigc_rt.train.task import AUGMENT, ORDER, Batch, Recipe, to_floats
from aigc_rt.train.workers import Workers


class Stream(Protocol):
    """Which images a step takes."""

    @property
    def steps(self) -> int:
        """Steps of the whole recipe."""

    def parts(self, step: int) -> Sequence[Batch]:
        """This process's share of a step's images, in as many parts as the step is accumulated over."""


@dataclass
class Shuffled:
    """An endless order: a new permutation for every epoch, keyed by seed and epoch; a batch may span two epochs.

    An image is changed (`augment`) anew each time that it is taken.

    Raises:
        InputError: the batch cannot be cut into equal parts.
    """

    data: Dataset
    recipe: Recipe
    seed: int
    workers: Workers
    augment: Augment | None = None
    _orders: dict[int, NDArray[np.int64]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        cuts = self.workers.count * self.recipe.accumulate
        if self.recipe.batch % cuts:
            found = f"{self.workers.count} processes accumulate {self.recipe.accumulate} parts each"
            raise InputError(f"train with batch={self.recipe.batch}", found, f"Give a multiple of {cuts}")
        self._images = torch.from_numpy(self.data.images)  # (N, C, H, W) uint8
        self._labels = None if self.data.labels is None else torch.from_numpy(self.data.labels)

    @property
    def steps(self) -> int:
        """Steps of all epochs."""
        return math.ceil(self.recipe.epochs * len(self.data.train) / self.recipe.batch)

    def parts(self, step: int) -> list[Batch]:
        """Equal parts of the step's samples, of which a process takes those that lie together."""
        size = self.recipe.batch // (self.workers.count * self.recipe.accumulate)
        first = step * self.recipe.batch + self.workers.rank * size * self.recipe.accumulate
        return [self.batch(first + part * size, size) for part in range(self.recipe.accumulate)]

    def batch(self, first: int, count: int) -> Batch:
        """Samples `first` to `first + count - 1` of the run."""
        size = len(self.data.train)
        epochs = range(first // size, (first + count - 1) // size + 1)
        for epoch in epochs:
            if epoch not in self._orders:
                self._orders = {e: order for e, order in self._orders.items() if e in epochs}
                self._orders[epoch] = self.data.train[permutation(self.seed, epoch, size, ORDER)]
        places = [divmod(k, size) for k in range(first, first + count)]
        chosen = torch.tensor([self._orders[epoch][place] for epoch, place in places])
        return load(self._images, self._labels, chosen, self.seed, first, self.augment, self.workers.device)


def load(
    images: Tensor,
    labels: Tensor | None,
    chosen: Tensor,
    seed: int,
    first: int,
    spec: Augment | None,
    device: torch.device,
) -> Batch:
    """The images of those indices as a batch whose first sample is number `first` of the run.

    Args:
        images: all of them, (N, C, H, W) uint8.
        labels: (N,) int64, or None.
        chosen: (B,) int64.
        seed: of the run; with `first` it decides the random changes.
        first: index of the first sample.
        spec: random changes.
        device: where to.
    """
    floats = to_floats(images[chosen].to(device))  # (B, C, H, W)
    if spec is not None:
        drawn = noise.uniform(seed, AUGMENT, first, len(chosen), (UNIFORMS,))
        floats = augment(floats, torch.from_numpy(drawn).to(device), spec)
    return Batch(floats, None if labels is None else labels[chosen].to(device), seed, first)
