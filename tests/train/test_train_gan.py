"""The MLP GAN: its networks, and that both objectives are what they say and train both networks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from train_help import load_digits, make_gan, one_thread  # noqa: F401

from aigc_rt.errors import InputError
from aigc_rt.train import data
from aigc_rt.train.generators.family import inputs, sample
from aigc_rt.train.generators.gan import Discriminator, Gan, Generator, Settings
from aigc_rt.train.loop import Trainer
from aigc_rt.train.task import Batch

OBJECTIVES = sorted(Gan.objectives)


def batch(shape: tuple[int, int, int], count: int = 8) -> Batch:
    images = torch.rand(count, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return Batch(images, None, seed=3, first=40)


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 8, 8), (3, 5, 7)])
def test_shapes(shape: tuple[int, int, int]) -> None:
    gan = make_gan(shape, "r3gan")
    image = gan.generator(torch.randn(4, 100))
    assert image.shape == (4, *shape)
    assert image.abs().max() <= 1
    assert gan.discriminator(image).shape == (4,)


def test_networks_are_the_textbook_ones() -> None:
    gan = make_gan((1, 28, 28), "bce")
    assert [tuple(p.shape) for p in gan.generator.parameters() if p.ndim == 2] == [(256, 100), (512, 256), (784, 512)]
    assert [tuple(p.shape) for p in gan.discriminator.parameters() if p.ndim == 2] == [(512, 784), (256, 512), (1, 256)]
    recipe = Gan.objectives["bce"]
    assert (recipe.lr, recipe.betas, recipe.batch) == (2e-4, (0.5, 0.999), 128)
    assert next(iter(Gan.objectives)) == "r3gan"


def test_slopes_are_the_gradients() -> None:
    torch.manual_seed(0)
    net = Discriminator((1, 6, 5), Settings(widths=(9, 13)))
    image = torch.randn(7, 1, 6, 5, requires_grad=True)
    logits, slopes = net.with_slopes(image)
    assert torch.equal(logits, net(image))
    (expected,) = torch.autograd.grad(net(image).sum(), image, create_graph=True)
    torch.testing.assert_close(slopes, expected.flatten(1))
    # What trains on the penalty: the gradient of the gradient.
    weights = [p for p in net.parameters() if p.ndim == 2]
    by_hand = torch.autograd.grad(slopes.square().sum(), weights)
    twice = torch.autograd.grad(expected.square().sum(), weights)
    for a, b in zip(by_hand, twice, strict=True):
        torch.testing.assert_close(a, b)
        assert a.abs().max() > 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_both_networks_train(objective: str, digits: data.Dataset) -> None:
    torch.manual_seed(0)
    gan = make_gan(digits.shape, objective)
    trainer = Trainer(gan, digits, dataclasses.replace(Gan.objectives[objective], batch=16), seed=0)
    before = {k: v.clone() for k, v in trainer.tensors().items()}
    for _ in range(3):
        losses = trainer.advance()
        assert {"generator", "discriminator"} <= losses.keys()
    after = trainer.tensors()
    for name, value in before.items():
        assert not torch.equal(value, after[name]), f"{name} did not move"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_generators_loss_reaches_the_generator(objective: str) -> None:
    gan = make_gan((1, 8, 8), objective)
    losses = {loss.trains: loss.value for loss in gan.losses(batch((1, 8, 8)))}
    own = torch.autograd.grad(losses["generator"], list(gan.generator.parameters()), retain_graph=True)
    assert all(g.abs().max() > 0 for g in own)
    # and the discriminator's does not: the made images are only looked at
    none = torch.autograd.grad(losses["discriminator"], list(gan.generator.parameters()), allow_unused=True)
    assert all(g is None for g in none)


def test_a_loss_moves_only_the_network_it_trains(digits: data.Dataset) -> None:
    gan = make_gan(digits.shape, "bce")
    trainer = Trainer(gan, digits, Gan.objectives["bce"], seed=0)
    seen = []
    losses = gan.losses

    def spied(given: Batch):  # type: ignore[no-untyped-def]
        for loss in losses(given):
            frozen = {role: [p.clone() for p in net.parameters()] for role, net in gan.networks.items()}
            yield loss
            moved = {r for r, old in frozen.items() for a, b in zip(old, gan.networks[r].parameters(), strict=True)
                     if not torch.equal(a, b)}  # fmt: skip
            seen.append((loss.trains, moved))

    gan.losses = spied  # type: ignore[assignment]
    trainer.advance()
    assert seen == [("discriminator", {"discriminator"}), ("generator", {"generator"})]


def test_bce_is_the_textbook_loss() -> None:
    torch.manual_seed(0)
    gan = make_gan((1, 8, 8), "bce")
    given = batch((1, 8, 8))
    told, taken = (loss.value for loss in gan.losses(given))
    real = torch.sigmoid(gan.discriminator(given.images))
    fake = torch.sigmoid(gan.discriminator(gan.generator(given.normal((100,)))))
    torch.testing.assert_close(told, -(real.log().mean() + (1 - fake).log().mean()))
    torch.testing.assert_close(taken, -fake.log().mean())
    smooth = make_gan((1, 8, 8), "bce", {"real_label": 0.9})
    smooth.discriminator.load_state_dict(gan.discriminator.state_dict())
    smooth.generator.load_state_dict(gan.generator.state_dict())
    told, _ = (loss.value for loss in smooth.losses(given))
    torch.testing.assert_close(told, -(0.9 * real.log() + 0.1 * (1 - real).log() + (1 - fake).log()).mean())


def test_r3gan_is_the_papers_loss() -> None:
    torch.manual_seed(0)
    gan = make_gan((1, 8, 8), "r3gan", {"penalty": 2.5})
    given = batch((1, 8, 8))
    told, taken = (loss.value for loss in gan.losses(given))
    images = given.images.requires_grad_()
    made = gan.generator(given.normal((100,))).detach().requires_grad_()
    real, fake = gan.discriminator(images), gan.discriminator(made)
    (at_real,), (at_made,) = torch.autograd.grad(real.sum(), images), torch.autograd.grad(fake.sum(), made)
    r1, r2 = (g.flatten(1).norm(dim=1).square().mean() for g in (at_real, at_made))
    torch.testing.assert_close(told, F.softplus(fake - real).mean() + 2.5 * (r1 + r2))
    torch.testing.assert_close(taken, F.softplus(real - fake).mean())


def test_settings_survive_json() -> None:
    import json

    first = make_gan((1, 8, 8), "r3gan", {"latent": 7, "widths": [5, 6]})
    again = make_gan((1, 8, 8), "r3gan", json.loads(json.dumps(dataclasses.asdict(first.settings))))
    assert again.settings == first.settings == Settings(latent=7, widths=(5, 6))
    assert again.program.noise["z"].shape == (7,)


def test_forward_names_its_input_as_the_program_does() -> None:
    gan = make_gan((1, 8, 8), "r3gan")
    gan.graphs(gan.networks)[gan.program.graph](**inputs(gan.program, 0, 0, 2))


def test_samples_do_not_depend_on_how_many_are_asked_for() -> None:
    gan = make_gan((1, 8, 8), "r3gan")
    many = sample(gan.generator, gan.program, seed=5, count=70)
    assert many.shape == (70, 8, 8, 1)
    assert many.dtype == np.uint8
    one = sample(gan.generator, gan.program, seed=5, count=1, start=66)
    assert np.abs(many[66].astype(int) - one[0]).max() <= 1  # sums of another batch size may round differently
    assert isinstance(gan.generator, Generator)


@pytest.mark.parametrize(
    "settings",
    [
        {"latent": "100"},
        {"latent": 0},
        {"latent": 1 << 40},
        {"latent": True},
        {"widths": 3},
        {"widths": [16, "16"]},
        {"widths": [4] * 65},
        {"penalty": None},
        {"penalty": float("nan")},
        {"real_label": 10**400},
        {"depth": 3},
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        make_gan((1, 4, 4), "r3gan", settings)
