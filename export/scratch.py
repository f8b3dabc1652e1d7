"""Temporary folders that do not outlive a killed process for long."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from aigc_rt.files import alive

_QUIET_S = 3600.0
"""A folder that changed since may be a live process's of another container with the same /tmp."""


@contextlib.contextmanager
def scratch(word: str) -> Iterator[Path]:
    """A folder `aigc-rt-WORD-PID-...`, removed at the end; what killed processes left of that word is removed too."""
    _sweep(word)
    with tempfile.TemporaryDirectory(prefix=f"aigc-rt-{word}-{os.getpid()}-") as folder:
        yield Path(folder)


def _sweep(word: str) -> None:
    left = re.compile(rf"aigc-rt-{word}-(\d+)-\w+")
    for folder in Path(tempfile.gettempdir()).glob(f"aigc-rt-{word}-*"):
        match = left.fullmatch(folder.name)
        if match is None or alive(int(match[1])):
            continue
        with contextlib.suppress(OSError):  # another process may sweep too
            if time.time() - folder.stat().st_mtime > _QUIET_S:
                shutil.rmtree(folder, ignore_errors=True)
