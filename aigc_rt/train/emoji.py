"""Colour emoji: the bitmaps of the font Noto Color Emoji, on white."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from aigc_rt.errors import DataError, MissingDependency
from aigc_rt.train.pixels import resize
from aigc_rt.train.raw import Raw

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
PACKAGE = "fonts-noto-color-emoji"
SIZE = 32
_BITMAP = 109
"""Pixels an em of the font's only bitmaps: FreeType opens the font at no other size."""
_CODES = (range(0xA9, 0x3300), range(0x1F000, 0x1FB00))
"""Where Unicode has emoji; digits come before them, which the font has for keycaps only."""
_PART = 0x20E3
"""The keycap's frame, which the font has for composing keys."""


def emoji(size: int | None = None) -> Raw:
    """Every emoji of one code point, in that order: images (N, 3, size, size), 1,412 of them in version 2.042.

    There are no labels: the Unicode blocks mix faces, food and signs.
    """
    if not FONT.is_file():
        raise MissingDependency(
            "load the data 'emoji'",
            f"the font {FONT} is not there, it comes with the Debian package {PACKAGE}",
            f"Run: sudo apt-get install {PACKAGE}",
        )
    try:
        font = ImageFont.truetype(str(FONT), _BITMAP, layout_engine=ImageFont.Layout.BASIC)
        pictures = [_picture(char, font, size or SIZE) for char in _characters(font)]
        sha256 = hashlib.sha256(FONT.read_bytes()).hexdigest()
    except (OSError, ImportError) as error:
        freetype = features.version("freetype2") or "missing"
        raise DataError(
            f"render the emoji of {FONT}",
            f"{error} (FreeType is {freetype})",
            f"Install it again: sudo apt-get install --reinstall {PACKAGE}; Pillow needs FreeType with PNG",
        ) from None
    if not pictures:
        raise DataError(
            f"render the emoji of {FONT}", "it holds no bitmaps", f"Run: sudo apt-get install --reinstall {PACKAGE}"
        )
    return Raw(
        images=np.stack([np.asarray(picture).transpose(2, 0, 1) for picture in pictures]),
        labels=None,
        origin=f"Noto Color Emoji (Google), rendered from {FONT.name}, SHA-256 {sha256[:16]}...",
        licence="SIL Open Font License 1.1",
    )


def _characters(font: ImageFont.FreeTypeFont) -> list[str]:
    return [chr(code) for code in itertools.chain(*_CODES) if code != _PART and _has(font, chr(code))]


def _has(font: ImageFont.FreeTypeFont, char: str) -> bool:
    """Whether the font draws it: what it lacks, and its spaces, have a box of no height."""
    _, top, _, bottom = font.getbbox(char)
    return bottom > top


def _picture(char: str, font: ImageFont.FreeTypeFont, size: int) -> Image.Image:
    """The emoji in the middle of a white square."""
    left, top, right, bottom = map(int, font.getbbox(char))
    side = max(right - left, bottom - top)
    place = ((side - right - left) // 2, (side - bottom - top) // 2)
    drawn = Image.new("RGBA", (side, side), (255, 255, 255, 0))
    ImageDraw.Draw(drawn).text(place, char, font=font, embedded_color=True)
    white = Image.new("RGBA", drawn.size, "white")
    return resize(Image.alpha_composite(white, drawn).convert("RGB"), size)
