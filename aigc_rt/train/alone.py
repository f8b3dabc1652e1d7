"""One process trains in a folder at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from aigc_rt.errors import RunError


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Within, no other process gets here with the same folder; the system lets go of it however the process ends.

    Where the system has no such locks (Windows, some network disks) nothing is kept out.

    Raises:
        RunError: another process trains there.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"train into {out}", "another process is training there", "Wait for it, or choose another --out"
            ) from None
        except OSError:  # no locks on this disk
            pass
        yield
    finally:
        os.close(handle)
