"""What a task brings to the loop: networks, and losses in the order in which they are taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from aigc_rt import noise

ORDER = 1 << 32
"""First of training's streams of noise; sampling uses the low ones, so no run is judged on the noise it trained on."""
TORCH = ORDER + 1
DRAWS = ORDER + 2
_RANGE = 127.5


@dataclass(frozen=True)
class Recipe:
    """How a task is optimised. The loop reads it; a run records it.

    Attributes:
        epochs: passes over the training images.
        batch: images a step.
        lr: Adam's learning rate, reached after `warmup_steps`.
        betas: Adam's decay rates.
        ema: weight of the newest weights in the exponential moving average; 0.005 is a decay of 0.995.
        schedule: "constant"; "cosine", down to `final_lr` times `lr` at the last step of the last epoch; or
            "trapezoid", constant for the first half of the steps and then a straight line down to the same.
        threads: torch's threads; None leaves them alone. Small networks are best off with one: a second one makes a
            step little faster on an idle machine, up to ten times slower on a busy one, and the sums round otherwise.
    """

    epochs: int
    batch: int
    lr: float
    betas: tuple[float, float]
    ema: float = 0.005
    schedule: Literal["constant", "cosine", "trapezoid"] = "constant"
    final_lr: float = 0.1
    warmup_steps: int = 0
    threads: int | None = None


@dataclass(frozen=True)
class Batch:
    """One step's images and the key of its randomness.

    Attributes:
        images: (B, C, H, W) float32 in [-1, 1].
        labels: (B,) int64, or None.
        seed: the run's seed.
        first: index of the batch's first sample, counted over the whole run: noise does not depend on how
            samples are grouped into batches or shared between processes.
    """

    images: Tensor
    labels: Tensor | None
    seed: int
    first: int

    def normal(self, shape: tuple[int, ...], stream: int = 0) -> Tensor:
        """Standard normals, (B, *shape) float32, the same for a sample in whatever batch it comes."""
        return torch.from_numpy(noise.normal(self.seed, DRAWS + stream, self.first, len(self.images), shape))

    def uniform(self, shape: tuple[int, ...], stream: int = 0) -> Tensor:
        """Uniform values in [0, 1), (B, *shape) float32, as `normal`."""
        return torch.from_numpy(noise.uniform(self.seed, DRAWS + stream, self.first, len(self.images), shape))


@dataclass(frozen=True)
class Loss:
    """A scalar to take a step on: only the network of role `trains` is updated, whatever else the value depends on."""

    trains: str
    value: Tensor
    watched: Mapping[str, Tensor] = field(default_factory=dict)
    """Other scalars worth a curve."""


class Task(Protocol):
    """What the loop trains: a family of generators, or a judge."""

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """Every network by its role; all are optimised and saved."""

    @property
    def averaged(self) -> tuple[str, ...]:
        """Roles that also have an exponential moving average of their weights."""

    def losses(self, batch: Batch) -> Iterator[Loss]:
        """Yield each loss of a step; the loop updates that loss's network before it asks for the next one."""


def to_floats(images: Tensor) -> Tensor:
    """uint8 0 to 255, any shape, to float32 -1 to 1."""
    return images.float().div_(_RANGE).sub_(1.0)
