"""The judge: what it says of sets whose quality is known."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from train_help import load_digits, make_gan, one_thread  # noqa: F401

from aigc_rt.errors import DataError, WriteError
from aigc_rt.train import classifier, data, quality
from aigc_rt.train.loop import Trainer
from aigc_rt.train.quality import Judge

Images = NDArray[np.uint8]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("judges")


@pytest.fixture(scope="module")
def judge(digits: data.Dataset, cache: Path) -> Judge:
    return Judge.of(digits, cache, quiet=True)


@pytest.fixture(scope="module")
def real(digits: data.Dataset) -> Images:
    return digits.images.transpose(0, 2, 3, 1)


def test_it_knows_digits(judge: Judge) -> None:
    assert judge.accuracy >= 0.95
    assert judge.held_out == 180


def test_real_digits(judge: Judge, real: Images, digits: data.Dataset) -> None:
    found = judge.measure(real, real)
    assert found["frechet"] == pytest.approx(0, abs=1e-2)
    assert found["sure"] > 0.9
    assert (found["covered"], found["classes"], found["samples"]) == (10, 10, 1797)
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert digits.labels is not None
    expected = np.bincount(digits.labels) / 1797
    assert np.array(list(found["shares"].values())) == pytest.approx(expected, abs=0.01)
    assert found["judge"]["sha256"] == judge.sha256


def test_collapse_onto_one_digit(judge: Judge, real: Images, digits: data.Dataset) -> None:
    found = judge.measure(real[digits.labels == 3], real)
    assert found["covered"] == 1
    assert found["shares"]["3"] > 0.95
    assert found["frechet"] > 50


def test_noise_is_worse_than_digits(judge: Judge, real: Images) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (500, 8, 8, 1), np.uint8)
    found = judge.measure(noise, real)
    half = judge.measure(real[::2], real)
    assert found["sure"] < half["sure"]
    assert found["frechet"] > 20 * half["frechet"]


def test_covered_is_from_three_percent(judge: Judge, real: Images, digits: data.Dataset) -> None:
    assert digits.labels is not None
    answers = judge.probabilities(real).argmax(1)
    ones, twos = real[answers == 1][:97], real[answers == 2][:3]
    assert judge.measure(np.concatenate([ones, twos]), real)["covered"] == 2
    assert judge.measure(np.concatenate([ones, twos[:2]]), real)["covered"] == 1


def test_the_distance_is_frechets(judge: Judge, real: Images) -> None:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), with the root taken by another road."""
    one, two = real[:600], real[900:1500]
    network = quality._Features(judge._network)
    planes = [torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 127.5 - 1 for images in (one, two)]
    a, b = (network(images).double().numpy() for images in planes)
    c1, c2 = np.cov(a.T), np.cov(b.T)
    values, vectors = np.linalg.eigh(c1)
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    mixed = np.sqrt(np.clip(np.linalg.eigvalsh(root @ c2 @ root), 0, None)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * mixed
    assert judge.frechet(one, two) == pytest.approx(expected, rel=1e-3)


def test_too_few(judge: Judge, real: Images) -> None:
    with pytest.raises(ValueError, match="1 samples"):
        judge.measure(real[:1], real)


def test_it_trains_once(judge: Judge, digits: data.Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Trainer) -> dict[str, float]:
        raise AssertionError("trained again")

    monkeypatch.setattr(Trainer, "advance", never)
    assert Judge.of(digits, cache).sha256 == judge.sha256
    (folder,) = cache.iterdir()
    assert folder.name == quality._key(digits)


def test_a_damaged_cache_is_made_again(
    judge: Judge, digits: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "STEPS", 5)
    first = Judge.of(digits, tmp_path, quiet=True)
    (file,) = tmp_path.rglob("tensors.safetensors")
    file.write_bytes(file.read_bytes()[:-5])
    assert Judge.of(digits, tmp_path, quiet=True).sha256 == first.sha256 != judge.sha256
    assert [p.name for p in tmp_path.iterdir()] == [quality._key(digits)]


def test_no_labels_no_judge(digits: data.Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no labels"):
        Judge.of(dataclasses.replace(digits, labels=None), tmp_path)
    with pytest.raises(DataError, match="one class"):
        Judge.of(dataclasses.replace(digits, labels=np.zeros(1797, np.int64)), tmp_path)


def test_one_training_image_is_too_few_to_judge(
    digits: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "advance", lambda _self: pytest.fail("trained a judge"))
    with pytest.raises(DataError, match="two are needed"):
        Judge.of(dataclasses.replace(digits, train=digits.train[:1]), tmp_path)


def test_a_distance_that_is_no_number(judge: Judge, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    gan = make_gan(digits.shape, "r3gan")
    for distance in (float("nan"), 0.0):
        monkeypatch.setattr(Judge, "frechet", lambda *_, found=distance: found)
        with pytest.raises(DataError, match="the distances are"):
            judge.judge(gan.generator, gan.generator, gan.program, digits)


def test_a_cache_that_cannot_be_written(digits: data.Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="cache"):
        Judge.of(digits, tmp_path / "file")


def test_shifts() -> None:
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert torch.equal(classifier.shifted(image, torch.tensor([[1, 1]]), 1), image)
    down = classifier.shifted(image, torch.tensor([[2, 1]]), 1)
    assert down[0, 0].tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5]]
    left = classifier.shifted(image, torch.tensor([[1, 0]]), 1)
    assert left[0, 0].tolist() == [[1, 2, 2], [4, 5, 5], [7, 8, 8]]


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 8, 8), (3, 64, 40), (3, 5, 5)])
def test_the_classifier_fits_any_size(shape: tuple[int, int, int]) -> None:
    network = classifier.Classifier(shape, 4)
    assert network(torch.zeros(2, *shape)).shape == (2, 4)
    assert network.features(torch.zeros(2, *shape)).shape == (2, classifier.FEATURES)
