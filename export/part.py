"""A module to export, made ready: a float32 copy, one example an input, one name an output; wrong ones are refused."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from aigc_rt.errors import ExportError, InputError
from aigc_rt.export import graph


@dataclass(frozen=True, eq=False)
class Part:
    """A module that becomes one graph of a bundle.

    Attributes:
        module: any torch.nn.Module whose forward takes and gives tensors; it is not changed.
        example_inputs: a tuple, or a dict by forward's parameter names.
        dynamic: input name -> axis -> its name, or (name, smallest, largest); a name alone is 1 to 64.
        outputs: names for the outputs in PyTorch's order; () is "output", or output_0, output_1, ...
    """

    module: torch.nn.Module
    example_inputs: Any
    dynamic: graph.Dynamic | None = None
    outputs: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Ready:
    """A part that `graph.to_onnx` takes, all but the names of its outputs."""

    module: torch.nn.Module
    """In eval mode, float32, on the CPU."""
    examples: dict[str, torch.Tensor]
    dynamic: graph.Dynamic
    outputs: tuple[str, ...]
    """As the part says them: () where it leaves the names to `output_names`."""


def ready(part: Part) -> Ready:
    """A copy of the part to work on; its forward is not called yet.

    Raises:
        InputError: it is no module, or the examples do not fit forward.
        ExportError: the module cannot be copied, or a weight is not finite.
    """
    frozen = _freeze(part.module)
    examples = graph.examples_by_name(part.module, part.example_inputs)
    if isinstance(part.outputs, str) or not all(isinstance(name, str) and name for name in part.outputs):
        raise InputError(f"outputs={part.outputs!r}", "they are no list of names", 'Give ("mean", "variance"), say')
    return Ready(frozen, examples, part.dynamic or {}, tuple(part.outputs))


def _freeze(module: torch.nn.Module) -> torch.nn.Module:
    """A float32 copy on the CPU in eval mode, its weights finite."""
    if not isinstance(module, torch.nn.Module):
        raise InputError("export", f"it is a {type(module).__name__}", "Give a torch.nn.Module")
    try:
        frozen = copy.deepcopy(module)
    except RuntimeError as error:
        mend = "Remove hooks and old weight_norm first: torch.nn.utils.remove_weight_norm"
        raise ExportError(f"copy {type(module).__name__}", str(error), mend) from error
    frozen = frozen.eval().to("cpu", torch.float32)
    for name, value in frozen.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ExportError(
                f"export {type(module).__name__}", f"the weight {name} holds NaN or infinity", "Train it anew"
            )
    return frozen


def output_names(part: Ready, alone: str | None = None) -> tuple[str, ...]:
    """Names for the outputs, found by one call of forward, before minutes are spent on it.

    Args:
        part: whose outputs.
        alone: the name of an output that is the only one, where the part says none; None takes "output".

    Raises:
        InputError: the names do not fit the outputs, or are those of inputs.
        ExportError: forward raises, or gives no tensor.
    """
    count = len(tensors(_try(part)))
    if count == 0:
        raise ExportError("export", f"forward of {type(part.module).__name__} gives no tensor", "Return a tensor")
    named = part.outputs or ((alone,) if alone and count == 1 else ())
    if named and len(named) != count:
        found = f"forward of {type(part.module).__name__} gives {count}"
        raise InputError(f"outputs called {', '.join(named)}", found, "Give one name for each output")
    if taken := sorted({name for name in named if name in part.examples or named.count(name) > 1}):
        found = f"forward's parameters are {', '.join(part.examples)}"
        raise InputError(f"an output called {taken[0]}", found, "Give every output another name")
    if named:
        return named
    return tuple(_free("output" if count == 1 else f"output_{i}", part.examples) for i in range(count))


def _try(part: Ready) -> Any:
    try:
        return part.module(**part.examples)
    except Exception as error:  # forward raises what it wants
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in part.examples.items())
        raise ExportError(
            f"run {type(part.module).__name__} on the examples ({shapes})",
            f"{type(error).__name__}: {error}",
            "Give examples that forward takes",
        ) from error


def tensors(answer: Any) -> list[torch.Tensor]:
    """The tensors of a module's answer, nested or not, in PyTorch's own order."""
    return [leaf for leaf in torch.utils._pytree.tree_leaves(answer) if isinstance(leaf, torch.Tensor)]


def forward(module: torch.nn.Module, inputs: Mapping[str, Any]) -> list[Any]:
    """The module's answer to numpy arrays by name, as numpy arrays in the outputs' order."""
    with torch.no_grad():
        answer = module(**{name: torch.from_numpy(value) for name, value in inputs.items()})
    return [leaf.numpy() for leaf in tensors(answer)]


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "_"
    return name
