"""`aigc-rt bench` as a user types it: measured once, shown again without measuring, on a terminal and in a pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bench_fake_peers import make_bundle
from typer.testing import CliRunner

from aigc_rt import cli
from aigc_rt.bench import measure

QUICK = ("--peers", "onnxruntime,aigc-rt", "--batches", "1", "--seconds", "0.01", "--blocks", "2", "--threads", "1")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("cli") / "tiny")


def test_a_result_is_shown_and_drawn_again_without_measuring(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    first = CliRunner().invoke(cli.application(), ["bench", str(bundle), *QUICK, "--out", str(result)])
    assert first.exit_code == 0, first.output
    assert "| aigc-rt" in first.stdout
    monkeypatch.setattr(measure, "bench", pytest.fail)
    again = CliRunner().invoke(cli.application(), ["bench", "--from", str(result), "--plot", str(picture)])
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert picture.read_bytes().startswith(b"\x89PNG")
    machine = CliRunner().invoke(cli.application(), ["bench", "--from", str(result), "--json"])
    assert json.loads(machine.stdout) == json.loads(result.read_text())
    missing = CliRunner().invoke(cli.application(), ["bench", "--from", str(tmp_path / "none.json")])
    assert (missing.exit_code, "Give a file that `aigc-rt bench` wrote" in missing.stderr) == (1, True)


def test_nothing_measured_is_exit_code_1_and_no_file(bundle: Path, tmp_path: Path) -> None:
    result, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    given = ["bench", str(bundle), "--peers", "torch-eager", "--batches", "1", "--out", str(result)]
    done = CliRunner().invoke(cli.application(), [*given, "--plot", str(picture)])
    assert done.exit_code == 1
    assert "nothing could be measured: torch-eager (missing: give --torch RUN" in " ".join(done.stderr.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals")
def test_a_terminal_gets_one_live_line_and_tables(bundle: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "aigc_rt", "bench", str(bundle), *QUICK],
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "COLUMNS": "150", "TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert child.wait() == 0, shown
    text = shown.decode()
    live, _, result = text.partition("tiny: 0 parameters")
    assert "measuring, round 2 of 2" in live
    assert "\n" not in live  # each step stands where the last one stood
    assert live.endswith("\r\x1b[2K")
    assert "aigc-rt" in result
    assert "| " not in result
