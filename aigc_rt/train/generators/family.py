"""What every family of generators is, and what a trained one hands to whoever exports it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aigc_rt import media, noise
from aigc_rt.manifest import Feedforward
from aigc_rt.train.task import Recipe, Task

MAX_BATCH = 64
"""Largest batch that example inputs declare: what an engine's profile will cover."""


class Family(Task, Protocol):
    """A task that makes a generator: one class a family, registered by name in `FAMILIES`."""

    objectives: ClassVar[dict[str, Recipe]]
    """How each objective is optimised; the first is the default."""

    program: Feedforward
    """How the exported graph becomes samples; `program.graph` is also the role of the network that is exported."""

    config: dict[str, Any]
    """What `create` takes besides the shape and the objective, as JSON: written into the run."""

    @classmethod
    def create(cls, shape: tuple[int, int, int], objective: str, config: dict[str, Any] | None = None) -> Self:
        """Networks with fresh weights from torch's generator, for images of (C, H, W).

        Args:
            shape: (C, H, W) of one image.
            objective: a key of `objectives`.
            config: what a run recorded; None for the defaults.

        Raises:
            RunError: the config is none of this family.
        """


@dataclass(frozen=True, eq=False)
class TrainedGenerator:
    """A generator and all that is needed to export it.

    Attributes:
        module: in eval mode on the CPU, with the averaged weights.
        example_inputs: keyword arguments of `module`, batch 2.
        dynamic: of each input, its dynamic axes: (name, smallest, largest).
        program: how its outputs become samples.
        name: the run folder's name.
        made: family, objective, data (name, hash, origin, licence), steps, seed, versions.
        quality: a judge's word, or None where there is none.
    """

    module: nn.Module
    example_inputs: dict[str, Tensor]
    dynamic: dict[str, dict[int, tuple[str, int, int]]]
    program: Feedforward
    name: str
    made: dict[str, Any]
    quality: dict[str, Any] | None


def trained(
    module: nn.Module, program: Feedforward, name: str, made: dict[str, Any], quality: dict[str, Any] | None
) -> TrainedGenerator:
    """A TrainedGenerator with example inputs drawn as the program draws them."""
    return TrainedGenerator(
        module=module,
        example_inputs=inputs(program, seed=0, start=0, count=2),
        dynamic={key: {0: ("batch", 1, MAX_BATCH)} for key in program.noise},
        program=program,
        name=name,
        made=made,
        quality=quality,
    )


def inputs(program: Feedforward, seed: int, start: int, count: int) -> dict[str, Tensor]:
    """The program's own noise for samples `start` to `start + count - 1`: name to (count, ...) float32."""
    return {
        key: torch.from_numpy(noise.DISTRIBUTIONS[spec.distribution](seed, spec.stream, start, count, spec.shape))
        for key, spec in program.noise.items()
    }


@torch.no_grad()
def sample(module: nn.Module, program: Feedforward, seed: int, count: int, start: int = 0) -> NDArray[np.uint8]:
    """Samples as the runtime makes them: (count, H, W, C) uint8."""
    blocks = []
    for first in range(start, start + count, MAX_BATCH):
        given = inputs(program, seed, first, min(MAX_BATCH, start + count - first))
        blocks.append(media.finish(module(**given).numpy(), program.media))
    return np.concatenate(blocks)
