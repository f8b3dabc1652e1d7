"""The variational autoencoder: sizes, objectives, the learned prior, and what it says of held-out images."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from train_help import one_thread, stepped  # noqa: F401

import aigc_rt
from aigc_rt.errors import InputError
from aigc_rt.train.generators import create, find
from aigc_rt.train.generators.family import DataSpec, sample, trained
from aigc_rt.train.generators.flow import Flow
from aigc_rt.train.generators.likelihood import Bernoulli, Gaussian, divergence
from aigc_rt.train.generators.vae import Vae, similarity
from aigc_rt.train.task import Batch

Shape = tuple[int, int, int]
TINY: dict[str, Any] = {"width": 8, "latent": 6}
OBJECTIVES = list(Vae.objectives)
COUNT = 48
SHAPE = (1, 28, 28)


def made(name: str, objective: str | None = None, shape: Shape = SHAPE, **settings: Any) -> Any:
    """A tiny family; the couplings, which start as swaps of halves, do something."""
    torch.manual_seed(0)
    spec = DataSpec(shape, classes=4, class_names=("ant", "bee", "cat", "dog"))
    family: Any = create(name, spec, objective or next(iter(find(name).objectives)), TINY | settings)
    for weight in family.vae.decoder.prior.parameters():
        nn.init.normal_(weight, std=0.08)
    return family


def batch(shape: Shape = SHAPE, first: int = 40, count: int = 8) -> Batch:
    images = torch.rand(COUNT, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    chosen = slice(first, first + count)
    return Batch(images[chosen], (torch.arange(COUNT) % 4)[chosen], seed=3, first=first)


def gradients(family: Any, given: Batch) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Each loss, and the gradients of what it trains."""
    for loss in family.losses(given):
        weights = dict(family.networks[loss.trains].named_parameters())
        yield loss.value, dict(zip(weights, torch.autograd.grad(loss.value, list(weights.values())), strict=True))


class DoubleBatch(Batch):
    """In float64, where sums of another order do not round visibly."""

    def normal(self, shape: tuple[int, ...], stream: int = 0) -> Tensor:
        return super().normal(shape, stream).double()


def check_additive(family: Any) -> None:
    """The mean over two halves of a batch is that over the whole, of losses and gradients."""
    for network in family.networks.values():
        network.double()

    def part(first: int, count: int) -> list[tuple[Tensor, dict[str, Tensor]]]:
        given = batch(first=first, count=count)
        return list(gradients(family, DoubleBatch(given.images.double(), given.labels, given.seed, given.first)))

    for (value, slope), one, two in zip(part(40, 8), part(40, 4), part(44, 4), strict=True):
        torch.testing.assert_close((one[0] + two[0]) / 2, value)
        for name, expected in slope.items():
            torch.testing.assert_close((one[1][name] + two[1][name]) / 2, expected)


def check_private(family: Any) -> None:
    """Opacus takes per-sample gradients of every weight, and they add up to the batch's."""
    from opacus.grad_sample import GradSampleModule

    given, role = batch(), family.private[next(k for k in family.private)]
    [(_, plain)] = gradients(family, given)
    module = GradSampleModule(family.networks[role], strict=True)
    for loss in family.losses(given):
        with warnings.catch_warnings():  # that the images need no gradients
            warnings.simplefilter("ignore", UserWarning)
            loss.value.backward()
    for name, weight in module._module.named_parameters():
        found = weight.grad_sample
        assert found.shape == (len(given.images), *weight.shape)
        torch.testing.assert_close(found.mean(0), plain[name], rtol=1e-3, atol=1e-6)


def check_bundle(family: Any, path: Path, **conditions: Any) -> None:
    """The bundle's samples are PyTorch's, and what its encoder says of them leads back to them."""
    from aigc_rt.export import export
    from aigc_rt.export.part import Part

    found = trained(family, family.networks, "tiny", {}, None)
    also = {role: Part(p.module, p.example_inputs, p.dynamic, p.outputs) for role, p in found.also.items()}
    export(
        found.module,
        found.example_inputs,
        path,
        program=found.program,
        dynamic=found.dynamic,
        also=also,
        precisions=("fp32",),
    )
    with aigc_rt.load(path, device="cpu") as generator:
        ours = generator.generate(5, seed=2, raw=True, **conditions)
        theirs = sample(found.module, found.program, 2, 5, conditions=conditions)
        assert np.abs(ours.array.astype(int) - theirs).max() <= 1
        assert ours.raw is not None
        inputs = {"image": ours.raw} | {k: np.full(5, v, np.int64) for k, v in conditions.items()}
        encoded = generator.run(inputs, graph="encoder")
    with torch.no_grad():
        mean, log_variance = found.also["encoder"].module(**{k: torch.from_numpy(v) for k, v in inputs.items()})
    np.testing.assert_allclose(encoded["mean"], mean, atol=1e-3)
    np.testing.assert_allclose(encoded["log_variance"], log_variance, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 8, 8), (1, 56, 40), (3, 12, 20)])
@pytest.mark.parametrize("blocks", [0, 1])
def test_shapes(shape: Shape, blocks: int) -> None:
    family = made("vae", shape=shape, blocks=blocks)
    graphs = family.graphs(family.networks)
    mean, log_variance = graphs["encoder"](torch.rand(3, *shape) * 2 - 1)
    assert mean.shape == log_variance.shape == (3, 6)
    assert graphs["decoder"](mean).shape == (3, *shape)
    assert sample(graphs["decoder"], family.program, 0, 2).shape == (2, *shape[1:], shape[0])
    assert all(value.shape == (2,) for value in family.measures(family.networks, batch(shape, count=2)).values())


@pytest.mark.parametrize(("shape", "near"), [((1, 27, 28), 28), ((3, 65, 65), 64), ((1, 3, 3), 8), ((1, 100, 100), 96)])
def test_a_size_that_cannot_be_halved(shape: Shape, near: int) -> None:
    with pytest.raises(InputError, match=f"--size {near} ") as error:
        made("vae", shape=shape)
    assert "28, 32 and 64" in str(error.value)
    made("vae", shape=(1, near, near))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_weight_trains(objective: str) -> None:
    family = made("vae", objective, blocks=1)
    before = {name: value.clone() for name, value in family.vae.named_parameters()}
    trainer = stepped(family, objective)
    moved = {name for name, value in family.vae.named_parameters() if not torch.equal(value, before[name])}
    assert moved == before.keys()
    assert trainer.averages.keys() == {"vae"}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_same_seed_trains_the_same(objective: str) -> None:
    one, two = (stepped(made("vae", objective), objective).tensors() for _ in range(2))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_losses_are_means_over_images(objective: str) -> None:
    check_additive(made("vae", objective, blocks=1))


@pytest.mark.parametrize("objective", list(Vae.private))
def test_private_objectives_have_per_sample_gradients(objective: str) -> None:
    check_private(made("vae", objective, blocks=1))


def test_the_loss_is_the_elbo() -> None:
    family, given = made("vae", "bernoulli", beta=3.0), batch()
    mean, log_variance = family.vae.encoder(given.images)
    p = family.vae.decoder(mean + (log_variance / 2).exp() * given.normal((6,))) / 2 + 0.5
    x = given.images / 2 + 0.5
    error = -(x * p.log() + (1 - x) * (1 - p).log()).flatten(1).sum(1)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
    (loss,) = family.losses(given)
    torch.testing.assert_close(loss.value, (error + 3.0 * kl).mean() / 784)
    torch.testing.assert_close(loss.watched["kl_nats"], kl.mean())


def test_measures_are_what_they_are_called() -> None:
    family, given = made("vae", "bernoulli"), batch()
    graphs, found = family.graphs(family.networks), family.measures(family.networks, given)
    mean, log_variance = graphs["encoder"](given.images)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (log_variance / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(found["kl_nats"], kl.sum(1))
    mse = ((graphs["decoder"](mean) - given.images) / 2).square().flatten(1).mean(1)
    torch.testing.assert_close(found["mse"], mse)
    torch.testing.assert_close(found["psnr_db"], 10 * (1 / mse).log10())
    torch.testing.assert_close(similarity(given.images, given.images), torch.ones(8))
    one, two = (similarity(given.images[:count], given.images[1 : count + 1]) for count in (1, 2))
    torch.testing.assert_close(one[0], two[0])
    passed = family.passed(family.vae, given)
    nats = family.vae.likelihood.pixels(passed.logits, given.images) + found["kl_nats"]
    torch.testing.assert_close(found["elbo_bits_per_dim"], nats / 784 / math.log(2))


@pytest.mark.parametrize("likelihood", [Gaussian(), Bernoulli()])
def test_the_chances_of_a_pixels_values_sum_to_one(likelihood: Any) -> None:
    levels = (torch.arange(256) / 127.5 - 1).reshape(256, 1, 1, 1)
    for logit in (-30.0, -4.0, -1e-12, 0.0, 0.3, 9.0):
        nats = likelihood.pixels(torch.full_like(levels, logit), levels)
        assert torch.isfinite(nats).all()
        torch.testing.assert_close((-nats).exp().sum(), torch.tensor(1.0, dtype=torch.float64))


def test_the_gaussian_is_one() -> None:
    likelihood, given, logits = Gaussian(), batch(), torch.randn(8, *SHAPE)
    normal: Any = torch.distributions.Normal((logits / 2).tanh(), 0.25)
    expected = -normal.log_prob(given.images).flatten(1).sum(1)
    torch.testing.assert_close(likelihood.nats(logits, given.images), expected)
    # Within the range, a value's mass is close to the density times its width.
    inner = given.images * 0.5
    density = -normal.log_prob(inner).flatten(1).sum(1) - 784 * math.log(2 / 255)
    torch.testing.assert_close(likelihood.pixels(logits, inner).float(), density, rtol=1e-3, atol=0.1)


@pytest.mark.parametrize("latent", [2, 5, 6])
@pytest.mark.parametrize("classes", [0, 3])
def test_the_flow_is_invertible_and_knows_its_determinant(latent: int, classes: int) -> None:
    torch.manual_seed(0)
    flow = Flow(latent, couplings=3, hidden=16, classes=classes).double()
    for weight in flow.parameters():
        nn.init.normal_(weight, std=0.3)
    code, label = torch.randn(4, latent).double(), torch.tensor([0, 1, 2, 0]) if classes else None
    z, log_variance = flow(code, torch.zeros_like(code), label)
    torch.testing.assert_close(flow.inverse(z, label), code)
    assert not torch.allclose(z, code, atol=0.1)
    for i in range(4):
        one = None if label is None else label[i : i + 1]
        slopes: Any = torch.autograd.functional.jacobian
        jacobian = slopes(lambda c, one=one: flow(c[None], torch.zeros(1, latent).double(), one)[0][0], code[i])
        torch.testing.assert_close(log_variance[i].sum() / 2, torch.linalg.slogdet(jacobian)[1])


def test_the_learned_priors_divergence_is_the_average_over_samples() -> None:
    """Couplings that only swap halves leave a standard normal, whose divergence is known."""
    family = made("vae", "sigma")
    for weight in family.vae.decoder.prior.parameters():
        nn.init.zeros_(weight)
    image = batch(count=1).images
    many = family.vae(image.expand(4000, -1, -1, -1), torch.randn(4000, 6)).kl
    mean, log_variance = family.vae.encoder(image)
    torch.testing.assert_close(many.mean(), divergence(mean, log_variance)[0], rtol=0.05, atol=0.05)


def test_what_the_encoder_says_the_decoder_understands() -> None:
    family, given = made("vae", "sigma"), batch()
    graphs = family.graphs(family.networks)
    mean, _ = graphs["encoder"](given.images)
    code, _ = family.vae.encoder(given.images)
    assert not torch.allclose(mean, code, atol=0.1)
    torch.testing.assert_close(graphs["decoder"](mean), family.vae.decoder.image(code), rtol=1e-3, atol=1e-4)


def test_a_bundle_holds_both_halves(tmp_path: Path) -> None:
    check_bundle(made("vae"), tmp_path / "tiny")


def test_the_default_is_small() -> None:
    family: Any = create("vae", DataSpec(SHAPE), "sigma", {})
    graphs = family.graphs(family.networks)
    weights = sum(p.numel() for graph in graphs.values() for p in graph.parameters())
    assert 2 * weights < 3_000_000  # bytes in fp16
