"""What a parsed, strongly typed TensorRT network computes in: the proof of an engine's precision without a GPU.

Strong typing binds the engine to the type of every tensor of the network, so the types that TensorRT itself parsed are
those it will compute in. Two things could still deceive. A graph can be typed fp16 while what is counted are shuffles
and casts: so only layers that do the arithmetic are judged, by number and by the weights they hold. And weights can be
stored otherwise than they are used: so the builder's own weight memory is held against the network's own weights
(2 bytes each in half precision, 4 in single; constants are folded, so a cast of the weights does not hide there).
Where bytes say little only the types judge, and the evidence says so: a tiny network pads its weights, and an engine
of several profiles may hold them once for the fixed shapes and once for the dynamic ones (TensorRT for RTX 1.7 does).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from aigc_rt.errors import PrecisionLost

COMPUTE = frozenset({"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM", "ATTENTION_OUTPUT", "MOE"})
"""Layer types that do the arithmetic; an attention is a pair of layers, of which the second has the name."""

_PASSED_THROUGH = frozenset({"CAST", "SHUFFLE", "IDENTITY", "SQUEEZE", "UNSQUEEZE", "DEQUANTIZE", "QUANTIZE", "SLICE"})
_WORDS = {"FLOAT": "fp32", "HALF": "fp16"}
_WEIGHTY = frozenset({"fp32", "fp16", "bf16", "fp8", "fp4", "int8", "int4"})
HALF_BYTES_LIMIT = 3.0
"""Bytes per parameter at which more than half of the weights are held in four bytes."""
JUDGED_FROM = {"weights": 100_000, "engine": 2_000_000}
"""Parameters from which bytes judge: the builder's weight memory, or the whole engine with up to 0.75 MB of kernels."""
NAMED = 32
"""Layers that evidence and errors name; beyond that they count."""


@dataclass(frozen=True)
class Layer:
    """One layer of a network: its output's type, and how many weights it or the constants that feed it hold."""

    name: str
    kind: str
    type: str
    weights: int
    at_output: bool


@dataclass(frozen=True)
class Typed:
    """A network as TensorRT typed it."""

    layers: tuple[Layer, ...]
    parameters: int
    inputs: dict[str, str]
    outputs: dict[str, str]

    @property
    def judged(self) -> list[Layer]:
        """The layers that do the arithmetic; in a network of none, every one that is more than data movement."""
        floats = [x for x in self.layers if x.type in ("fp32", "fp16", "bf16", "fp8", "fp4")]
        compute = [x for x in floats if x.kind in COMPUTE]
        return compute or [x for x in floats if x.kind not in _PASSED_THROUGH and x.kind != "CONSTANT"]

    def share(self, precision: str) -> tuple[float, float]:
        """The share of the judged layers that are of `precision`: by number, and by the weights they hold."""
        layers = self.judged
        mine = [x for x in layers if x.type == precision]
        weights = sum(x.weights for x in layers)
        by_number = len(mine) / len(layers) if layers else 1.0
        return by_number, sum(x.weights for x in mine) / weights if weights else by_number

    @property
    def precision(self) -> str | None:
        """The type of most of the arithmetic, by weights and then by number; None in a network without floats."""
        found = {x.type for x in self.judged}
        return max(sorted(found), key=lambda p: self.share(p)[::-1]) if found else None

    def stayed(self, kept: str = "fp32") -> dict[str, list[str]]:
        """The layers of type `kept`, by why they are likely there."""
        reasons: dict[str, list[str]] = {}
        for layer in self.layers:
            if layer.type == kept:
                reasons.setdefault(_reason(layer), []).append(layer.name)
        return reasons


def _reason(layer: Layer) -> str:
    if layer.kind in COMPUTE:
        return "compute"
    if layer.kind == "CONSTANT":
        return "constant"
    if layer.kind == "CAST":
        return "cast at an output" if layer.at_output else "cast into an fp32 island"
    return "other"


def read(trt: Any, network: Any) -> Typed:
    """Read every layer's type and weights from a network of either library."""
    raw = [network.get_layer(i) for i in range(network.num_layers)]
    maker = {x.get_output(k).name: i for i, x in enumerate(raw) for k in range(x.num_outputs) if x.get_output(k)}
    held = [_held(trt, x) for x in raw]
    layers = []
    for i, x in enumerate(raw):
        out = x.get_output(0)
        fed = held[i] + (_fed(x, raw, maker, held) if x.type.name in COMPUTE else 0)
        layers.append(Layer(x.name, x.type.name, word(out.dtype), fed, bool(out.is_network_output)))
    return Typed(
        tuple(layers),
        sum(held),
        {t.name: word(t.dtype) for t in (network.get_input(i) for i in range(network.num_inputs))},
        {t.name: word(t.dtype) for t in (network.get_output(i) for i in range(network.num_outputs))},
    )


def word(dtype: Any) -> str:
    """A TensorRT type as the manifest names precisions: "fp16", "bf16", "int64", ..."""
    name = str(dtype.name)
    return _WORDS.get(name, name.lower())


def _held(trt: Any, layer: Any) -> int:
    """How many float or quantised weights a layer of the network holds itself."""
    kinds = {
        "CONSTANT": ("IConstantLayer", ("weights",)),
        "CONVOLUTION": ("IConvolutionLayer", ("kernel", "bias")),
        "DECONVOLUTION": ("IDeconvolutionLayer", ("kernel", "bias")),
        "SCALE": ("IScaleLayer", ("scale", "shift", "power")),
    }
    if layer.type.name not in kinds or word(layer.get_output(0).dtype) not in _WEIGHTY:
        return 0
    name, fields = kinds[layer.type.name]
    base = layer.__class__
    layer.__class__ = getattr(trt, name)  # the bindings hand layers out as the base class
    try:
        return sum(int(getattr(getattr(layer, field), "size", 0)) for field in fields)
    finally:
        layer.__class__ = base


def _fed(layer: Any, raw: list[Any], maker: dict[str, int], held: list[int]) -> int:
    """The weights of the constants that reach a layer's inputs through nothing but casts and reshapes."""
    total, seen = 0, set()
    waiting = [layer.get_input(k) for k in range(layer.num_inputs)]
    while waiting:
        tensor = waiting.pop()
        i = maker.get(tensor.name) if tensor is not None else None
        if i is None or i in seen:
            continue
        seen.add(i)
        if raw[i].type.name == "CONSTANT":
            total += held[i]
        elif raw[i].type.name in _PASSED_THROUGH:
            waiting += [raw[i].get_input(k) for k in range(raw[i].num_inputs)]
    return total


@dataclass(frozen=True)
class Bytes:
    """What a built engine weighs: all of it, and its weights as the builder reported them (None where it did not).

    `parameters` are the weights in the parsed network: buffers are among them, parameters the graph does not use are
    not, so a module's own count would judge wrongly.
    """

    engine: int
    weights: int | None
    parameters: int
    profiles: int

    @property
    def per_parameter(self) -> float | None:
        """Bytes of the whole engine per parameter."""
        return self.engine / self.parameters if self.parameters else None

    @property
    def judged_by(self) -> str | None:
        """What can judge: "weights", "engine", or None where it is too small or there are several profiles."""
        by = "engine" if self.weights is None else "weights"
        return by if self.parameters >= JUDGED_FROM[by] and self.profiles <= 1 else None

    @property
    def judged(self) -> float | None:
        """Bytes per parameter of what judges."""
        by = self.judged_by
        size = self.engine if self.weights is None else self.weights
        return size / self.parameters if by else None


def evidence(typed: Typed, size: Bytes, asked: str) -> dict[str, Any]:
    """The details of a precision claim at the level `typed`: JSON types only."""
    by_number, by_weights = typed.share(asked)
    stayed = typed.stayed() if asked != "fp32" else {}
    return {
        "asked": asked,
        "precision": typed.precision,
        "layers": dict(sorted(Counter(x.type for x in typed.layers).items())),
        "compute_layers": dict(sorted(Counter(x.type for x in typed.judged).items())),
        "share_of_compute_layers": round(by_number, 4),
        "share_of_compute_weights": round(by_weights, 4),
        "stayed_fp32": {why: {"count": len(names), "names": names[:NAMED]} for why, names in sorted(stayed.items())},
        "inputs": typed.inputs,
        "outputs": typed.outputs,
        "parameters": size.parameters,
        "engine_bytes": size.engine,
        "weights_bytes": size.weights,
        "bytes_per_parameter": _rounded(size.per_parameter),
        "bytes_judged_by": size.judged_by,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def judge(typed: Typed, size: Bytes, asked: str, least_share: float, name: str) -> None:
    """Accept an engine as being of the precision asked for.

    Raises:
        PrecisionLost: less than `least_share` of the arithmetic is, by number of layers or by weights; or a half
            precision was asked for and the weights are held in three bytes each or more.
    """
    mend = f"Give the builder an ONNX graph typed {asked}: TensorRT computes in the types of the graph"
    share = min(typed.share(asked))
    if share < least_share:
        other = [x.name for x in typed.judged if x.type != asked]
        more = f" and {len(other) - NAMED} more" if len(other) > NAMED else ""
        came = f"{typed.precision}" if typed.precision != asked else "mixed"
        raise PrecisionLost(
            f"build {name} in {asked}",
            f"it came out {came}: {share:.0%} of its arithmetic is {asked}, at least {least_share:.0%} is "
            f"wanted; not so are {', '.join(other[:NAMED])}{more}",
            mend,
        )
    if asked in ("fp16", "bf16") and size.judged is not None and size.judged >= HALF_BYTES_LIMIT:
        heavy = sorted((x for x in typed.layers if x.type == "fp32" and x.weights), key=lambda x: -x.weights)
        named = f"; the heaviest in fp32 are {', '.join(x.name for x in heavy[:NAMED])}" if heavy else ""
        raise PrecisionLost(
            f"build {name} in {asked}",
            f"its {size.judged_by} take {size.judged:.2f} bytes a parameter, {asked} takes 2 and fp32 takes 4{named}",
            mend,
        )


def inspected(document: Any) -> dict[str, int]:
    """Layers of an engine inspector's JSON document by the type of their first output, as the inspector writes it.

    An engine built without detailed verbosity lists names only: those count as "unknown".
    """
    kinds: Counter[str] = Counter()
    for layer in document.get("Layers", []):
        outputs = layer.get("Outputs", []) if isinstance(layer, dict) else []
        first = outputs[0] if outputs and isinstance(outputs[0], dict) else {}
        kinds[str(first.get("Format/Datatype") or first.get("DataType") or "unknown")] += 1
    return dict(sorted(kinds.items()))
