"""A folder of image files; its sub-folders, where there are any, are classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from aigc_rt.errors import DataError
from aigc_rt.train.pixels import resize
from aigc_rt.train.raw import Raw

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_GREY = frozenset({"1", "L"})


def read(folder: Path, size: int | None = None) -> Raw:
    """Every image file below the folder, in the order of their paths.

    Grey if all are grey, else RGB; what is transparent becomes white. With `size` each is resized to size x size.

    Raises:
        DataError: no images, one that cannot be read, or one whose size is not that of the first; a link to a folder,
            or to an image that is not there.
    """
    files = sorted(_files(folder))
    if not files:
        raise DataError(
            f"load the images of {folder}",
            "there are none" if any(folder.iterdir()) else "the folder is empty",
            f"Put image files there ({' '.join(sorted(SUFFIXES))}) or IDX files (train-images-idx3-ubyte.gz), or give"
            " a .npz file",
        )
    pictures: list[Image.Image] = []
    for path in files:
        picture = _open(path, size)
        if pictures and picture.size != pictures[0].size:
            raise DataError(
                f"load the images of {folder}",
                "{} is {}x{}, {} is {}x{}".format(path, *picture.size, files[0], *pictures[0].size),
                "Give images of one size, or resize them with --size",
            )
        pictures.append(picture)
    grey = all(picture.mode == "L" for picture in pictures)
    images = np.stack([_array(picture, grey) for picture in pictures])
    names, labels = _classes(folder, files)
    return Raw(images, labels, origin=f"folder {folder.resolve().name}", class_names=names)


def _files(folder: Path) -> Iterator[Path]:
    """Image files, and links to such. Links to folders are not followed, nor passed over: a class would be missing."""
    for path in folder.rglob("*"):
        picture = path.suffix.lower() in SUFFIXES
        if path.is_symlink() and (path.is_dir() or (picture and not path.exists())):
            found = f"{path} is a link {'to a folder' if path.is_dir() else 'that leads nowhere'}"
            raise DataError(f"load the images of {folder}", found, "Put the images there, or links to each of them")
        if picture and path.is_file():
            yield path


def _open(path: Path, size: int | None) -> Image.Image:
    """The picture in mode L or RGB."""
    try:
        with Image.open(path) as opened:
            opened.load()
            if opened.mode in _GREY and "transparency" not in opened.info:
                picture = opened.convert("L")
            else:
                rgba = opened.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
                picture = picture.convert("L" if opened.mode == "LA" else "RGB")
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"load the image {path}", f"it cannot be read ({error})", "Mend or remove that file") from None
    return picture if size is None else resize(picture, size)


def _array(picture: Image.Image, grey: bool) -> NDArray[np.uint8]:
    if grey:
        return np.asarray(picture, np.uint8)[None]  # (1, H, W)
    return np.asarray(picture.convert("RGB"), np.uint8).transpose(2, 0, 1)  # (3, H, W)


def _classes(folder: Path, files: list[Path]) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    parts = [path.relative_to(folder).parts for path in files]
    names = sorted({p[0] for p in parts if len(p) > 1})
    if len(names) < 2 or any(len(p) == 1 for p in parts):
        return (), None
    number = {name: k for k, name in enumerate(names)}
    return tuple(names), np.array([number[p[0]] for p in parts], np.int64)
