"""Named sets from Debian packages; sizes, colours, parts and splits of any set."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aigc_rt.errors import DataError, InputError, MissingDependency
from aigc_rt.train import data, emoji, packaged, pixels
from aigc_rt.train.data import DataOptions
from aigc_rt.train.settings import configured, typed

needs_fashion = pytest.mark.skipif(not packaged.FASHION.is_dir(), reason="dataset-fashion-mnist is not installed")
needs_emoji = pytest.mark.skipif(not emoji.FONT.is_file(), reason="fonts-noto-color-emoji is not installed")
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 6, 5), np.uint8)


def test_options_say_themselves_what_is_wrong() -> None:
    with pytest.raises(InputError) as caught:
        configured(DataOptions, {"held_out": 2.0}, "the options")
    assert caught.value.asked == "load data with held_out=2.0"
    assert caught.value.mend == "Give a share between 0 and 1, 0.1 say"


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """40 images of 4 classes, of which number 2 has none."""
    labels = np.array([0, 1, 3, 1])[np.arange(40) % 4]
    np.savez(tmp_path / "pets.npz", images=IMAGES, labels=labels, class_names=["cat", "dog", "emu", "fox"])
    return tmp_path / "pets.npz"


def labels_of(found: data.Dataset, part: np.ndarray) -> set[int]:
    assert found.labels is not None
    return set(found.labels[part].tolist())


# Named sets


@needs_fashion
def test_fashion() -> None:
    found = data.load("fashion")
    assert found.images.shape == (70_000, 1, 28, 28)
    assert (len(found.train), len(found.held_out)) == (60_000, 10_000)
    assert found.held_out.min() == 60_000
    assert found.labels is not None
    assert np.bincount(found.labels).tolist() == [7000] * 10
    assert (found.class_names[0], found.class_names[9], found.licence) == ("T-shirt/top", "Ankle boot", "MIT")
    pixels_sha256 = hashlib.sha256(np.ascontiguousarray(found.images).data).hexdigest()
    assert pixels_sha256 == "0fbbfcb392782b3b702472ead3688778e1509e8cf40f5c24d9d3303618b193ab"


@needs_fashion
def test_fashion_that_is_not_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("images-idx3", "labels-idx1"):
        shutil.copy(packaged.FASHION / f"t10k-{part}-ubyte.gz", tmp_path)
    monkeypatch.setattr(packaged, "FASHION", tmp_path)
    with pytest.raises(DataError, match=r"--reinstall dataset-fashion-mnist") as error:
        data.load("fashion")
    assert str(tmp_path) in str(error.value)


@needs_emoji
def test_emoji() -> None:
    found = data.load("emoji")
    assert found.shape == (3, 32, 32)
    assert 1300 < len(found.images) < 2000
    assert found.labels is None
    assert found.licence == "SIL Open Font License 1.1"
    assert (found.images[:, :, 0, 0] == 255).mean() > 0.6  # white corners
    assert len({image.tobytes() for image in found.images}) == len(found.images)
    assert found.images.std((0, 2, 3)).min() > 50
    large = data.load("emoji", DataOptions(size=64))
    assert large.shape == (3, 64, 64)
    halved = large.images.reshape(-1, 3, 32, 2, 32, 2).mean((3, 5))
    assert np.abs(halved - found.images).mean() < 4  # drawn anew, not enlarged


@pytest.mark.parametrize(
    ("name", "module", "place", "package"),
    [
        ("fashion", packaged, "FASHION", "dataset-fashion-mnist"),
        ("emoji", emoji, "FONT", "fonts-noto-color-emoji"),
    ],
)
def test_a_missing_debian_package(
    name: str, module: Any, place: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, place, tmp_path / "nothing")
    with pytest.raises(MissingDependency) as error:
        data.load(name)
    assert f"sudo apt-get install {package}" in str(error.value)


@pytest.mark.parametrize("damage", [b"", b"no font"])
def test_a_damaged_font(damage: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "font.ttf").write_bytes(damage)
    monkeypatch.setattr(emoji, "FONT", tmp_path / "font.ttf")
    with pytest.raises(DataError, match=r"font\.ttf.*--reinstall fonts-noto-color-emoji"):
        data.load("emoji")


# Sizes and colours


def test_every_source_at_any_size(pets: Path) -> None:
    for source in ("digits", "mnist5k", pets):
        found = data.load(source, DataOptions(size=12))
        assert found.shape == (1, 12, 12)
        assert found.train.tolist() == data.load(source).train.tolist()


def test_resizing_does_not_alias() -> None:
    stripes = np.zeros((2, 1, 64, 64), np.uint8)
    stripes[..., ::2] = 255
    small = pixels.resize_all(stripes, 16)
    assert np.abs(small.astype(int) - 127).max() < 12
    smooth = np.broadcast_to(np.arange(64, dtype=np.uint8) * 3, (2, 3, 64, 64))
    expected = np.broadcast_to(np.arange(16) * 12 + 4.5, (2, 3, 16, 16))
    assert np.abs(pixels.resize_all(smooth, 16) - expected).max() < 3
    assert pixels.resize_all(stripes, 64) is stripes


def test_files_and_arrays_are_resized_alike(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for k, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / "images" / f"{k:02}.png")
    np.savez(tmp_path / "a.npz", images=IMAGES)
    options = DataOptions(size=9)
    folder, file = data.load(tmp_path / "images", options), data.load(tmp_path / "a.npz", options)
    assert np.array_equal(folder.images, file.images)
    assert folder.sha256 == file.sha256


def test_colours(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (10, 7, 6, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=colour)
    grey = data.load(tmp_path / "a.npz", DataOptions(colour="grey"))
    assert np.array_equal(grey.images[:, 0], [np.asarray(Image.fromarray(image).convert("L")) for image in colour])
    np.savez(tmp_path / "b.npz", images=grey.images)
    again = data.load(tmp_path / "b.npz", DataOptions(colour="rgb"))
    assert again.shape == (3, 7, 6)
    assert np.array_equal(again.images, np.repeat(grey.images, 3, axis=1))
    assert data.load(tmp_path / "a.npz", DataOptions(colour="rgb")).sha256 == data.load(tmp_path / "a.npz").sha256


# Parts


def test_only_some_classes_keep_their_numbers(pets: Path) -> None:
    whole = data.load(pets)
    part = data.load(pets, DataOptions(only=("dog", 3), held_out=0.3))
    assert (part.classes, part.class_names, part.sha256) == (whole.classes, whole.class_names, whole.sha256)
    assert labels_of(part, part.train) == labels_of(part, part.held_out) == {1, 3}
    assert (whole.present, part.present) == ((0, 1, 3), (1, 3))
    same = data.load(pets, DataOptions(held_out=0.3))
    assert set(part.held_out) <= set(same.held_out)
    assert len(part.train) + len(part.held_out) == 30


def test_a_limit_is_part_of_a_larger_one(pets: Path) -> None:
    few, more = (data.load(pets, DataOptions(only=(1,), limit=limit)) for limit in (3, 9))
    assert few.train.tolist() == more.train[:3].tolist()
    assert labels_of(few, few.train) == {1}
    assert few.held_out.tolist() == more.held_out.tolist()
    assert len(data.load(pets, DataOptions(limit=10_000)).train) == 36


def test_a_limit_of_sorted_training_images_is_a_mixture(tmp_path: Path) -> None:
    labels = np.arange(40) // 10
    np.savez(tmp_path / "a.npz", x_train=IMAGES, y_train=labels, x_test=IMAGES[::10], y_test=labels[::10])
    found = data.load(tmp_path / "a.npz", DataOptions(limit=20))
    assert labels_of(found, found.train) == {0, 1, 2, 3}
    assert found.held_out.tolist() == [40, 41, 42, 43]
    assert found.train.max() < 40


def test_a_class_named_like_a_number(tmp_path: Path) -> None:
    for name in ("3", "1", "0", "2"):
        (tmp_path / name).mkdir()
        for k in range(10):
            Image.new("L", (3, 3), 20 * int(name) + k).save(tmp_path / name / f"{k}.png")
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=np.arange(40) % 3, class_names=["1", "2", "0"])
    assert data.load(tmp_path / "a.npz", DataOptions(only=("1",), held_out=0.5)).present == (0,)
    assert data.load(tmp_path / "a.npz", DataOptions(only=(1,), held_out=0.5)).present == (1,)
    assert data.load("digits", DataOptions(only=("7", 2))).present == (2, 7)


@pytest.mark.parametrize(
    ("only", "words"),
    [
        (("cow",), "there is no class 'cow'"),
        ((4,), "Give numbers 0 to 3 or names: cat, dog, emu, fox"),
        ((-1,), "there is no class -1"),
        (("\u00b2",), "there is no class"),
        (("9" * 5000,), "there is no class"),
        (("emu",), "no images to train on are of these classes"),
    ],
)
def test_classes_that_are_not_there(only: tuple[int | str, ...], words: str, pets: Path) -> None:
    with pytest.raises(DataError) as error:
        data.load(pets, DataOptions(only=only))
    assert words in str(error.value)


def test_classes_without_labels_or_held_out_images(tmp_path: Path, pets: Path) -> None:
    np.savez(tmp_path / "a.npz", images=IMAGES)
    with pytest.raises(DataError, match="no labels"):
        data.load(tmp_path / "a.npz", DataOptions(only=(0,)))
    seed = next(seed for seed in range(99) if data.permutation(seed, 0, 40)[-1] % 2)  # the last one is a dog
    with pytest.raises(DataError, match="no images held out are of these classes"):
        data.load(pets, DataOptions(only=(0, 3), held_out=0.01, split_seed=seed))


# Splits


def test_the_split_is_the_seeds(pets: Path) -> None:
    first, again, other = (data.load(pets, DataOptions(split_seed=seed)) for seed in (1, 1, 2))
    assert first.split_sha256 == again.split_sha256 != other.split_sha256
    assert first.sha256 == other.sha256
    assert set(first.held_out) != set(other.held_out)
    for found in (first, other):
        assert sorted([*found.train, *found.held_out]) == list(range(40))


@pytest.mark.parametrize(("share", "count"), [(0.001, 1), (0.1, 4), (0.5, 20), (0.999, 39)])
def test_the_share_held_out(share: float, count: int, pets: Path) -> None:
    assert len(data.load(pets, DataOptions(held_out=share)).held_out) == count


# Options


@pytest.mark.parametrize(
    "options",
    [
        DataOptions(),
        DataOptions(32, (1, "dog"), 100, 0.2, 7, "grey", "project-a"),
    ],
)
def test_options_are_json(options: DataOptions) -> None:
    assert typed(DataOptions, json.loads(json.dumps(dataclasses.asdict(options))), "options") == options


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": 4097},
        {"size": True},
        {"size": 8.0},
        {"limit": 0},
        {"held_out": 0},
        {"held_out": 1.0},
        {"held_out": float("nan")},
        {"only": ()},
        {"only": [1]},
        {"only": "cat"},
        {"only": (1.5,)},
        {"split_seed": -1},
        {"split_seed": 2**64},
        {"colour": "sepia"},
        {"project": " "},
    ],
    ids=str,
)
def test_options_that_cannot_be_right(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        DataOptions(**wrong)
