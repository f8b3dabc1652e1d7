"""Random changes to images: what they do, and that they depend on nothing but their numbers."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import Tensor

from aigc_rt.errors import InputError
from aigc_rt.train import augment as module
from aigc_rt.train import diff_augment as diff
from aigc_rt.train.augment import Augment, augment
from aigc_rt.train.diff_augment import diff_augment
from aigc_rt.train.settings import typed

ALL = Augment(True, 20.0, 0.2, 0.3, 0.2, 0.5, 0.5)
STILL, LAST = 0.5, 1 - 2**-24
"""Draws in the middle, at which nothing changes, and the highest."""


def pictures(count: int = 6, channels: int = 3, height: int = 8, width: int = 10) -> Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def draws(count: int, each: int, **columns: float) -> Tensor:
    """All in the middle, but the columns named."""
    found = torch.full((count, each), STILL)
    for name, value in columns.items():
        found[:, getattr(module if each == module.UNIFORMS else diff, name)] = value
    return found


def random(count: int, each: int) -> Tensor:
    return torch.rand(count, each, generator=torch.Generator().manual_seed(1))


def changed(images: Tensor, spec: Augment, **columns: float) -> Tensor:
    return augment(images, draws(len(images), module.UNIFORMS, **columns), spec)


# Augment


def test_nothing_asked_nothing_done() -> None:
    images = pictures()
    assert augment(images, random(6, module.UNIFORMS), Augment()) is images
    assert not Augment(padding="edge")


def test_the_middle_of_every_draw_changes_nothing() -> None:
    images = pictures()
    assert torch.allclose(changed(images, ALL), images, atol=1e-5)
    assert not torch.allclose(augment(images, random(6, module.UNIFORMS), ALL), images, atol=0.1)


def test_flip() -> None:
    images = pictures()
    assert torch.allclose(changed(images, Augment(flip=True), _FLIP=0.49), images.flip(3), atol=1e-5)
    assert torch.allclose(changed(images, Augment(flip=True), _FLIP=0.51), images, atol=1e-5)


@pytest.mark.parametrize("padding", ["reflect", "edge", "zero"])
def test_a_shift_is_by_whole_pixels(padding: module.Padding) -> None:
    images = pictures()
    moved = changed(images, Augment(shift=0.25, padding=padding), _DOWN=0.0, _RIGHT=LAST)
    assert torch.allclose(moved[:, :, :6, 2:], images[:, :, 2:, :8], atol=1e-5)  # up and right
    outside = moved[:, :, :6, :2]
    expected = {
        "reflect": images[:, :, 2:, :2].flip(3),
        "edge": images[:, :, 2:, :1].expand_as(outside),
        "zero": -torch.ones_like(outside),
    }
    assert torch.allclose(outside, expected[padding], atol=1e-5)


def test_every_shift_within_reach_is_as_likely() -> None:
    images = torch.zeros(100, 1, 1, 10)
    images[..., 4] = 1
    uniforms = draws(100, module.UNIFORMS)
    uniforms[:, module._RIGHT] = torch.arange(100) / 100
    moved = augment(images, uniforms, Augment(shift=0.2, padding="edge"))
    assert moved.sum((0, 1, 2)).round().tolist() == [0, 0, 20, 20, 20, 20, 20, 0, 0, 0]


def test_a_quarter_turn() -> None:
    images = pictures(height=8, width=8)
    turned = changed(images, Augment(rotate_deg=90.0), _ANGLE=LAST)
    assert any(torch.allclose(turned, torch.rot90(images, k, (2, 3)), atol=1e-4) for k in (1, 3))
    assert torch.allclose(changed(images, Augment(rotate_deg=180.0), _ANGLE=0.0), images.flip(2, 3), atol=1e-4)


def test_a_turn_keeps_shapes_where_sides_differ() -> None:
    y, x = torch.meshgrid(torch.arange(20) - 9.5, torch.arange(40) - 19.5, indexing="ij")
    disc = ((x**2 + y**2 < 36).float() * 2 - 1).expand(5, 1, 20, 40)
    turned = augment(disc, random(5, module.UNIFORMS), Augment(rotate_deg=180.0, padding="edge"))
    assert (turned - disc).abs().mean() < 0.05


def test_zoom() -> None:
    images = torch.full((2, 1, 9, 9), -1.0)
    images[:, :, 3:6, 3:6] = 1
    spec = Augment(zoom=1.0, padding="edge")
    bright = [(changed(images, spec, _ZOOM=draw) > 0).sum().item() / 2 for draw in (0.0, STILL, LAST)]
    assert bright == [1, 9, 25]


def test_brightness_contrast_and_saturation() -> None:
    images = pictures() * 0.2
    grey = images.mean(1, keepdim=True).expand_as(images)
    middle = images.mean((1, 2, 3), keepdim=True).expand_as(images)
    assert torch.allclose(changed(images, Augment(brightness=0.1), _BRIGHTNESS=0.0), images - 0.2, atol=1e-5)
    assert torch.allclose(changed(images, Augment(contrast=1.0), _CONTRAST=0.0), middle, atol=1e-5)
    assert torch.allclose(changed(images, Augment(saturation=1.0), _SATURATION=0.0), grey, atol=1e-5)
    assert torch.equal(changed(images[:, :1], Augment(saturation=1.0), _SATURATION=0.0), images[:, :1])
    far = augment(pictures(), random(6, module.UNIFORMS), Augment(brightness=1.0, contrast=1.0))
    assert far.abs().max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_changed_alike_in_any_batch(channels: int) -> None:
    images, uniforms = pictures(channels=channels), random(6, module.UNIFORMS)
    whole = augment(images, uniforms, ALL)
    alone = torch.cat([augment(images[k : k + 1], uniforms[k : k + 1], ALL) for k in range(6)])
    assert torch.allclose(whole, alone, atol=1e-6)
    assert torch.equal(images, pictures(channels=channels))


def test_one_change_does_not_move_anothers_draws() -> None:
    images, uniforms = pictures(), random(6, module.UNIFORMS)
    flipped = augment(images, uniforms, Augment(flip=True))
    both = augment(images, uniforms, Augment(flip=True, brightness=0.1))
    shift = 0.2 * (2 * uniforms[:, module._BRIGHTNESS] - 1)[:, None, None, None]
    assert torch.allclose(both, (flipped + shift).clamp(-1, 1), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    images = pictures(height=64, width=64).to(dtype)
    plain = augment(images, random(6, module.UNIFORMS), ALL), diff_augment(images, random(6, diff.UNIFORMS))
    with torch.autocast("cpu", torch.bfloat16):
        cast = augment(images, random(6, module.UNIFORMS), ALL), diff_augment(images, random(6, diff.UNIFORMS))
    assert all(a.dtype == b.dtype == dtype and torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


# Its text


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("none", Augment()),
        ("flip", Augment(flip=True)),
        ("flip,rotate=10,shift=0.1", Augment(flip=True, rotate_deg=10.0, shift=0.1)),
        (" zoom = 0.2 , padding = edge ", Augment(zoom=0.2, padding="edge")),
        ("brightness=.1,contrast=1,saturation=1e-1", Augment(brightness=0.1, contrast=1.0, saturation=0.1)),
    ],
)
def test_text(text: str, spec: Augment) -> None:
    assert Augment.of(text) == spec
    assert typed(Augment, json.loads(json.dumps(dataclasses.asdict(spec))), "augment") == spec


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'' is no change"),
        ("flip,", "'' is no change"),
        ("flipp", "Known are flip, rotate, shift"),
        ("rotate_deg=10", "'rotate_deg' is no change"),
        ("flip=1", "flip takes no value"),
        ("rotate", "rotate needs a value"),
        ("rotate=", "rotate is '', no number"),
        ("rotate=ten", "rotate is 'ten', no number"),
        ("rotate=1,rotate=2", "rotate is there twice"),
        ("shift=0.6", "Give 0 to 0.5"),
        ("shift=-0.1", "Give 0 to 0.5"),
        ("zoom=nan", "Give 0 to 1"),
        ("rotate=inf", "Give 0 to 180"),
        ("padding=mirror", "reflect, edge, zero"),
    ],
)
def test_text_that_is_wrong(text: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        Augment.of(text)
    assert words in str(error.value)


# DiffAugment


@pytest.mark.parametrize("channels", [1, 3])
def test_diff_augment_is_alike_in_any_batch(channels: int) -> None:
    images, uniforms = pictures(channels=channels), random(6, diff.UNIFORMS)
    whole = diff_augment(images, uniforms)
    alone = torch.cat([diff_augment(images[k : k + 1], uniforms[k : k + 1]) for k in range(6)])
    assert whole.shape == images.shape
    assert torch.allclose(whole, alone, atol=1e-6)
    assert not torch.allclose(whole, images, atol=0.1)


@pytest.mark.parametrize("policy", [("color",), ("translation",), ("cutout",), ("color", "translation", "cutout")])
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_flow_and_so_do_gradients_of_gradients(policy: tuple[str, ...], channels: int) -> None:
    images = pictures(2, channels, 4, 5).double().requires_grad_()
    uniforms = random(2, diff.UNIFORMS)

    def square(x: Tensor) -> Tensor:
        return diff_augment(x, uniforms, policy) ** 2

    (first,) = torch.autograd.grad(square(images).sum(), images, create_graph=True)
    assert first.abs().max() > 0
    (second,) = torch.autograd.grad(first.square().sum(), images)
    assert second.abs().max() > 0
    step = torch.randn(images.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 1e-2
    with torch.no_grad():
        rise = (square(images + step) - square(images - step)).sum() / 2
    assert torch.allclose(rise, (first * step).sum(), rtol=1e-3, atol=1e-5)


def test_translation_moves_zero_in() -> None:
    images = pictures(height=16, width=16)
    moved = diff_augment(images, draws(6, diff.UNIFORMS, _DOWN=0.0, _RIGHT=LAST), ("translation",))
    assert torch.equal(moved[:, :, :14, 2:], images[:, :, 2:, :14])
    assert torch.count_nonzero(moved[:, :, 14:]) == torch.count_nonzero(moved[..., :2]) == 0


@pytest.mark.parametrize(("middle", "left"), [((0.5, 0.5), 192), ((0.0, 0.0), 240), ((LAST, 0.5), 224)])
def test_cutout(middle: tuple[float, float], left: int) -> None:
    cut = diff_augment(
        torch.ones(1, 3, 16, 16), draws(1, diff.UNIFORMS, _CUT_Y=middle[0], _CUT_X=middle[1]), ["cutout"]
    )
    assert cut.sum() == 3 * left


def test_color_stays_in_the_papers_ranges() -> None:
    images = pictures() * 0.5
    assert torch.allclose(diff_augment(images, draws(6, diff.UNIFORMS), ["color"]), images, atol=1e-6)
    dark = diff_augment(torch.zeros(1, 3, 4, 4), draws(1, diff.UNIFORMS, _BRIGHTNESS=0.0), ["color"])
    assert torch.allclose(dark, torch.tensor(-0.5))
    grey = diff_augment(images, draws(6, diff.UNIFORMS, _SATURATION=0.0), ["color"])
    assert torch.allclose(grey, images.mean(1, keepdim=True).expand_as(images), atol=1e-6)
    middle = images.mean((1, 2, 3), keepdim=True)
    flat = diff_augment(images, draws(6, diff.UNIFORMS, _CONTRAST=0.0), ["color"])
    assert torch.allclose(flat, middle + 0.5 * (images - middle), atol=1e-6)


def test_an_unknown_policy() -> None:
    with pytest.raises(InputError, match=r"'colour'.*Known are color, translation, cutout"):
        diff_augment(pictures(), random(6, diff.UNIFORMS), ("colour",))
