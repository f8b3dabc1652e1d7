"""What is measured when a bundle is made: every ONNX variant against PyTorch, through the runtime that users run."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from aigc_rt import noise, verify
from aigc_rt.errors import GateFailed
from aigc_rt.export import engine
from aigc_rt.export.part import forward
from aigc_rt.export.rounding import Rounded
from aigc_rt.generator import Generator, load
from aigc_rt.manifest import Condition, Evidence, Feedforward, Json, Manifest, Variant

Array = NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Judge = Callable[[Generator], Mapping[str, Json]]
"""A loaded bundle, one variant of it on the CPU -> what a judge says of it."""

PARITY_SAMPLES = 256
PARITY_SEED = 0
_REFERENCE = f"torch {torch.__version__} float32 on cpu"


@dataclass(frozen=True)
class Reference:
    """PyTorch's fp32 answer, the inputs it was given, and how a generator makes the same."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


@dataclass(frozen=True)
class Subject:
    """A variant to measure, in a bundle whose manifest is written."""

    folder: Path
    manifest: Manifest
    role: str
    variant: str

    @property
    def stored(self) -> Variant:
        """The manifest's variant."""
        return self.manifest.graphs[self.role].variants[self.variant]

    @property
    def sampled(self) -> bool:
        """Whether the program makes its inputs."""
        return isinstance(self.manifest.program, Feedforward) and self.role == self.manifest.program.graph

    def load(self, device: str, backend: str) -> Generator:
        """The bundle, asked for what runs this variant."""
        return load(self.folder, device=device, backend=backend, precision=self.stored.precision)


def reference(
    module: torch.nn.Module, manifest: Manifest, role: str, examples: Mapping[str, torch.Tensor]
) -> Reference:
    """Run a graph's module on the program's own noise, 256 samples, or on the examples where no program feeds it."""
    program = manifest.program
    if isinstance(program, Feedforward) and role == program.graph:
        inputs: dict[str, Array] = {
            name: noise.DISTRIBUTIONS[n.distribution](PARITY_SEED, n.stream, 0, PARITY_SAMPLES, n.shape)
            for name, n in program.noise.items()
        }
        for condition in program.conditions.values():
            inputs[condition.input] = sweep(condition, PARITY_SAMPLES)
    else:
        inputs = {name: value.detach().cpu().numpy() for name, value in examples.items()}
    return Reference(inputs, _forward(module, manifest, role, inputs))


def answer(module: torch.nn.Module, manifest: Manifest, role: str) -> list[Evidence]:
    """PyTorch's answer to a graph's probe, for `aigc-rt verify` to compare with wherever the bundle lands.

    Empty where the module gives no finite answer: the probe of a graph that no program feeds may lie outside what it
    takes.
    """
    try:
        outputs = _forward(module, manifest, role, verify.probe(manifest, role))
    except (RuntimeError, IndexError, ValueError):
        return []
    if not all(np.isfinite(value).all() for value in outputs.values()):
        return []
    details = {"seed": verify.SEED, "reference": _REFERENCE, "outputs": verify.sketch(outputs)}
    return [Evidence("answer", "device", details, role)]


def _forward(module: torch.nn.Module, manifest: Manifest, role: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
    names = [spec.name for spec in manifest.graphs[role].outputs]
    return dict(zip(names, forward(module, inputs), strict=True))


def sweep(condition: Condition, count: int) -> Array:
    """Values that cover a condition's range evenly, (count,)."""
    dtype = np.dtype(condition.dtype)
    if np.issubdtype(dtype, np.floating):
        return np.linspace(condition.low, condition.high, count, dtype=dtype)
    return (condition.low + np.arange(count) % (int(condition.high - condition.low) + 1)).astype(dtype)


def parity(subject: Subject, truth: Reference, notes: Mapping[str, Json]) -> list[Evidence]:
    """The error of one ONNX variant against PyTorch fp32, with its gate's answer: as this CPU runs it and, in half
    precision, also with every value rounded to its type, as a GPU would (see `rounding`). `notes` go into the details.
    """
    with subject.load("cpu", "onnxruntime") as generator:
        claims = [_parity(subject, truth, generator, "as the CPU runs it")]
        if subject.stored.precision == "fp16":
            rounded = Rounded(onnx.load(str(subject.folder / subject.stored.file)))
            arithmetic = "every value rounded to fp16, as on a GPU"
            claims.append(_parity(subject, truth, generator, arithmetic, rounded))
    return [replace(claim, details={**claim.details, **notes}) for claim in claims]


def on_device(subject: Subject, truth: Reference) -> list[Evidence]:
    """What a machine with a GPU adds on an engine: the engine inspector's word, and the error on that device."""
    stored = subject.stored
    seen = engine.inspect((subject.folder / stored.file).read_bytes(), stored.format)
    details = {"asked": stored.precision, **seen}
    inspected = Evidence("precision", "inspected", details, subject.role, subject.variant)
    with subject.load("cuda", stored.format) as generator:
        return [inspected, _parity(subject, truth, generator, "as the device runs it")]


def _parity(
    subject: Subject, truth: Reference, generator: Generator, arithmetic: str, run: Run | None = None
) -> Evidence:
    outputs = _outputs(subject, truth, run or (lambda inputs: generator.run(inputs, graph=subject.role)))
    errors = {name: _error(truth.outputs[name], value) for name, value in outputs.items()}
    tolerance = verify.TOLERANCE[subject.stored.precision]
    passed = all(e["finite"] and e["max_abs_relative"] <= tolerance for e in errors.values())
    chosen = next(choice for choice in generator.plan.chosen if choice.graph == subject.role)
    details: dict[str, Json] = {
        "arithmetic": arithmetic,
        "backend": chosen.backend,
        "provider": chosen.provider,
        "device": f"{chosen.device} ({platform.machine()})",
        "reference": _REFERENCE,
        "inputs": "the program's noise" if subject.sampled else "the example inputs",
        "samples": _samples(subject, truth),
        "seed": PARITY_SEED if subject.sampled else None,
        "tolerance": tolerance,
        "outputs": errors,
    }
    return Evidence("parity", "device", details, subject.role, subject.variant, passed)


def _samples(subject: Subject, truth: Reference) -> int:
    """The length of the batch, where the first axis of the graph's inputs is one."""
    first = subject.manifest.graphs[subject.role].inputs[0]
    return len(truth.inputs[first.name]) if first.shape and isinstance(first.shape[0], str) else 1


def _outputs(subject: Subject, truth: Reference, run: Run) -> dict[str, Array]:
    """A graph's answer to the reference's inputs, in calls no larger than its axes allow."""
    if not subject.sampled:
        return dict(run(truth.inputs))
    graph = subject.manifest.graphs[subject.role]
    most = graph.axes[str(graph.inputs[0].shape[0])].max
    parts = [
        run({name: value[first : first + most] for name, value in truth.inputs.items()})
        for first in range(0, PARITY_SAMPLES, most)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _error(truth: Array, value: Array) -> dict[str, Json]:
    """Error measures of one output; the range is the reference's largest minus its smallest value."""
    wide = truth.astype(np.float64)
    span = float(np.ptp(wide)) or 1.0
    difference = np.abs(value.astype(np.float64) - wide)
    finite = bool(np.isfinite(value).all())
    if not finite:
        return {"finite": False, "bad_values": int(np.size(value) - np.isfinite(value).sum()), "range": span}
    rmse = float(np.sqrt(np.mean(difference**2)))
    return {
        "finite": True,
        "max_abs": float(difference.max()),
        "max_abs_relative": float(difference.max()) / span,
        "rmse": rmse,
        "psnr_db": float(20 * np.log10(span / rmse)) if rmse else None,
        "range": span,
        "smallest": float(value.min()),
        "largest": float(value.max()),
    }


def require(evidence: Evidence) -> None:
    """Raise GateFailed when a parity claim failed its gate."""
    if evidence.passed is not False:
        return
    details = evidence.details
    worst = []
    for name, error in details["outputs"].items():
        if not error["finite"]:
            worst.append(f"{name} has {error['bad_values']} values that are NaN or infinite")
        else:
            worst.append(f"{name} is off by {error['max_abs_relative']:.2g} of its range")
    raise GateFailed(
        f"export {evidence.graph}/{evidence.variant}",
        f"{'; '.join(worst)} ({details['arithmetic']}), allowed is {details['tolerance']:g}",
        "Leave this precision out, or train the module with smaller activations",
    )


def quality(subject: Subject, judge: Judge) -> Evidence:
    """A judge's word on one ONNX variant of the main graph, run on this CPU."""
    with subject.load("cpu", "onnxruntime") as generator:
        details = {"backend": "onnxruntime", "device": "cpu", **judge(generator)}
    return Evidence("quality", "device", details, subject.role, subject.variant)
