"""A bundle in words: what `aigc-rt inspect` shows to a person, and to a program."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from typing import Any

from aigc_rt.bundle import Bundle
from aigc_rt.manifest import MANIFEST, Evidence, Feedforward, Graph, Manifest, TensorSpec

FEWEST_PARAMETERS = 10_000
"""Below this the file is mostly graph, and bytes a parameter say nothing."""


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
    lines = [f"{manifest.name}: {manifest.program.kind} bundle, {_bytes(total)}, digest {bundle.digest[:12]}"]
    lines += [f"  made {manifest.made['at']}"] if isinstance(manifest.made.get("at"), str) else []
    lines += _trained(manifest.made)
    for role, graph in manifest.graphs.items():
        lines.append(f"  graph {role}: {graph.parameters:,} parameters")
        lines += [f"    in  {_tensor(spec, graph)}{_fed(manifest, role, spec.name)}" for spec in graph.inputs]
        lines += [f"    out {_tensor(spec, graph)}{_becomes(manifest, role, spec.name)}" for spec in graph.outputs]
        if any((e.claim, e.graph) == ("answer", role) for e in manifest.evidence):
            lines.append("    PyTorch's answer to a known input is recorded; `aigc-rt verify` replays it")
        for name, stored in graph.variants.items():
            lines.append(f"    {name}: {stored.precision} {stored.format}, {_stored(manifest, role, name)}")
            if stored.engine:
                where = ", ".join(stored.engine.targets)
                lines.append(f"      built with {stored.engine.library} for {where} ({stored.engine.platform})")
            claims = [e for e in manifest.evidence if (e.graph, e.variant) == (role, name)]
            lines += [f"      {_claim(e)}" for e in claims] or ["      no evidence"]
    return "\n".join(lines)


def _bytes(size: int) -> str:
    """A size with three digits that count, in the unit that fits."""
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= least:
            return f"{size / least:.{2 if size < 10 * least else 1 if size < 100 * least else 0}f} {unit}"
    return f"{size} bytes"


def _stored(manifest: Manifest, role: str, name: str) -> str:
    """Its size; and per parameter, where the weights are most of it."""
    size, each = _bytes(_size(manifest, role, name)), _per_parameter(manifest, role, name)
    weighs = manifest.graphs[role].parameters >= FEWEST_PARAMETERS
    return f"{size}, {each:g} bytes a parameter" if each is not None and weighs else size


def _trained(made: dict[str, Any]) -> list[str]:
    """How it was trained, and what a judge said of it then; nothing of what `made` tells otherwise or not."""
    lines = []
    for line in (_run, _source, _spent, _judged):
        with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
            lines.append(f"  {line(made)}")
    return lines


def _run(made: dict[str, Any]) -> str:
    return f"trained: {_steps(made['training'])}"


def _source(made: dict[str, Any]) -> str:
    """Where a fine-tuned run's first weights are from; a TypeError of one that has none."""
    tuning = made["training"]["tuning"]
    return f"fine-tuned from {tuning['sha256'][:12]}: {_steps(tuning['lineage'])}"


def _steps(run: dict[str, Any]) -> str:
    return f"{run['family']} ({run['objective']}) on {run['data']['name']}, {run['step']:,} steps"


def _spent(made: dict[str, Any]) -> str:
    """What a private run promises; a TypeError of one that is not."""
    spent = made["training"]["spent"]
    return f"differential privacy: epsilon {spent['epsilon']:.4g}, delta {spent['delta']:g}, {spent['adjacency']}"


def _judged(made: dict[str, Any]) -> str:
    return f"quality in PyTorch: {_quality(made['training_quality'])}"


def _size(manifest: Manifest, role: str, name: str) -> int:
    stored = manifest.graphs[role].variants[name]
    return sum(manifest.files[file].bytes for file in (stored.file, *stored.data))


def _per_parameter(manifest: Manifest, role: str, name: str) -> float | None:
    parameters = manifest.graphs[role].parameters
    return round(_size(manifest, role, name) / parameters, 2) if parameters else None


def _tensor(spec: TensorSpec, graph: Graph) -> str:
    lengths = [f"{d}={graph.axes[d].min}..{graph.axes[d].max}" if isinstance(d, str) else str(d) for d in spec.shape]
    return f"{spec.name}: {spec.dtype} ({', '.join(lengths)})"


def _fed(manifest: Manifest, role: str, name: str) -> str:
    """What the program puts into an input; nothing is said of further graphs, which it does not run."""
    program = manifest.program
    if not isinstance(program, Feedforward) or role != program.graph:
        return ""
    if drawn := program.noise.get(name):
        return f", {drawn.distribution} noise of stream {drawn.stream}"
    for word, condition in program.conditions.items():
        if condition.input == name:
            return f", the condition {word}: {condition.low:g} to {condition.high:g}"
    return ""


def _becomes(manifest: Manifest, role: str, name: str) -> str:
    program = manifest.program
    if not isinstance(program, Feedforward) or (role, name) != (program.graph, program.media.output):
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
    where = f"{details['backend']} on {details['device']}"
    if arithmetic := details.get("arithmetic"):
        where += f", {arithmetic}"
    allowed = f"{details['tolerance']:g} allowed"
    return f"{'; '.join(parts)} on {details['samples']} samples, {allowed}; {where}"


def _precision(details: dict[str, Any]) -> str:
    layers = ", ".join(f"{count} in {kind}" for kind, count in details["layers"].items())
    return f"{details['precision']}; layers: {layers}"


def _quality(details: dict[str, Any]) -> str:
    """Distance, classes and certainty, each where it was measured."""
    parts = []
    if isinstance(distance := details.get("frechet"), (int, float)):
        against = _against(details.get("yardsticks") or {}, details.get("samples"))
        if isinstance(ratio := details.get("frechet_ratio"), (int, float)):
            against.append(f"untrained {distance / ratio:.3g}")
        words = f"Fréchet distance {distance:.3g}"
        parts.append(f"{words} ({', '.join(against)})" if against else words)
    if details.get("covered") is not None:
        parts.append(f"{details['covered']} of {details['classes']} classes")
    if isinstance(sure := details.get("sure"), (int, float)):
        parts.append(f"a classifier is sure of {sure:.0%}")
    if isinstance(asked := details.get("conditional"), dict):
        parts.append(f"{asked['agreement']:.1%} are of the class asked for")
    count = f"{details['samples']:,} samples: " if isinstance(details.get("samples"), int) else ""
    return count + "; ".join(parts) if parts else f"{len(details)} details, see --json"


def _against(yardsticks: dict[str, Any], count: object) -> list[str]:
    """The distance of real images, beside that of as many samples: it falls with how many there are."""
    real, samples = yardsticks.get("held_out"), yardsticks.get("samples")
    if real is None:
        return []
    if samples is None or samples["count"] == count:
        return [f"real images {real['frechet']:.3g}"]
    return [f"of {samples['count']:,} samples {samples['frechet']:.3g}, of as many real images {real['frechet']:.3g}"]


_WORDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "parity": _parity,
    "precision": _precision,
    "quality": _quality,
}
