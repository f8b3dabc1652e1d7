"""The peers of one measurement: start them, hold their images against each other, run blocks in shuffled order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_rt.backends.driver import cuda_devices
from aigc_rt.bench.options import DEFAULT_BASELINES, BenchOptions
from aigc_rt.bench.peers import TOLERANCE_LEVELS, Spec, missing_package, precision_for, same_work, spec
from aigc_rt.bench.peers.base import Job
from aigc_rt.bench.process import Message, PeerDied, PeerProcess
from aigc_rt.bundle import Bundle
from aigc_rt.errors import BenchError

Progress = Callable[[str], None]


@dataclass
class Entry:
    """One peer of this run and what became of it; `control_of` names the peer that it repeats."""

    name: str
    spec: Spec
    precision: str
    control_of: str | None = None
    status: str = "ok"
    reason: str | None = None
    process: PeerProcess | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    prepare_s: dict[int, float] = field(default_factory=dict)
    agreement: dict[int, dict[str, Any]] = field(default_factory=dict)
    broken: dict[int, tuple[str, str]] = field(default_factory=dict)

    def give_up(self, status: str, reason: str, batch: int | None = None) -> None:
        """Measure this peer no more, or not at one batch size."""
        if batch is not None:
            self.broken[batch] = (status, reason)
            return
        self.status, self.reason = status, reason
        if self.process is not None:
            self.process.kill()

    def what_happened(self) -> str:
        """Why it is not measured: its own status, else that of the first batch size that did not work."""
        status, reason = self.status, self.reason
        if status == "ok" and self.broken:
            status, reason = next(iter(self.broken.values()))
        return f"{status if status == 'failed' else f'is {status}'}: {reason}"

    def to_json(self) -> dict[str, Any]:
        """What the document says about this peer; batch sizes are strings, as JSON keys are."""
        return {
            "peer": self.name,
            "family": self.spec.family,
            "device": self.spec.device,
            "precision": self.precision,
            "control_of": self.control_of,
            "status": self.status,
            "reason": self.reason,
            "facts": self.facts,
            "prepare_s": {str(batch): seconds for batch, seconds in self.prepare_s.items()},
            "agreement": {str(batch): found for batch, found in self.agreement.items()},
            "broken": {str(b): {"status": status, "reason": reason} for b, (status, reason) in self.broken.items()},
        }


class Crew:
    """The peers' processes, from start to end."""

    def __init__(self, bundle: Bundle, options: BenchOptions, threads: int, scratch: Path, say: Progress) -> None:
        self.bundle, self.options, self.threads, self.scratch, self.say = bundle, options, threads, scratch, say
        graph, specs = bundle.manifest.main_graph, {name: spec(name) for name in options.peers}
        self.entries = [Entry(name, wanted, precision_for(wanted, graph)) for name, wanted in specs.items()]
        self.baselines: dict[str, dict[str, str | None]] = {}

    def open(self) -> None:
        """Start every peer, make it ready for every batch size, and find out whose images are right.

        Raises:
            BenchError: the baseline that was asked for runs on no device.
        """
        self._open(self.entries)
        self._check_baseline()
        self._prepare(self.entries)
        self._check()

    def repeat_baselines(self) -> None:
        """Choose each device's baseline among the peers that work, and start it once more for the A/A control."""
        controls = []
        for device in dict.fromkeys(entry.spec.device for entry in self._able()):
            entry, reason = self._baseline(device)
            self.baselines[device] = {"peer": entry.name, "reason": reason}
            controls.append(Entry(f"{entry.name} (A/A)", entry.spec, entry.precision, control_of=entry.name))
        self._open(controls)
        self._prepare(controls)
        self.entries += controls
        self._check()

    def _prepare(self, entries: list[Entry]) -> None:
        """Load or compile every batch size, one peer after the other: these times are reported."""
        for entry in entries:
            for batch in self.options.batches:
                if entry.status != "ok":
                    break
                self.say(f"preparing {entry.name}, batch {batch}")
                request = {"do": "prepare", "batch": batch, "images": str(self._images(entry, batch))}
                reply = self._ask(entry, {**request, "engine": self.options.engine}, batch)
                if reply is not None:
                    entry.prepare_s[batch] = reply["prepare_s"]
                    entry.facts = reply["facts"]

    def _check(self) -> None:
        """Hold every peer's images against the reference's: of the fp32 peers the one that most agree with.

        Among equals the first choice of baseline. A peer that makes other images is thus the odd one out.
        """
        preferred = DEFAULT_BASELINES if self.options.baseline is None else (self.options.baseline,)
        for batch in self.options.batches:
            ready = [e for e in self._able() if batch in e.prepare_s and batch not in e.broken]
            images = {entry.name: np.load(self._images(entry, batch)) for entry in ready}
            voters = [entry for entry in ready if entry.precision == "fp32" and not entry.control_of] or ready
            voters.sort(key=lambda entry: (entry.spec.device != "cpu", entry.name not in preferred))
            agreeing = [sum(compare(images[a.name], images[b.name], 1)["agrees"] for b in voters) for a in voters]
            for entry in ready:
                reference = voters[agreeing.index(max(agreeing))].name
                found = compare(images[reference], images[entry.name], TOLERANCE_LEVELS[entry.precision])
                entry.agreement[batch] = {"reference": reference, **found}
                if not found["agrees"]:
                    entry.give_up("wrong", f"{found['words']} (reference: {reference})", batch)

    def measure(self) -> list[dict[str, Any]]:
        """Every peer and batch once a round, in a new order each round."""
        cells = [(e, b) for e in self._able() for b in self.options.batches if b not in e.broken]
        samples: list[dict[str, Any]] = []
        for number, order in enumerate(shuffled(len(cells), self.options.blocks, self.options.seed)):
            for done, cell in enumerate(order):
                entry, batch = cells[cell]
                if entry.status != "ok":  # it died in an earlier block
                    continue
                share = (number * len(cells) + done) / (self.options.blocks * len(cells))
                self.say(f"measuring, round {number + 1} of {self.options.blocks}, {share:.0%}: {entry.name}")
                what = ["images", "engine"] if self.options.engine and not entry.control_of else ["images"]
                request = {"do": "block", "batch": batch, "what": what, "seconds": self.options.seconds}
                reply = self._ask(entry, {**request, "rewarm_s": self.options.rewarm_s})
                for kind, block in (reply["blocks"] if reply else {}).items():
                    samples.append({"peer": entry.name, "batch": batch, "what": kind, "round": number, **block})
        self._replace_the_dead(samples)
        return samples

    def _replace_the_dead(self, samples: list[dict[str, Any]]) -> None:
        """A baseline that died while it was measured gives way to a peer that was measured to the end."""
        for entry in self.entries:
            chosen = self.baselines.get(entry.spec.device, {"peer": None})
            if entry.status != "ok" and chosen["peer"] == entry.name:
                del self.baselines[entry.spec.device]
                if self._on(entry.spec.device):
                    other, reason = self._baseline(entry.spec.device)
                    self.baselines[entry.spec.device] = {"peer": other.name, "reason": reason}

    def kill(self) -> None:
        """End every process."""
        for entry in self.entries:
            if entry.process is not None:
                entry.process.kill()

    def _able(self) -> list[Entry]:
        """The peers that work at one batch size at least."""
        return [e for e in self.entries if e.status == "ok" and e.broken.keys() != set(self.options.batches)]

    def _on(self, device: str) -> list[Entry]:
        return [entry for entry in self._able() if entry.spec.device == device and not entry.control_of]

    def _images(self, entry: Entry, batch: int) -> Path:
        assert entry.process is not None
        return entry.process.scratch / f"images-{batch}.npy"

    def _check_baseline(self) -> None:
        asked = self.options.baseline
        candidates = [entry for entry in self.entries if asked is not None and same_work(entry.name, asked)]
        if candidates and all(entry.status != "ok" for entry in candidates):
            raise BenchError(
                f"measure against {asked}",
                ", ".join(f"{entry.name} is {entry.status}: {entry.reason}" for entry in candidates),
                "Mend that, or name no baseline or another",
            )

    def _baseline(self, device: str) -> tuple[Entry, str | None]:
        """The peer that ratios on that device are against, and the reason where it is not the first choice."""
        able = self._on(device)
        choices = DEFAULT_BASELINES if self.options.baseline is None else (self.options.baseline,)
        reason = f"{choices[0]} was not measured on {device}"
        for entry in self.entries:
            if entry.spec.device == device and same_work(entry.name, choices[0]) and entry not in able:
                reason = f"{entry.name} {entry.what_happened()}"
        for choice in choices:
            for entry in able:
                if same_work(entry.name, choice):
                    return entry, None if choice == choices[0] else reason
        return able[0], reason

    def _refusal(self, wanted: Spec) -> str | None:
        """Why a peer need not be started."""
        if reason := missing_package(wanted):
            return reason
        if wanted.device != "cpu" and (no_gpu := cuda_devices()[1]):
            return no_gpu
        if wanted.module and self.options.torch is None:
            return "give --torch RUN or package.module:factory"
        return None

    def _open(self, entries: list[Entry]) -> None:
        """Start processes side by side; nothing of this step is reported as a time."""
        for entry in entries:
            if reason := self._refusal(entry.spec):
                entry.give_up("missing", reason)
                continue
            self.say(f"starting {entry.name}")
            entry.process = PeerProcess(entry.name, self.scratch, self.threads)
            job = Job(
                str(self.bundle.path.resolve()), entry.spec.device, entry.precision, self.threads,
                self.options.seed, self.options.torch,
            )  # fmt: skip
            entry.process.send({"do": "open", "adapter": entry.spec.adapter, "job": asdict(job)})
        for entry in entries:
            if entry.status == "ok" and (reply := self._ask(entry, None)) is not None:
                entry.facts = reply["facts"]

    def _ask(self, entry: Entry, message: Message | None, batch: int | None = None) -> Message | None:
        """The answer, or None after the entry was given up: whole if it died, else at `batch`."""
        assert entry.process is not None
        try:
            if message is not None:
                entry.process.send(message)
            reply = entry.process.receive(self.options.limit_s)
        except PeerDied as error:
            entry.give_up("failed", str(error))
            return None
        for status in ("missing", "wrong", "failed"):
            if status in reply:
                entry.give_up(status, reply[status], batch)
                return None
        return reply


def compare(reference: NDArray[np.uint8], images: NDArray[np.uint8], allowed: int) -> dict[str, Any]:
    """How far images are from the reference's, in levels of 255; `words` says it for a reader."""
    if images.dtype != np.uint8 or images.shape != reference.shape or not images.size:
        words = f"its images are {images.dtype} {images.shape}, the reference's {reference.dtype} {reference.shape}"
        return {"agrees": False, "allowed_levels": allowed, "max_levels": None, "different": None, "words": words}
    apart = np.abs(images.astype(np.int16) - reference)
    largest = int(apart.max())
    return {
        "agrees": largest <= allowed,
        "allowed_levels": allowed,
        "max_levels": largest,
        "different": float(np.count_nonzero(apart) / apart.size),
        "words": f"its images differ by up to {largest} levels of 255, {allowed} allowed",
    }


def shuffled(cells: int, rounds: int, seed: int) -> Iterator[list[int]]:
    """For each round every cell once, in an order of its own: what drifts falls on all."""
    random = np.random.default_rng(seed)
    for _ in range(rounds):
        yield random.permutation(cells).tolist()
