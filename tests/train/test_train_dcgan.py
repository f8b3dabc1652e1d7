"""The convolutional GAN: sizes, options, objectives, and that its losses are sums over the images."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from train_help import one_thread, stepped  # noqa: F401

from aigc_rt.errors import InputError
from aigc_rt.train.generators import FAMILIES, create
from aigc_rt.train.generators.adversarial import slopes, steepness
from aigc_rt.train.generators.dcgan import Dcgan, Discriminator, Settings
from aigc_rt.train.generators.family import DataSpec, sample
from aigc_rt.train.task import Batch

TINY: dict[str, Any] = {"width": 8, "latent": 6}
OBJECTIVES = sorted(Dcgan.objectives)
PLAIN: dict[str, Any] = {"norm": "none", "spectral_norm": False}
FAMILY = ["dcgan", "cgan"]


def made(
    name: str = "dcgan", objective: str = "r3gan", shape: tuple[int, int, int] = (1, 28, 28), **settings: Any
) -> Any:
    torch.manual_seed(0)
    return create(name, DataSpec(shape, classes=4), objective, TINY | settings)


def batch(shape: tuple[int, int, int] = (1, 28, 28), count: int = 8, first: int = 40) -> Batch:
    torch.manual_seed(1)
    images, labels = torch.rand(48, *shape) * 2 - 1, torch.arange(48) % 4
    return Batch(images[first : first + count], labels[first : first + count], seed=3, first=first)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("shape", [(c, s, s) for c in (1, 3) for s in (28, 32, 64)])
def test_shapes(name: str, shape: tuple[int, int, int]) -> None:
    family = made(name, shape=shape)
    images = sample(family.generator.eval(), family.program, seed=0, count=3)
    assert images.shape == (3, *shape[1:], shape[0])
    trainer = stepped(family, "r3gan", shape)
    assert sample(trainer.averages["generator"], family.program, 0, 2).std() > 0


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"norm": "batch"},
        {"norm": "group", "width": 16},
        {"norm": "none", "spectral_norm": False},
        {"spectral_norm": True},
        {"upsampling": "nearest"},
        {"upsampling": "shuffle"},
        {"penalty": 0.5, "penalty_every": 3},
        {"real_label": 0.9, "diff_augment": "color,translation,cutout"},
    ],
)
def test_every_option_trains_both_networks(objective: str, settings: dict[str, Any]) -> None:
    family = made(objective=objective, **settings)
    before = {n: p.clone() for r, net in family.networks.items() for n, p in net.named_parameters(prefix=r)}
    stepped(family, objective)
    for role, net in family.networks.items():
        for parameter, value in net.named_parameters(prefix=role):
            assert not torch.equal(value, before[parameter]) or "bias" in parameter, f"{parameter} did not move"


def test_usual_settings_are_the_objectives() -> None:
    assert [made(objective=o).settings.norm for o in ("r3gan", "bce", "hinge")] == ["none", "batch", "batch"]
    assert [made(objective=o).settings.spectral_norm for o in ("r3gan", "bce", "hinge")] == [False, False, True]
    assert made(objective="hinge", spectral_norm=False, norm="group").settings.norm == "group"
    assert made(objective="r3gan", penalty=0.0).settings.penalty == 0.0
    settled = made(objective="hinge").settings
    assert Dcgan(DataSpec((1, 28, 28)), "hinge", settled).settings == settled  # as a resumed run makes it again
    recipe = Dcgan.objectives["bce"]
    assert (recipe.lr, recipe.betas) == (2e-4, (0.5, 0.999))
    assert next(iter(Dcgan.objectives)) == "r3gan"


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 32), (3, 30, 30)])
@pytest.mark.parametrize("name", FAMILY)
def test_other_sizes_are_refused(name: str, shape: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match=r"28, 32, 64 .*--size"):
        made(name, shape=shape)


@pytest.mark.parametrize("settings", [{"norm": "layer"}, {"diff_augment": "shear"}, {"width": 0}, {"penalty": -1.0}])
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings)).replace("diff_augment", "shear")):
        made(**settings)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("every", [1, 3, 7])  # 7: the first half has no image that bears the penalty
def test_the_whole_is_the_mean_of_two_halves(name: str, objective: str, every: int) -> None:
    policy = "color,translation,cutout"
    family = made(name, objective, **PLAIN, penalty=2.0, penalty_every=every, diff_augment=policy)
    for whole, one, other in zip(*(values(family, *part) for part in ((40, 8), (40, 4), (44, 4))), strict=True):
        torch.testing.assert_close(whole, (one + other) / 2)


def values(family: Any, first: int, count: int) -> Iterator[Tensor]:
    for loss in family.losses(batch(first=first, count=count)):
        yield loss.value
        yield from loss.watched.values()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_losses_are_the_papers(objective: str) -> None:
    family, given = made(objective=objective, **PLAIN, penalty=0.0, real_label=0.9), batch()
    told, taken = (loss.value for loss in family.losses(given))
    real = family.discriminator(given.images)
    fake = family.discriminator(family.generator(given.normal((6,))))
    expected = {
        "r3gan": (F.softplus(fake - real), F.softplus(real - fake)),
        "bce": (-0.9 * F.logsigmoid(real) - 0.1 * F.logsigmoid(-real) - F.logsigmoid(-fake), -F.logsigmoid(fake)),
        "hinge": ((1 - real).clamp(0) + (1 + fake).clamp(0), -fake),
    }[objective]
    torch.testing.assert_close(told, expected[0].mean())
    torch.testing.assert_close(taken, expected[1].mean())


def test_penalty_is_r1_and_r2() -> None:
    family, given = made(penalty=3.0, penalty_every=1), batch()
    (bare, _), (told, _) = (
        [loss.value for loss in made(penalty=weight, penalty_every=1).losses(given)] for weight in (0.0, 3.0)
    )
    net = family.discriminator
    shown = family.generator(given.normal((6,))).detach()
    total = torch.zeros(())
    for image in itertools.chain(given.images, shown):
        one = image[None].clone().requires_grad_()
        (slope,) = torch.autograd.grad(net(one).squeeze(), one)
        total = total + slope.norm().square()
    torch.testing.assert_close(told - bare, 3.0 * total / 8)


def test_the_penalty_is_trained_on() -> None:
    net = Discriminator(DataSpec((1, 28, 28)), Settings(width=8, norm="none", spectral_norm=False))
    images = batch().images.requires_grad_()
    grads = torch.autograd.grad(steepness(slopes(net(images), images)).mean(), net.last.weight)  # type: ignore[arg-type]
    assert grads[0].abs().max() > 0


@pytest.mark.filterwarnings("ignore")  # opacus: hooks that torch warns of
@pytest.mark.parametrize("objective", sorted(Dcgan.private))
@pytest.mark.parametrize("norm", ["none", "group"])
@pytest.mark.parametrize("name", FAMILY)
def test_every_image_has_a_gradient_of_its_own(name: str, objective: str, norm: str) -> None:
    from opacus import GradSampleModule

    family, given = made(name, objective, (3, 28, 28), norm=norm, spectral_norm=False), batch((3, 28, 28))
    net = family.networks[family.private[objective]]
    images = family.generator(torch.randn(8, 6), *family.conditions(given)).detach()
    watched = GradSampleModule(net)
    watched(images, *family.conditions(given)).square().mean().backward()
    for parameter in net.parameters():
        own, whole = parameter.grad_sample, parameter.grad
        assert own.shape == (8, *parameter.shape)
        assert own.abs().max() > 0
        torch.testing.assert_close(own.mean(0), whole)


def test_the_same_seed_makes_the_same_weights() -> None:
    first, again = (stepped(made(), "r3gan").tensors() for _ in range(2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())


@pytest.mark.parametrize("name", FAMILY)
def test_the_generator_is_small(name: str) -> None:
    family = FAMILIES[name]
    generator = family(DataSpec((1, 28, 28), 10), "r3gan", family.settings_type()).networks["generator"]
    assert sum(p.numel() for p in generator.parameters()) < 1.4e6


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_samples_do_not_depend_on_their_batch(norm: str) -> None:
    family = made(norm=norm)
    stepped(family, "r3gan")
    generator = family.generator.eval()
    many = sample(generator, family.program, seed=5, count=70)
    one = sample(generator, family.program, seed=5, count=1, start=66)
    assert np.abs(many[66].astype(int) - one[0]).max() <= 1  # sums of another batch size may round differently
