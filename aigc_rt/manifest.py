"""manifest.json as dataclasses: what a bundle holds, how its graphs become samples, what was measured.

docs/bundle.md is the text. This is schema 1, one class per JSON object, one field per key; `manifest_json` reads and
writes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

FORMAT = "aigc-rt-bundle"
SCHEMA = 1
MANIFEST = "manifest.json"
SIGNATURE = "model.sig"
"""The one file a bundle may hold that its manifest does not list."""
MANIFEST_LIMIT_BYTES = 16 << 20

Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
Format = Literal["onnx", "tensorrt", "tensorrt-rtx"]
DType = Literal["float32", "float16", "float64", "int64", "int32", "int8", "uint8", "bool"]
Json = Any
"""What `json.loads` returns."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph; a string in `shape` is the name of a dynamic axis."""

    name: str
    dtype: DType
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Axis:
    """The lengths a dynamic axis may have, both ends included."""

    min: int
    max: int


@dataclass(frozen=True)
class Noise:
    """How a graph input is filled from a seed: `shape` is one sample's, without the batch axis."""

    stream: int
    distribution: Literal["normal", "uniform"]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Condition:
    """A named argument of `generate`: one value a sample, low to high (both included), given to graph input `input`.

    With `default` null the caller must give it. `names` are words accepted for the values low, low + 1, ...
    """

    input: str
    dtype: DType
    low: float
    high: float
    default: float | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("low", "high", *(() if self.default is None else ("default",))):
            object.__setattr__(self, name, float(getattr(self, name)))


@dataclass(frozen=True)
class Media:
    """What the graph's output is, and how its floats become what the user gets.

    image: float `layout` (NCHW or NHWC) in [low, high] becomes uint8 NHWC by clip(rint(x * scale + offset), 0, 255),
    scale = 255 / (high - low) and offset = -low * scale, all in float32.
    audio: float NCT or NTC becomes float32 NTC clipped to [-1, 1] after mapping [low, high] onto it.
    array: handed over as it is.
    """

    kind: Literal["image", "audio", "array"]
    output: str
    layout: Literal["NCHW", "NHWC", "NCT", "NTC", "any"] = "any"
    low: float = -1.0
    high: float = 1.0
    sample_rate_hz: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))


@dataclass(frozen=True)
class Feedforward:
    """Noise and conditions in, one call of `graph`, media out: GANs and VAE decoders."""

    graph: str
    noise: dict[str, Noise]
    media: Media
    conditions: dict[str, Condition] = field(default_factory=dict)
    kind: Literal["feedforward"] = "feedforward"


@dataclass(frozen=True)
class Tensor:
    """One raw call of `graph`: `Generator.run` only."""

    graph: str
    kind: Literal["tensor"] = "tensor"


Program = Feedforward | Tensor


@dataclass(frozen=True)
class Profile:
    """The shapes of one input that an engine was built for: smallest, tuned for, largest."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class Engine:
    """What a TensorRT engine was built with, and where it may run.

    `targets` is ("portable",) or compute capabilities such as ("sm86", "sm89"); `platform` is "any" or "linux-x86_64",
    "linux-aarch64", "windows-x86_64". `profiles` holds one dict a profile, from input name to shapes.
    """

    library: str
    targets: tuple[str, ...]
    platform: str
    profiles: tuple[dict[str, Profile], ...]


@dataclass(frozen=True)
class Variant:
    """One stored form of a graph: `file`, external weights in `data`; `source` is the variant it was made of."""

    precision: Precision
    format: Format
    file: str
    data: tuple[str, ...] = ()
    source: str | None = None
    opset: int | None = None
    engine: Engine | None = None


@dataclass(frozen=True)
class Graph:
    """One ONNX model by its role, with what every variant of it takes and gives."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    axes: dict[str, Axis]
    parameters: int
    variants: dict[str, Variant]

    def input(self, name: str) -> TensorSpec:
        """The input of that name; KeyError when there is none."""
        return _named(self.inputs, name)

    def output(self, name: str) -> TensorSpec:
        """The output of that name; KeyError when there is none."""
        return _named(self.outputs, name)


@dataclass(frozen=True)
class File:
    """Size and SHA-256 of a file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Evidence:
    """One measured claim.

    `claim` is what was measured: "parity" (error against PyTorch), "precision" (what an engine really computes in),
    "quality" (a judge's word on samples). `level` is how: "typed" (TensorRT's parsed, strongly typed network),
    "inspected" (the engine inspector), "device" (run on the device that `details` names). `passed` is the answer of the
    claim's gate, null where it has none.
    """

    claim: str
    level: Literal["typed", "inspected", "device"]
    details: dict[str, Json]
    graph: str | None = None
    variant: str | None = None
    passed: bool | None = None


@dataclass(frozen=True)
class Manifest:
    """manifest.json, without `format`, `schema` and `digest`, which reading checks and writing adds."""

    name: str
    program: Program
    graphs: dict[str, Graph]
    files: dict[str, File]
    evidence: tuple[Evidence, ...] = ()
    made: dict[str, Json] = field(default_factory=dict)
    """Versions, sources, data and licences; free-form."""

    @property
    def main_graph(self) -> Graph:
        """The graph that the program runs."""
        return self.graphs[self.program.graph]

    def claims(self, claim: str, graph: str, variant: str) -> list[Evidence]:
        """The evidence of one claim on one variant."""
        return [e for e in self.evidence if (e.claim, e.graph, e.variant) == (claim, graph, variant)]

    def gate(self, graph: str, variant: str) -> bool | None:
        """False if a claim on the variant failed its gate, True if one passed and none failed, None without gates."""
        answers = [e.passed for e in self.evidence if (e.graph, e.variant) == (graph, variant)]
        if False in answers:
            return False
        return True if True in answers else None


def _named(specs: tuple[TensorSpec, ...], name: str) -> TensorSpec:
    for spec in specs:
        if spec.name == name:
            return spec
    raise KeyError(name)
