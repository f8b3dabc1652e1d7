"""`aigc-rt evaluate`: a run and its bundle by the same numbers, and what it says when it cannot."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from train_help import load_digits, one_thread  # noqa: F401
from typer.testing import CliRunner, Result

import aigc_rt
from aigc_rt import cli
from aigc_rt.bundle import Bundle, write_manifest
from aigc_rt.errors import InputError
from aigc_rt.export.run import export_run
from aigc_rt.manifest import Tensor
from aigc_rt.train import classifier, data
from aigc_rt.train.data_options import DataOptions
from aigc_rt.train.options import TrainOptions
from aigc_rt.train.quality import nhwc
from aigc_rt.train.restore import restored
from aigc_rt.train.run import train
from aigc_rt.train.samplers import BundleSampler, RunSampler

SAMPLES = ("--samples", "60", "--threads", "1")


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A judge of a few steps in a cache folder of its own."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(classifier, "STEPS", 60)
        patched.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-conditional autoencoder of a few steps."""
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = {"width": 8, "latent": 4, "blocks": 0}
    train(TrainOptions("cvae", "digits", out, settings=settings, max_steps=20, evaluate=False, quiet=True))
    return out


@pytest.fixture(scope="module")
def bundle(run: Path) -> Path:
    return export_run(run, run.with_name("bundle"), precisions=("fp32", "fp16"), quality=False).path


def asked(*arguments: object) -> Result:
    return CliRunner().invoke(cli.application(), ["evaluate", *map(str, arguments)])


def judged(*arguments: object) -> dict[str, Any]:
    done = asked(*arguments, *SAMPLES, "--json")
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def fails(code: int, *arguments: object, says: str) -> None:
    done = asked(*arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert says in " ".join(done.stderr.replace("│", " ").split())


def close(one: dict[str, Any], two: dict[str, Any], rel: float) -> None:
    for name in ("frechet", "kernel", "sure"):
        assert one[name] == pytest.approx(two[name], rel=rel, abs=1e-2), name
    for name in ("precision", "recall", "coverage"):
        assert one[name] == pytest.approx(two[name], abs=0.05), name
    assert one["conditional"]["agreement"] == pytest.approx(two["conditional"]["agreement"], abs=0.03)
    again, other = one["reconstruction"], two["reconstruction"]
    for name in ("mse", "psnr_db", "ssim", "kl_nats"):
        assert again[name] == pytest.approx(other[name], rel=rel), name


def test_a_run_and_its_bundle(run: Path, bundle: Path) -> None:
    of_run, full, half = judged(run), judged(bundle), judged(bundle, "--precision", "fp16")
    assert of_run["subject"] == {"kind": "run", "path": str(run), "family": "cvae", "step": 20}
    assert [one["subject"]["variant"] for one in (full, half)] == ["fp32", "fp16"]
    close(full, of_run, rel=1e-4)
    close(half, of_run, rel=1e-2)
    assert of_run["yardsticks"]["untrained"] is not None
    assert full["yardsticks"]["untrained"] is None
    assert of_run["reconstruction"].keys() - full["reconstruction"].keys() == {"elbo_bits_per_dim"}


def test_both_draw_the_same(run: Path, bundle: Path, digits: data.Dataset) -> None:
    _, family, averages = restored(run)
    one = RunSampler(family, averages)
    images, labels = nhwc(digits.images[:70]), np.resize(np.arange(10), 70)  # more than the bundle's largest batch
    with aigc_rt.load(bundle, device="cpu", precision="fp32") as generator:
        two = BundleSampler(generator)
        assert one.shape == two.shape == (1, 8, 8)
        for given in ({}, {"label": 3}, {"label": labels}):
            drawn = [sampler.draw(70, seed=5, start=2, **given).astype(int) for sampler in (one, two)]
            assert np.abs(drawn[0] - drawn[1]).max() <= 1
        made = [sampler.reconstruct(images, labels) for sampler in (one, two)]
    assert made[0] is not None
    assert made[1] is not None
    assert np.abs(made[0].images.astype(int) - made[1].images).max() <= 1
    assert np.allclose(made[0].mean, made[1].mean, atol=1e-4)
    assert np.allclose(made[0].log_variance, made[1].log_variance, atol=1e-4)


def test_text_and_figure(run: Path, tmp_path: Path) -> None:
    done = asked(run, *SAMPLES, "--figure", tmp_path / "near.png", "--seed", 4)
    assert done.exit_code == 0
    assert done.stdout.startswith("60 samples of seed 4 against digits, classifier features ")
    assert (tmp_path / "near.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_efficientnet_on_request(bundle: Path) -> None:
    found = judged(bundle, "--features", "efficientnet")
    assert found["features"]["name"] == "efficientnet"
    assert found["conditional"] is not None


def test_other_data_in_the_same_size(run: Path, bundle: Path, tmp_path: Path, digits: data.Dataset) -> None:
    big = nhwc(digits.images[:300]).repeat(3, 1).repeat(3, 2).repeat(3, 3)
    np.savez(tmp_path / "big.npz", images=big, labels=digits.labels[:300])  # type: ignore[index]
    for subject in (run, bundle):
        found = judged(subject, "--data", tmp_path / "big.npz")
        assert (found["data"]["name"], found["data"]["training"]) == ("big", 270)


def test_a_bundle_without_a_training_record(tmp_path: Path, digits: data.Dataset) -> None:
    made = toy.bundle(tmp_path / "toy")
    fails(1, made, says="the bundle does not say what it was trained on. Give the data with --data")
    colours = np.random.default_rng(0).integers(0, 256, (80, 4, 5, 3), np.uint8)
    np.savez(tmp_path / "colours.npz", images=colours)
    found = judged(made, "--data", tmp_path / "colours.npz")
    assert (found["features"]["name"], found["covered"], found["conditional"]) == ("efficientnet", None, None)
    fails(1, made, "--data", "digits", says="images of 3 x 4 x 5 on digits: its images are 3 x 8 x 8")


def edited(bundle: Path, to: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy whose training record is changed."""
    shutil.copytree(bundle, to)
    manifest = Bundle(to).manifest
    made = json.loads(json.dumps(manifest.made))
    change(made["training"])
    write_manifest(to, dataclasses.replace(manifest, made=made))
    return to


def test_a_bundle_remembers_how_its_data_was_loaded(bundle: Path, tmp_path: Path) -> None:
    few = {**dataclasses.asdict(DataOptions(limit=200)), "only": None}
    other = edited(bundle, tmp_path / "few", lambda training: training["data"].update(options=few))
    assert judged(other)["data"]["training"] == 200


def test_data_that_is_other_data_now(run: Path, bundle: Path, tmp_path: Path) -> None:
    other = edited(bundle, tmp_path / "other", lambda training: training["data"].update(sha256="0" * 64))
    says = "it was trained on 000000000000.... Bring back that data, or give --data digits to use this"
    fails(1, other, says=says)
    assert judged(other, "--data", "digits")["data"]["name"] == "digits"
    shutil.copytree(run, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["data"]["sha256"] = "0" * 64
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    fails(1, tmp_path / "run", says=says)


def test_data_that_was_a_folder(bundle: Path, tmp_path: Path) -> None:
    other = edited(bundle, tmp_path / "other", lambda training: training["data"].update(name="faces"))
    fails(1, other, says="it was trained on files: faces. Give the data with --data")


def test_a_folder_that_was_trained_on_is_split_as_it_was(bundle: Path, tmp_path: Path, digits: data.Dataset) -> None:
    few = {"held_out": 0.5, "split_seed": 7, "limit": 200}
    other = edited(bundle, tmp_path / "other", lambda t: t["data"].update(name="faces", options=few))
    np.savez(tmp_path / "moved.npz", images=digits.images, labels=digits.labels)  # type: ignore[arg-type]
    found = judged(other, "--data", tmp_path / "moved.npz")["data"]
    assert (found["training"], found["held_out"]) == (200, round(0.5 * len(digits.images)))


@pytest.mark.parametrize("record", [5, {"data": 7}, {"data": {"name": "digits", "options": {"size": "x"}}}])
def test_a_training_record_of_another_writer(bundle: Path, tmp_path: Path, record: Any) -> None:
    to = tmp_path / "other"
    shutil.copytree(bundle, to)
    write_manifest(to, dataclasses.replace(Bundle(to).manifest, made={"training": record}))
    assert judged(to, "--data", "digits")["data"]["name"] == "digits"


def test_a_private_run_is_told_so(bundle: Path, tmp_path: Path) -> None:
    private = edited(bundle, tmp_path / "private", lambda training: training.update(privacy={"epsilon": 8}))
    done = asked(private, *SAMPLES, "--figure", tmp_path / "near.png")
    assert "epsilon does not cover them" in done.stdout
    assert "was not drawn" in done.stderr
    assert not (tmp_path / "near.png").exists()


def test_what_makes_no_images(tmp_path: Path) -> None:
    made = toy.bundle(tmp_path / "toy")
    manifest = Bundle(made).manifest
    write_manifest(made, dataclasses.replace(manifest, program=Tensor(manifest.program.graph)))
    fails(1, made, "--data", "digits", says="its program is 'tensor'. Give a bundle that makes images")


def test_arguments_that_cannot_be(run: Path, tmp_path: Path) -> None:
    fails(2, run, "--features", "inception", says="there are classifier, efficientnet")
    fails(2, run, "--figure", "x.jpg", says="it is drawn as .png")
    fails(2, run, "--precision", "fp16", says="are for bundles")
    fails(2, run, "--samples", 5, says="Invalid value for '--samples'")
    fails(1, tmp_path / "nothing", says="there is nothing")
    fails(1, run, "--data", tmp_path / "nothing", says="no such folder")


def test_a_bundle_that_makes_no_images_is_no_sampler(tmp_path: Path) -> None:
    made = toy.bundle(tmp_path / "toy")
    manifest = Bundle(made).manifest
    assert not isinstance(manifest.program, Tensor)
    sound = dataclasses.replace(manifest.program.media, kind="array", layout="any")
    write_manifest(made, dataclasses.replace(manifest, program=dataclasses.replace(manifest.program, media=sound)))
    with aigc_rt.load(made, device="cpu") as generator, pytest.raises(InputError, match="makes no images"):
        BundleSampler(generator)
