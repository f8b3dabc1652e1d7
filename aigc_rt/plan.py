"""What will execute each graph, what else could, and why the rest cannot. Nothing is opened here; `load` does that."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from aigc_rt import backends
from aigc_rt.backends.base import Job, Place
from aigc_rt.bundle import Bundle
from aigc_rt.errors import BackendUnavailable, DeviceUnavailable, InputError, PlanError

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4")


@dataclass(frozen=True)
class Request:
    """What the caller of `load` asked for; None and "auto" leave the choice to the plan."""

    device: str = "auto"
    backend: str | None = None
    precision: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        index = self.device.removeprefix("cuda:") if isinstance(self.device, str) else ""
        if self.device not in ("auto", "cpu", "cuda") and not (index != self.device and index.isdecimal()):
            raise InputError(f"device={self.device!r}", "devices are auto, cpu, cuda and cuda:N", "Give one of them")
        if index != self.device and isinstance(self.device, str):
            object.__setattr__(self, "device", f"cuda:{int(index)}")
        for name, value, known in (
            ("backend", self.backend, backends.NAMES),
            ("precision", self.precision, PRECISIONS),
        ):
            if value is not None and value not in known:
                raise InputError(f"{name}={value!r}", f"there are {', '.join(known)}", "Give one of them, or None")
        if self.threads is not None and (type(self.threads) is not int or not 1 <= self.threads <= 1024):
            raise InputError(f"threads={self.threads!r}", "it is no count of threads", "Give 1 to 1024, or None")

    def __str__(self) -> str:
        asked = [f"device={self.device}"] if self.device != "auto" else []
        asked += [f"{k}={v}" for k, v in (("backend", self.backend), ("precision", self.precision)) if v is not None]
        return " ".join(asked) or "the best that works here"


@dataclass(frozen=True)
class Choice:
    """A variant at a place: what runs, or what could."""

    graph: str
    variant: str
    precision: str
    computes: str
    """The precision it computes in here, where that is another: ONNX Runtime's CPU runs fp16 graphs in fp32."""
    backend: str
    device: str
    provider: str | None
    threads: int | None
    why: str = ""


@dataclass(frozen=True)
class Skip:
    """A variant at a place where it will not run, and why."""

    graph: str
    variant: str
    backend: str
    device: str
    why: str


@dataclass(frozen=True)
class Plan:
    """What `load` decided. `print(plan)` explains it to a person, `to_dict` to a program."""

    bundle: str
    asked: str
    chosen: tuple[Choice, ...]
    alternatives: tuple[Choice, ...]
    skipped: tuple[Skip, ...]

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"plan for {self.bundle}; asked: {self.asked}"]
        for c in self.chosen:
            lines.append(f"  run   {_where(c.graph, c.variant, c.backend, c.device)}{_detail(c)}")
            lines.append(f"        {c.why}")
        lines += [f"  could {_where(c.graph, c.variant, c.backend, c.device)}{_detail(c)}" for c in self.alternatives]
        lines += [f"  skip  {line}" for line in _merged(self.skipped)]
        return "\n".join(lines)


def _where(graph: str, variant: str, backend: str, device: str) -> str:
    return f"{graph}/{variant} with {backend} on {device}"


def _merged(skips: Iterable[Skip]) -> list[str]:
    """Skips in words, those for one reason in one line: the variants of each place, then the reason."""
    reasons: dict[str, dict[tuple[str, str], list[str]]] = {}
    for s in skips:
        variants = reasons.setdefault(s.why, {}).setdefault((s.backend, s.device), [])
        if (variant := f"{s.graph}/{s.variant}") not in variants:
            variants.append(variant)
    lines = []
    for why, places in reasons.items():
        parts = [f"{' and '.join(v)} with {backend} on {device}" for (backend, device), v in places.items()]
        lines.append(f"{'; '.join(parts)}: {why}")
    return lines


def _detail(choice: Choice) -> str:
    parts = [choice.provider] if choice.provider else []
    parts += [f"{choice.threads} threads"] if choice.threads else []
    parts += [f"computes in {choice.computes}"] if choice.computes != choice.precision else []
    return f" ({', '.join(parts)})" if parts else ""


def survey(bundle: Bundle, role: str, request: Request) -> tuple[list[Job], list[Skip]]:
    """`candidates`, or an error with every reason when there is none.

    Raises:
        BackendUnavailable, DeviceUnavailable: what was asked for does not work here.
        PlanError: it works, but no variant fits.
    """
    stored = {variant.precision for variant in bundle.manifest.graphs[role].variants.values()}
    if request.precision is not None and request.precision not in stored:
        held = [precision for precision in PRECISIONS if precision in stored]
        raise PlanError(
            f"run the graph {role} in {request.precision}",
            f"the bundle holds it in {' and '.join(held)}",
            "Ask for one of these, or export the module in that precision",
        )
    jobs, skips = candidates(bundle, role, request)
    if not jobs:
        raise no_way(role, request, _places(request), skips)
    return jobs, skips


def candidates(bundle: Bundle, role: str, request: Request) -> tuple[list[Job], list[Skip]]:
    """Every way to run one graph here that fits the request, best first; and every other way with its reason."""
    jobs: list[Job] = []
    skips: list[Skip] = []
    threads = request.threads or available_threads()
    places = _places(request)
    for name, stored in bundle.manifest.graphs[role].variants.items():
        for place in places:
            if stored.format not in backends.get(place.backend).formats:
                continue
            job = Job(bundle, role, name, place, threads if place.device == "cpu" else None)
            why = _refusal(job, request)
            if why is None:
                jobs.append(job)
            else:
                skips.append(Skip(role, name, place.backend, place.device, why))
    jobs.sort(key=_preference)
    return jobs, skips


def _places(request: Request) -> list[Place]:
    names = backends.NAMES if request.backend is None else (request.backend,)
    places = [place for name in names for place in backends.get(name).places()]
    kept = [p for p in places if request.device in ("auto", p.device, p.device.partition(":")[0])]
    index = request.device.removeprefix("cuda:")
    if index.isdecimal() and int(index) > 0 and not kept:  # an index that no backend offers: the reasons are cuda:0's
        return [
            replace(p, device=request.device, reason=p.reason or f"there is no {request.device}")
            for p in places
            if p.device == "cuda:0"
        ]
    return kept


def _refusal(job: Job, request: Request) -> str | None:
    stored, place = job.stored, job.place
    if place.reason is not None:
        return place.reason
    if request.precision not in (None, stored.precision):
        return f"precision {request.precision} was asked, this is {stored.precision}"
    if request.precision is None and job.bundle.manifest.gate(job.role, job.variant) is False:
        return "its evidence failed the gate; it runs only when its precision is asked for"
    return backends.get(place.backend).refuses(stored, place)


def _preference(job: Job) -> tuple[int, int, int, int]:
    """Untuned order: a GPU before the CPU, fp16 first there and fp32 first on the CPU, an engine before the ONNX."""
    on_gpu = job.place.device != "cpu"
    device = int(job.place.device.partition(":")[2] or 0)
    precision = _precisions(on_gpu).index(job.stored.precision)
    return (not on_gpu, precision, backends.NAMES.index(job.place.backend), device)


def _precisions(on_gpu: bool) -> tuple[str, ...]:
    """Untuned order."""
    return ("fp16", "bf16", "fp32", "int8", "int4") if on_gpu else PRECISIONS


def choice(job: Job, why: str = "") -> Choice:
    """The job as a line of the plan."""
    place = job.place
    computes = backends.get(place.backend).computes(job.stored, place)
    return Choice(
        job.role,
        job.variant,
        job.stored.precision,
        computes,
        place.backend,
        place.device,
        place.provider,
        job.threads,
        why,
    )


def reason(job: Job, request: Request) -> str:
    """Why this job is the one that runs."""
    on_gpu = job.place.device != "cpu"
    held = {variant.precision for variant in job.graph.variants.values()}
    first = min(held, key=_precisions(on_gpu).index)
    parts, untuned = [f"asked: {request}"], []
    if request.precision is None and len(held) == 1:
        parts.append(f"the bundle holds it in {first} only")
    elif request.precision is None and job.stored.precision == first:
        untuned.append(f"{first} first on {'a GPU' if on_gpu else 'the CPU'}")
    if request.backend is None:
        untuned.append("an engine before the ONNX graph" if on_gpu else "ONNX Runtime before OpenVINO")
    return "; ".join([*parts, f"untuned: {', '.join(untuned)}"] if untuned else parts)


def no_way(role: str, request: Request, places: list[Place], skips: list[Skip]) -> PlanError:
    """The error for a request that nothing here can serve, with every reason."""
    reasons = _merged(skips) or [f"{p}: {p.reason}" for p in places if p.reason] or [_nothing(request)]
    kind = PlanError
    if all(p.reason is not None for p in places):
        kind = BackendUnavailable if request.backend else DeviceUnavailable if request.device != "auto" else PlanError
    return kind(
        f"run the graph {role} with {request}",
        "; ".join(reasons),
        "Ask for something else, or mend the reason given (`aigc-rt plan BUNDLE` lists what works here)",
    )


def _nothing(request: Request) -> str:
    if request.backend and request.device != "auto":
        return f"the backend {request.backend} does not run on {request.device}"
    return "the bundle holds no variant for it"


def available_threads() -> int:
    """Cores this process may use: its affinity, and the container's CPU quota (cgroup v2 or v1) rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota in (_quota_v2(), _quota_v1()):
        if quota is not None:
            cores = min(cores, max(1, -int(-quota // 1)))
    return cores


def _quota_v2() -> float | None:
    words = _read("/sys/fs/cgroup/cpu.max").split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0].isdecimal() else None


def _quota_v1() -> float | None:
    quota, period = _read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), _read("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
