"""The variational autoencoder with an adversary."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_train_vae import batch, check_additive, made
from train_help import one_thread, stepped  # noqa: F401

from aigc_rt.errors import InputError
from aigc_rt.train.generators.vaegan import PRIOR, VaeGan

OBJECTIVES = list(VaeGan.objectives)
TINY: dict[str, Any] = {"judge_width": 16}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_every_weight_trains(objective: str, shape: tuple[int, int, int]) -> None:
    family = made("vaegan", objective, shape, **TINY)
    before = {role: {n: p.clone() for n, p in net.named_parameters()} for role, net in family.networks.items()}
    stepped(family, objective, shape)
    for role, network in family.networks.items():
        assert all(not torch.equal(value, before[role][name]) for name, value in network.named_parameters()), role
    assert VaeGan.private == {}


def test_a_size_that_the_discriminator_is_not_built_for() -> None:
    with pytest.raises(InputError, match="28, 32, 64"):
        made("vaegan", shape=(1, 40, 40))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_losses_are_means_over_images(objective: str) -> None:
    check_additive(made("vaegan", objective, **TINY))


def test_features_are_the_papers_losses() -> None:
    family, given = made("vaegan", "features", beta=2.0, adversarial=0.3, **TINY), batch()
    told, taught = (loss.value for loss in family.losses(given))
    judge, decoder = family.discriminator, family.vae.decoder
    mean, log_variance = family.vae.encoder(given.images)
    again = decoder(mean + (log_variance / 2).exp() * given.normal((6,)))
    new = decoder(given.normal((6,), PRIOR))
    real, fake = torch.sigmoid(judge(given.images)), torch.sigmoid(judge(torch.cat([again, new])))
    torch.testing.assert_close(told, -real.log().mean() - (1 - fake).log().mean())
    error = 0.5 * (judge.body(again) - judge.body(given.images)).square().sum(1)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
    torch.testing.assert_close(taught, (error + 2.0 * kl).mean() / 784 - 0.3 * fake.log().mean())


def test_the_encoder_does_not_learn_to_be_taken_for_real() -> None:
    """Larsen et al.: the adversary's word is for the decoder."""
    weights, slopes = [], []
    for adversarial in (0.0, 10.0):
        family = made("vaegan", "features", adversarial=adversarial, **TINY)
        *_, loss = family.losses(batch())
        weights = [*family.vae.encoder.parameters(), *family.vae.decoder.layers.parameters()]
        slopes.append(torch.autograd.grad(loss.value, weights))
    same = [torch.allclose(a, b) for a, b in zip(*slopes, strict=True)]
    count = len(list(family.vae.encoder.parameters()))
    assert all(same[:count])
    assert not any(same[count:])


def test_r3gan_adds_the_relativistic_loss_of_the_priors_samples() -> None:
    family, given = made("vaegan", "r3gan", adversarial=0.3, penalty=0.0, **TINY), batch()
    told, taught = family.losses(given)
    real = family.discriminator(given.images)
    fake = family.discriminator(family.vae.decoder(given.normal((6,), PRIOR)))
    torch.testing.assert_close(told.value, F.softplus(fake - real).mean())
    torch.testing.assert_close(taught.value, taught.watched["elbo"] + 0.3 * F.softplus(real - fake).mean())


def test_the_penalty_is_r1_and_r2() -> None:
    family, given = made("vaegan", "r3gan", penalty=2.0, **TINY), batch()
    told = next(family.losses(given)).value
    images = given.images.requires_grad_()
    fakes = family.vae.decoder(given.normal((6,), PRIOR)).detach().requires_grad_()
    real, fake = family.discriminator(images), family.discriminator(fakes)
    at_real, at_fake = torch.autograd.grad(real.sum(), images)[0], torch.autograd.grad(fake.sum(), fakes)[0]
    norms = [slope.flatten(1).square().sum(1).mean() for slope in (at_real, at_fake)]
    torch.testing.assert_close(told, F.softplus(fake - real).mean() + 2.0 * sum(norms))
