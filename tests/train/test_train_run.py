"""A run from asking to the generator: its folder, resuming, interrupts, kills, refusals."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from train_help import one_thread, same, weights  # noqa: F401

from aigc_rt.errors import DataError, InputError, RunError, WriteError
from aigc_rt.train import checkpoint, record
from aigc_rt.train.alone import alone
from aigc_rt.train.generators.family import TrainedGenerator, sample
from aigc_rt.train.loop import Trainer
from aigc_rt.train.options import Augment, DataOptions, Privacy, TrainOptions
from aigc_rt.train.quality import Judge
from aigc_rt.train.restore import load_generator
from aigc_rt.train.run import train
from aigc_rt.train.task import Recipe


def options(out: Path, **changes: Any) -> TrainOptions:
    """Of a run of 26 steps; recipe fields among the changes join its recipe, None is the family's own."""
    recipe: dict[str, Any] = {"epochs": 1, "batch": 64}
    recipe |= {name: changes.pop(name) for name in tuple(changes) if name in FIELDS}
    base = TrainOptions("gan", "digits", out, evaluate=False, quiet=True)
    given = {name: value for name, value in recipe.items() if value is not None}
    return dataclasses.replace(base, recipe=given, **changes)


FIELDS = {f.name for f in dataclasses.fields(Recipe)}


def files(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 26 steps that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(options(out))
    return out


def test_the_folder(whole: Path) -> None:
    run = json.loads((whole / "run.json").read_text())
    assert (run["family"], run["objective"], run["status"], run["step"], run["steps"]) == (
        "gan",
        "r3gan",
        "finished",
        26,
        26,
    )
    assert run["data"]["name"] == "digits"
    assert run["data"]["licence"] == "CC BY 4.0"
    assert len(run["data"]["sha256"]) == 64
    assert run["versions"]["torch"] == torch.__version__
    assert run["quality"] is None
    assert run["quality_note"] == "not asked for"
    assert record.read(whole).recipe.batch == 64
    kept = sorted(p.name for p in (whole / "checkpoints").iterdir())
    assert kept == ["step-00000021", "step-00000024", "step-00000026"]


def test_grids_are_pngs(whole: Path) -> None:
    grids = sorted((whole / "samples").iterdir())
    assert grids[-1].name == "step-00000026.png"
    for path in grids:
        with Image.open(path) as picture:
            picture.verify()
            assert (picture.format, picture.mode) == ("PNG", "L")
            assert picture.size[0] >= 64  # eight 8-pixel digits a row


def test_tensorboard_can_read_it(whole: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    found = events.EventAccumulator(str(whole / "tensorboard"))
    found.Reload()
    assert {"loss/generator", "loss/discriminator"} <= set(found.Tags()["scalars"])
    assert [e.step for e in found.Scalars("loss/generator")] == list(range(1, 27))
    assert "samples" in found.Tags()["images"]


def test_the_generator(whole: Path) -> None:
    found = load_generator(whole)
    assert isinstance(found, TrainedGenerator)
    assert not found.module.training
    assert found.name == "whole"
    assert found.dynamic == {"z": {0: ("batch", 1, 64)}}
    assert found.example_inputs["z"].shape == (2, 100)
    image = found.module(**found.example_inputs)
    assert image.shape == (2, 1, 8, 8)
    assert found.program.noise["z"].shape == (100,)
    assert (found.program.graph, found.program.media.output, found.program.media.layout) == (
        "generator",
        "image",
        "NCHW",
    )
    assert found.made["data"]["name"] == "digits"
    assert (found.made["family"], found.made["step"], found.made["seed"]) == ("gan", 26, 0)
    json.dumps(found.made)
    saved = weights(whole)
    for name, value in found.module.state_dict().items():
        assert torch.equal(value, saved[f"average.generator.{name}"])
        assert not torch.equal(value, saved[f"network.generator.{name}"])


def test_the_newest_grid_is_what_the_generator_draws(whole: Path) -> None:
    found = load_generator(whole)
    drawn = sample(found.module, found.program, 0, 64)
    with Image.open(whole / "samples" / "step-00000026.png") as picture:
        sheet = np.asarray(picture)
    assert np.array_equal(sheet[2:10, 2:10], drawn[0, :, :, 0])  # the first cell, inside its margin


def test_a_seed_reproduces_a_run(whole: Path, tmp_path: Path) -> None:
    train(options(tmp_path / "again", seed=0))
    assert same(whole, tmp_path / "again")
    train(options(tmp_path / "other", seed=1))
    assert not same(whole, tmp_path / "other")


def test_stopping_and_resuming_is_exact(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = train(options(out, max_steps=11))
    assert (first.status, first.step) == ("stopped", 11)
    second = train(TrainOptions("gan", "digits", out, resume=True, evaluate=False, quiet=True))
    assert (second.status, second.step) == ("finished", 26)
    assert second.seconds > first.seconds
    assert same(whole, out)
    assert json.loads((out / "run.json").read_text())["step"] == 26


def test_resuming_a_finished_run_changes_nothing(whole: Path) -> None:
    before = files(whole)
    assert train(options(whole, resume=True)).status == "finished"
    after = files(whole)
    assert before == after


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 3}, "seed 3"),
        ({"objective": "bce"}, "objective bce"),
        ({"batch": 32}, "batch 32"),
        ({"epochs": 2}, "epochs 2"),
        ({"data": "mnist5k"}, "data mnist5k"),
        ({"loading": DataOptions(limit=5)}, "loading limit 5: it was started without. Give these options all"),
        ({"augment": Augment(flip=True)}, "augment .*: it was started without. Leave augment out"),
    ],
)
def test_resuming_something_else_is_refused(changes: dict[str, object], words: str, whole: Path) -> None:
    before = files(whole)
    with pytest.raises(RunError, match=words):
        train(options(whole, resume=True, **changes))
    assert files(whole) == before


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is nothing"):
        train(options(tmp_path / "no", resume=True))
    assert not (tmp_path / "no").exists()
    with pytest.raises(RunError, match=r"a folder without run\.json"):
        train(options(tmp_path, resume=True))


def test_a_used_folder_is_left_alone(whole: Path, tmp_path: Path) -> None:
    before = files(whole)
    with pytest.raises(RunError, match="something is already there"):
        train(options(whole))
    assert files(whole) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="something is already there"):
        train(options(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


def test_unknown_names_list_the_known(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="Known families are gan"):
        train(options(tmp_path / "out", family="gna"))
    with pytest.raises(RunError, match="Known objectives are r3gan, bce"):
        train(options(tmp_path / "out", objective="wgan"))
    with pytest.raises(DataError, match="mnist5k"):
        train(options(tmp_path / "out", data="minst"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["epochs", "max_steps", "batch", "threads"])
def test_numbers_must_be_positive(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=name):
        options(tmp_path, **{name: 0})
    with pytest.raises(InputError, match="seed"):
        options(tmp_path, seed=-1)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError):
        train(options(tmp_path / "file" / "out"))


def test_a_name_too_long(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"train into .*: File name too long"):
        train(options(tmp_path / ("x" * 300)))


def test_a_start_that_fails_leaves_nothing_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"

    def full(*_: object) -> None:
        assert (out / "secret").is_file()
        raise WriteError("write run.json", "No space left on device", "Train again with --resume")

    asked = options(out, objective="bce", privacy=Privacy(), max_steps=1)
    with monkeypatch.context() as disk:
        disk.setattr(record.RunRecord, "write", full)
        with pytest.raises(WriteError, match="choose another place"):
            train(asked)
    assert not any(out.iterdir())
    assert train(asked).step == 1


def test_one_process_trains_at_a_time(whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")

    def another(_: TrainedGenerator) -> None:
        train(options(tmp_path / "out", max_steps=1))

    with pytest.raises(RunError, match="something is already there"):
        train(options(tmp_path / "out", seed=1), export_check=another)
    assert record.read(tmp_path / "out").seed == 0
    before = files(whole)
    with alone(whole), pytest.raises(RunError, match="another process is training there"):
        train(options(whole, resume=True))
    assert files(whole) == before


def test_the_export_check_comes_first(tmp_path: Path) -> None:
    out = tmp_path / "run"
    seen = []

    def check(generator: TrainedGenerator) -> None:
        assert not out.exists()
        assert generator.module(**generator.example_inputs).shape == (2, 1, 8, 8)
        seen.append(generator.name)

    train(options(out, max_steps=1), check)
    assert seen == ["run"]

    def refuse(generator: TrainedGenerator) -> None:
        raise RuntimeError("cannot be exported")

    with pytest.raises(RuntimeError, match="cannot be exported"):
        train(options(tmp_path / "other"), refuse)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"format": "aigc-rt-run", "schema": 9}', '{"format": 3', "[" * 200_000]
)
def test_a_damaged_record(content: str, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunError, match=r"run\.json"):
        load_generator(tmp_path)


def test_a_damaged_checkpoint(whole: Path, tmp_path: Path) -> None:
    for name, data in files(whole).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    newest = checkpoint.newest(tmp_path / "checkpoints")
    assert newest is not None
    (newest / "tensors.safetensors").write_bytes(b"\0" * 100)
    for use in (lambda: load_generator(tmp_path), lambda: train(options(tmp_path, resume=True))):
        with pytest.raises(RunError, match=newest.name):
            use()


def test_threads_are_put_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    found = train(options(tmp_path / "run", threads=before + 1, max_steps=1))
    assert torch.get_num_threads() == before
    assert found.threads == before + 1
    assert train(options(tmp_path / "run", resume=True, max_steps=2)).threads == before + 1
    torch.set_num_threads(before + 2)
    assert train(options(tmp_path / "other", max_steps=1)).threads == 1
    assert torch.get_num_threads() == before + 2
    torch.set_num_threads(before)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    train(options(out, max_steps=4))
    kept = {k: v for k, v in files(out).items() if k.startswith("checkpoints")}

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(WriteError, match="No space left"):
            train(options(out, resume=True))
    assert {k: v for k, v in files(out).items() if k.startswith("checkpoints")} == kept
    train(options(out, resume=True))
    assert load_generator(out).made["step"] == 26


def test_a_run_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    found = train(options(out, evaluate=True, judge=tmp_path / "judges", epochs=12))
    quality = found.quality
    assert quality is not None
    assert quality["samples"] == 1000
    assert quality["frechet_ratio"] == pytest.approx(quality["frechet"] / quality["yardsticks"]["untrained"]["frechet"])
    assert quality["frechet_ratio"] < 0.5
    assert quality["yardsticks"]["held_out"]["frechet"] < quality["yardsticks"]["samples"]["frechet"]
    assert (out / "nearest.png").is_file()
    assert load_generator(out).quality == json.loads((out / "run.json").read_text())["quality"] == quality

    def never(*_: object) -> None:
        raise AssertionError("judged again")

    monkeypatch.setattr(Judge, "of", never)
    assert train(options(out, resume=True, epochs=12, evaluate=True)).quality == quality


def test_a_handful_of_images_is_trained_on_but_not_judged(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for k in range(6):
        Image.new("RGB", (6, 4), (20 * k, 9, 9)).save(tmp_path / "images" / f"{k}.png")
    found = train(options(tmp_path / "run", data=str(tmp_path / "images"), evaluate=True, batch=5))
    assert found.status == "finished"
    assert found.quality is None
    assert found.quality_note is not None
    assert "6 are needed" in found.quality_note
    assert load_generator(tmp_path / "run").module(torch.zeros(1, 100)).shape == (1, 3, 4, 6)


def test_two_classes_of_one_image_are_trained_on_but_not_judged(tmp_path: Path) -> None:
    for k, name in enumerate(("a", "b")):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("L", (4, 4), 100 * k).save(tmp_path / "images" / name / "0.png")
    found = train(
        options(tmp_path / "run", data=str(tmp_path / "images"), evaluate=True, judge=tmp_path / "judges", batch=None)
    )
    assert (found.status, found.quality) == ("finished", None)
    assert found.quality_note is not None
    assert "6 are needed" in found.quality_note
    assert not (tmp_path / "judges").exists()


@pytest.mark.parametrize(("name", "value"), [("threads", 100_000), ("epochs", 10**400), ("lr", 0.0)])
def test_numbers_must_be_within_reason(name: str, value: float, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{name} is .*, not from"):
        options(tmp_path, **{name: value})


def test_a_batch_of_more_images_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"batch=1000000: there are 1,617 images to train on\. Give 1,617 or less"):
        train(options(tmp_path / "run", batch=1_000_000))
    assert not (tmp_path / "run").exists()
    assert train(options(tmp_path / "run", batch=1617, max_steps=1)).step == 1


def test_a_generator_that_takes_a_class_sees_every_class(tmp_path: Path) -> None:
    parts = DataOptions(only=(3, 4))
    for data in ("digits", "mnist5k"):
        with pytest.raises(InputError, match=r"on 2 of the 10 classes.*never saw \(0, 1, 2, 5, 6, \.\.\.\)"):
            train(options(tmp_path / "run", family="cvae", data=data, loading=parts, max_steps=1))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("error", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()])
def test_networks_beyond_memory(error: Exception, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(torch.nn.Linear, "__init__", full)
    for use in (lambda: train(options(tmp_path / "run")), lambda: load_generator(whole)):
        with pytest.raises(RunError, match=r"images of 1 x 8 x 8: they cannot be made .*--size"):
            use()
    assert not (tmp_path / "run").exists()


def edited(run: Path, out: Path, *edits: tuple[str, object]) -> None:
    """A copy of a run, with values at dotted places of run.json replaced."""
    shutil.copytree(run, out)
    document = json.loads((run / "run.json").read_text())
    for place, value in edits:
        *parents, last = place.split(".")
        node = document
        for name in parents:
            node = node[name]
        node[last] = value
    (out / "run.json").write_text(json.dumps(document))


BAD = [
    ("objective", "wgan"),
    ("objective", []),
    ("family", []),
    ("family", {}),
    ("family", "gna"),
    ("settings", []),
    ("settings.widths", 5),
    ("settings.widths", [256, -1]),
    ("settings.latent", "100"),
    ("settings.extra", 1),
    ("seed", "0"),
    ("seed", None),
    ("seed", 2**64),
    ("seed", True),
    ("data.shape", [1, 8]),
    ("data.shape", [1, 8, "8"]),
    ("data.shape", [1, 8, 0]),
    ("data.shape", None),
    ("data.options", "8"),
    ("data.options.size", -8),
    ("augment", 3),
    ("privacy", {"epsilon": "x"}),
    ("commit", 7),
    ("data.extra", 1),
    ("data", 5),
    ("step", 27),
    ("steps", 0),
    ("steps", "26"),
    ("recipe", []),
    ("recipe.batch", 0),
    ("recipe.epochs", 10**400),
    ("recipe.lr", "x"),
    ("recipe.lr", float("nan")),
    ("recipe.lr", float("inf")),
    ("recipe.lr", 10**400),
    ("recipe.betas", [2, 3]),
    ("recipe.betas", [0.5]),
    ("recipe.schedule", "step"),
    ("recipe.threads", 100_000),
    ("recipe.ema", -1),
    ("threads", 100_000),
    ("threads", 0),
    ("versions", [1]),
    ("status", "done"),
    ("seconds", -1),
    ("quality", 5),
    ("quality_note", 5),
]


@pytest.mark.parametrize(("place", "value"), BAD, ids=lambda x: repr(x)[:20])
def test_an_edited_record(place: str, value: object, whole: Path, tmp_path: Path) -> None:
    edited(whole, tmp_path / "run", (place, value), *([("quality_note", None)] if place == "quality" else []))
    asked = TrainOptions("gan", "digits", tmp_path / "run", resume=True, evaluate=False, quiet=True)
    for use in (lambda: load_generator(tmp_path / "run"), lambda: train(asked)):
        with pytest.raises(RunError, match=r"run\.json"):
            use()


@pytest.mark.parametrize(
    ("place", "value"), [("steps", 30), ("recipe.batch", 65), ("recipe.epochs", 3), ("data.shape", [1, 4, 16])]
)
def test_a_record_that_contradicts_its_data(place: str, value: object, whole: Path, tmp_path: Path) -> None:
    edited(whole, tmp_path / "run", (place, value))
    with pytest.raises(RunError, match=r"run\.json"):
        train(TrainOptions("gan", "digits", tmp_path / "run", resume=True, evaluate=False, quiet=True))


@pytest.mark.parametrize("edit", [("seed", 5), ("settings.widths", [8]), ("settings.latent", 9)])
def test_a_checkpoint_of_another_run(edit: tuple[str, object], whole: Path, tmp_path: Path) -> None:
    edited(whole, tmp_path / "run", edit)
    asked = TrainOptions("gan", "digits", tmp_path / "run", resume=True, evaluate=False, quiet=True)
    for use in (lambda: load_generator(tmp_path / "run"), lambda: train(asked)):
        with pytest.raises(RunError):
            use()


# In another process: Ctrl-C and kill -9

CHILD = """
import sys
from pathlib import Path
import torch
from aigc_rt.train.loop import Trainer
from aigc_rt.train.options import TrainOptions
from aigc_rt.train.run import train
torch.set_num_threads(int(sys.argv[2]))
try:
    train(TrainOptions("gan", "digits", Path(sys.argv[1]), recipe={"epochs": 16, "batch": 64}, evaluate=False))
except KeyboardInterrupt:
    raise SystemExit(130)
"""


def interrupted(out: Path, number: int) -> subprocess.CompletedProcess[bytes]:
    """A child that trains 405 steps, sent a signal once it has saved a checkpoint."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(out), str(torch.get_num_threads())],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 120
        while checkpoint.newest(out / "checkpoints") is None:
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.send_signal(number)
        printed, complained = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    return subprocess.CompletedProcess(child.args, child.returncode, printed, complained)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("long") / "run"
    train(options(out, epochs=16))
    return out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_ended_run_goes_on_exactly(number: signal.Signals, long: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = interrupted(out, number)
    assert done.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert done.stdout == b""
    assert done.stderr == b"", "a pipe stays quiet"
    left = record.read(out)
    assert left.status == ("running" if number == signal.SIGKILL else "interrupted")
    newest = checkpoint.newest(out / "checkpoints")
    assert newest is not None
    step = checkpoint.load(newest).step
    assert 0 < step < left.steps
    assert left.step == step or number == signal.SIGKILL  # killed between writing the one and the other
    assert load_generator(out).made["step"] == step
    assert train(options(out, resume=True, epochs=None)).status == "finished"
    assert same(out, long)


def test_a_second_interrupt_says_the_step_that_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(trainer: Trainer, *_: object) -> None:
        trainer.advance()
        raise KeyboardInterrupt

    monkeypatch.setattr("aigc_rt.train.run.fit", interrupt)
    with pytest.raises(KeyboardInterrupt, match="at step 0 of 26, which is saved"):
        train(options(tmp_path / "run"))
    left = record.read(tmp_path / "run")
    assert (left.step, left.status) == (0, "interrupted")


@pytest.mark.slow
def test_the_default_gan_is_good_enough(tmp_path: Path) -> None:
    """All ten digits, and at most 1/20 of an untrained generator's distance: two minutes."""
    found = train(options(tmp_path / "run", data="mnist5k", epochs=None, batch=None, evaluate=True, judge=tmp_path))
    assert found.quality is not None
    assert found.quality["classifier"]["accuracy"] >= 0.97
    assert found.quality["covered"] == 10
    assert min(found.quality["shares"].values()) >= 0.03
    assert found.quality["frechet_ratio"] <= 1 / 20
