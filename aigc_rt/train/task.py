"""What a task brings to the loop: networks, and losses in the order in which they are taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from aigc_rt import noise
from aigc_rt.train.settings import between

ORDER = 1 << 32
"""First of training's streams of noise; sampling uses the low ones, so no run is judged on the noise it trained on."""
TORCH = ORDER + 1
DRAWS = ORDER + 2
"""First of the streams that a task draws from, see `Batch`."""
AUGMENT = ORDER + (1 << 16)
_RANGE = 127.5


@dataclass(frozen=True)
class Recipe:
    """How a task is optimised. The loop reads it; a run records it.

    Attributes:
        epochs: passes over the training images.
        batch: images a step, over all processes and all parts of an accumulated step.
        lr: learning rate, reached after `warmup_steps`.
        betas: decay rates of Adam and AdamW.
        ema: weight of the newest weights in the exponential moving average; 0.005 is a decay of 0.995, 1 no average.
        schedule: "constant"; "cosine", down to `final_lr` times `lr` at the last step of the last epoch; or
            "trapezoid", constant for the first half of the steps and then a straight line down to the same.
        threads: torch's threads; None leaves them alone. Small networks are best off with one: a second one makes a
            step little faster on an idle machine, up to ten times slower on a busy one, and the sums round otherwise.
        optimizer: `torch.optim`'s of that name.
        momentum: of SGD.
        weight_decay: AdamW's and Adafactor's is decoupled; Adam's and SGD's is added to the gradient.
        clip: a network's gradient is scaled down to this norm where it is longer.
        accumulate: parts that a step's batch is cut into, one after the other, to need less memory.
        autocast: what the networks compute in under `torch.autocast`; weights and optimizer stay fp32.
        compile: compile the networks with `torch.compile`.
    """

    epochs: int = between(1, 1_000_000, 1)
    batch: int = between(1, 1 << 20, 64)
    lr: float = between(1e-9, 10, 1e-3)
    betas: tuple[float, float] = between(0, 0.999999, (0.9, 0.999))
    ema: float = between(1e-6, 1, 0.005)
    schedule: Literal["constant", "cosine", "trapezoid"] = "constant"
    final_lr: float = between(0, 1, 0.1)
    warmup_steps: int = between(0, 1_000_000, 0)
    threads: int | None = between(1, 1024, None)
    optimizer: Literal["adam", "adamw", "adafactor", "sgd"] = "adam"
    momentum: float = between(0, 0.999999, 0.0)
    weight_decay: float = between(0, 10, 0.0)
    clip: float | None = between(1e-6, 1e6, None)
    accumulate: int = between(1, 4096, 1)
    autocast: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False


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

    @property
    def asked(self) -> Tensor | None:
        """Classes that made images are to be of, (B,) int64: those of the images."""
        return self.labels

    def normal(self, shape: tuple[int, ...], stream: int = 0) -> Tensor:
        """Standard normals, (B, *shape) float32, the same for a sample in whatever batch it comes."""
        drawn = noise.normal(self.seed, DRAWS + stream, self.first, len(self.images), shape)
        return torch.from_numpy(drawn).to(self.images.device)

    def uniform(self, shape: tuple[int, ...], stream: int = 0) -> Tensor:
        """Uniform values in [0, 1), (B, *shape) float32, as `normal`."""
        drawn = noise.uniform(self.seed, DRAWS + stream, self.first, len(self.images), shape)
        return torch.from_numpy(drawn).to(self.images.device)


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
        """Yield each loss of a step; the loop updates that loss's network before it asks for the next one.

        Every batch yields as many losses, in the same order. Each is a mean over the batch, so that the mean over
        the parts of a batch (several processes, or an accumulated step) is that of the whole.
        """


def to_floats(images: Tensor) -> Tensor:
    """uint8 0 to 255, any shape, to float32 -1 to 1."""
    return images.float().div_(_RANGE).sub_(1.0)
