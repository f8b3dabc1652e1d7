"""What every family of generators is, and what a trained one hands to whoever exports it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aigc_rt import media, noise
from aigc_rt.manifest import Condition, Feedforward
from aigc_rt.train.task import Batch, Recipe, Task

MAX_BATCH = 64
"""Largest batch that example inputs declare: what an engine's profile will cover."""


@dataclass(frozen=True)
class DataSpec:
    """What a family is told of the images it is to make.

    Attributes:
        shape: (C, H, W) of one image.
        classes: how many there are, 0 without labels.
        class_names: their names, () where they are just numbers.
    """

    shape: tuple[int, int, int]
    classes: int = 0
    class_names: tuple[str, ...] = ()


class Family(Task, Protocol):
    """A task that makes a generator: one class a family, registered by name in `FAMILIES`.

    A class is made as `family(data, objective, settings)`: networks with fresh weights from torch's generator, for
    images as the DataSpec `data` says, with a key of `objectives`, and an instance of `settings_type`. It raises
    InputError where it cannot make such images: another size than it is built for, or no classes where it needs them.
    """

    objectives: ClassVar[Mapping[str, Recipe]]
    """How each objective is optimised; the first is the default."""

    private: ClassVar[Mapping[str, str]]
    """The role of the network that sees the images, of every objective that can be trained with differential privacy:
    its loss is a mean of one term an image, each a function of that image and of nothing else that is private."""

    settings_type: ClassVar[type[Any]]
    """A frozen dataclass of plain values, each with a default: what can be set besides the objective."""

    further: ClassVar[Mapping[str, tuple[str, ...]]]
    """The graphs that are exported besides the program's, by role, with the names of their outputs. Such a graph takes
    `image`, as the program's graph makes it, and may take the program's conditions."""

    program: Feedforward
    """How the main graph becomes samples."""

    settings: Any
    """The instance of `settings_type`."""

    def __init__(self, data: DataSpec, objective: str, settings: Any) -> None: ...

    def graphs(self, networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
        """The modules to export, by role, of `networks` by role: of the live ones or of the averages."""

    def measures(self, networks: Mapping[str, nn.Module], batch: Batch) -> dict[str, Tensor]:
        """What can be said of real images that were not trained on, (B,) each: a VAE's reconstruction error and
        ELBO, say. {} where there is nothing.
        """


@dataclass(frozen=True, eq=False)
class Piece:
    """A graph to export besides the main one; the fields are those of TrainedGenerator."""

    module: nn.Module
    example_inputs: dict[str, Tensor]
    dynamic: dict[str, dict[int, tuple[str, int, int]]]
    outputs: tuple[str, ...]


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
        also: further graphs by role, a VAE's encoder, say.
    """

    module: nn.Module
    example_inputs: dict[str, Tensor]
    dynamic: dict[str, dict[int, tuple[str, int, int]]]
    program: Feedforward
    name: str
    made: dict[str, Any]
    quality: dict[str, Any] | None
    also: dict[str, Piece] = field(default_factory=dict)


def trained(
    family: Family,
    networks: Mapping[str, nn.Module],
    name: str,
    made: dict[str, Any],
    quality: dict[str, Any] | None,
) -> TrainedGenerator:
    """A TrainedGenerator of networks by role, with example inputs drawn as the program draws them."""
    graphs = {role: module.eval().requires_grad_(False) for role, module in family.graphs(networks).items()}
    main, examples = graphs[family.program.graph], inputs(family.program, seed=0, start=0, count=2)
    with torch.no_grad():
        many = inputs(family.program, seed=0, start=0, count=MAX_BATCH)  # what a further graph is compared on
        many["image"] = main(**many)
    also = {}
    for role, names in family.further.items():
        taken = list(inspect.signature(graphs[role].forward).parameters)
        also[role] = Piece(graphs[role], {key: many[key] for key in taken}, _batched(taken), names)
    return TrainedGenerator(main, examples, _batched(examples), family.program, name, made, quality, also)


def _batched(names: Iterable[str]) -> dict[str, dict[int, tuple[str, int, int]]]:
    return {name: {0: ("batch", 1, MAX_BATCH)} for name in names}


def inputs(
    program: Feedforward, seed: int, start: int, count: int, conditions: Mapping[str, Any] | None = None
) -> dict[str, Tensor]:
    """The main graph's inputs for samples `start` to `start + count - 1`.

    Args:
        program: how the graph is fed.
        seed: which noise.
        start: index of the first sample.
        count: how many.
        conditions: by name, a value for all or (count,) values; one left out is swept: sample i gets value i of its
            range, from the lowest on and around.

    Returns:
        Name to (count, ...) float32 of noise, (count,) of a condition's dtype.
    """
    found = {
        key: torch.from_numpy(noise.DISTRIBUTIONS[spec.distribution](seed, spec.stream, start, count, spec.shape))
        for key, spec in program.noise.items()
    }
    for name, condition in program.conditions.items():
        given = (conditions or {}).get(name)
        values = swept(condition, start, count) if given is None else np.broadcast_to(np.asarray(given), (count,))
        found[condition.input] = torch.from_numpy(values.astype(condition.dtype))
    return found


def swept(condition: Condition, start: int, count: int) -> NDArray[Any]:
    """Values of a condition for samples in order: all whole ones in turn, or the default, or the highest."""
    if np.issubdtype(np.dtype(condition.dtype), np.integer):
        return np.asarray(condition.low + np.arange(start, start + count) % int(condition.high - condition.low + 1))
    return np.full(count, condition.high if condition.default is None else condition.default)


@torch.no_grad()
def sample(
    module: nn.Module,
    program: Feedforward,
    seed: int,
    count: int,
    start: int = 0,
    conditions: Mapping[str, Any] | None = None,
) -> NDArray[np.uint8]:
    """Samples as the runtime makes them: (count, H, W, C) uint8; arguments as in `inputs`."""
    blocks, device = [], next(iter(module.parameters())).device
    for first in range(0, count, MAX_BATCH):
        size = min(MAX_BATCH, count - first)
        part = {name: np.broadcast_to(v, (count,))[first : first + size] for name, v in (conditions or {}).items()}
        given = inputs(program, seed, start + first, size, part)
        made = module(**{name: value.to(device) for name, value in given.items()})
        blocks.append(media.finish(made.float().cpu().numpy(), program.media))
    return np.concatenate(blocks)
