"""Files that appear whole or not at all, places where they could, and whether who wrote one is still there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from aigc_rt.errors import InputError, WriteError


def check_target(path: str | os.PathLike[str]) -> None:
    """Refuse a file that could not be written, before minutes are spent on what goes into it.

    Raises:
        InputError: its folder is not there, or it is a folder itself.
        WriteError: the folder does not let this user write.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"write {path}", "it is a folder", "Name a file")
    if not path.parent.is_dir():
        raise InputError(f"write {path}", f"there is no folder {path.parent}", "Make the folder first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise WriteError(f"write {path}", f"{path.parent} does not let you write", "Choose another place")


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
        mend = "Free space or choose another place"
        if isinstance(error, FileNotFoundError):
            found, mend = f"there is no folder {target.parent}", "Make the folder first"
        raise WriteError(f"write {target}", found, mend) from error
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
