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
from aigc_rt.export.rounding import Rounded
from aigc_rt.generator import Generator, load
from aigc_rt.manifest import Condition, Evidence, Feedforward, Json, Manifest

Array = NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Judge = Callable[[NDArray[np.uint8]], Mapping[str, Json]]
"""Images uint8 (N, H, W, C) -> what a judge says of them."""

PARITY_SAMPLES = 256
PARITY_SEED = 0
JUDGED_SAMPLES = 1000
JUDGED_SEED = 1
_REFERENCE = f"torch {torch.__version__} float32 on cpu"


@dataclass(frozen=True)
class Reference:
    """PyTorch's fp32 answer, the inputs it was given, and how a generator makes the same."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


def reference(module: torch.nn.Module, manifest: Manifest, examples: Mapping[str, torch.Tensor]) -> Reference:
    """Run the module on the program's own noise (feedforward, 256 samples) or on the examples (tensor)."""
    program = manifest.program
    if isinstance(program, Feedforward):
        inputs: dict[str, Array] = {
            name: noise.DISTRIBUTIONS[n.distribution](PARITY_SEED, n.stream, 0, PARITY_SAMPLES, n.shape)
            for name, n in program.noise.items()
        }
        for condition in program.conditions.values():
            inputs[condition.input] = _sweep(condition, PARITY_SAMPLES)
    else:
        inputs = {name: value.detach().cpu().numpy() for name, value in examples.items()}
    return Reference(inputs, _forward(module, manifest, inputs))


def answer(module: torch.nn.Module, manifest: Manifest) -> list[Evidence]:
    """PyTorch's answer to the probe, for `aigc-rt verify` to compare with wherever the bundle lands.

    Empty where the module gives no finite answer: the probe of a `tensor` program may lie outside what it takes.
    """
    try:
        outputs = _forward(module, manifest, verify.probe(manifest))
    except (RuntimeError, IndexError, ValueError):
        return []
    if not all(np.isfinite(value).all() for value in outputs.values()):
        return []
    details = {"seed": verify.SEED, "reference": _REFERENCE, "outputs": verify.sketch(outputs)}
    return [Evidence("answer", "device", details, manifest.program.graph)]


def _forward(module: torch.nn.Module, manifest: Manifest, inputs: Mapping[str, Array]) -> dict[str, Array]:
    with torch.no_grad():
        leaves = tensors(module(**{name: torch.from_numpy(value) for name, value in inputs.items()}))
    return {spec.name: leaf.numpy() for spec, leaf in zip(manifest.main_graph.outputs, leaves, strict=True)}


def tensors(answer: Any) -> list[torch.Tensor]:
    """The tensors of a module's answer, nested or not, in PyTorch's own order."""
    return [leaf for leaf in torch.utils._pytree.tree_leaves(answer) if isinstance(leaf, torch.Tensor)]


def _sweep(condition: Condition, count: int) -> Array:
    """Values that cover a condition's range evenly, (count,)."""
    dtype = np.dtype(condition.dtype)
    if np.issubdtype(dtype, np.floating):
        return np.linspace(condition.low, condition.high, count, dtype=dtype)
    return (condition.low + np.arange(count) % (int(condition.high - condition.low) + 1)).astype(dtype)


def parity(
    folder: Path, manifest: Manifest, variant: str, truth: Reference, notes: Mapping[str, Json]
) -> list[Evidence]:
    """The error of one ONNX variant against PyTorch fp32, with its gate's answer: as this CPU runs it and, in half
    precision, also with every value rounded to its type, as a GPU would (see `rounding`). `notes` go into the details.
    """
    stored = manifest.main_graph.variants[variant]
    with load(folder, device="cpu", backend="onnxruntime", precision=stored.precision) as generator:
        claims = [_parity(manifest, variant, truth, generator, generator.run, "as the CPU runs it")]
    if stored.precision == "fp16":
        rounded = Rounded(onnx.load(str(folder / stored.file)))
        claims.append(_parity(manifest, variant, truth, generator, rounded, "every value rounded to fp16, as on a GPU"))
    return [replace(claim, details={**claim.details, **notes}) for claim in claims]


def on_device(folder: Path, manifest: Manifest, variant: str, truth: Reference) -> list[Evidence]:
    """What a machine with a GPU adds on an engine: the engine inspector's word, and the error on that device."""
    stored = manifest.main_graph.variants[variant]
    role = manifest.program.graph
    seen = engine.inspect((folder / stored.file).read_bytes(), stored.format)
    inspected = Evidence("precision", "inspected", {"asked": stored.precision, **seen}, role, variant)
    with load(folder, device="cuda", backend=stored.format, precision=stored.precision) as generator:
        return [inspected, _parity(manifest, variant, truth, generator, generator.run, "as the device runs it")]


def _parity(
    manifest: Manifest, variant: str, truth: Reference, generator: Generator, run: Run, arithmetic: str
) -> Evidence:
    outputs = _outputs(manifest, truth, run)
    errors = {name: _error(truth.outputs[name], value) for name, value in outputs.items()}
    tolerance = verify.TOLERANCE[manifest.main_graph.variants[variant].precision]
    passed = all(e["finite"] and e["max_abs_relative"] <= tolerance for e in errors.values())
    chosen = generator.plan.chosen[0]
    details: dict[str, Json] = {
        "arithmetic": arithmetic,
        "backend": chosen.backend,
        "provider": chosen.provider,
        "device": f"{chosen.device} ({platform.machine()})",
        "reference": _REFERENCE,
        "samples": PARITY_SAMPLES if isinstance(manifest.program, Feedforward) else 1,
        "seed": PARITY_SEED,
        "tolerance": tolerance,
        "outputs": errors,
    }
    return Evidence("parity", "device", details, manifest.program.graph, variant, passed)


def _outputs(manifest: Manifest, truth: Reference, run: Run) -> dict[str, Array]:
    """A graph's answer to the reference's inputs, in calls no larger than its axes allow."""
    if not isinstance(manifest.program, Feedforward):
        return dict(run(truth.inputs))
    graph = manifest.main_graph
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


def quality(folder: Path, manifest: Manifest, variant: str, judge: Judge) -> Evidence:
    """A judge's word on 1,000 samples of one ONNX variant, made by the runtime on this CPU."""
    program = manifest.program
    assert isinstance(program, Feedforward)
    precision = manifest.main_graph.variants[variant].precision
    conditions: dict[str, Any] = {name: _sweep(c, JUDGED_SAMPLES) for name, c in program.conditions.items()}
    with load(folder, device="cpu", backend="onnxruntime", precision=precision) as generator:
        images = generator.generate(JUDGED_SAMPLES, seed=JUDGED_SEED, **conditions).array
    details = {"backend": "onnxruntime", "device": "cpu", "seed": JUDGED_SEED, **judge(images)}
    return Evidence("quality", "device", details, program.graph, variant)
