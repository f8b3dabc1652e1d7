"""A small generator as a bundle, made without torch: what the runtime's tests load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from aigc_rt import verify
from aigc_rt.bundle import content_name, hash_files, replacing, write_manifest
from aigc_rt.export.precision import to_fp16
from aigc_rt.manifest import (
    Axis,
    Condition,
    Evidence,
    Feedforward,
    Graph,
    Manifest,
    Media,
    Noise,
    Program,
    Tensor,
    TensorSpec,
    Variant,
)

LATENT, HIDDEN, SHAPE = 6, 16, (3, 4, 5)
"""Length of z, of the hidden layer, and (C, H, W) of the image."""
IMAGE = Media("image", "image", "NCHW")
BATCH = Axis(1, 8)


def weights() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """First layer, label embedding, second layer."""
    rng = np.random.default_rng(0)
    size = int(np.prod(SHAPE))
    drawn = (rng.normal(size=s) for s in ((LATENT, HIDDEN), (10, HIDDEN), (HIDDEN, size)))
    first, embedding, second = (d.astype(np.float32) for d in drawn)
    return first, embedding, second / np.float32(2)


def answer(z: NDArray[np.float32], label: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """What the graph gives, computed here in float64: (B, C, H, W)."""
    first, embedding, second = (w.astype(np.float64) for w in weights())
    hidden = z.astype(np.float64) @ first  # (B, HIDDEN)
    if label is not None:
        hidden = hidden + embedding[label]
    pixels = np.tanh(np.maximum(hidden, 0) @ second)
    return pixels.reshape(-1, *SHAPE)


def model(*, labelled: bool) -> onnx.ModelProto:
    """The graph in fp32: z (and label) -> image."""
    first, embedding, second = weights()
    inputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", LATENT])]
    nodes = [helper.make_node("MatMul", ["z", "first"], ["projected"], "project")]
    constants: dict[str, NDArray[Any]] = {"first": first, "second": second, "shape": np.array([-1, *SHAPE], np.int64)}
    hidden = "projected"
    if labelled:
        inputs.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]))
        constants["embedding"] = embedding
        nodes.append(helper.make_node("Gather", ["embedding", "label"], ["embedded"], "embed"))
        nodes.append(helper.make_node("Add", ["projected", "embedded"], ["hidden"], "add"))
        hidden = "hidden"
    nodes += [
        helper.make_node("Relu", [hidden], ["active"], "relu"),
        helper.make_node("MatMul", ["active", "second"], ["flat"], "expand"),
        helper.make_node("Tanh", ["flat"], ["bounded"], "tanh"),
        helper.make_node("Reshape", ["bounded", "shape"], ["image"], "reshape"),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        inputs,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *SHAPE])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def projection() -> NDArray[np.float32]:
    """The encoder's one layer."""
    drawn = np.random.default_rng(1).normal(size=(int(np.prod(SHAPE)), LATENT)) / 8
    return drawn.astype(np.float32)


def encode(image: NDArray[Any]) -> NDArray[np.float64]:
    """What the encoder gives, computed here in float64: (B, LATENT)."""
    return image.astype(np.float64).reshape(len(image), -1) @ projection().astype(np.float64)


def encoder_model() -> onnx.ModelProto:
    """A second graph, in fp32: image -> mean."""
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "projection"], ["mean"], "project"),
    ]
    graph = helper.make_graph(
        nodes,
        "toy_encoder",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", LATENT])],
        [numpy_helper.from_array(projection(), "projection")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def program(*, labelled: bool, media: Media = IMAGE) -> Feedforward:
    conditions = {"label": Condition("label", "int64", 0, 9, names=("zero", "one"))} if labelled else {}
    return Feedforward("generator", {"z": Noise(0, "normal", (LATENT,))}, media, conditions)


def bundle(
    path: Path,
    *,
    precisions: tuple[str, ...] = ("fp32", "fp16"),
    labelled: bool = False,
    made: Program | None = None,
    evidence: tuple[Evidence, ...] = (),
    graph: onnx.ModelProto | None = None,
    encoder: tuple[str, ...] = (),
) -> Path:
    """Write a bundle at `path`.

    Args:
        path: where.
        precisions: of the main graph.
        labelled: whether it takes a label.
        made: its program, feedforward images by default.
        evidence: put into it besides the answers.
        graph: the main graph in fp32, `model` by default.
        encoder: precisions of a second graph; () for none.
    """
    with replacing(path) as folder:
        variants = _write(folder, "generator", graph or model(labelled=labelled), precisions)
        inputs = [TensorSpec("z", "float32", ("batch", LATENT))]
        inputs += [TensorSpec("label", "int64", ("batch",))] if labelled else []
        outputs = (TensorSpec("image", "float32", ("batch", *SHAPE)),)
        described = Graph(tuple(inputs), outputs, {"batch": BATCH}, 1056, variants)
        graphs = {"generator": described}
        if encoder:
            image = TensorSpec("image", "float32", ("batch", *SHAPE))
            mean = TensorSpec("mean", "float32", ("batch", LATENT))
            written = _write(folder, "encoder", encoder_model(), encoder)
            graphs["encoder"] = Graph((image,), (mean,), {"batch": BATCH}, 360, written)
        manifest = Manifest(path.name, made or program(labelled=labelled), graphs, hash_files(folder), evidence)
        probe = verify.probe(manifest, "generator")
        answers = {"generator": {"image": answer(probe["z"], probe.get("label"))}}
        if encoder:
            answers["encoder"] = {"mean": encode(verify.probe(manifest, "encoder")["image"])}
        known = [Evidence("answer", "device", {"outputs": verify.sketch(a)}, role) for role, a in answers.items()]
        write_manifest(folder, replace(manifest, evidence=(*evidence, *known)))
    return path


def _write(folder: Path, role: str, fp32: onnx.ModelProto, precisions: tuple[str, ...]) -> dict[str, Variant]:
    variants = {}
    for precision in precisions:
        data = (fp32 if precision == "fp32" else to_fp16(fp32).model).SerializeToString()
        file = content_name(role, precision, data, ".onnx")
        (folder / file).write_bytes(data)
        variants[precision] = Variant(precision, "onnx", file, opset=20)  # type: ignore[arg-type]
    return variants


TENSOR = Tensor("generator")
