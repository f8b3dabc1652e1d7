"""Images in a `.npz` file, as `numpy.savez` writes it: arrays `images`, `labels`, `class_names`, or x_train, y_train,
x_test, y_test. Nothing is unpickled, and no header is believed: memory is taken as values arrive.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from aigc_rt.errors import DataError
from aigc_rt.train.raw import Raw, check_classes, read_up_to

_PARTS = {"images": "labels", "x_train": "y_train", "x_test": "y_test"}
"""Keys of images, and of their labels."""
_NAMES = "class_names"
_LAYOUTS = ({"images"}, {"x_train"}, {"x_train", "x_test"})
_CHANNELS = (1, 3)
_FREE_BYTES, _RATIO = 256 << 20, 200
"""A file may unpack to so many bytes, or to so many times its own size: photographs and drawings are far below."""
_KINDS = {"labels": "iu", _NAMES: "U"}
_DAMAGE = (OSError, EOFError, ValueError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile)


def read(file: Path) -> Raw:
    """The images of the file; those of x_test are for testing.

    Raises:
        DataError: the file is unreadable, damaged, no `.npz`, or its arrays are not images and labels.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            arrays = _arrays(archive, file)
    except _DAMAGE as error:
        if isinstance(error, DataError):
            raise
        raise _error(file, f"it cannot be read ({error})") from None
    parts = [key for key in _PARTS if key in arrays]
    blocks = [_images(arrays[key], key, file) for key in parts]
    if len({block.shape[1:] for block in blocks}) > 1:
        raise _error(file, f"x_train has images of shape {blocks[0].shape[1:]}, x_test of {blocks[1].shape[1:]}")
    total = sum(map(len, blocks))
    labels = _labels(arrays, parts, blocks, file)
    names = _class_names(arrays.get(_NAMES), labels, file)
    if labels is not None:
        check_classes(file, max(int(labels.max()) + 1, len(names)), total)
    return Raw(
        images=np.concatenate(blocks) if len(blocks) > 1 else np.ascontiguousarray(blocks[0]),
        labels=labels,
        origin=f"file {file.resolve().name}",
        class_names=names,
        test_from=len(blocks[0]) if len(blocks) > 1 else None,
    )


def _arrays(archive: zipfile.ZipFile, file: Path) -> dict[str, NDArray[Any]]:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    keys, known = members.keys(), {*_PARTS, *_PARTS.values(), _NAMES}
    if keys & _PARTS.keys() not in _LAYOUTS or keys - known or len(members) < len(archive.infolist()):
        raise DataError(
            f"read {file}",
            f"it holds {', '.join(map(repr, sorted(keys)[:8])) or 'nothing'}",
            "Save images, with labels and class_names if there are any; or x_train, y_train, x_test, y_test",
        )
    unpacked, size = 0, file.stat().st_size
    arrays = {}
    for key, info in members.items():
        with archive.open(info) as stream:
            dtype, shape, fortran = _header(stream, key, file)
            wanted = math.prod(shape) * dtype.itemsize
            unpacked += wanted
            if unpacked > max(_FREE_BYTES, _RATIO * size):
                raise _error(file, f"{key!r} is to unpack to {wanted:,} bytes, from a file of {size:,}")
            values = np.frombuffer(_values(stream, wanted, key, file), dtype)
        arrays[key] = values.reshape(shape[::-1]).T if fortran else values.reshape(shape)
    return arrays


def _header(stream: IO[bytes], key: str, file: Path) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):  # the others are for tables of many columns
        raise _error(file, f"{key!r} has the .npy version {version}")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    kind = "labels" if key in _PARTS.values() else key
    if dtype.hasobject:
        raise _error(file, f"{key!r} holds Python objects, which are never unpickled")
    sizes = all(type(length) is int and length >= 0 for length in shape)  # not True and False
    if not sizes or (dtype.kind not in _KINDS[kind] if kind in _KINDS else dtype != np.uint8):
        raise _error(file, f"{key!r} holds {dtype} values of shape {shape}; {_wanted(kind)}")
    return dtype, shape, fortran


def _wanted(kind: str) -> str:
    return {"labels": "labels are integers, (N,)", _NAMES: "class names are texts, (K,)"}.get(
        kind, "images are uint8, 0 to 255, (N, H, W), (N, H, W, C) or (N, C, H, W)"
    )


def _values(stream: IO[bytes], wanted: int, key: str, file: Path) -> bytearray:
    data = read_up_to(stream, wanted)
    if len(data) < wanted:
        raise _error(file, f"{key!r} is truncated: its header says {wanted:,} bytes, {len(data):,} are there")
    if stream.read(1):
        raise _error(file, f"{key!r} goes on after the {wanted:,} bytes that its header states")
    return data


def _images(array: NDArray[np.uint8], key: str, file: Path) -> NDArray[np.uint8]:
    """As (N, C, H, W)."""
    if array.ndim == 3 and array.size:
        return array[:, None]
    first, last = (array.shape[1] in _CHANNELS, array.shape[3] in _CHANNELS) if array.ndim == 4 else (False, False)
    if not array.size or not (first or last):
        raise _error(file, f"{key!r} has the shape {array.shape}; {_wanted('images')}, and C is 1 or 3")
    if first and last:
        raise _error(file, f"{key!r} has the shape {array.shape}: its second axis or its last may be the channels")
    return array if first else array.transpose(0, 3, 1, 2)


def _labels(
    arrays: dict[str, NDArray[Any]], parts: list[str], blocks: list[NDArray[np.uint8]], file: Path
) -> NDArray[np.int64] | None:
    keys = [_PARTS[part] for part in parts]
    if extra := arrays.keys() & set(_PARTS.values()) - set(keys):
        raise _error(file, f"it has {min(extra)!r} without its images")
    there = [key for key in keys if key in arrays]
    if not there:
        return None
    if there != keys:
        raise _error(file, f"it has {there[0]!r} and no {next(key for key in keys if key not in there)!r}")
    for key, block in zip(keys, blocks, strict=True):
        array = arrays[key]
        if array.shape != (len(block),):
            raise _error(file, f"{key!r} has the shape {array.shape}, its images need ({len(block)},)")
        if int(array.min()) < 0 or int(array.max()) >= 1 << 62:
            raise _error(file, f"{key!r} has labels from {array.min()} to {array.max()}")
    return np.concatenate([arrays[key].astype(np.int64) for key in keys])


def _class_names(array: NDArray[np.str_] | None, labels: NDArray[np.int64] | None, file: Path) -> tuple[str, ...]:
    if array is None:
        return ()
    try:
        names = tuple(array.tolist()) if array.ndim == 1 else ()
    except ValueError as error:  # no code points
        raise _error(file, f"{_NAMES!r} cannot be read ({error})") from None
    if not names or len(set(names)) < len(names) or not all(name.strip() and name.isprintable() for name in names):
        raise _error(file, f"{_NAMES!r} of shape {array.shape} are not different printable texts, one a class")
    if labels is None or labels.max() >= len(names):
        highest = "there are no labels" if labels is None else f"there is the label {labels.max()}"
        raise _error(file, f"it names {len(names)} classes, and {highest}")
    return names


def _error(file: Path, found: str) -> DataError:
    return DataError(f"read {file}", found, "Write it again with numpy.savez_compressed, or copy it again")
