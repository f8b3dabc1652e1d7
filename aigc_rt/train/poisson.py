"""The sampling and the secret of private training."""

from __future__ import annotations

import hashlib
import math
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aigc_rt import noise
from aigc_rt.errors import RunError, WriteError
from aigc_rt.train.augment import Augment
from aigc_rt.train.data import Dataset
from aigc_rt.train.stream import load
from aigc_rt.train.task import DRAWS, ORDER, Batch, Recipe
from aigc_rt.train.workers import Workers

FILE = "secret"
LENGTH = 32
"""Bytes of a secret."""
SPACING = 32
"""Bits that number the samples of one step."""
_SHIFT = np.uint64(11)  # a word's upper 53 bits become the float64's fraction
_UNIT = 2.0**-53


@dataclass(frozen=True)
class Secret:
    """What the sampling and the noise of a private run are made from.

    A run's seed is published with it; whoever has it could work out the noise and take it off again. So both come
    from bytes that never leave the run's folder, stretched by SHAKE-256 (FIPS 202), of which no output tells anything
    about another one. Values are keyed by what they are for and by the step, so that a resumed run goes on bit for bit.
    """

    key: bytes = field(repr=False)

    @classmethod
    def new(cls) -> Self:
        """Of the operating system's randomness."""
        return cls(secrets.token_bytes(LENGTH))

    @classmethod
    def read(cls, run: Path) -> Self:
        """That of a run's folder.

        Raises:
            RunError: it is not there or damaged, or others may read it.
        """
        file = run / FILE
        try:
            key, mode = file.read_bytes(), file.stat().st_mode
        except OSError as error:
            raise RunError(
                f"resume the private run {run}",
                f"its secret cannot be read ({error.strerror})",
                f"Put the file {FILE} back into its folder, or train into another one",
            ) from None
        if len(key) != LENGTH:
            found = f"it has {len(key)} bytes, not {LENGTH}"
            raise RunError(f"read {file}", found, "Put it back as it was, or train into another folder")
        if os.name == "posix" and mode & 0o077:
            found = f"others may read it (its mode is {mode & 0o777:o}): whoever did can take the noise off"
            raise RunError(f"read {file}", found, f"If nobody did, chmod 600 {file}; else train into another folder")
        return cls(key)

    def write(self, run: Path) -> None:
        """Put it into a run's folder, for the owner's eyes only.

        Raises:
            WriteError: the folder cannot be written to, or has one.
        """
        try:
            descriptor = os.open(run / FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(self.key)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise WriteError(
                f"write {run / FILE}", error.strerror or str(error), "Make room, or train into another folder"
            ) from error

    def words(self, use: str, step: int, count: int) -> NDArray[np.uint64]:
        """(count,) words for that use in that step."""
        name = self.key + step.to_bytes(8, "little") + use.encode()
        return np.frombuffer(hashlib.shake_256(name).digest(8 * count), "<u8")

    def uniform(self, use: str, step: int, count: int) -> NDArray[np.float64]:
        """(count,) values in [0, 1)."""
        return (self.words(use, step, count) >> _SHIFT).astype(np.float64) * _UNIT

    def normal(self, use: str, step: int, count: int) -> Tensor:
        """(count,) float32 standard normals, by Box-Muller in float64."""
        uniform = torch.from_numpy(self.uniform(use, step, count + count % 2)).view(2, -1)
        radius = (-2.0 * (uniform[0] + _UNIT).log()).sqrt_()  # log of (0, 1], never of 0
        angle = uniform[1].mul(2.0 * math.pi)
        return torch.cat([radius * angle.cos(), radius.mul_(angle.sin_())])[:count].float()


@dataclass(frozen=True)
class PoissonBatch(Batch):
    """A Poisson sample of the training images.

    Attributes:
        drawn: images in the sample; where there are none, one blank image stands in, whose gradient is to be dropped.
        made: rows of every draw; None is one a row of `images`. How many images were drawn is private, and of which
            classes, so a generator that is not part of the private network must not come to know it.
        classes: of the data, 0 without labels.
    """

    drawn: int
    made: int | None
    classes: int

    @property
    def rows(self) -> int:
        """Of every draw."""
        return len(self.images) if self.made is None else self.made

    @property
    def asked(self) -> Tensor | None:
        """Classes that made images are to be of, (rows,) int64: any, all equally likely."""
        if self.made is None or self.labels is None:
            return self.labels
        words = noise.words(self.seed, ORDER, self.first, self.made, 1)[:, 0] % np.uint64(self.classes)
        return torch.from_numpy(words.astype(np.int64)).to(self.images.device)

    def normal(self, shape: tuple[int, ...], stream: int = 0) -> Tensor:
        """Standard normals, (rows, *shape) float32."""
        drawn = noise.normal(self.seed, DRAWS + stream, self.first, self.rows, shape)
        return torch.from_numpy(drawn).to(self.images.device)

    def uniform(self, shape: tuple[int, ...], stream: int = 0) -> Tensor:
        """Uniform values in [0, 1), (rows, *shape) float32."""
        drawn = noise.uniform(self.seed, DRAWS + stream, self.first, self.rows, shape)
        return torch.from_numpy(drawn).to(self.images.device)


@dataclass
class PoissonStream:
    """Every training image is in every step's sample with the same probability, independently of all else.

    Attributes:
        data, recipe, workers, augment: as of `Shuffled`; `recipe.batch` is the expected size of a sample.
        secret: decides the samples, and what is drawn for them.
        made: see `PoissonBatch`.
        batch: the newest one.
        step: of that batch.
    """

    data: Dataset
    recipe: Recipe
    secret: Secret
    workers: Workers
    augment: Augment | None = None
    made: int | None = None
    batch: PoissonBatch | None = field(default=None, init=False)
    step: int = field(default=-1, init=False)

    def __post_init__(self) -> None:
        self._images = torch.from_numpy(self.data.images)  # (N, C, H, W) uint8
        self._labels = None if self.data.labels is None else torch.from_numpy(self.data.labels)

    @property
    def rate(self) -> float:
        """Probability of an image to be in a sample."""
        return self.recipe.batch / len(self.data.train)

    @property
    def steps(self) -> int:
        """Steps in which as many images are expected as there are in all epochs."""
        return math.ceil(self.recipe.epochs * len(self.data.train) / self.recipe.batch)

    def parts(self, step: int) -> list[PoissonBatch]:
        """The step's sample."""
        taken = self.secret.uniform("sample", step, len(self.data.train)) < self.rate
        chosen = torch.from_numpy(self.data.train[taken])  # (B,)
        seed, first = int(self.secret.words("batch", step, 1)[0]), step << SPACING
        device, drawn = self.workers.device, len(chosen)
        if drawn:
            found = load(self._images, self._labels, chosen, seed, first, self.augment, device)
            images, labels = found.images, found.labels
        else:
            images = torch.zeros((1, *self.data.shape), device=device)
            labels = None if self._labels is None else torch.zeros(1, dtype=torch.int64, device=device)
        self.step, self.batch = step, PoissonBatch(images, labels, seed, first, drawn, self.made, self.data.classes)
        return [self.batch]
