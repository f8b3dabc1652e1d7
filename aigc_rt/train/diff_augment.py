"""Changes that both of a GAN's networks train through: DiffAugment.

Zhao, Liu, Lin, Zhu, Han, "Differentiable Augmentation for Data-Efficient GAN Training" (NeurIPS 2020): the
discriminator sees real and made images alike only after the change, and the generator's gradient passes back through
it. Brightness in [-0.5, 0.5], saturation in [0, 2], contrast in [0.5, 1.5]; translation by up to 1/8 of the side;
a square of half the side cut out. What is moved in or cut out is 0, mid-grey.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from aigc_rt.errors import InputError
from aigc_rt.train.augment import around

UNIFORMS = 7
"""Uniform numbers an image."""
_BRIGHTNESS, _SATURATION, _CONTRAST, _DOWN, _RIGHT, _CUT_Y, _CUT_X = range(UNIFORMS)
_REACH = 1 / 8
_CUT = 1 / 2


def diff_augment(
    images: Tensor, uniforms: Tensor, policy: Sequence[str] = ("color", "translation", "cutout")
) -> Tensor:
    """The images changed, differentiably.

    Args:
        images: (B, C, H, W) floats around [-1, 1]; results are not clamped.
        uniforms: (B, UNIFORMS) in [0, 1): the randomness of each image.
        policy: names of `POLICIES`, in their order.

    Raises:
        InputError: an unknown policy.
    """
    assert images.ndim == 4
    assert uniforms.shape == (len(images), UNIFORMS)
    check_policy(policy)
    with torch.autocast(images.device.type, enabled=False):
        found, draws = images.float(), uniforms.to(images.device, torch.float32)
        for name in policy:
            found = POLICIES[name](found, draws)
        return found.to(images.dtype)


def check_policy(policy: Sequence[str]) -> None:
    """Raise InputError unless all are names of `POLICIES`."""
    for name in policy:
        if name not in POLICIES:
            raise InputError(
                f"augment with the policy {name!r}", "there is no such policy", f"Known are {', '.join(POLICIES)}"
            )


def _color(images: Tensor, draws: Tensor) -> Tensor:
    brightness, saturation, contrast = (
        draws[:, k, None, None, None] for k in (_BRIGHTNESS, _SATURATION, _CONTRAST)
    )  # (B, 1, 1, 1)
    images = images + (brightness - 0.5)
    if images.shape[1] > 1:
        images = around(images, images.mean(1, keepdim=True), 2 * saturation)
    return around(images, images.mean((1, 2, 3), keepdim=True), 0.5 + contrast)


def _translation(images: Tensor, draws: Tensor) -> Tensor:
    for axis, column in ((2, _DOWN), (3, _RIGHT)):
        images = _moved(images, draws[:, column], axis)
    return images


def _moved(images: Tensor, draws: Tensor, axis: int) -> Tensor:
    """Each image moved along one axis by whole pixels, with 0 moved in."""
    side = images.shape[axis]
    reach = int(side * _REACH + 0.5)
    move = torch.floor(draws * (2 * reach + 1)).long() - reach  # (B,)
    source = torch.arange(side, device=images.device) - move[:, None]  # (B, side)
    view = (len(images), 1, side, 1) if axis == 2 else (len(images), 1, 1, side)
    inside = ((source >= 0) & (source < side)).view(view)
    taken = images.gather(axis, source.clamp(0, side - 1).view(view).expand_as(images))
    return taken * inside  # one source a pixel: the gradient's sums do not depend on their order


def _cutout(images: Tensor, draws: Tensor) -> Tensor:
    """Without a square whose middle lies anywhere in the image: at an edge less is cut."""
    rows, columns = (_cut(images.shape[axis], draws[:, k]) for axis, k in ((2, _CUT_Y), (3, _CUT_X)))  # (B, side)
    return images * ~(rows[:, None, :, None] & columns[:, None, None, :])


def _cut(side: int, draws: Tensor) -> Tensor:
    """Which rows, or columns, are cut: (B, side)."""
    wide = int(side * _CUT + 0.5)
    first = torch.floor(draws * (side + 1 - wide % 2)).long() - wide // 2  # (B,)
    place = torch.arange(side, device=draws.device) - first[:, None]
    return (place >= 0) & (place < wide)


POLICIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "color": _color,
    "translation": _translation,
    "cutout": _cutout,
}
