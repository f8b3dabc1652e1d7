"""Whether a bundle is whole and its variants give the recorded answer here: hashes, schema, and a known sample."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aigc_rt import backends, noise, plan
from aigc_rt.backends.base import Job
from aigc_rt.bundle import Bundle
from aigc_rt.errors import AigcRtError, BackendUnavailable, BundleError
from aigc_rt.manifest import Feedforward, Json, Manifest
from aigc_rt.plan import Request

Array = NDArray[Any]

SEED = 0
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "int8": 1e-1, "int4": 2e-1}
"""Largest distance from PyTorch's answer by precision, as a share of the answer's range."""
_POSITIONS = 16


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    what: str
    result: Literal["ok", "failed", "skipped"]
    detail: str


@dataclass(frozen=True)
class Report:
    """Everything that was looked at; `passed` when nothing failed."""

    bundle: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed; a variant that cannot run here is skipped, not failed."""
        return all(check.result != "failed" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return {"passed": self.passed, **asdict(self)}


def verify(path: str | os.PathLike[str], *, device: str = "auto") -> Report:
    """Check the manifest, every file's hash, and every variant that can run here against the recorded answer.

    Raises:
        BundleNotFound: there is no bundle. Anything wrong with one that is there is in the report.
        InputError: `device` is none.
    """
    request = Request(device)
    try:
        bundle = Bundle(path)
        bundle.verify()
    except FileNotFoundError:
        raise
    except BundleError as error:
        return Report(os.fspath(path), (Check("files", "failed", str(error)),))
    checks = [Check("files", "ok", f"{len(bundle.manifest.files)} files, schema and hashes")]
    for role in bundle.manifest.graphs:
        jobs, skips = plan.candidates(bundle, role, request)
        checks += [_answer(bundle, job) for job in jobs]
        checks += [Check(f"{s.graph}/{s.variant} with {s.backend} on {s.device}", "skipped", s.why) for s in skips]
    return Report(str(bundle.path), tuple(checks))


def _answer(bundle: Bundle, job: Job) -> Check:
    what = f"{job.role}/{job.variant} with {job.place.backend} on {job.place.device}"
    recorded = [e for e in bundle.manifest.evidence if (e.claim, e.graph) == ("answer", job.role)]
    try:
        executor = backends.get(job.place.backend).open(job)
    except BackendUnavailable as error:  # this machine lacks something; any other error is the bundle's
        return Check(what, "skipped", error.found)
    except AigcRtError as error:
        return Check(what, "failed", str(error))
    try:
        outputs = executor.run(probe(bundle.manifest, job.role))
    except (AigcRtError, MemoryError, OverflowError, ValueError) as error:
        return Check(what, "failed", str(error))
    finally:
        executor.close()
    if not recorded:
        return Check(what, "ok", "it runs; the bundle records no answer to compare with")
    try:
        off = distance(recorded[0].details["outputs"], outputs)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        return Check(what, "failed", f"the recorded answer is malformed ({type(error).__name__}: {error})")
    allowed = TOLERANCE[job.stored.precision]
    result: Literal["ok", "failed"] = "ok" if off <= allowed else "failed"  # NaN fails
    return Check(what, result, f"{off:.2g} of the range from PyTorch's answer, allowed {allowed:g}")


def probe(manifest: Manifest, role: str) -> dict[str, Array]:
    """The inputs of a graph whose answer a bundle records: sample 0 of seed 0, conditions at their default or lowest.

    A graph that no sampling program feeds gets normals for floats and zeros for the rest, axes at their smallest.
    """
    graph, program = manifest.graphs[role], manifest.program
    inputs: dict[str, Array] = {}
    for stream, spec in enumerate(graph.inputs):
        shape = tuple(graph.axes[d].min if isinstance(d, str) else d for d in spec.shape)
        inputs[spec.name] = np.zeros(shape, spec.dtype)
        if np.issubdtype(inputs[spec.name].dtype, np.floating):
            inputs[spec.name] = np.asarray(noise.normal(SEED, stream, 0, 1, shape)[0], spec.dtype)
    if isinstance(program, Feedforward) and role == program.graph:
        for name, drawn in program.noise.items():
            inputs[name] = noise.DISTRIBUTIONS[drawn.distribution](SEED, drawn.stream, 0, 1, drawn.shape)
        for condition in program.conditions.values():
            value = condition.low if condition.default is None else condition.default
            inputs[condition.input] = np.full(1, value, condition.dtype)
    return inputs


def sketch(outputs: Mapping[str, Array]) -> dict[str, Json]:
    """What a bundle records of an answer: for each output its range, and 16 values at even distances."""
    found: dict[str, Json] = {}
    for name, value in outputs.items():
        flat = value.reshape(-1).astype(np.float64)
        positions = np.unique(np.linspace(0, flat.size - 1, min(_POSITIONS, flat.size)).astype(int))
        found[name] = {
            "size": int(flat.size),
            "range": float(np.ptp(flat)),
            "positions": positions.tolist(),
            "values": flat[positions].tolist(),
        }
    return found


def distance(recorded: Mapping[str, Json], outputs: Mapping[str, Array]) -> float:
    """The largest difference between outputs and a sketch, as a share of each output's range; NaN stays NaN."""
    worst = 0.0
    if recorded.keys() != outputs.keys():
        raise ValueError(f"it is of the outputs {sorted(recorded)}, the graph gives {sorted(outputs)}")
    for name, entry in recorded.items():
        if not 0 <= entry["range"] < float("inf") or len(entry["positions"]) == 0 or min(entry["positions"]) < 0:
            raise ValueError(f"range or positions of {name}")
        flat = outputs[name].reshape(-1).astype(np.float64)
        if flat.size != entry["size"]:
            return float("inf")
        off = np.abs(flat[entry["positions"]] - np.array(entry["values"])) / (entry["range"] or 1.0)
        worst = float(np.max([worst, off.max()]))
    return worst
