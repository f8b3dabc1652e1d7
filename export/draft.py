"""One graph of a bundle in the making: traced, written in each precision, built into engines."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aigc_rt.bundle import content_name
from aigc_rt.export import engine, graph, precision
from aigc_rt.export.part import Ready
from aigc_rt.manifest import Evidence, Graph, Json, Profile, Variant

OPT_BATCH = 8
"""The length a dynamic axis of an engine is tuned for, where its range allows."""


@dataclass
class Draft:
    """A graph whose files are in the folder; the manifest is not."""

    folder: Path
    role: str
    part: Ready
    exported: graph.Exported
    variants: dict[str, Variant] = field(default_factory=dict)
    evidence: list[Evidence] = field(default_factory=list)
    notes: dict[str, dict[str, Json]] = field(default_factory=dict)
    """What a conversion could not keep, by variant; it goes into the variant's parity claims."""

    @property
    def described(self) -> Graph:
        """The graph as the manifest has it."""
        made = self.exported
        return Graph(made.inputs, made.outputs, made.axes, made.parameters, self.variants)

    def add_onnx(self, wanted: str) -> None:
        """Write the graph in that precision."""
        model = self.exported.model
        if wanted == "fp16":
            half = precision.to_fp16(model)
            model = half.model
            self.notes[wanted] = {"fp32_nodes": list(half.fp32_nodes), "clamped_constants": list(half.clamped)}
        opset = next(o.version for o in model.opset_import if not o.domain)
        data = model.SerializeToString(deterministic=True)
        self._put(wanted, data, ".onnx", precision=wanted, format="onnx", opset=opset)

    def add_engine(self, flavour: str) -> None:
        """Build an engine from the fp16 graph, or from fp32 where that is all there is, with the proof of its types."""
        source = "fp16" if "fp16" in self.variants else "fp32"
        stored = self.variants[source]
        built = engine.build_in_child(
            (self.folder / stored.file).read_bytes(),
            flavour=flavour,
            precision=stored.precision,
            profiles=[_profile(self.exported)],
            name=f"{self.role}/{source}",
            options=engine.BuildOptions(parameters=self.exported.parameters),
        )
        name, kinds = f"{source}-{flavour}", {"precision": stored.precision, "format": flavour}
        self._put(name, built.engine, ".engine", source=source, engine=built.spec, **kinds)
        self.evidence.append(Evidence("precision", "typed", built.evidence, self.role, name, passed=True))

    def _put(self, name: str, data: bytes, suffix: str, **stored: Any) -> None:
        file = content_name(self.role, name, data, suffix)
        (self.folder / file).write_bytes(data)
        self.variants[name] = Variant(file=file, **stored)


def trace(folder: Path, role: str, part: Ready, outputs: tuple[str, ...]) -> Draft:
    """The part as an fp32 graph, nothing written yet; errors as in `graph.to_onnx`."""
    return Draft(folder, role, part, graph.to_onnx(part.module, part.examples, part.dynamic, outputs))


def _profile(exported: graph.Exported) -> dict[str, Profile]:
    axes = exported.axes
    profile = {}
    for spec in exported.inputs:
        low, opt, high = [], [], []
        for length in spec.shape:
            axis = axes[length] if isinstance(length, str) else None
            low.append(axis.min if axis else int(length))
            high.append(axis.max if axis else int(length))
            opt.append(min(max(OPT_BATCH, axis.min), axis.max) if axis else int(length))
        profile[spec.name] = Profile(tuple(low), tuple(opt), tuple(high))
    return profile
