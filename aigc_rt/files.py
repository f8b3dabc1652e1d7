"""Files that appear whole or not at all, and whether who wrote one is still there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from aigc_rt.errors import WriteError


def write_whole(target: Path, data: bytes) -> None:
    """Write beside the name, then rename: a reader sees the old file or the new one.

    Raises:
        WriteError: it cannot be written; the old file is untouched and nothing else is left.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        temporary.write_bytes(data)
        temporary.replace(target)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        found = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise WriteError(f"write {target}", found, "Free space or choose another place") from error
    finally:
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)


def alive(pid: int) -> bool:
    """Whether that process runs; always so on Windows, where asking would end it."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
