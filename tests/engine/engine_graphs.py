"""Small ONNX graphs for the engine tests, typed as exporters type them: fp32 at both ends, casts inside."""

from __future__ import annotations

import itertools

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, checker, helper

from aigc_rt.manifest import Profile

TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
Shape = list[int | str]


def model(
    nodes: list[NodeProto], inputs: dict[str, Shape], outputs: dict[str, Shape], weights: list[TensorProto]
) -> bytes:
    def values(specs: dict[str, Shape]) -> list[ValueInfoProto]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in specs.items()]

    graph = helper.make_graph(nodes, "graph", values(inputs), values(outputs), weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    checker.check_model(made)
    return bytes(made.SerializeToString())


def weight(name: str, shape: list[int], precision: str) -> TensorProto:
    values = np.random.default_rng(0).standard_normal(shape) * 0.05
    return helper.make_tensor(name, TYPES[precision], shape, values.ravel().tolist())


def cast(source: str, target: str, precision: str) -> NodeProto:
    return helper.make_node("Cast", [source], [target], f"cast_{target}", to=TYPES[precision])


def mlp(*precisions: str, sizes: tuple[int, ...] = (100, 256, 512, 784)) -> bytes:
    """Linear layers of these precisions (one for all, or one each) with ReLU between them: z (batch, 100) to image."""
    precisions = precisions if len(precisions) > 1 else precisions * (len(sizes) - 1)
    nodes, weights, at = [], [], "z"
    for i, (precision, a, b) in enumerate(zip(precisions, sizes[:-1], sizes[1:], strict=True)):
        weights += [weight(f"w{i}", [a, b], precision), weight(f"b{i}", [b], precision)]
        nodes += [
            cast(at, f"x{i}", precision),
            helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"m{i}"], f"linear_{i}"),
        ]
        nodes += [helper.make_node("Add", [f"m{i}", f"b{i}"], [f"h{i}"], f"bias_{i}")]
        nodes += [helper.make_node("Relu", [f"h{i}"], [f"a{i}"], f"relu_{i}")]
        at = f"a{i}"
    nodes.append(cast(at, "image", "fp32"))
    return model(nodes, {"z": ["batch", sizes[0]]}, {"image": ["batch", sizes[-1]]}, weights)


def mlp_parameters(sizes: tuple[int, ...] = (100, 256, 512, 784)) -> int:
    return sum((a + 1) * b for a, b in itertools.pairwise(sizes))


def batches(*limits: int, width: int = 100, name: str = "z") -> dict[str, Profile]:
    low, usual, high = limits or (1, 8, 64)
    return {name: Profile((low, width), (usual, width), (high, width))}


def attention(head: int) -> tuple[bytes, dict[str, Profile]]:
    """One fp16 Attention of four heads, and its profile."""
    nodes = [cast(x, f"{x}_half", "fp16") for x in "qkv"]
    nodes += [helper.make_node("Attention", ["q_half", "k_half", "v_half"], ["y_half"], "attention")]
    shape: Shape = ["batch", 4, "tokens", head]
    made = model([*nodes, cast("y_half", "y", "fp32")], dict.fromkeys("qkv", shape), {"y": shape}, [])
    return made, {x: Profile((1, 4, 1, head), (2, 4, 16, head), (4, 4, 64, head)) for x in "qkv"}


def convolutions(depth: int = 1) -> bytes:
    """fp16 on x (batch, 32, 16, 16): a grouped ConvTranspose, then `depth` pairs of Conv and Tanh."""
    nodes = [cast("x", "x_half", "fp16")]
    nodes += [helper.make_node("ConvTranspose", ["x_half", "wt"], ["c0"], "up", group=4)]
    weights = [weight("wt", [32, 16, 3, 3], "fp16")]
    for i in range(depth):
        weights += [weight(f"w{i}", [64, 64, 3, 3], "fp16"), weight(f"b{i}", [64], "fp16")]
        conv = helper.make_node("Conv", [f"c{i}", f"w{i}", f"b{i}"], [f"d{i}"], f"conv_{i}", pads=[1] * 4)
        nodes += [conv, helper.make_node("Tanh", [f"d{i}"], [f"c{i + 1}"], f"tanh_{i}")]
    nodes.append(cast(f"c{depth}", "y", "fp32"))
    return model(nodes, {"x": ["batch", 32, 16, 16]}, {"y": ["batch", 64, 18, 18]}, weights)


def images(low: int = 1, usual: int = 2, high: int = 4) -> dict[str, Profile]:
    return {"x": Profile((low, 32, 16, 16), (usual, 32, 16, 16), (high, 32, 16, 16))}


def heavy_table() -> bytes:
    """Arithmetic in fp16, and beside it a million fp32 weights that are only added."""
    weights = [weight("w", [1000, 100], "fp16"), weight("table", [1000, 1000], "fp32")]
    nodes = [cast("x", "x_half", "fp16"), helper.make_node("MatMul", ["x_half", "w"], ["m"], "small")]
    nodes += [cast("m", "m_full", "fp32"), helper.make_node("ReduceSum", ["m_full"], ["s"], "total", keepdims=1)]
    nodes += [helper.make_node("Add", ["x", "table"], ["t"], "add_table"), helper.make_node("Add", ["t", "s"], ["y"])]
    return model(nodes, {"x": [1000, 1000]}, {"y": [1000, 1000]}, weights)
