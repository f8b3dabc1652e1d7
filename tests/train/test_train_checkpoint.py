"""Checkpoints: whole or not there, never a pickle, and damage is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aigc_rt.errors import RunError, WriteError
from aigc_rt.train import checkpoint
from aigc_rt.train.checkpoint import Checkpoint


def state(step: int) -> Checkpoint:
    tensors = {
        "network.a.weight": torch.arange(6.0).reshape(2, 3) + step,
        "average.a.weight": torch.ones(2, dtype=torch.int64),
    }
    return Checkpoint(step, 7, tensors, {"torch": "x"})  # fmt: skip


def test_round_trip(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, state(12))
    again = checkpoint.load(path)
    assert (again.step, again.seed, again.versions) == (12, 7, {"torch": "x"})
    assert again.tensors.keys() == state(12).tensors.keys()
    for name, value in state(12).tensors.items():
        assert torch.equal(again.tensors[name], value)
    assert {p.name for p in path.iterdir()} == {"tensors.safetensors", "state.json"}
    json.loads((path / "state.json").read_text())
    assert (path / "tensors.safetensors").read_bytes()[8:9] == b"{"  # a safetensors header, no pickle


def test_only_some_tensors(tmp_path: Path) -> None:
    assert list(checkpoint.load(checkpoint.save(tmp_path, state(1)), only="average.").tensors) == ["average.a.weight"]


def test_pruned_to_the_newest(tmp_path: Path) -> None:
    for step in (5, 900, 10, 20):
        checkpoint.save(tmp_path, state(step), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000020", "step-00000900"]
    assert checkpoint.newest(tmp_path) == tmp_path / "step-00000900"


def test_nothing_there(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.newest(tmp_path / "no") is None


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncated", "missing", "flipped", "empty"])
def test_damage_is_an_error_that_names_it(file: str, damage: str, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1))
    path = checkpoint.save(tmp_path, state(2))
    data = (path / file).read_bytes()
    flipped = bytearray(data)
    flipped[-9 if file.endswith("tensors") else 14] ^= 1
    match damage:
        case "missing":
            (path / file).unlink()
        case "truncated":
            (path / file).write_bytes(data[: len(data) // 2])
        case "flipped":
            (path / file).write_bytes(flipped)
        case "empty":
            (path / file).write_bytes(b"")
    with pytest.raises(RunError) as error:
        checkpoint.load(path)
    assert "step-00000002" in str(error.value)
    assert "go on from step-00000001" in str(error.value)


@pytest.mark.parametrize(
    "edit",
    [
        {"step": 1.5},
        {"step": "2"},
        {"step": -1},
        {"step": True},
        {"seed": None},
        {"seed": 2**64},
        {"versions": []},
        {"versions": {"torch": 2}},
        {"sha256": 5},
        {"format": []},
    ],
)
def test_odd_types_in_the_state(edit: dict[str, object], tmp_path: Path) -> None:
    file = checkpoint.save(tmp_path, state(2)) / "state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | edit))
    with pytest.raises(RunError, match="step-00000002"):
        checkpoint.load(file.parent)


@pytest.mark.parametrize("content", ["[" * 200_000, "[]", "5", "null", '{"step": ' + "9" * 5000 + "}"])
def test_a_state_of_another_kind(content: str, tmp_path: Path) -> None:
    file = checkpoint.save(tmp_path, state(2)) / "state.json"
    file.write_text(content)
    with pytest.raises(RunError, match="step-00000002"):
        checkpoint.load(file.parent)


@pytest.mark.parametrize("step", ["1e999", "NaN"])
def test_a_step_that_is_no_number(step: str, tmp_path: Path) -> None:
    file = checkpoint.save(tmp_path, state(2)) / "state.json"
    file.write_text(file.read_text().replace('"step": 2', f'"step": {step}'))
    with pytest.raises(RunError, match="step-00000002"):
        checkpoint.load(file.parent)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError):
        checkpoint.save(tmp_path / "file", state(1))


def test_a_full_disk_leaves_the_former(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    former = checkpoint.save(tmp_path, state(1))

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="No space left"):
        checkpoint.save(tmp_path, state(2))
    assert list(tmp_path.iterdir()) == [former]


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from aigc_rt.train import checkpoint
def state(step): return checkpoint.Checkpoint(step, 0, {"w": torch.full((1000,), float(step))}, {})
folder = Path(sys.argv[1])
checkpoint.save(folder, state(1))
checkpoint.os.fsync = lambda _descriptor: os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save(folder, state(2))
"""


def test_a_kill_while_saving_leaves_the_former(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert any(p.name.startswith(".partial-") for p in tmp_path.iterdir())
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert checkpoint.load(newest).step == 1
    checkpoint.save(tmp_path, state(3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]
