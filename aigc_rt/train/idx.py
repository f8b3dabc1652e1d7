"""IDX files: the format of MNIST and Fashion-MNIST, gzipped or not.

Two zero bytes, a byte for the type, a byte for the number of axes, the length of each axis as a big-endian 32-bit
integer, then the values in C order, big-endian (http://yann.lecun.com/exdb/mnist, "The IDX file format").
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from aigc_rt.errors import DataError
from aigc_rt.train.raw import Raw, check_classes, read_up_to

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_NAME = re.compile(r"(?P<part>.*?)[-_.]?(?P<what>images|labels)[-_.]idx(?P<axes>\d)([-_.]ubyte)?(\.gz)?", re.IGNORECASE)
_TEST = re.compile(r"t10k|test", re.IGNORECASE)
_AXES = 8
_MEND = "Copy the file again from where it came from"


def is_idx(folder: Path) -> bool:
    """Whether the folder holds files named like IDX images or labels, `train-images-idx3-ubyte.gz` say."""
    return any(_NAME.fullmatch(path.name) for path in folder.iterdir())


def read(folder: Path) -> Raw:
    """Every pair of images and labels in the folder; the part named t10k or test comes last and is for testing.

    Raises:
        DataError: a file that is unreadable, truncated, too long, no IDX, or not shaped as images or labels.
    """
    parts = _parts(folder)
    images, labels = [], []
    for _, files in parts:
        images.append(_images(files["images"]))
        if "labels" in files:
            labels.append(_labels(files["labels"], len(images[-1])))
    if len({block.shape[1:] for block in images}) > 1:
        sizes = ", ".join(
            f"{f['images'].name} {b.shape[3]}x{b.shape[2]}" for (_, f), b in zip(parts, images, strict=True)
        )
        raise DataError(f"read {folder}", f"its images have several sizes: {sizes}", "Keep one size a folder")
    if labels and len(labels) != len(images):
        bare = next(files["images"].name for _, files in parts if "labels" not in files)
        raise DataError(
            f"read {folder}", f"{bare} has no labels beside it, others have", "Add its labels, or remove all"
        )
    tests = sum(len(block) for (part, _), block in zip(parts, images, strict=True) if _TEST.search(part))
    total = sum(map(len, images))
    for (_, files), block in zip(parts, labels, strict=False):
        check_classes(files["labels"], int(block.max()) + 1, total)
    return Raw(
        images=np.concatenate(images),
        labels=np.concatenate(labels) if labels else None,
        origin=f"IDX files {', '.join(f['images'].name for _, f in parts)}",
        test_from=total - tests if 0 < tests < total else None,
    )


def _parts(folder: Path) -> list[tuple[str, dict[str, Path]]]:
    parts: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        if match := _NAME.fullmatch(path.name):
            files = parts.setdefault(match["part"].lower(), {})
            if other := files.get(match["what"].lower()):
                raise DataError(f"read {folder}", f"{other.name} and {path.name} are the same file twice", "Keep one")
            files[match["what"].lower()] = path
    for files in parts.values():
        if "images" not in files:
            raise DataError(f"read {folder}", f"{files['labels'].name} has no images beside it", "Add the images")
    return sorted(parts.items(), key=lambda item: (bool(_TEST.search(item[0])), item[0]))


def _images(path: Path) -> NDArray[np.uint8]:
    array = read_file(path)
    if array.dtype != np.uint8 or array.ndim != 3 or 0 in array.shape:
        raise _error(path, f"it holds {array.dtype.name} values of shape {array.shape}, images are uint8 (N, H, W)")
    return array.astype(np.uint8, copy=False)[:, None]  # (N, 1, H, W)


def _labels(path: Path, count: int) -> NDArray[np.int64]:
    array = read_file(path)
    if array.dtype.kind not in "ui" or array.shape != (count,) or (array.size and array.min() < 0):
        raise _error(
            path, f"it holds {array.dtype.name} values of shape {array.shape}, not the {count} labels of its images"
        )
    return array.astype(np.int64)


def read_file(path: Path) -> NDArray[np.generic]:
    """One IDX file, as an array of the type and shape that its header states.

    Raises:
        DataError: the file is unreadable, no IDX, truncated, or longer than its header says.
    """
    try:
        with path.open("rb") as plain:
            zipped = plain.read(2) == b"\x1f\x8b"
        with cast(BinaryIO, gzip.open(path, "rb")) if zipped else path.open("rb") as stream:
            return _parse(stream, path)
    except (OSError, EOFError, zlib.error) as error:
        raise _error(path, f"it cannot be read ({error})") from None


def _parse(stream: BinaryIO, path: Path) -> NDArray[np.generic]:
    head = stream.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in TYPES or not head[3]:
        raise _error(path, f"its first bytes are {head.hex(' ') or 'missing'}, no IDX header")
    if head[3] > _AXES:
        raise _error(path, f"its header states {head[3]} axes, more than {_AXES}")
    lengths = stream.read(4 * head[3])
    if len(lengths) < 4 * head[3]:
        raise _error(path, "it is truncated inside its header")
    shape: tuple[int, ...] = struct.unpack(f">{head[3]}I", lengths)
    dtype = np.dtype(TYPES[head[2]])
    wanted = math.prod(shape) * dtype.itemsize
    data = read_up_to(stream, wanted)
    if len(data) < wanted:
        raise _error(path, f"it is truncated: the header says {wanted:,} bytes of values, {len(data):,} are there")
    if stream.read(1):
        raise _error(path, f"it goes on after the {wanted:,} bytes of values that its header states")
    try:
        return np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")).reshape(shape)
    except ValueError as error:  # no values, and axes beyond all memory
        raise _error(path, f"its header states the impossible shape {shape} ({error})") from None


def _error(path: Path, found: str) -> DataError:
    return DataError(f"read {path}", found, _MEND)
