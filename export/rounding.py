"""What a half-precision device would compute, computed on a CPU: every node alone, every value rounded to its type.

ONNX Runtime's CPU provider runs fp16 operators in fp32 and keeps fp32 between them, so a graph that overflows on a GPU
looks fine on it. A session of one node must hand its result over as fp16: sums inside a node stay fp32, as on tensor
cores, and what passes from node to node is rounded, and overflows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from aigc_rt.backends.quiet import import_onnxruntime
from aigc_rt.errors import ExportError

Array = NDArray[Any]


@dataclass(frozen=True)
class _Step:
    session: Any
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    done: tuple[str, ...]
    """Values that nothing after this step reads."""


class Rounded:
    """A graph as sessions of one node each. Call it with inputs by name for outputs by name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        typed = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        self._outputs = [value.name for value in typed.graph.output]
        constants = {t.name: t for t in typed.graph.initializer}
        types = {t.name: t.data_type for t in typed.graph.initializer}
        for value in (*typed.graph.input, *typed.graph.value_info, *typed.graph.output):
            types[value.name] = value.type.tensor_type.elem_type
        last = {name: i for i, node in enumerate(typed.graph.node) for name in node.input}
        self._direct = {name: numpy_helper.to_array(constants[name]) for name in self._outputs if name in constants}
        self._steps = []
        for i, node in enumerate(typed.graph.node):
            reads = tuple(dict.fromkeys(name for name in node.input if name and name not in constants))
            done = tuple(name for name in reads if last[name] == i and name not in self._outputs)
            session = _session(typed, node, reads, constants, types)
            self._steps.append(_Step(session, reads, tuple(filter(None, node.output)), done))

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name; every session runs on one thread."""
        values: dict[str, Array] = {**self._direct, **inputs}
        for step in self._steps:
            found = step.session.run(list(step.writes), {name: values[name] for name in step.reads})
            values.update(zip(step.writes, found, strict=True))
            for name in step.done:
                del values[name]
        return {name: values[name] for name in self._outputs}


def _session(
    model: onnx.ModelProto,
    node: NodeProto,
    reads: tuple[str, ...],
    constants: Mapping[str, onnx.TensorProto],
    types: Mapping[str, int],
) -> Any:
    graph = helper.make_graph(
        [node],
        "node",
        [helper.make_tensor_value_info(name, types[name], None) for name in reads],
        [helper.make_tensor_value_info(name, types[name], None) for name in node.output if name],
        [constants[name] for name in dict.fromkeys(node.input) if name in constants],
    )
    alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1  # hundreds of sessions: none of them may keep a pool of threads
    data, providers = alone.SerializeToString(), ["CPUExecutionProvider"]
    try:
        return onnxruntime.InferenceSession(data, options, providers, enable_fallback=0)  # falling back, it prints
    except Exception as error:  # onnxruntime's errors share no base class
        asked = f"run {node.op_type} {node.name!r} with its values rounded"
        raise ExportError(asked, str(error), "Export fp32 only, and report this") from error
