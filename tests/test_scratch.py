"""Folders for work that is thrown away: gone at the end, and not long after a kill."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aigc_rt.export.scratch import scratch


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_there_and_then_it_is_not(temporary: Path) -> None:
    with scratch("test") as folder:
        (folder / "sub").mkdir()
        assert folder.parent == temporary
        assert f"-{os.getpid()}-" in folder.name
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_nothing_else(temporary: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    gone, long_ago = child.pid, time.time() - 7200
    old = temporary / f"aigc-rt-test-{gone}-abc_1"
    kept = [
        temporary / name
        for name in (
            f"aigc-rt-test-{os.getpid()}-abc_1",  # alive
            f"aigc-rt-other-{gone}-abc_1",
            f"aigc-rt-test-{gone}",
            "aigc-rt-test-x-abc_1",
        )
    ]
    for folder in (old, *kept):
        folder.mkdir()
        (folder / "file").write_text("x")
        os.utime(folder, (long_ago, long_ago))
    recent = temporary / f"aigc-rt-test-{gone}-def_2"  # may be of a process that is not seen from here
    recent.mkdir()
    with scratch("test"):
        pass
    assert sorted(temporary.iterdir()) == sorted([*kept, recent])
