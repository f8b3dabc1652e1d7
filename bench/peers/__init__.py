"""Who is measured. Each adapter is one short class that a reader can check for fairness; `base.py` says the rules."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal

from aigc_rt.manifest import Graph


@dataclass(frozen=True)
class Spec:
    """One peer.

    Attributes:
        adapter: `package.module:Class`, a `base.Peer`.
        family: peers of one family differ in device and precision only.
        device: where it runs.
        precision: what it is asked to compute in, see `precision_for`; the adapter reads back what it got.
        needs: import names that must be there.
        extra: of aigc-rt, which installs them.
        module: whether it runs the PyTorch module, which no bundle holds.
    """

    adapter: str
    family: str
    device: Literal["cpu", "cuda:0"] = "cpu"
    precision: Literal["fp32", "fp16"] = "fp32"
    needs: tuple[str, ...] = ()
    extra: str = "bench"
    module: bool = False


_EAGER = "aigc_rt.bench.peers.pytorch:Eager"
_COMPILE = "aigc_rt.bench.peers.pytorch:Compile"
_ORT = "aigc_rt.bench.peers.ort:OnnxRuntime"
_OPENVINO = "aigc_rt.bench.peers.openvino:OpenVino"
_RUNTIME = "aigc_rt.bench.peers.runtime:Runtime"
_TRT = "aigc_rt.bench.peers.runtime:TensorRt"
_RTX = "aigc_rt.bench.peers.runtime:TensorRtRtx"

PEERS: dict[str, Spec] = {
    "torch-eager": Spec(_EAGER, "torch-eager", needs=("torch",), module=True),
    "torch-compile": Spec(_COMPILE, "torch-compile", needs=("torch",), module=True),
    "onnxruntime": Spec(_ORT, "onnxruntime", needs=("onnxruntime",), extra="cpu"),
    "openvino": Spec(_OPENVINO, "openvino", needs=("openvino",), extra="openvino"),
    "aigc-rt": Spec(_RUNTIME, "aigc-rt"),
    "torch-eager-cuda": Spec(_EAGER, "torch-eager", "cuda:0", needs=("torch",), module=True),
    "torch-eager-cuda-fp16": Spec(_EAGER, "torch-eager", "cuda:0", "fp16", needs=("torch",), module=True),
    "torch-compile-cuda": Spec(_COMPILE, "torch-compile", "cuda:0", needs=("torch",), module=True),
    "torch-compile-cuda-fp16": Spec(_COMPILE, "torch-compile", "cuda:0", "fp16", needs=("torch",), module=True),
    "onnxruntime-cuda": Spec(_ORT, "onnxruntime", "cuda:0", needs=("onnxruntime",), extra="gpu"),
    "onnxruntime-cuda-fp16": Spec(_ORT, "onnxruntime", "cuda:0", "fp16", needs=("onnxruntime",), extra="gpu"),
    "tensorrt-fp16": Spec(_TRT, "tensorrt", "cuda:0", "fp16", needs=("tensorrt",), extra="tensorrt"),
    "tensorrt-rtx-fp16": Spec(_RTX, "tensorrt-rtx", "cuda:0", "fp16", needs=("tensorrt_rtx",), extra="rtx"),
}
"""Every peer by name, in the order of the table."""

TOLERANCE_LEVELS: dict[str, int] = {"fp32": 1, "fp16": 8}
"""How far a peer's pixels may be from the reference peer's, of 255 levels.

fp32 kernels differ by rounding, which moves a value over at most one level's edge. fp16 keeps 11 bits through every
layer: 8 levels is an error of 0.06 in [-1, 1], above which a picture is visibly another one.
"""


def spec(name: str) -> Spec:
    """The peer of that name; `package.module:Class` is one of the user's own, on the CPU."""
    return PEERS.get(name) or Spec(name, name)


def precision_for(wanted: Spec, graph: Graph) -> str:
    """What a peer is asked for with this graph.

    A peer that runs the bundle on the CPU takes fp16 where there is no fp32, and then all of them do: they are equals.
    """
    held = {variant.precision for variant in graph.variants.values() if variant.format == "onnx"}
    only_fp16 = "fp16" in held and "fp32" not in held
    return "fp16" if only_fp16 and wanted.device == "cpu" and not wanted.module else wanted.precision


def same_work(first: str, second: str) -> bool:
    """Whether two peers differ in their device at most."""
    one, other = spec(first), spec(second)
    return (one.family, one.precision) == (other.family, other.precision)


def missing_package(wanted: Spec) -> str | None:
    """What a peer needs that is not installed, and the command that installs it; None when all is there."""
    absent = [name for name in wanted.needs if importlib.util.find_spec(name) is None]
    return f"{absent[0]} is not installed: pip install 'aigc-rt[{wanted.extra}]'" if absent else None
