"""fp32 ONNX -> fp16 ONNX, in the graph itself: strongly typed, so that no builder flag decides what is computed.

TensorRT 11 has no weak typing: an engine computes in the types that the graph states. Inputs and outputs stay fp32, so
that every variant of a graph takes and gives the same; weights are stored once, as fp16.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from aigc_rt.errors import ExportError

FP32, FP16 = TensorProto.FLOAT, TensorProto.FLOAT16
FP16_MAX = float(np.finfo(np.float16).max)
_TYPE_ATTRIBUTES = {"Cast": "to", "RandomNormalLike": "dtype", "RandomUniformLike": "dtype", "EyeLike": "dtype"}
_MOVING = frozenset(
    (
        *("Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Concat", "Split", "Slice", "Gather"),
        *("Expand", "Identity", "ConstantOfShape", "Pad", "Tile", "Where"),
    )
)
"""Operators that only move values: whatever type they move, no precision is lost in them."""


@dataclass(frozen=True)
class Half:
    """A half-precision graph, and what could not be kept as it was."""

    model: onnx.ModelProto
    fp32_nodes: tuple[str, ...]
    """Nodes with floating-point work that still compute in fp32: asked for, or without an fp16 form in ONNX."""
    clamped: tuple[str, ...]
    """Constants with finite values beyond 65,504, which became 65,504."""


def to_fp16(model: onnx.ModelProto, keep_fp32: Iterable[str] = ()) -> Half:
    """Convert every float32 value inside the graph to float16.

    Args:
        model: a checked fp32 graph without subgraphs.
        keep_fp32: names of nodes that go on computing in fp32, with casts around them.

    Raises:
        ExportError: a node with a subgraph (If, Loop, Scan), or an operator that ONNX does not define.
    """
    typed = onnx.shape_inference.infer_shapes(_constants_as_initializers(model), check_type=True, strict_mode=True)
    converter = _Converter(typed, frozenset(keep_fp32))
    half = converter.convert()
    try:
        half = onnx.shape_inference.infer_shapes(half, check_type=True, strict_mode=True)
        onnx.checker.check_model(half, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError("convert the graph to fp16", str(error), "Export fp32 only, and report this") from error
    return Half(half, tuple(converter.fp32_nodes), tuple(sorted(converter.clamped)))


def _constants_as_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:]
    for node in model.graph.node:
        value = _constant_value(node) if node.op_type == "Constant" and not node.domain else None
        if value is None:
            made.graph.node.append(node)
        else:
            made.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    return made


def _constant_value(node: NodeProto) -> np.ndarray[Any, Any] | None:
    """What a Constant holds, unless it is a string or sparse."""
    kinds: dict[str, Any] = {
        "value": numpy_helper.to_array,
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    attribute = node.attribute[0]
    if attribute.name not in kinds:
        return None
    return np.asarray(kinds[attribute.name](helper.get_attribute_value(attribute)))


class _Converter:
    """One pass over the nodes in order, knowing for every value the element type it has now."""

    def __init__(self, model: onnx.ModelProto, keep: frozenset[str]) -> None:
        self.model, self.keep = model, keep
        self.opsets = {o.domain: o.version for o in model.opset_import}
        graph = model.graph
        self.before: dict[str, int] = {t.name: t.data_type for t in graph.initializer}
        for value in (*graph.input, *graph.value_info, *graph.output):
            self.before[value.name] = value.type.tensor_type.elem_type
        self.constants = {t.name: t for t in graph.initializer}
        self.now: dict[str, int] = {v.name: v.type.tensor_type.elem_type for v in graph.input}
        self.forms: dict[tuple[str, int], str] = {}
        self.used: list[TensorProto] = []
        self.nodes: list[NodeProto] = []
        self.taken = {*self.before, *(o for n in graph.node for o in n.output)}
        self.fp32_nodes: list[str] = []
        self.clamped: set[str] = set()

    def convert(self) -> onnx.ModelProto:
        graph = self.model.graph
        for node in graph.node:
            self._node(node)
        self._outputs()
        made = onnx.ModelProto()
        made.CopyFrom(self.model)
        for part in (made.graph.node, made.graph.initializer, made.graph.value_info):
            del part[:]
        made.graph.node.extend(self.nodes)
        made.graph.initializer.extend(self.used)
        return made

    def _node(self, node: NodeProto) -> None:
        if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
            raise ExportError(
                f"convert {node.op_type} {node.name!r} to fp16",
                "it holds a subgraph, whose values cannot be retyped one by one",
                "Export fp32 only, or write the module without data-dependent control flow",
            )
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opsets[node.domain], node.domain)
        except (onnx.defs.SchemaError, KeyError):
            raise ExportError(
                f"convert {node.op_type} {node.name!r} to fp16",
                "ONNX does not define that operator",
                "Export fp32 only",
            ) from None
        halves = set() if node.name in self.keep else _half_types(schema)
        new = NodeProto()
        new.CopyFrom(node)
        wants = {FP32: FP16} if self._is_source(new) and node.name not in self.keep else {}
        for i, name in enumerate(node.input):
            if name and self._before(name) == FP32:
                half = _formal(schema.inputs, i).type_str in halves
                new.input[i] = self._as(name, FP16 if half else FP32)
            elif name:
                new.input[i] = self._as(name, self._before(name))
        if wants:
            self._retype(new)
        floats = False
        for i, name in enumerate(node.output):
            kind = self._before(name) if name else 0
            if kind == FP32:
                half = bool(wants) or _formal(schema.outputs, i).type_str in halves
                kind = FP16 if half else FP32
                floats |= not half
            self.now[name] = kind
        if floats and node.op_type not in _MOVING:
            self.fp32_nodes.append(node.name or node.output[0])
        self.nodes.append(new)

    def _before(self, name: str) -> int:
        if name not in self.before:
            raise ExportError(f"convert the value {name!r} to fp16", "ONNX infers no type for it", "Export fp32 only")
        return self.before[name]

    def _as(self, name: str, kind: int) -> str:
        """The name under which the value has that type here, made when it is first wanted."""
        if name in self.constants:
            return self._constant(name, kind)
        if self.now[name] == kind:
            return name
        if (name, kind) not in self.forms:
            cast = self._fresh(f"{name}_{'fp16' if kind == FP16 else 'fp32'}")
            self.nodes.append(helper.make_node("Cast", [name], [cast], name=f"cast_{cast}", to=kind))
            self.forms[name, kind] = cast
        return self.forms[name, kind]

    def _constant(self, name: str, kind: int) -> str:
        """The initializer in that type; the first type asked for keeps the name."""
        if (name, kind) not in self.forms:
            others = any((name, other) in self.forms for other in (FP32, FP16))
            label = self._fresh(f"{name}_{'fp16' if kind == FP16 else 'fp32'}") if others else name
            tensor = TensorProto()
            tensor.CopyFrom(self.constants[name])
            tensor.name = label
            self.used.append(tensor if kind == tensor.data_type else self._to_half(tensor, label))
            self.forms[name, kind] = label
        return self.forms[name, kind]

    def _to_half(self, tensor: TensorProto, label: str) -> TensorProto:
        values = numpy_helper.to_array(tensor)
        if np.any(np.isfinite(values) & (np.abs(values) > FP16_MAX)):
            self.clamped.add(tensor.name or label)
            values = np.where(np.isfinite(values), np.clip(values, -FP16_MAX, FP16_MAX), values)
        return numpy_helper.from_array(values.astype(np.float16), label)

    def _is_source(self, node: NodeProto) -> bool:
        """Whether the node's own attribute, not an input, says that it gives fp32."""
        for attribute in node.attribute:
            if attribute.name == _TYPE_ATTRIBUTES.get(node.op_type):
                return bool(attribute.i == FP32)
            if node.op_type == "ConstantOfShape" and attribute.name == "value":
                return bool(attribute.t.data_type == FP32)
        return node.op_type == "ConstantOfShape"  # its default is a float32 zero

    def _retype(self, node: NodeProto) -> None:
        for attribute in node.attribute:
            if attribute.name == _TYPE_ATTRIBUTES.get(node.op_type):
                attribute.i = FP16
            elif node.op_type == "ConstantOfShape":
                attribute.t.CopyFrom(self._to_half(attribute.t, node.name))
        if node.op_type == "ConstantOfShape" and not node.attribute:
            zero = numpy_helper.from_array(np.zeros(1, np.float16))
            node.attribute.append(helper.make_attribute("value", zero))

    def _outputs(self) -> None:
        """Give the graph's outputs their names and types back, by a cast behind the node that makes them."""
        for value in self.model.graph.output:
            if value.name in self.constants:
                self._constant(value.name, self.constants[value.name].data_type)
                continue
            if self.now[value.name] == value.type.tensor_type.elem_type:
                continue
            inner = self._fresh(f"{value.name}_fp16")
            for node in self.nodes:
                for names in (node.input, node.output):
                    for i, name in enumerate(names):
                        if name == value.name:
                            names[i] = inner
            self.nodes.append(helper.make_node("Cast", [inner], [value.name], name=f"cast_{value.name}", to=FP32))

    def _fresh(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name


def _half_types(schema: onnx.defs.OpSchema) -> set[str]:
    """The operator's type parameters that may be float16."""
    return {c.type_param_str for c in schema.type_constraints if "tensor(float16)" in c.allowed_type_strs}


def _formal(formals: Iterable[onnx.defs.OpSchema.FormalParameter], index: int) -> onnx.defs.OpSchema.FormalParameter:
    known = list(formals)
    return known[min(index, len(known) - 1)]  # the last one may be variadic
