"""Images of another size, or of other channels."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Colour = Literal["as-is", "grey", "rgb"]
_LUMA = np.array([19595, 38470, 7471], np.uint32)
"""Parts in 65,536 of red, green and blue: ITU-R BT.601, as Pillow rounds it."""


def resize(picture: Image.Image, size: int) -> Image.Image:
    """A picture in mode L or RGB, `size` x `size`.

    Pillow's Lanczos filter widens with the scale, so that shrinking does not alias, and it computes in integers:
    the same bytes, and so the same SHA-256, on every machine.
    """
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def resize_all(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(N, C, H, W) to (N, C, size, size); what has that size already is returned as it is."""
    count, channels, height, width = images.shape
    if (height, width) == (size, size):
        return images
    out = np.empty((count, channels, size, size), np.uint8)
    for image, place in zip(images, out, strict=True):
        for plane, target in zip(image, place, strict=True):  # filtered by channel anyway
            target[:] = np.asarray(resize(Image.fromarray(plane), size))
    return out


def recolour(images: NDArray[np.uint8], colour: Colour) -> NDArray[np.uint8]:
    """(N, C, H, W) to the channels asked for: 1 grey, 3 rgb."""
    channels = images.shape[1]
    if colour == "rgb" and channels == 1:
        return np.repeat(images, 3, axis=1)
    if colour == "grey" and channels == 3:
        out = np.empty((len(images), 1, *images.shape[2:]), np.uint8)
        for image, place in zip(images, out, strict=True):  # one at a time: four bytes a value
            place[0] = (np.tensordot(_LUMA, image.astype(np.uint32), 1) + 0x8000) >> 16
        return out
    return images
