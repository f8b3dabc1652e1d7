"""The judge: what it says of sets whose quality is known, what it is made of, and its cache."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from train_help import load_digits, one_thread  # noqa: F401

from aigc_rt.errors import DataError, MissingDependency, WriteError
from aigc_rt.train import classifier, data, features, judges
from aigc_rt.train.features import Images
from aigc_rt.train.loop import Trainer
from aigc_rt.train.quality import Judge, nhwc


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("judges")


@pytest.fixture(scope="module")
def judge(digits: data.Dataset, cache: Path) -> Judge:
    return Judge.of(digits, cache, quiet=True)


@pytest.fixture(scope="module")
def real(digits: data.Dataset) -> Images:
    return nhwc(digits.images)


def without_labels(digits: data.Dataset, count: int = 40) -> data.Dataset:
    return dataclasses.replace(digits, labels=None, train=digits.train[:count], held_out=digits.held_out[:10])


def test_it_knows_digits(judge: Judge) -> None:
    assert judge.classifier is not None
    assert judge.classifier["accuracy"] >= 0.95
    assert judge.classifier["held_out"] == 180
    assert judge.features.to_dict() == {"name": "classifier", "width": 128, "sha256": judge.classifier["sha256"]}


def test_real_digits(judge: Judge, real: Images, digits: data.Dataset) -> None:
    found = judge.classes(judge.probabilities(real))
    assert found["sure"] > 0.9
    assert (found["covered"], found["classes"]) == (10, 10)
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert digits.labels is not None
    assert np.array(list(found["shares"].values())) == pytest.approx(np.bincount(digits.labels) / 1797, abs=0.01)


def test_collapse_onto_one_digit(judge: Judge, real: Images, digits: data.Dataset) -> None:
    found = judge.classes(judge.probabilities(real[digits.labels == 3]))
    assert found["covered"] == 1
    assert found["shares"]["3"] > 0.95


def test_covered_is_from_three_percent(judge: Judge, real: Images) -> None:
    probabilities = judge.probabilities(real)
    ones, twos = (probabilities[probabilities.argmax(1) == number] for number in (1, 2))
    assert judge.classes(np.concatenate([ones[:97], twos[:3]]))["covered"] == 2
    assert judge.classes(np.concatenate([ones[:97], twos[:2]]))["covered"] == 1


def test_only_classes_that_were_trained_on_count(
    digits: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "STEPS", 60)
    assert digits.labels is not None
    few = data.load("digits", data.DataOptions(only=(3, 8)))
    judge = Judge.of(few, tmp_path, quiet=True)
    found = judge.classes(judge.probabilities(nhwc(digits.images[few.train])))
    assert (found["covered"], found["classes"], len(found["shares"])) == (2, 2, 10)


def test_features_are_in_an_order_that_stays(judge: Judge, digits: data.Dataset) -> None:
    labels = judge.reference_labels()
    assert labels is not None
    assert sorted(labels.tolist()) == sorted(digits.labels[digits.train].tolist())  # type: ignore[index]
    images, of_held_out = judge.held_out_images(20)
    assert (images.shape, len(of_held_out)) == ((20, 8, 8, 1), 20)  # type: ignore[arg-type]
    assert torch.allclose(judge.features.of(images), judge.held_out[:20], atol=1e-5)
    assert (judge.probabilities(images).argmax(1) == of_held_out).mean() > 0.9


def test_it_trains_and_makes_features_once(
    judge: Judge, digits: data.Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, held_out = judge.reference, judge.held_out
    monkeypatch.setattr(Trainer, "advance", lambda _self: pytest.fail("trained again"))
    again = Judge.of(digits, cache)
    monkeypatch.setattr(features.Features, "of", lambda *_: pytest.fail("made features again"))
    assert torch.equal(again.reference, reference)
    assert torch.equal(again.held_out, held_out)
    assert {path.name for path in cache.iterdir()} == {judges.key(digits), "features"}
    assert len(list((cache / "features").iterdir())) == 2


def test_other_splits_have_other_judges(digits: data.Dataset) -> None:
    less = dataclasses.replace(digits, train=digits.train[:-1])
    assert judges.key(less) != judges.key(digits)


def test_a_damaged_cache_is_made_again(
    judge: Judge, digits: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "STEPS", 5)
    first = Judge.of(digits, tmp_path, quiet=True)
    (file,) = tmp_path.rglob("tensors.safetensors")
    file.write_bytes(file.read_bytes()[:-5])
    assert Judge.of(digits, tmp_path, quiet=True).features.sha256 == first.features.sha256 != judge.features.sha256


@pytest.mark.parametrize("damage", ["cut", "flip", "other", "folder"])
def test_damaged_features_are_made_again(judge: Judge, digits: data.Dataset, tmp_path: Path, damage: str) -> None:
    file, images = tmp_path / "features", nhwc(digits.images[:30])
    first = judge.features.kept(images, file)
    data_before = file.read_bytes()
    if damage == "cut":
        file.write_bytes(data_before[:-5])
    elif damage == "flip":
        file.write_bytes(data_before[:-5] + bytes(b ^ 1 for b in data_before[-5:]))
    elif damage == "other":
        judge.features.kept(images[:20], file)
    else:
        file.unlink()
    assert torch.equal(judge.features.kept(images, file), first)
    assert file.read_bytes() == data_before


def test_no_labels_no_classifier(digits: data.Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no labels"):
        Judge.of(dataclasses.replace(digits, labels=None), tmp_path, features="classifier")
    with pytest.raises(DataError, match="one class"):
        Judge.of(dataclasses.replace(digits, labels=np.zeros(1797, np.int64)), tmp_path, features="classifier")


def test_images_without_labels_are_judged_by_efficientnet(digits: data.Dataset, tmp_path: Path) -> None:
    judge = Judge.of(without_labels(digits), tmp_path)
    said = judge.features.to_dict()
    assert (said["name"], said["model"], said["side"]) == ("efficientnet", "efficientnet-lite0", 64)
    assert judge.reference.shape == (40, 320)
    assert (judge.classified, judge.classifier) == (False, None)
    assert judge.classes(None)["covered"] is None
    one, two = nhwc(digits.images[:2])
    assert not torch.equal(*judge.features.of(np.stack([one, two])))
    grey, colour = np.stack([one, two]), np.stack([one, two]).repeat(3, 3)
    assert torch.allclose(judge.features.of(grey), judge.features.of(colour), atol=1e-4)


def test_efficientnet_on_request_keeps_the_classifier(digits: data.Dataset, cache: Path, judge: Judge) -> None:
    asked = Judge.of(digits, cache, features="efficientnet")
    assert (asked.features.name, asked.features.width) == ("efficientnet", 320)
    assert asked.classifier == judge.classifier


@pytest.mark.parametrize(
    ("shape", "side"), [((1, 28, 28), 64), ((3, 70, 96), 96), ((3, 97, 20), 128), ((3, 512, 9), 224)]
)
def test_the_side_of_efficientnets_images(shape: tuple[int, int, int], side: int) -> None:
    assert features.efficientnet(shape).side == side


def test_efficientnet_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(MissingDependency, match="pip install"):
        features.efficientnet((1, 8, 8))


def test_five_training_images_are_too_few_to_judge(
    digits: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "advance", lambda _self: pytest.fail("trained a judge"))
    with pytest.raises(DataError, match="6 are needed"):
        Judge.of(dataclasses.replace(digits, train=digits.train[:5]), tmp_path)


def test_a_cache_that_cannot_be_written(digits: data.Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="XDG_CACHE_HOME"):
        Judge.of(digits, tmp_path / "file")
    with pytest.raises(WriteError, match="XDG_CACHE_HOME"):
        _ = Judge.of(without_labels(digits), tmp_path / "file").reference


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
