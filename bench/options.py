"""What a measurement is told to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aigc_rt.bench.peers import PEERS, same_work
from aigc_rt.errors import InputError

DEFAULT_BASELINES = ("torch-eager", "onnxruntime")
"""Whom ratios are against when nobody was named: the first that can be measured."""


def is_factory(torch: str) -> bool:
    """Whether `torch` names `package.module:factory`, and not a run's folder."""
    return ":" in torch and not Path(torch).exists()


@dataclass(frozen=True)
class BenchOptions:
    """What is measured, and for how long.

    Attributes:
        peers: names of `aigc_rt.bench.peers.PEERS`, or `package.module:Class` for a Peer of your own.
        batches: samples a call.
        seconds: shortest block, in seconds; below 0.25 the result says that it is too short.
        blocks: blocks of every peer and batch; medians and ratios get their interval from them, so that fewer than 5
            say little.
        engine: beside each block that makes images, one that only runs the engine, without noise and without
            post-processing.
        rewarm_s: seconds of calls thrown away before every block.
        threads: for every peer; None is the cores this process may use.
        baseline: the peer that ratios are against, and that runs twice as the A/A control; on another device its
            family's peer of the same precision. None takes torch-eager where it can be measured, else onnxruntime.
        torch: the PyTorch module that the bundle was made of: a run's folder or `package.module:factory`; with None
            the PyTorch peers are not measured.
        seed: of the noise, the order of the blocks and the bootstrap.
        limit_s: seconds that a peer has for any one step (start, load or compile of one batch, one block) before it
            is killed and its row says so.
    """

    peers: tuple[str, ...] = tuple(PEERS)
    batches: tuple[int, ...] = (1, 8, 64)
    seconds: float = 0.25
    blocks: int = 5
    engine: bool = True
    rewarm_s: float = 0.03
    threads: int | None = None
    baseline: str | None = None
    torch: str | None = None
    seed: int = 0
    limit_s: float = 120.0

    def __post_init__(self) -> None:
        known = ", ".join(PEERS)
        for name in (*self.peers, *([] if self.baseline is None else [self.baseline])):
            if name not in PEERS and ":" not in name:
                raise InputError(f"the peer {name!r}", f"known peers are {known}", "Name one, or package.module:Class")
        if not self.peers or len(set(self.peers)) != len(self.peers):
            raise InputError(f"peers {', '.join(self.peers)!r}", "none is named, or one twice", "Name each once")
        if self.baseline is not None and not any(same_work(name, self.baseline) for name in self.peers):
            raise InputError(
                f"the baseline {self.baseline!r}", f"the peers are {', '.join(self.peers)}", "Name it as a peer too"
            )
        if not self.batches or len(set(self.batches)) != len(self.batches) or min(self.batches) < 1:
            raise InputError(f"batches {self.batches}", "none is named, one twice, or one below 1", "Give 1,8,64, say")
        for name, value, least in (
            ("seconds", self.seconds, 0.001),
            ("blocks", self.blocks, 1),
            ("rewarm_s", self.rewarm_s, 0),
            ("threads", 1 if self.threads is None else self.threads, 1),
            ("seed", self.seed, 0),
            ("limit_s", self.limit_s, 0.001),
        ):
            if not least <= value < float("inf"):  # NaN is in no range
                raise InputError(f"{name}={value}", f"it must be a number, {least} or more", "Give another")
        if (visit_s := 2 * (self.seconds + self.rewarm_s)) > self.limit_s:
            raise InputError(
                f"blocks of {self.seconds:g} s", f"two take {visit_s:g} s, the limit of a step is {self.limit_s:g} s",
                "Give a smaller number of seconds, or a larger limit_s",
            )  # fmt: skip
