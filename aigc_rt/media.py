"""Floats to pixels and sound, arrays to PNG, WAV and NPY. The conversion is the one docs/bundle.md fixes."""

from __future__ import annotations

import io
import os
import struct
import wave
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_rt.errors import ExecutionError, InputError
from aigc_rt.files import write_whole
from aigc_rt.manifest import Media

GRID_WIDTH = 500
Floats = NDArray[np.floating[Any]]


def finish(values: NDArray[Any], media: Media) -> NDArray[Any]:
    """What the user gets for a graph's output.

    Args:
        values: the output, its first axis the batch; not changed.
        media: the manifest's word on it.

    Returns:
        image: uint8 (N, H, W, C). audio: float32 (N, T, C) in [-1, 1]. array: `values` itself.

    Raises:
        ExecutionError: an image or a sound holds NaN.
    """
    if media.kind == "array":
        return values
    if np.isnan(np.maximum.reduce(values, axis=None)):  # the maximum of anything with a NaN in it is NaN
        raise ExecutionError(
            f"turn the output {media.output!r} into {media.kind}",
            "it holds NaN",
            "Use a variant of higher precision, precision='fp32' first; `run` shows the floats",
        )
    if media.kind == "image":
        return _pixels(values, media)
    scale = np.float32(2.0 / (media.high - media.low))
    sound = np.clip((values - np.float32(media.low)) * scale - np.float32(1), -1, 1).astype(np.float32, copy=False)
    return sound if media.layout == "NTC" else np.ascontiguousarray(sound.transpose(0, 2, 1))


def _pixels(values: NDArray[Any], media: Media) -> NDArray[np.uint8]:
    scale = np.float32(255.0 / (media.high - media.low))
    work = np.multiply(values, scale, dtype=np.float32)
    work += np.float32(-media.low) * scale
    np.rint(work, out=work)
    np.maximum(work, 0, out=work)  # np.clip does the same behind 4 us of Python
    np.minimum(work, 255, out=work)
    pixels: NDArray[np.uint8] = work.astype(np.uint8)
    if media.layout == "NHWC":
        return pixels
    if pixels.shape[1] == 1:  # one channel: the same bytes in either layout
        return pixels.reshape(pixels.shape[0], *pixels.shape[2:], 1)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


def grid(images: NDArray[np.uint8], columns: int | None = None, margin: int = 2) -> NDArray[np.uint8]:
    """Images (N, H, W, C) side by side in one (rows * H + margins, columns * W + margins, C), black between them.

    `columns` None makes it as square as N allows.
    """
    n, height, width, channels = images.shape
    columns = min(n, columns or int(np.ceil(np.sqrt(n))))
    rows = -(-n // columns)
    sheet = np.zeros((rows * (height + margin) + margin, columns * (width + margin) + margin, channels), np.uint8)
    for i, image in enumerate(images):
        top, left = margin + i // columns * (height + margin), margin + i % columns * (width + margin)
        sheet[top : top + height, left : left + width] = image
    return sheet


def enlarge(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """(H, W, C) with each pixel drawn scale x scale: the nearest neighbour, nothing is blurred."""
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def grid_scale(images: NDArray[np.uint8]) -> int:
    """The smallest scale that draws their grid GRID_WIDTH pixels wide or more; 1 for a single image."""
    return -(-GRID_WIDTH // grid(images[:, :1]).shape[1]) if len(images) > 1 else 1


def png(image: NDArray[np.uint8]) -> bytes:
    """A PNG file (W3C PNG Third Edition, 8 bits a channel) of (H, W, C) with C 1, 2, 3 or 4.

    Raises:
        InputError: another dtype or shape.
    """
    colour = {1: 0, 2: 4, 3: 2, 4: 6}.get(image.shape[2] if image.ndim == 3 else 0)
    if colour is None or image.dtype != np.uint8 or 0 in image.shape:
        raise InputError(
            f"PNG of {image.dtype} {image.shape}", "a PNG is uint8 (H, W, C), C 1 to 4", "Convert it first"
        )
    height, width, channels = image.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each row begins with its filter, 0 is none
    rows[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def wav(sound: NDArray[np.float32], sample_rate_hz: int) -> bytes:
    """A 16-bit PCM WAV file of (T, C) in [-1, 1]."""
    data = io.BytesIO()
    with wave.open(data, "wb") as out:
        out.setnchannels(sound.shape[1])
        out.setsampwidth(2)
        out.setframerate(sample_rate_hz)
        out.writeframes(np.rint(sound * 32767).astype("<i2").tobytes())
    return data.getvalue()


def save(path: str | os.PathLike[str], samples: NDArray[Any], media: Media, *, scale: int = 1) -> None:
    """Write samples: .npy any, .png images (a grid when there are several), .wav sounds (one after another).

    The file appears whole or not at all. `scale` draws each pixel of a .png scale x scale.

    Raises:
        InputError: the ending does not fit the media.
        WriteError: it cannot be written.
    """
    target = Path(path)
    kind = (media.kind, target.suffix.lower())
    if kind == ("image", ".png"):
        data = png(enlarge(samples[0] if len(samples) == 1 else grid(samples), scale))
    elif kind == ("audio", ".wav"):
        data = wav(samples.reshape(-1, samples.shape[2]), media.sample_rate_hz or 0)
    elif kind[1] == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, samples)
        data = buffer.getvalue()
    else:
        fits = {"image": ".png or .npy", "audio": ".wav or .npy", "array": ".npy"}[media.kind]
        raise InputError(
            f"save {media.kind} samples as {target.name!r}", f"{media.kind} goes to {fits}", "Change the ending"
        )
    write_whole(target, data)
