"""The commit of the checkout that the package runs from, for results that must say what made them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any


def commit(source: Path | None = None) -> dict[str, Any] | None:
    """`{"commit": ..., "dirty": ...}`; None where the package is installed without a checkout.

    Dirty is a checkout with a tracked file that differs from the commit; files that git does not know do not count.

    Args:
        source: a file whose checkout is asked for; None is the package.
    """
    source = (source or Path(__file__).with_name("__init__.py")).resolve()
    tracked = _git(source, "ls-files", "--error-unmatch", source.name)
    head = _git(source, "rev-parse", "HEAD")
    changed = _git(source, "status", "--porcelain", "--untracked-files=no")
    if not tracked or not head or changed is None:
        return None
    return {"commit": head, "dirty": bool(changed)}


def _git(source: Path, *command: str) -> str | None:
    """What git prints in the file's folder, None when it is not there, fails or hangs."""
    try:
        done = subprocess.run(
            ["git", "-C", str(source.parent), *command], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
