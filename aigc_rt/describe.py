"""A bundle in words: what `aigc-rt inspect` shows to a person, and to a program."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from aigc_rt.bundle import Bundle
from aigc_rt.manifest import MANIFEST, Evidence, Feedforward, Graph, Manifest, TensorSpec


def document(bundle: Bundle) -> dict[str, Any]:
    """The manifest, with a summary of every variant: size, bytes per parameter, and each claim with its level."""
    manifest = bundle.manifest
    variants = [
        {
            "graph": role,
            "variant": name,
            "precision": stored.precision,
            "format": stored.format,
            "bytes": _size(manifest, role, name),
            "bytes_per_parameter": _per_parameter(manifest, role, name),
            "gate": manifest.gate(role, name),
            "evidence": [dataclasses.asdict(e) for e in manifest.evidence if (e.graph, e.variant) == (role, name)],
        }
        for role, graph in manifest.graphs.items()
        for name, stored in graph.variants.items()
    ]
    read = json.loads((bundle.path / MANIFEST).read_bytes())
    return {"path": str(bundle.path), "variants": variants, "manifest": read}


def text(bundle: Bundle) -> str:
    """The bundle for a person: its program, its variants, and the proof of each."""
    manifest = bundle.manifest
    total = sum(entry.bytes for entry in manifest.files.values())
    lines = [f"{manifest.name}: {manifest.program.kind} bundle, {_megabytes(total)}, digest {bundle.digest[:12]}"]
    lines += [f"  made {manifest.made['at']}"] if isinstance(manifest.made.get("at"), str) else []
    for role, graph in manifest.graphs.items():
        lines.append(f"  graph {role}: {graph.parameters:,} parameters")
        lines += [f"    in  {_tensor(spec, graph)}{_fed(manifest, spec.name)}" for spec in graph.inputs]
        lines += [f"    out {_tensor(spec, graph)}{_becomes(manifest, spec.name)}" for spec in graph.outputs]
        for name, stored in graph.variants.items():
            size, each = _size(manifest, role, name), _per_parameter(manifest, role, name)
            lines.append(
                f"    {name}: {stored.precision} {stored.format}, {_megabytes(size)}, {each} bytes a parameter"
            )
            if stored.engine:
                where = ", ".join(stored.engine.targets)
                lines.append(f"      built with {stored.engine.library} for {where} ({stored.engine.platform})")
            claims = [e for e in manifest.evidence if (e.graph, e.variant) == (role, name)]
            lines += [f"      {_claim(e)}" for e in claims] or ["      no evidence"]
    return "\n".join(lines)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.2f} MB"


def _size(manifest: Manifest, role: str, name: str) -> int:
    stored = manifest.graphs[role].variants[name]
    return sum(manifest.files[file].bytes for file in (stored.file, *stored.data))


def _per_parameter(manifest: Manifest, role: str, name: str) -> float | None:
    parameters = manifest.graphs[role].parameters
    return round(_size(manifest, role, name) / parameters, 2) if parameters else None


def _tensor(spec: TensorSpec, graph: Graph) -> str:
    lengths = [f"{d}={graph.axes[d].min}..{graph.axes[d].max}" if isinstance(d, str) else str(d) for d in spec.shape]
    return f"{spec.name}: {spec.dtype} ({', '.join(lengths)})"


def _fed(manifest: Manifest, name: str) -> str:
    program = manifest.program
    if not isinstance(program, Feedforward):
        return ""
    if drawn := program.noise.get(name):
        return f", {drawn.distribution} noise of stream {drawn.stream}"
    for word, condition in program.conditions.items():
        if condition.input == name:
            return f", the condition {word}: {condition.low:g} to {condition.high:g}"
    return ""


def _becomes(manifest: Manifest, name: str) -> str:
    program = manifest.program
    if not isinstance(program, Feedforward) or program.media.output != name:
        return ""
    media = program.media
    return f", {media.kind} {media.layout} in [{media.low:g}, {media.high:g}]"


def _claim(claim: Evidence) -> str:
    try:
        words = _WORDS[claim.claim](claim.details)
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
    ):  # details are free-form: another writer's may be others
        words = f"{len(claim.details)} details, see --json"
    verdict = {True: ", passed", False: ", FAILED", None: ""}[claim.passed]
    return f"{claim.claim} [{claim.level}]: {words}{verdict}"


def _parity(details: dict[str, Any]) -> str:
    parts = []
    for name, error in details["outputs"].items():
        if error["finite"]:
            parts.append(f"{name} off by at most {error['max_abs_relative']:.2g} of its range")
        else:
            parts.append(f"{name} has {error['bad_values']} values that are NaN or infinite")
    allowed = f"allowed {details['tolerance']:g}"
    return (
        f"{'; '.join(parts)} on {details['samples']} samples ({allowed}), {details['backend']} on {details['device']}"
    )


def _precision(details: dict[str, Any]) -> str:
    layers = ", ".join(f"{count} {kind}" for kind, count in details["layers"].items())
    return f"{details['precision']}; layers: {layers}; {details['bytes_per_parameter']:g} bytes a parameter"


def _quality(details: dict[str, Any]) -> str:
    numbers = [f"{k} {v:.4g}" for k, v in details.items() if isinstance(v, (int, float)) and not isinstance(v, bool)]
    return ", ".join(numbers)


_WORDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "parity": _parity,
    "precision": _precision,
    "quality": _quality,
}
