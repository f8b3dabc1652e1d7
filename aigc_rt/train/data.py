"""Training images: named sets, folders of images, folders of IDX files. All in memory, as uint8."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aigc_rt import noise
from aigc_rt.errors import DataError
from aigc_rt.train import folders, idx, packaged
from aigc_rt.train.raw import Raw

SPLIT_SEED = 0
HELD_OUT = 0.1
"""Share of the images that no generator and no judge trains on, where the set has no test images of its own."""
UNSTATED = "not stated"

NAMED: dict[str, Callable[[], Raw]] = {"mnist5k": packaged.mnist5k, "digits": packaged.digits}


@dataclass(frozen=True, eq=False)
class Dataset:
    """A set of images of one size.

    Attributes:
        name: what it was asked for by, or the folder's name.
        images: (N, C, H, W) uint8; C is 1 or 3.
        labels: (N,) int64 class of every image, 0 to `classes` - 1, or None.
        class_names: names of the classes, () where they are just numbers.
        origin: where it comes from.
        licence: its licence, "not stated" for a user's own folder.
        train, held_out: indices of the images trained on, and of those kept for judging.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...]
    origin: str
    licence: str
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def classes(self) -> int:
        """Number of classes, 0 without labels."""
        return 0 if self.labels is None else int(self.labels.max()) + 1

    @cached_property
    def sha256(self) -> str:
        """Hash of the shape, the pixels and the labels."""
        digest = hashlib.sha256(repr(self.images.shape).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels, "<i8").data)
        return digest.hexdigest()


def load(source: str | Path, size: int | None = None) -> Dataset:
    """Read a set by its name, or a folder of images or of IDX files.

    Args:
        source: "mnist5k", "digits", or a path. A path wins with a separator in it: "./digits".
        size: resize images from files to `size` x `size` pixels.

    Raises:
        DataError: unknown, missing, empty, unreadable, truncated, wrongly shaped or of mixed sizes; it names the file.
        MissingDependency: the package that a named set comes with is not installed.
    """
    name, path = str(source), Path(source)
    if not name.strip():
        raise DataError(
            f"load the data {name!r}",
            "the name is empty",
            f"Give {', '.join(NAMED)}, or a folder; . is the one you are in",
        )
    if name in NAMED:
        if size is not None:
            raise DataError(f"load {name} at size {size}", "a named set has a size of its own", "Leave --size out")
        return _split(name, NAMED[name]())
    try:
        if not path.exists():
            raise DataError(
                f"load the data {name!r}",
                "it is no known name and there is no such folder",
                f"Known names are {', '.join(NAMED)}; or give a folder of images or of IDX files",
            )
        if not path.is_dir():
            raise DataError(f"load the data {name!r}", "it is a file", "Give the folder that holds it")
        raw = idx.read(path) if idx.is_idx(path) else folders.read(path, size)
    except OSError as error:  # a name too long, a folder that may not be listed
        raise DataError(
            f"load the data {name!r}", error.strerror or str(error), "Give a folder that you may read"
        ) from None
    except MemoryError:
        raise DataError(
            f"load the data {name!r}", "its images do not fit into memory", "Give fewer, or a smaller --size"
        ) from None
    return _split(path.resolve().name, raw)


def _split(name: str, raw: Raw) -> Dataset:
    count = len(raw.images)
    if count < 2:
        raise DataError(f"load the data {name!r}", f"it has {count} image(s)", "Give at least two")
    order = permutation(SPLIT_SEED, 0, count)
    if raw.test_from is not None:
        order = np.arange(count)
    cut = raw.test_from if raw.test_from is not None else count - max(1, round(count * HELD_OUT))
    return Dataset(
        name=name,
        images=raw.images,
        labels=raw.labels,
        class_names=raw.class_names,
        origin=raw.origin,
        licence=raw.licence,
        train=order[:cut],
        held_out=order[cut:],
    )


def permutation(seed: int, index: int, count: int, stream: int = 0) -> NDArray[np.int64]:
    """The order of `count` things, fixed by its arguments on every machine. (count,) int64."""
    return np.argsort(noise.words(seed, stream, index, 1, count)[0], kind="stable").astype(np.int64)
