"""`python -m aigc_rt.bench.child`: one peer in its own process. One JSON line in, one JSON line out; EOF ends it.

Between two requests the process is blocked on its pipe, and it answers only once its thread pools have stopped
spinning: a pool that spins while the next peer is measured would take a core from it.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np

from aigc_rt.bench import machine
from aigc_rt.bench.peers.base import Job, Peer, WrongAnswer
from aigc_rt.errors import MissingDependency, PlanError
from aigc_rt.plan import available_threads
from aigc_rt.timing import measure_block

Message = dict[str, Any]
QUIET_STEP_S = 0.005
QUIET_STEPS = 4
QUIET_LIMIT_S = 0.5


def main() -> int:
    """Answer requests until the pipe is closed."""
    replies = _private_stdout()
    peer: Peer | None = None
    for line in sys.stdin:
        request: Message = json.loads(line)
        try:
            if request["do"] == "open":
                peer = _open(request)
                reply: Message = {"facts": peer.facts()}
            else:
                assert peer is not None
                reply = _prepare(peer, request) if request["do"] == "prepare" else _block(peer, request)
            reply["settle_s"] = settle()
        except (PlanError, MissingDependency, ImportError) as error:
            reply = {"missing": getattr(error, "found", None) or f"it cannot be imported: {error}"}
        except WrongAnswer as error:
            reply = {"wrong": str(error)}
        except Exception as error:  # whatever an engine raises is what its row says
            traceback.print_exc()
            reply = {"failed": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
    return 0


def _private_stdout() -> TextIO:
    """The pipe to the parent; what engines print on stdout goes to stderr from here on."""
    private = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return private


def _open(request: Message) -> Peer:
    module, _, name = request["adapter"].partition(":")
    peer: Peer = getattr(importlib.import_module(module), name)(Job(**request["job"]))
    return peer


def _prepare(peer: Peer, request: Message) -> Message:
    """Load or compile for one batch size, with the first call of all that is measured; keep the images."""
    batch = request["batch"]
    begin = time.perf_counter_ns()
    peer.prepare(batch)
    images = peer.images(batch, 0)
    if request["engine"]:
        peer.run(peer.inputs(batch, 0))
    taken_s = (time.perf_counter_ns() - begin) / 1e9
    np.save(request["images"], images)
    return {"prepare_s": taken_s, "facts": peer.facts()}


def _block(peer: Peer, request: Message) -> Message:
    """A discarded re-warm, then one block for each thing measured in this visit."""
    blocks = {}
    for what in request["what"]:
        call = _call(peer, what, request["batch"])
        measure_block(call, request["rewarm_s"])
        call = _call(peer, what, request["batch"])
        begin = Reading.now()
        taken = measure_block(call, request["seconds"])
        blocks[what] = {"ns": taken.tolist(), "others": others_share(begin, Reading.now(), available_threads())}
    return {"blocks": blocks}


def _call(peer: Peer, what: str, batch: int) -> Callable[[], object]:
    """What is timed: new images from sample 0 on, or the engine alone with the inputs of sample 0."""
    if what == "engine":
        inputs = peer.inputs(batch, 0)
        return lambda: peer.run(inputs)
    starts = itertools.count(0, batch)
    return lambda: peer.images(batch, next(starts))


@dataclass(frozen=True)
class Reading:
    """Seconds at one moment: the wall clock, this process's processor time, the cores' by anyone (None if unknown)."""

    wall_s: float
    own_s: float
    busy_s: float | None

    @classmethod
    def now(cls) -> Reading:
        """Read the clocks."""
        return cls(time.perf_counter(), time.process_time(), machine.busy_s())


def others_share(begin: Reading, end: Reading, cores: int) -> float | None:
    """Share of the cores' time between two readings that went to other processes; None if unknown."""
    if begin.busy_s is None or end.busy_s is None:
        return None
    others_s = (end.busy_s - begin.busy_s) - (end.own_s - begin.own_s)
    return max(0.0, others_s / ((end.wall_s - begin.wall_s) * cores))


def settle(used_s: Callable[[], float] = time.process_time) -> float:
    """Wait until `used_s`, this process's processor time, stands still; gives up after QUIET_LIMIT_S.

    Returns:
        Seconds waited.
    """
    begin = time.perf_counter()
    quiet = 0
    while quiet < QUIET_STEPS and time.perf_counter() - begin < QUIET_LIMIT_S:
        before_s = used_s()
        time.sleep(QUIET_STEP_S)
        quiet = quiet + 1 if used_s() - before_s < QUIET_STEP_S / 10 else 0
    return time.perf_counter() - begin


if __name__ == "__main__":
    raise SystemExit(main())
