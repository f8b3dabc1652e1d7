"""Peers that do what peers should not, and a bundle so small that anything runs it: image = tanh(z)."""

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aigc_rt.bench.peers.base import Array, Arrays, Job, Peer
from aigc_rt.bundle import hash_files, write_manifest
from aigc_rt.errors import BackendUnavailable
from aigc_rt.manifest import Axis, Condition, Evidence, Feedforward, Graph, Manifest, Media, Noise, TensorSpec, Variant
from aigc_rt.verify import probe, sketch

HERE = "bench_fake_peers"


def make_bundle(folder: Path, layout: str = "NCHW", channels: int = 3, answer: bool = False) -> Path:
    shape = (channels, 4, 5) if layout == "NCHW" else (4, 5, channels)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Tanh", ["z"], ["image"])],
        "g",
        [value("z", TensorProto.FLOAT, ["batch", *shape])],
        [value("image", TensorProto.FLOAT, ["batch", *shape])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    folder.mkdir()
    onnx.save(model, str(folder / "generator.onnx"))
    stored = Graph(
        (TensorSpec("z", "float32", ("batch", *shape)),),
        (TensorSpec("image", "float32", ("batch", *shape)),),
        {"batch": Axis(1, 8)},
        0,
        {"fp32": Variant("fp32", "onnx", "generator.onnx", opset=20)},
    )
    program = Feedforward(
        "generator",
        {"z": Noise(0, "normal", shape)},
        Media("image", "image", "NCHW" if layout == "NCHW" else "NHWC"),
    )
    manifest = Manifest("tiny", program, {"generator": stored}, hash_files(folder))
    if answer:
        recorded = sketch({"image": np.tanh(probe(manifest, "generator")["z"])})
        evidence = Evidence("answer", "device", {"outputs": recorded}, "generator")
        manifest = replace(manifest, evidence=(evidence,))
    write_manifest(folder, manifest)
    return folder


def make_half_bundle(folder: Path) -> Path:
    """Stored in fp16 only, a class without a default, a second graph: image = tanh(z) * table[label]."""
    value, shape = helper.make_tensor_value_info, (3, 4, 5)
    table = np.linspace(0.1, 1, 3, dtype=np.float16).reshape(3, 1, 1, 1)
    nodes = [
        helper.make_node("Cast", ["z"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Tanh", ["half"], ["level"]),
        helper.make_node("Gather", ["table", "label"], ["weight"]),
        helper.make_node("Mul", ["level", "weight"], ["product"]),
        helper.make_node("Cast", ["product"], ["image"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("z", TensorProto.FLOAT, ["batch", *shape]), value("label", TensorProto.INT64, ["batch"])],
        [value("image", TensorProto.FLOAT, ["batch", *shape])],
        [numpy_helper.from_array(table, "table")],
    )
    folder.mkdir()
    for role in ("decoder", "encoder"):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.save(model, str(folder / f"{role}.onnx"))
    images = TensorSpec("image", "float32", ("batch", *shape))
    inputs = (TensorSpec("z", "float32", ("batch", *shape)), TensorSpec("label", "int64", ("batch",)))
    stored = {
        role: Graph(
            inputs, (images,), {"batch": Axis(1, 8)}, 0, {"fp16": Variant("fp16", "onnx", f"{role}.onnx", opset=20)}
        )
        for role in ("decoder", "encoder")
    }
    noise = {"z": Noise(0, "normal", shape)}
    program = Feedforward(
        "decoder", noise, Media("image", "image", "NCHW"), {"label": Condition("label", "int64", 0, 2)}
    )
    write_manifest(folder, Manifest("half", program, stored, hash_files(folder)))
    return folder


def tanh_module(scale: float = 1.0) -> Any:
    import torch

    class Tanh(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return torch.tanh(scale * z)

    return Tanh()


def half_module() -> Any:
    """What `make_half_bundle` holds, in fp32."""
    import torch

    class Half(torch.nn.Module):
        def forward(self, z: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            return torch.tanh(z) * torch.linspace(0.1, 1, 3)[label].view(-1, 1, 1, 1)

    return Half()


def other_weights() -> Any:
    return tanh_module(1.01)


def other_inputs() -> Any:
    import torch

    return torch.nn.Tanh()


def export_arguments() -> dict[str, Any]:
    return {"module": tanh_module(), "example_inputs": {}, "name": "tiny"}


def half_of_the_arguments() -> dict[str, Any]:
    return {"module": tanh_module()}


class Fine(Peer):
    """Right; leaves its process id where PEER_PIDS says."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        if folder := os.environ.get("PEER_PIDS"):
            (Path(folder) / str(os.getpid())).touch()

    def run(self, inputs: Arrays) -> Array:
        return np.asarray(np.tanh(inputs["z"]))

    def facts(self) -> dict[str, Any]:
        return {"omp": os.environ["OMP_NUM_THREADS"], "threads": self.job.threads}


class AlsoFine(Fine):
    """Another name for the same."""


class Wrong(Fine):
    """Up to four levels off."""

    def run(self, inputs: Arrays) -> Array:
        return super().run(inputs) * np.float32(0.97)


class WrongShape(Fine):
    """Forgets the last sample."""

    def images(self, n: int, start: int) -> Any:
        return super().images(n, start)[: n - 1]


class Raises(Fine):
    def run(self, inputs: Arrays) -> Array:
        raise ValueError("the kernel has no such shape")


class RaisesAtTwo(Fine):
    """Works at batch 1 only."""

    def run(self, inputs: Arrays) -> Array:
        if len(inputs["z"]) > 1:
            raise MemoryError("out of memory")
        return super().run(inputs)


class Absent(Fine):
    def __init__(self, job: Job) -> None:
        raise BackendUnavailable("this peer", "the moon is in the wrong place", "Wait")


class CrashesAtStart(Fine):
    def __init__(self, job: Job) -> None:
        super().__init__(job)
        os.write(2, b"last words before the crash\n")
        os.kill(os.getpid(), signal.SIGSEGV)


class CrashesWhenMeasured(Fine):
    """Survives its first call, not the blocks."""

    calls = 0

    def run(self, inputs: Arrays) -> Array:
        self.calls += 1
        if self.calls > 10:
            os._exit(7)
        return super().run(inputs)


class Hangs(Fine):
    def run(self, inputs: Arrays) -> Array:
        time.sleep(600)
        return super().run(inputs)


class Chatty(Fine):
    """An engine that prints on stdout, from Python and from below it."""

    def run(self, inputs: Arrays) -> Array:
        sys.stdout.write("{chatter}\n")
        os.write(1, b"more chatter\n")
        return super().run(inputs)
