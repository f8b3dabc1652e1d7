"""The builder in a child process: the same engine, the same errors, and nothing left when it is stopped."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from engine_graphs import attention, batches, convolutions, images, mlp

from aigc_rt.errors import EngineError, InputError, PrecisionLost, WriteError
from aigc_rt.export import engine
from aigc_rt.export.engine import BuildOptions, build, build_in_child
from aigc_rt.files import write_whole
from aigc_rt.manifest import Profile

pytest.importorskip("tensorrt_rtx")
IT: dict[str, Any] = {"flavour": "tensorrt-rtx", "precision": "fp16", "profiles": [batches()], "name": "it"}
SLOW = convolutions(depth=150)  # seconds


def command(onnx: Path, out: Path, *more: str, profiles: dict[str, Profile] | None = None) -> list[str]:
    given = ["--onnx", str(onnx), "--out", str(out), "--report", str(out.with_suffix(".json"))]
    given += ["--flavour", "tensorrt-rtx", "--precision", "fp16", "--profiles"]
    return [
        sys.executable,
        "-m",
        "aigc_rt.export.engine",
        *given,
        engine._profiles_to_json([profiles or batches()]),
        *more,
    ]


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Every child that is started."""
    started: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    return started


def test_a_child_builds_what_the_parent_would(capfd: pytest.CaptureFixture[str]) -> None:
    options = BuildOptions(targets=("sm86", "sm89"), parameters=559_632)
    child, here = build_in_child(mlp("fp16"), **IT, options=options), build(mlp("fp16"), **IT, options=options)
    assert capfd.readouterr() == ("", "")
    assert child.spec == here.spec
    assert child.evidence.keys() == here.evidence.keys()
    differing = {key for key, value in here.evidence.items() if child.evidence[key] != value}
    assert differing <= {"build_s", "engine_bytes", "bytes_per_parameter"}  # a few bytes of the engine are its own
    assert len(child.engine) == child.evidence["engine_bytes"]


@pytest.mark.parametrize(
    "asked", [{"profiles": []}, {"options": BuildOptions(targets=("sm1",))}, {"precision": "bf16"}]
)
def test_errors_cross_the_process(asked: dict[str, Any]) -> None:
    def caught(function: Any) -> tuple[type, str, str, str]:
        with pytest.raises((InputError, PrecisionLost)) as error:
            function(mlp("fp16"), **IT | asked)
        return type(error.value), error.value.asked, error.value.found, error.value.mend

    assert caught(build_in_child) == caught(build)


def test_the_native_librarys_own_words_are_kept_from_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    model, profile = attention(8)  # which makes the library write to stderr, past its logger
    assert build_in_child(model, **IT | {"profiles": [profile]}).evidence["healed"]
    assert capfd.readouterr() == ("", "")


def test_the_limit_ends_the_child(children: list[subprocess.Popen[bytes]]) -> None:
    began = time.perf_counter()
    with pytest.raises(EngineError, match=r"longer than 1 s"):
        build_in_child(SLOW, **IT | {"profiles": [images()]}, limit_s=1)
    assert time.perf_counter() - began < 3
    assert [child.poll() is not None for child in children] == [True]


def test_an_interrupt_ends_the_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    ended = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def wait(self, timeout: float | None = None) -> int:
            if timeout is not None:
                assert list(tmp_path.iterdir())
                assert os.name != "posix" or os.getsid(self.pid) == self.pid  # Ctrl-C does not reach it by itself
                raise KeyboardInterrupt
            ended.append(super().wait())
            return ended[-1]

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_in_child(SLOW, **IT | {"profiles": [images()]})
    assert ended == [-9] if os.name == "posix" else ended
    assert not list(tmp_path.iterdir())


def test_a_child_killed_half_way_leaves_no_engine(tmp_path: Path) -> None:
    onnx, out = tmp_path / "it.onnx", tmp_path / "it.engine"
    onnx.write_bytes(SLOW)
    with subprocess.Popen(command(onnx, out, profiles=images()), stderr=subprocess.DEVNULL) as child:
        time.sleep(1)
        assert child.poll() is None, "it was done before it could be killed: take a larger graph"
        child.kill()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["it.onnx"]


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    onnx, out = tmp_path / "it.onnx", tmp_path / "it.engine"
    onnx.write_bytes(SLOW)
    line = command(onnx, out, "--until-stdin-closes", profiles=images())
    with subprocess.Popen(line, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        time.sleep(1)
        assert child.poll() is None
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(3) == 1
    assert not out.exists()


def test_the_child_that_dies_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho the last words >&2\nkill -SEGV $$\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(EngineError, match=r"died \(-11\): the last words"):
        build_in_child(mlp("fp16"), **IT)


def test_the_command_writes_engine_and_report_or_leaves_what_was_there(tmp_path: Path) -> None:
    onnx, out = tmp_path / "it.onnx", tmp_path / "it.engine"
    onnx.write_bytes(mlp("fp16"))
    done = subprocess.run(command(onnx, out), capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    first, report = out.read_bytes(), json.loads(out.with_suffix(".json").read_text())
    assert report["evidence"]["engine_bytes"] == len(first)
    assert report["engine"]["profiles"] == [{"z": {"min": [1, 100], "opt": [8, 100], "max": [64, 100]}}]

    onnx.write_bytes(b"not onnx" * 9)
    refused = subprocess.run(command(onnx, out), capture_output=True, check=False)
    assert (refused.returncode, refused.stdout, refused.stderr) == (1, b"", b"")
    error = json.loads(out.with_suffix(".json").read_text())["error"]
    assert error["class"] == "EngineError"
    assert "Failed to parse" in error["found"]
    assert out.read_bytes() == first
    assert len(list(tmp_path.iterdir())) == 3


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, write = tmp_path / "it.engine", Path.write_bytes
    out.write_bytes(b"the old one")

    def half(path: Path, data: bytes) -> int:
        write(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with out.open("rb") as reader:
        write_whole(out, b"another")
        assert reader.read() == b"the old one"  # who has it open keeps what was there
    write_whole(out, b"the old one")
    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(WriteError, match="No space left"):
        write_whole(out, b"the new one")
    assert out.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("words", [["--profiles", "[1]"], ["--profiles", "{"], ["--options", '{"speed": 9}']])
def test_the_command_refuses_json_it_does_not_know(words: list[str], tmp_path: Path) -> None:
    onnx, report = tmp_path / "it.onnx", tmp_path / "it.json"
    onnx.write_bytes(mlp("fp16"))
    given = ["--onnx", str(onnx), "--out", str(tmp_path / "it.engine"), "--report", str(report), "--precision", "fp16"]
    assert engine.main([*given, "--flavour", "tensorrt-rtx", *words]) == 1
    assert json.loads(report.read_text())["error"]["class"] == "InputError"


def test_it_builds_without_torch_and_onnx(tmp_path: Path) -> None:
    onnx, out = tmp_path / "it.onnx", tmp_path / "it.engine"
    onnx.write_bytes(mlp("fp16"))
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'onnx', 'onnxscript')));"
        "from aigc_rt.export.engine import main; raise SystemExit(main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *command(onnx, out)[3:]], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert out.stat().st_size > 1_000_000
