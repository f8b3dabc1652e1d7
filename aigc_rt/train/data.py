"""Training images: named sets, folders of images or of IDX files, `.npz` files. All in memory, as uint8."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aigc_rt import noise
from aigc_rt.errors import AigcRtError, DataError
from aigc_rt.train import access, arrays, folders, idx, packaged, pixels
from aigc_rt.train.data_options import DataOptions as DataOptions
from aigc_rt.train.emoji import emoji
from aigc_rt.train.raw import Raw

_DEFAULTS = DataOptions()

NAMED: dict[str, Callable[[int | None], Raw]] = {
    "mnist5k": lambda _size: packaged.mnist5k(),
    "digits": lambda _size: packaged.digits(),
    "fashion": lambda _size: packaged.fashion(),
    "emoji": emoji,
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """A set of images of one size.

    Attributes:
        name: what it was asked for by, or the folder's name.
        images: (N, C, H, W) uint8; C is 1 or 3. All of the set, whatever part of it is used.
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
        """Number of classes of the whole set, 0 without labels."""
        return 0 if self.labels is None else max(int(self.labels.max()) + 1, len(self.class_names))

    @property
    def present(self) -> tuple[int, ...]:
        """The classes that there are images of to train on: not all with `only`, or where numbers are left out."""
        return () if self.labels is None else tuple(np.unique(self.labels[self.train]).tolist())

    @cached_property
    def sha256(self) -> str:
        """Hash of the shape, the pixels and the labels of the whole set."""
        digest = hashlib.sha256(repr(self.images.shape).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels, "<i8").data)
        return digest.hexdigest()

    @cached_property
    def split_sha256(self) -> str:
        """Hash of which images are trained on and which are held out."""
        digest = hashlib.sha256(repr((len(self.train), len(self.held_out))).encode())
        for part in (self.train, self.held_out):
            digest.update(np.ascontiguousarray(part, "<i8").data)
        return digest.hexdigest()


def load(source: str | Path, options: DataOptions = _DEFAULTS) -> Dataset:
    """Read a set by its name, a folder of images or of IDX files, or a `.npz` file.

    Args:
        source: "mnist5k", "digits", "fashion", "emoji", or a path. A path wins with a separator in it: "./digits".
        options: what of it, and how.

    Raises:
        DataError: unknown, missing, empty, unreadable, truncated, wrongly shaped or of mixed sizes; it names the file.
        AccessDenied: the folder's `aigc-rt.data.json` keeps it from this project; see `aigc_rt.train.access`.
        MissingDependency: the package that a named set comes with is not installed.
    """
    name = str(source)
    if not name.strip():
        raise DataError(
            f"load the data {name!r}",
            "the name is empty",
            f"Give {', '.join(NAMED)}, or a folder; . is the one you are in",
        )
    try:
        name, raw = (name, NAMED[name](options.size)) if name in NAMED else _from_path(Path(source), options)
        images = raw.images if options.size is None else pixels.resize_all(raw.images, options.size)
        raw = dataclasses.replace(raw, images=pixels.recolour(images, options.colour))
        return _dataset(name, raw, options)
    except AigcRtError:
        raise
    except OSError as error:  # a name too long, a folder that may not be listed
        raise DataError(
            f"load the data {name!r}", error.strerror or str(error), "Give a folder that you may read"
        ) from None
    except MemoryError:
        raise DataError(
            f"load the data {name!r}", "its images do not fit into memory", "Give fewer, or a smaller --size"
        ) from None


def _from_path(path: Path, options: DataOptions) -> tuple[str, Raw]:
    """The set's name and its images."""
    asked = f"load the data {str(path)!r}"
    if not path.exists():
        raise DataError(
            asked,
            "it is no known name and there is no such folder",
            f"Known names are {', '.join(NAMED)}; or give a folder of images or of IDX files, or a .npz file",
        )
    if not path.is_dir() and path.suffix.lower() != ".npz":
        raise DataError(asked, "it is a file", "Give the folder that holds it, or a .npz file")
    policy = access.check(path, options.project)
    if not path.is_dir():
        raw = arrays.read(path)
    elif idx.is_idx(path):
        raw = idx.read(path)
    else:
        raw = folders.read(path, options.size)
    name = path.resolve().name if path.is_dir() else path.stem
    if policy is None:
        return name, raw
    raw = dataclasses.replace(raw, origin=policy.origin or raw.origin, licence=policy.licence or raw.licence)
    return policy.name or name, raw


def _dataset(name: str, raw: Raw, options: DataOptions) -> Dataset:
    count = len(raw.images)
    if count < 2:
        raise DataError(f"load the data {name!r}", f"it has {count} image(s)", "Give at least two")
    train, held_out = _split(count, raw.test_from, options)
    found = Dataset(
        name=name,
        images=raw.images,
        labels=raw.labels,
        class_names=raw.class_names,
        origin=raw.origin,
        licence=raw.licence,
        train=train,
        held_out=held_out,
    )
    if options.only is not None:
        found = _keep(found, options.only)
    return dataclasses.replace(found, train=found.train[: options.limit])


def _split(count: int, test_from: int | None, options: DataOptions) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to train on and to hold out."""
    if test_from is not None:
        order = permutation(options.split_seed, 0, test_from) if options.limit else np.arange(test_from)
        return order, np.arange(test_from, count)
    order = permutation(options.split_seed, 0, count)
    cut = count - min(count - 1, max(1, round(count * options.held_out)))
    return order[:cut], order[cut:]


def _keep(data: Dataset, only: tuple[int | str, ...]) -> Dataset:
    """The set with those classes in `train` and `held_out`: no image changes sides, whatever is kept."""
    asked = f"load of {data.name} only the classes {', '.join(map(str, only))}"
    if data.labels is None:
        raise DataError(asked, "its images have no labels", "Leave the classes out")
    numbers = [_class_number(data, one, asked) for one in only]
    train, held_out = (part[np.isin(data.labels[part], numbers)] for part in (data.train, data.held_out))
    for part, what in ((train, "to train on"), (held_out, "held out")):
        if not len(part):
            raise DataError(
                asked, f"no images {what} are of these classes", "Give other classes, or another share held out"
            )
    return dataclasses.replace(data, train=train, held_out=held_out)


def _class_number(data: Dataset, one: int | str, asked: str) -> int:
    """The class of that name, else of that number."""
    if one in data.class_names:
        return data.class_names.index(str(one))
    if str(one).isdecimal() and len(str(one)) < 20 and int(one) < data.classes:
        return int(one)
    names = ", ".join(data.class_names[:20]) + (", ..." if len(data.class_names) > 20 else "")
    raise DataError(
        asked, f"there is no class {one!r}", f"Give numbers 0 to {data.classes - 1}{' or names: ' * bool(names)}{names}"
    )


def permutation(seed: int, index: int, count: int, stream: int = 0) -> NDArray[np.int64]:
    """The order of `count` things, fixed by its arguments on every machine. (count,) int64."""
    return np.argsort(noise.words(seed, stream, index, 1, count)[0], kind="stable").astype(np.int64)
