"""Several processes see what one would: the same losses on the same global batch, one record, one set of files."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from train_help import load_digits, make_gan, one_thread  # noqa: F401
from train_twice import STEPS, losses

from aigc_rt.errors import DeviceUnavailable, InputError, RunError
from aigc_rt.train import checkpoint, data
from aigc_rt.train.loop import Trainer
from aigc_rt.train.restore import load_generator
from aigc_rt.train.task import Recipe
from aigc_rt.train.workers import Workers

TWO = Workers(torch.device("cpu"), rank=1, count=2)


def launch(*command: str) -> subprocess.CompletedProcess[str]:
    """Two processes; `accelerate launch` would start those of `--cpu` through MPI only."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    options = [
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--num_cpu_threads_per_process",
        "1",
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "ACCELERATE_DISABLE_RICH": "1"}
    return subprocess.run(
        [*launcher, *options, "--main_process_port", port, *command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment,
    )


def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    out = tmp_path / "losses.json"
    done = launch(str(Path(__file__).with_name("train_twice.py")), str(out))
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert found["processes"] == 2
    for case, two in found["losses"].items():
        one = losses(case, Workers.alone())
        assert len(two) == len(one) == STEPS
        for a, b in zip(one, two, strict=True):
            assert a == pytest.approx(b, rel=1e-4, abs=1e-4), case


def test_a_run_of_two_processes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["-m", "aigc_rt", "train", "gan", "--device", "cpu", "--data", "digits", "--batch", "32", "--no-evaluate"]
    done = launch(*command, "--out", str(run), "--max-steps", "6")
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((run / "run.json").read_text())
    assert (record["processes"], record["step"], record["status"]) == (2, 6, "stopped")
    assert done.stdout.count("stopped at step 6") == 1
    assert load_generator(run).made["step"] == 6
    again = launch(*command, "--out", str(run), "--max-steps", "8", "--resume")
    assert again.returncode == 0, again.stderr[-2000:]
    newest = checkpoint.newest(run / "checkpoints")
    assert newest is not None
    assert checkpoint.load(newest).step == 8


def test_shares_make_up_the_batch(digits: data.Dataset) -> None:
    recipe = Recipe(epochs=1, batch=32, accumulate=2)
    gan = make_gan(digits.shape, "bce", {"widths": [4]})
    whole = Trainer(gan, digits, Recipe(epochs=1, batch=32), 0).stream.parts(3)
    shares = [
        part
        for rank in range(2)
        for part in Trainer(gan, digits, recipe, 0, Workers(torch.device("cpu"), rank, 2)).stream.parts(3)
    ]
    assert [part.first for part in shares] == [96, 104, 112, 120]
    assert torch.equal(torch.cat([part.images for part in shares]), whole[0].images)
    assert torch.equal(torch.cat([part.normal((3,)) for part in shares]), whole[0].normal((3,)))


def test_a_batch_that_cannot_be_shared(digits: data.Dataset) -> None:
    gan = make_gan(digits.shape, "bce", {"widths": [4]})
    with pytest.raises(InputError, match="multiple of 6"):
        Trainer(gan, digits, Recipe(epochs=1, batch=32, accumulate=3), 0, TWO)


def test_batch_norm_needs_one_process_or_gpus(digits: data.Dataset) -> None:
    gan = make_gan(digits.shape, "bce", {"widths": [4]})
    gan.networks["generator"] = gan.generator.layers = nn.Sequential(nn.BatchNorm1d(4))
    with pytest.raises(RunError, match="batch norm"):
        Trainer(gan, digits, Recipe(epochs=1, batch=32), 0, TWO)


def test_no_gpu_is_an_error() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(DeviceUnavailable, match="no CUDA device"):
        Workers.launched("cuda")
