"""Images in .npz files, and what is said of bad ones."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_rt.errors import DataError
from aigc_rt.train import arrays, data

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 6, 5), np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (20, 6, 5, 3), np.uint8)
LABELS = np.arange(20) % 3


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(file: Path, kind: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Path:
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file


def refused(file: Path, *words: str) -> None:
    with pytest.raises(DataError) as error:
        data.load(file)
    for word in (str(file), *words):
        assert word in str(error.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_labels_and_names(save: Any, tmp_path: Path) -> None:
    save(tmp_path / "pets.npz", images=IMAGES, labels=LABELS.astype(np.uint8), class_names=["cat", "dog", "emu", "fox"])
    found = data.load(tmp_path / "pets.npz")
    assert np.array_equal(found.images, IMAGES[:, None])
    assert found.labels is not None
    assert found.labels.tolist() == LABELS.tolist()
    assert (found.name, found.class_names, found.classes) == ("pets", ("cat", "dog", "emu", "fox"), 4)
    assert found.present == (0, 1, 2)
    assert (len(found.train), len(found.held_out)) == (18, 2)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("channels_first", [False, True])
def test_either_place_of_the_channels(order: Any, channels_first: bool, tmp_path: Path) -> None:
    given = COLOUR.transpose(0, 3, 1, 2) if channels_first else COLOUR
    np.savez(tmp_path / "a.npz", images=np.asarray(given, order=order))
    assert np.array_equal(data.load(tmp_path / "a.npz").images, COLOUR.transpose(0, 3, 1, 2))
    np.savez(tmp_path / "a.npz", images=given[:, :1] if channels_first else given[..., :1])
    assert np.array_equal(data.load(tmp_path / "a.npz").images, COLOUR[:, None, :, :, 0])


def test_the_names_of_keras(tmp_path: Path) -> None:
    np.savez(tmp_path / "mnist.npz", x_test=IMAGES[:4], x_train=IMAGES[4:], y_train=LABELS[4:], y_test=LABELS[:4])
    found = data.load(tmp_path / "mnist.npz")
    assert found.train.tolist() == list(range(16))
    assert np.array_equal(found.images[found.held_out, 0], IMAGES[:4])
    assert found.labels is not None
    assert found.labels[found.held_out].tolist() == LABELS[:4].tolist()


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, "it holds nothing"),
        ({"pictures": IMAGES}, "it holds 'pictures'"),
        ({"images": IMAGES, "label": LABELS}, "'label'"),
        ({"images": IMAGES, "x_train": IMAGES}, "'x_train'"),
        ({"x_test": IMAGES}, "'x_test'"),
        ({"images": IMAGES, "y_train": LABELS}, "'y_train' without its images"),
        ({"images": IMAGES.astype(np.float32)}, "float32 values of shape (20, 6, 5)"),
        ({"images": IMAGES[0]}, "the shape (6, 5)"),
        ({"images": IMAGES[:0]}, "the shape (0, 6, 5)"),
        ({"images": np.zeros((4, 8, 8, 4), np.uint8)}, "C is 1 or 3"),
        ({"images": np.zeros((4, 3, 8, 3), np.uint8)}, "second axis or its last"),
        ({"images": np.array([None, {}])}, "Python objects"),
        ({"images": IMAGES, "labels": LABELS[:19]}, "(19,), its images need (20,)"),
        ({"images": IMAGES, "labels": LABELS[:, None]}, "(20, 1), its images need (20,)"),
        ({"images": IMAGES, "labels": LABELS.astype(float)}, "labels are integers"),
        ({"images": IMAGES, "labels": LABELS - 1}, "from -1 to 1"),
        ({"images": IMAGES, "labels": np.full(20, 2**64 - 1, np.uint64)}, "to 18446744073709551615"),
        ({"images": IMAGES, "labels": LABELS + 18}, "the label 20, and there are only 20 images"),
        ({"images": IMAGES, "class_names": ["a"]}, "names 1 classes, and there are no labels"),
        ({"images": IMAGES, "labels": LABELS, "class_names": ["a", "b"]}, "there is the label 2"),
        ({"images": IMAGES, "labels": LABELS, "class_names": ["a", "b", "b"]}, "not different printable texts"),
        ({"images": IMAGES, "labels": LABELS, "class_names": ["a", "b", "\x1b[2J"]}, "printable"),
        ({"images": IMAGES, "labels": LABELS, "class_names": [1, 2, 3]}, "class names are texts"),
        ({"images": IMAGES, "labels": LABELS, "class_names": list("abcdefghijklmnopqrstu")}, "only 20 images"),
        ({"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES}, "'y_train' and no 'y_test'"),
        ({"x_train": IMAGES, "x_test": IMAGES[:, :4]}, "(1, 6, 5), x_test of (1, 4, 5)"),
    ],
)
def test_what_is_no_data_set(members: dict[str, Any], words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", **members)
    refused(tmp_path / "bad.npz", words)


def header(content: bytes, shape: str) -> bytes:
    """The .npy file with another shape in its header, of the same length."""
    begin, end = content.index(b"(20"), content.index(b"\n")
    return content[:begin] + f"{shape}, }}".encode().ljust(end - begin) + content[end:]


GOOD = npy(IMAGES)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD[:-1], "truncated: its header says 600 bytes, 599 are there"),
        (GOOD + b"\0", "goes on after the 600 bytes"),
        (GOOD[:20], "cannot be read"),
        (b"", "cannot be read"),
        (b"hello" * 99, "cannot be read"),
        (header(GOOD, "(99999999999, 6, 5)"), "is to unpack to 2,999,999,999,970 bytes"),
        (header(GOOD, "(-20, -6, 5)"), "of shape (-20, -6, 5)"),
        (header(GOOD, "(20, True, 5)"), "of shape (20, True, 5)"),
        (header(GOOD, "(0, 9999999999999999, 1)")[:128], "the shape (0, 9999999999999999, 1)"),
        (header(GOOD, "(0, 9999999999999999, 9999)")[:128], "cannot be read"),
        (GOOD.replace(b"NUMPY\x01", b"NUMPY\x02"), "version (2, 0)"),
        (pickle.dumps([1, 2]), "cannot be read"),
    ],
)
def test_a_member_that_lies(content: bytes, words: str, tmp_path: Path) -> None:
    refused(npz(tmp_path / "bad.npz", images=content), words)


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_FREE_BYTES", 1 << 20)
    file = npz(tmp_path / "bomb.npz", images=npy(np.zeros((4000, 32, 32), np.uint8)))
    refused(file, "'images' is to unpack to 4,096,000 bytes, from a file of")


@pytest.mark.parametrize("cut", [0, 4, 100, -30])
def test_a_truncated_file(cut: int, tmp_path: Path) -> None:
    whole = npz(tmp_path / "a.npz", images=GOOD).read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[:cut])
    refused(tmp_path / "a.npz", "cannot be read")


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    file = npz(tmp_path / "a.npz", zipfile.ZIP_STORED, images=GOOD)
    whole = bytearray(file.read_bytes())
    whole[300] ^= 1
    file.write_bytes(whole)
    refused(file, "CRC")


def outcome(file: Path) -> str:
    try:
        return str(data.load(file).images.shape)
    except DataError as error:
        return str(error)


def test_any_damage_is_a_data_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    file = npz(tmp_path / "a.npz", images=GOOD, labels=npy(LABELS), class_names=npy(np.array(["a", "b", "c"])))
    whole = file.read_bytes()
    assert outcome(file) == "(20, 1, 6, 5)"
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 8)):
            damaged[place] = rng.integers(256)
        file.write_bytes(damaged)
        assert outcome(file) == "(20, 1, 6, 5)" or str(file) in outcome(file)
