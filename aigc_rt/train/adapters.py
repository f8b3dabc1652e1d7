"""Low-rank adapters: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.

A layer's weight stays as it is, and the product of two thin ones is learned beside it. For a convolution the first of
the two has the layer's kernel and few channels and the second is 1 x 1, for a transposed one the other way round, so
that the product is again a convolution of the same kind: `merge` adds it to the weight, and no trace is left.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from aigc_rt.manifest import Condition
from aigc_rt.train.generators.family import MAX_BATCH, TrainedGenerator

SCALE = "adapter_scale"
"""The condition that live adapters add to a program, and the input of the graphs that have some."""
CONDITION = Condition(input=SCALE, dtype="float32", low=0, high=2, default=1)
Network = TypeVar("Network", bound=nn.Module)
Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d


def _linear(base: nn.Linear, rank: int) -> tuple[nn.Module, nn.Module]:
    return nn.Linear(base.in_features, rank, bias=False), nn.Linear(rank, base.out_features, bias=False)


def _conv(base: nn.Conv1d | nn.Conv2d, rank: int) -> tuple[nn.Module, nn.Module]:
    thin = rank * base.groups
    keywords: dict[str, Any] = {"groups": base.groups, "bias": False}
    like = {name: getattr(base, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
    return (
        type(base)(base.in_channels, thin, **like, **keywords),
        type(base)(thin, base.out_channels, 1, **keywords),
    )


def _transposed(base: nn.ConvTranspose2d, rank: int) -> tuple[nn.Module, nn.Module]:
    thin = rank * base.groups
    keywords: dict[str, Any] = {"groups": base.groups, "bias": False}
    like = {name: getattr(base, name) for name in ("kernel_size", "stride", "padding", "output_padding", "dilation")}
    return (
        nn.Conv2d(base.in_channels, thin, 1, **keywords),
        nn.ConvTranspose2d(thin, base.out_channels, **like, **keywords),
    )


PAIRS: dict[type[nn.Module], Callable[[Any, int], tuple[nn.Module, nn.Module]]] = {
    nn.Linear: _linear,
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.ConvTranspose2d: _transposed,
}
"""How the two thin layers beside a layer of a type are made; a layer of `groups` has `rank` of each."""


class Adapted(nn.Module):
    """A layer with a low-rank branch beside it, whose second half starts from zero.

    Args:
        base: the layer; its weights are frozen.
        rank: of the branch, or the layer's own where that is less.
        alpha: the branch is `alpha / rank` times as strong as its weights say.

    Attributes:
        scale: strength of the branch as a factor on all that, (1,), or (B,) for one factor a sample.
    """

    scale: Tensor

    def __init__(self, base: Layer, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        rows, columns = len(base.weight) // getattr(base, "groups", 1), base.weight[0].numel()
        self.down, self.up = PAIRS[type(base)](base, min(rank, rows, columns))
        nn.init.zeros_(self.up.weight)  # type: ignore[arg-type]
        self.strength = alpha / rank
        self.register_buffer("scale", torch.ones(1))
        self.to(base.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's answer, and the branch's."""
        branch: Tensor = self.up(self.down(x))  # (B, ...)
        strength = (self.scale * self.strength).reshape(-1, *[1] * (branch.ndim - 1))  # (1, 1, ...) or (B, 1, ...)
        found: Tensor = self.base(x) + branch * strength
        return found

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The layer alone, with the branch in its weights."""
        down, up = _weight(self.down), _weight(self.up)
        groups = getattr(self.base, "groups", 1)
        if isinstance(self.base, nn.ConvTranspose2d):  # (in, rank) x (rank, out * kernel)
            product = _by_group(down, groups).mT @ _by_group(up, groups)
        else:  # (out, rank) x (rank, in * kernel)
            product = up.reshape(groups, len(up) // groups, -1) @ _by_group(down, groups)
        strength = self.scale.double() * self.strength
        self.base.weight += (product.reshape(self.base.weight.shape) * strength).to(self.base.weight.dtype)
        return self.base


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.double()


def _by_group(weight: Tensor, groups: int) -> Tensor:
    """(groups * rank, ...) to (groups, rank, the rest)."""
    return weight.reshape(groups, len(weight) // groups, -1)


def adaptable(network: nn.Module) -> dict[str, Layer]:
    """The layers inside a network that adapters can stand beside, by name: not those that are frozen or have one.

    A layer whose weight is computed anew for every call, under spectral norm say, is of another type and not among
    them.
    """
    taken = {id(part) for layer in adapted(network).values() for part in layer.modules()}
    return {
        name: layer
        for name, layer in cast(Iterator[tuple[str, Layer]], network.named_modules())
        if name and id(layer) not in taken and type(layer) in PAIRS and layer.weight.requires_grad
    }


def adapt(network: nn.Module, rank: int, alpha: float, targets: Sequence[str] = ("*",)) -> tuple[str, ...]:
    """Put adapters beside the layers of a network whose names match one of `targets`, as `fnmatch` reads them.

    Returns:
        The names of those layers.
    """
    chosen = [name for name in adaptable(network) if any(fnmatchcase(name, target) for target in targets)]
    for name in chosen:
        _put(network, name, Adapted(network.get_submodule(name), rank, alpha))  # type: ignore[arg-type]
    return tuple(chosen)


def adapted(network: nn.Module) -> dict[str, Adapted]:
    """The layers of a network that have adapters, by name."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, Adapted)}


def merge(network: Network) -> Network:
    """Fold the adapters of a network into its layers; it is changed and given back, the plain network again."""
    for name, layer in adapted(network).items():
        _put(network, name, layer.merged())
    return network


def _put(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, layer)


class Scaled(nn.Module):
    """A module with adapters whose strength is its last input, one factor a sample: see `scaled`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.names = tuple(f"{name}.scale" for name in adapted(module))


def scaled(module: nn.Module) -> Scaled:
    """A module as it is, whose forward also takes `adapter_scale`, (B,).

    Graph inputs are named after forward's parameters, so it has a forward of its own that says which they are.
    """
    own = list(inspect.signature(module.forward).parameters.values())
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("self", kind), *own, inspect.Parameter(SCALE, kind, annotation=Tensor)]

    def forward(self: Scaled, *values: Tensor, **named: Tensor) -> Any:
        given = dict(zip([p.name for p in parameters[1:]], values, strict=False)) | named
        scale = given.pop(SCALE)
        return torch.func.functional_call(self.module, dict.fromkeys(self.names, scale), (), given)

    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    made: Scaled = type("Scaled", (Scaled,), {"forward": forward})(module)
    return made.train(module.training)


def live(trained: TrainedGenerator) -> TrainedGenerator:
    """A generator whose adapters keep a strength of their own: a condition of the program, 0 the source, 1 as trained.

    Every graph that has adapters takes it, those of `also` too.
    """

    def more(part: Any) -> dict[str, Any]:
        count = len(next(iter(part.example_inputs.values())))
        return {
            "module": scaled(part.module),
            "example_inputs": part.example_inputs | {SCALE: torch.linspace(CONDITION.low, CONDITION.high, count)},
            "dynamic": part.dynamic | {SCALE: {0: ("batch", 1, MAX_BATCH)}},
        }

    also = {
        role: dataclasses.replace(part, **more(part)) if adapted(part.module) else part
        for role, part in trained.also.items()
    }
    if not adapted(trained.module):
        return dataclasses.replace(trained, also=also)
    program = dataclasses.replace(trained.program, conditions=trained.program.conditions | {SCALE: CONDITION})
    return dataclasses.replace(trained, **more(trained), program=program, also=also)
