"""A torch module as one ONNX graph in fp32, checked, and described as the manifest wants it."""

from __future__ import annotations

import contextlib
import inspect
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import onnx
import torch

from aigc_rt.errors import ExportError, InputError
from aigc_rt.manifest import Axis, DType, TensorSpec

OPSET = 20
"""The default: the newest that every engine aigc-rt builds or runs reads."""

Dynamic = Mapping[str, Mapping[int, str | tuple[str, int, int]]]
"""Dynamic axes: input name -> axis -> its name, or (name, smallest, largest)."""
DEFAULT_RANGE = (1, 64)


@dataclass(frozen=True)
class Exported:
    """An fp32 graph with what the manifest says of it."""

    model: onnx.ModelProto
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    axes: dict[str, Axis]
    parameters: int


def to_onnx(
    module: torch.nn.Module,
    examples: Mapping[str, torch.Tensor],
    dynamic: Dynamic,
    outputs: tuple[str, ...],
    opset: int = OPSET,
) -> Exported:
    """Export with `torch.onnx.export` (dynamo), strip what names this machine, and run the full checker.

    Args:
        module: in eval mode, float32, on the CPU.
        examples: one tensor a parameter of forward, by name.
        dynamic: the dynamic axes.
        outputs: names for the outputs, in order.
        opset: of the default domain.

    Raises:
        InputError: an axis or an input that is not there.
        ExportError: PyTorch cannot export the module, or the graph fails the checker.
    """
    axes = _axes(examples, dynamic)
    grown = {name: _at_least_two(value, dynamic.get(name, {})) for name, value in examples.items()}
    shapes = {
        name: {i: torch.export.Dim(_axis(spec)[0], min=_axis(spec)[1], max=_axis(spec)[2]) for i, spec in dims.items()}
        for name, dims in dynamic.items()
    }
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                (),
                kwargs=dict(grown),
                dynamo=True,
                opset_version=opset,
                dynamic_shapes={name: shapes.get(name) for name in grown} if shapes else None,
                input_names=list(grown),
                output_names=list(outputs),
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter raises what the module or any pass raises
        if _interrupted(error):
            raise KeyboardInterrupt from error
        raise ExportError(
            f"export {type(module).__name__} to ONNX", _first_words(error), "See the exception this one came from"
        ) from error
    assert program is not None
    model = _strip(program.model_proto)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"check the graph of {type(module).__name__}", str(error), "Report this with the module"
        ) from error
    return Exported(
        model,
        tuple(_spec(value) for value in model.graph.input),
        tuple(_spec(value) for value in model.graph.output),
        axes,
        sum(p.numel() for p in {id(p): p for p in module.parameters()}.values()),
    )


def examples_by_name(module: torch.nn.Module, examples: Any) -> dict[str, torch.Tensor]:
    """The example inputs by forward's parameter names; a tuple is taken in order.

    Raises:
        InputError: they do not fit forward's signature, or are no tensors.
    """
    names = list(inspect.signature(module.forward).parameters)
    given = dict(examples) if isinstance(examples, Mapping) else None
    if given is None:
        values = tuple(examples) if isinstance(examples, (tuple, list)) else (examples,)
        if len(values) > len(names):
            raise _unfit(module, f"{len(values)} inputs", names)
        given = dict(zip(names, values, strict=False))
    required = [n for n, p in inspect.signature(module.forward).parameters.items() if p.default is p.empty]
    if not set(required) <= given.keys() <= set(names) or not given:
        raise _unfit(module, f"inputs {sorted(given)}", names)
    for name, value in given.items():
        if not isinstance(value, torch.Tensor):
            raise InputError(f"example input {name!r}", f"it is a {type(value).__name__}", "Give a torch.Tensor")
    return {name: value.detach().clone() for name, value in given.items()}  # one tensor given twice is two inputs


def _unfit(module: torch.nn.Module, asked: str, names: list[str]) -> InputError:
    found = f"forward of {type(module).__name__} takes ({', '.join(names)})"
    return InputError(f"export with {asked}", found, "Give one example for each parameter, in order or by name")


def _axis(spec: str | tuple[str, int, int]) -> tuple[str, int, int]:
    return (spec, *DEFAULT_RANGE) if isinstance(spec, str) else (str(spec[0]), int(spec[1]), int(spec[2]))


def _axes(examples: Mapping[str, torch.Tensor], dynamic: Dynamic) -> dict[str, Axis]:
    axes: dict[str, Axis] = {}
    for name, dims in dynamic.items():
        if name not in examples:
            raise InputError(f"dynamic axes of {name!r}", f"the inputs are {sorted(examples)}", "Name one of them")
        if not isinstance(dims, Mapping):
            raise InputError(f"dynamic axes of {name!r}", f"{dims!r} is no dict", 'Give {0: "batch"}, say')
        for index, spec in dims.items():
            try:
                label, low, high = _axis(spec)
            except (TypeError, ValueError, IndexError):
                label, low, high = "", 0, 0
            if not label.isidentifier():
                mend = 'Give a name such as "batch", or ("batch", 1, 64)'
                raise InputError(f"dynamic axis {index} of {name!r}", f"{spec!r} is no name and no range", mend)
            if not 0 <= index < examples[name].ndim:
                raise InputError(
                    f"dynamic axis {index} of {name!r}", f"it has {examples[name].ndim} axes", "Count from 0"
                )
            if not 1 <= low < high:
                raise InputError(
                    f"axis {label!r} from {low} to {high}", "a range begins at 1 or more and grows", "Mend the range"
                )
            if axes.setdefault(label, Axis(low, high)) != Axis(low, high):
                raise InputError(f"axis {label!r}", "it was given two ranges", "Give each axis one range")
    return axes


def _at_least_two(value: torch.Tensor, dims: Mapping[int, object]) -> torch.Tensor:
    """PyTorch takes a dynamic axis of length 1 for a constant: double it."""
    for index in dims:
        if value.shape[index] == 1:
            value = torch.cat([value, value], index)
    return value


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    if dtype not in get_args(DType):
        raise ExportError(
            f"describe {value.name!r}", f"its type {dtype} is not one a bundle holds", "Cast it in forward"
        )
    shape = tuple(d.dim_param if d.HasField("dim_param") else int(d.dim_value) for d in kind.shape.dim)
    return TensorSpec(value.name, dtype, shape)  # type: ignore[arg-type]  # checked against DType above


def _strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop doc strings and metadata: they hold source paths and stack traces of the exporting machine."""
    clean = onnx.ModelProto()
    clean.CopyFrom(model)
    del clean.metadata_props[:]
    clean.doc_string = clean.graph.doc_string = ""
    for part in (
        *clean.graph.node,
        *clean.graph.value_info,
        *clean.graph.input,
        *clean.graph.output,
        *clean.graph.initializer,
    ):
        del part.metadata_props[:]
        part.doc_string = ""
    del clean.graph.metadata_props[:]
    return clean


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is what the exporter wrapped."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _first_words(error: Exception) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:400]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks off the user's terminal; what matters comes as an exception."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
