"""What `make demo` does a second time, with the command replaced by one that only makes files."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAND_IN = """#!/bin/sh
for word in "$@"; do
  case "$word" in
    *.json | *.png) touch "$word" ;;
    demo/digits) mkdir -p demo/digits && touch demo/digits/manifest.json ;;
  esac
done
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_a_picture_is_drawn_again_without_measuring_again(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt", ".venv/bin/python", ".venv/bin/aigc-rt", ".venv/.demo"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    command = tmp_path / ".venv" / "bin" / "aigc-rt"
    command.write_text(STAND_IN)
    command.chmod(0o755)
    (tmp_path / "demo").mkdir()

    def make() -> str:
        alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # not a part of ours
        done = subprocess.run(["make", "demo"], cwd=tmp_path, capture_output=True, text=True, check=True, env=alone)
        return done.stdout

    first = make()
    assert [word in first for word in ("train", "export", "generate", "bench demo/digits")] == [True] * 4
    assert first.splitlines()[-1] == "Look at demo/digits.png and demo/bench.png"
    (tmp_path / "demo" / "bench.png").unlink()
    again = make()
    assert "bench --from demo/bench.json --plot demo/bench.png" in again
    assert "bench demo/digits" not in again
    assert make().splitlines() == ["Look at demo/digits.png and demo/bench.png"]
