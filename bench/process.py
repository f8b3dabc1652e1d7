"""The parent's side of a peer's process: start it, ask it, give up on it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

Message = dict[str, Any]
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class PeerDied(Exception):
    """The process ended or did not answer in time; the text is what its row says."""


class PeerProcess:
    """One child in a process group of its own. Nothing of it outlives `kill`."""

    def __init__(self, name: str, scratch: Path, threads: int) -> None:
        self.scratch = scratch / name.replace("/", "_").replace(":", "_")
        self.scratch.mkdir()
        self._log = self.scratch / "stderr.txt"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "aigc_rt.bench.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(threads, self.scratch),
                start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends the whole group
            )
        self._killed = False
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, message: Message) -> None:
        """Hand the child a request; a dead child is noticed by `receive`."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self, limit_s: float) -> Message:
        """The child's answer.

        Raises:
            PeerDied: it ended, or `limit_s` seconds passed; it is killed.
        """
        begin = time.perf_counter()
        try:
            line = self._lines.get(timeout=limit_s)
        except queue.Empty:
            self.kill()
            raise PeerDied(f"no answer in {time.perf_counter() - begin:.0f} s (the time limit): killed") from None
        if line is None:
            code = self._process.wait()
            self.kill()
            raise PeerDied(f"its process {_ending(code)}{self._last_words()}")
        reply: Message = json.loads(line)
        return reply

    def kill(self) -> None:
        """End the child and what it started; calling again is fine."""
        if self._killed:  # its number may be another process's by now
            return
        self._killed = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            for line in pipe:
                self._lines.put(line)
        self._lines.put(None)

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return f"; its last words: {lines[-1].strip()[:200]}" if lines else ""


def _environment(threads: int, scratch: Path) -> dict[str, str]:
    """The parent's, with the same thread count for every library and nothing compiled by an earlier run."""
    return {
        **os.environ,
        **dict.fromkeys(COUNTS, str(threads)),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),  # the child sees the parent's modules
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "TRITON_CACHE_DIR": str(scratch / "triton"),
    }


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"
