"""Random changes to training images: flips, turns, shifts, zoom, brightness, contrast, saturation.

All randomness comes in as one row of uniform numbers an image. Every change has columns of its own in it, so that an
image is changed alike in whatever batch and process it comes, and alike whether other changes are on or off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from aigc_rt.errors import InputError

Padding = Literal["reflect", "edge", "zero"]
UNIFORMS = 8
"""Uniform numbers an image."""
_FLIP, _ANGLE, _DOWN, _RIGHT, _ZOOM, _BRIGHTNESS, _CONTRAST, _SATURATION = range(UNIFORMS)
_MODES = {"reflect": "reflection", "edge": "border", "zero": "zeros"}
_TEXT_NAMES = {"rotate": "rotate_deg"}
_MOST = {"rotate_deg": 180.0, "shift": 0.5, "zoom": 1.0, "brightness": 1.0, "contrast": 1.0, "saturation": 1.0}


@dataclass(frozen=True)
class Augment:
    """Which changes, and how far each goes at most; 0 is off.

    Attributes:
        flip: mirror every second image, left to right.
        rotate_deg: turn by up to so many degrees either way.
        shift: move by up to this share of the side, in whole pixels: nothing blurs.
        zoom: enlarge or shrink by a factor of up to 1 + zoom.
        brightness: add up to this share of the range of values.
        contrast: multiply the distance from the image's mean by 1 - contrast to 1 + contrast.
        saturation: the same with the distance from grey; grey images have none.
        padding: what comes in from outside: the image mirrored, its edge drawn out, or the pixel value 0.
    """

    flip: bool = False
    rotate_deg: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    padding: Padding = "reflect"

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 <= value <= most:
                raise InputError(f"augment with {name}={value!r}", "it is out of range", f"Give 0 to {most:g}")
        if self.padding not in _MODES or type(self.flip) is not bool:
            raise InputError(
                f"augment with padding={self.padding!r}, flip={self.flip!r}",
                "one cannot be right",
                f"Padding is {', '.join(_MODES)}; flip is True or False",
            )

    @classmethod
    def of(cls, text: str) -> Self:
        """From a text such as "flip,rotate=10,shift=0.1,padding=edge"; "none" is no change.

        Raises:
            InputError: an unknown or repeated name, or a value that is missing, no number or out of range.
        """
        if text.strip() == "none":
            return cls()
        known = [name.removesuffix("_deg") for name in (field.name for field in fields(cls))]
        found: dict[str, bool | float | str] = {}
        for part in text.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if name not in known:
                raise InputError(f"augment with {text!r}", f"{name!r} is no change", f"Known are {', '.join(known)}")
            key = _TEXT_NAMES.get(name, name)
            if key in found:
                raise InputError(f"augment with {text!r}", f"{name} is there twice", "Give it once")
            if (name == "flip") == bool(equals):
                mend = "Write it alone: flip" if name == "flip" else f"Write {name}=VALUE"
                raise InputError(
                    f"augment with {text!r}", f"{name} {'takes no' if name == 'flip' else 'needs a'} value", mend
                )
            found[key] = True if name == "flip" else value if name == "padding" else _number(text, name, value)
        return cls(**found)  # type: ignore[arg-type]  # __post_init__ checks them

    @property
    def moves(self) -> bool:
        """Whether pixels change places."""
        return self.flip or any((self.rotate_deg, self.shift, self.zoom))

    @property
    def colours(self) -> bool:
        """Whether values change."""
        return any((self.brightness, self.contrast, self.saturation))

    def __bool__(self) -> bool:
        return self.moves or self.colours


def _number(text: str, name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InputError(f"augment with {text!r}", f"{name} is {value!r}, no number", f"Write {name}=0.1") from None


def augment(images: Tensor, uniforms: Tensor, spec: Augment) -> Tensor:
    """The images, changed at random.

    Args:
        images: (B, C, H, W) floats in [-1, 1]; not changed. With a gradient it passes through.
        uniforms: (B, UNIFORMS) in [0, 1): the randomness of each image.
        spec: what to change.
    """
    assert images.ndim == 4
    assert uniforms.shape == (len(images), UNIFORMS)
    if not spec:
        return images
    with torch.autocast(images.device.type, enabled=False):  # half-precision coordinates would miss by pixels
        found, draws = images.float(), uniforms.to(images.device, torch.float32)
        if spec.moves:
            found = _moved(found, draws, spec)
        if spec.colours:
            found = _coloured(found, draws, spec).clamp(-1, 1)
        return found.to(images.dtype)


def _moved(images: Tensor, draws: Tensor, spec: Augment) -> Tensor:
    """Each image sampled once, bilinearly, at the places that an affine map gives."""
    height, width = images.shape[2:]
    angle = (2 * draws[:, _ANGLE] - 1) * math.radians(spec.rotate_deg)  # (B,)
    scale = torch.exp((2 * draws[:, _ZOOM] - 1) * -math.log1p(spec.zoom))
    mirror = torch.where(draws[:, _FLIP] < 0.5, -1.0, 1.0) if spec.flip else torch.ones_like(angle)
    down, right = (_whole_pixels(draws[:, k], spec.shift, side) for k, side in ((_DOWN, height), (_RIGHT, width)))
    y = (torch.arange(height, device=images.device) - (height - 1) / 2)[None, :, None] - down[:, None, None]
    x = (torch.arange(width, device=images.device) - (width - 1) / 2)[None, None, :] - right[:, None, None]
    sine, cosine = (part[:, None, None] for part in (angle.sin() * scale, angle.cos() * scale))
    from_x = (x * cosine + y * sine) * mirror[:, None, None]  # (B, H, W), pixels from the middle
    from_y = y * cosine - x * sine
    grid = torch.stack([from_x * (2 / width), from_y * (2 / height)], -1)  # (B, H, W, 2), edges at -1 and 1
    if spec.padding == "zero":  # the value 0 of a pixel is -1 here
        return F.grid_sample(images + 1, grid, padding_mode="zeros", align_corners=False) - 1
    return F.grid_sample(images, grid, padding_mode=_MODES[spec.padding], align_corners=False)


def _whole_pixels(draws: Tensor, share: float, side: int) -> Tensor:
    """-reach to reach, all equally likely."""
    reach = int(share * side)
    return torch.floor(draws * (2 * reach + 1)) - reach


def _coloured(images: Tensor, draws: Tensor, spec: Augment) -> Tensor:
    def signed(column: int, most: float) -> Tensor:
        return ((2 * draws[:, column] - 1) * most)[:, None, None, None]  # (B, 1, 1, 1)

    images = images + 2 * signed(_BRIGHTNESS, spec.brightness)
    if spec.contrast:
        images = around(images, images.mean((1, 2, 3), keepdim=True), 1 + signed(_CONTRAST, spec.contrast))
    if spec.saturation and images.shape[1] > 1:
        images = around(images, images.mean(1, keepdim=True), 1 + signed(_SATURATION, spec.saturation))
    return images


def around(images: Tensor, middle: Tensor, factor: Tensor) -> Tensor:
    """The images with their distance from `middle` multiplied."""
    return middle + (images - middle) * factor
