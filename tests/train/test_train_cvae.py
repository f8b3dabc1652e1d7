"""The class-conditional variational autoencoder: what the label does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_train_vae import batch, check_additive, check_bundle, check_private, made
from train_help import one_thread, stepped  # noqa: F401

from aigc_rt.errors import InputError
from aigc_rt.train.generators import create
from aigc_rt.train.generators.cvae import Cvae
from aigc_rt.train.generators.family import DataSpec, sample

OBJECTIVES = list(Cvae.objectives)


def test_labels_are_needed() -> None:
    with pytest.raises(InputError, match="no labels"):
        create("cvae", DataSpec((1, 28, 28)), "sigma", {})


def test_the_label_is_a_condition_that_must_be_given() -> None:
    condition = made("cvae").program.conditions["label"]
    assert (condition.input, condition.dtype, condition.low, condition.high) == ("label", "int64", 0, 3)
    assert condition.names == ("ant", "bee", "cat", "dog")
    assert condition.default is None


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_weight_trains(objective: str) -> None:
    family = made("cvae", objective)
    before = {name: value.clone() for name, value in family.vae.named_parameters()}
    stepped(family, objective)
    assert all(not torch.equal(value, before[name]) for name, value in family.vae.named_parameters())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_label_changes_the_sample(objective: str) -> None:
    family = made("cvae", objective)
    decoder = family.graphs(family.networks)["decoder"]
    ones, twos = (sample(decoder, family.program, 0, 4, conditions={"label": k}) for k in (1, 2))
    assert all((a != b).any() for a, b in zip(ones, twos, strict=True))
    mixed = sample(decoder, family.program, 0, 4, conditions={"label": np.array([1, 2, 1, 2])})
    assert np.abs(mixed[::2].astype(int) - ones[::2]).max() <= 1
    assert np.abs(mixed[1::2].astype(int) - twos[1::2]).max() <= 1


def test_the_label_changes_the_posterior_and_the_way_back() -> None:
    family, given = made("cvae"), batch()
    assert given.labels is not None
    graphs, other = family.graphs(family.networks), (given.labels + 1) % 4
    mean, _ = graphs["encoder"](given.images, given.labels)
    assert not torch.allclose(mean, graphs["encoder"](given.images, other)[0], atol=1e-2)
    code, _ = family.vae.encoder(given.images, given.labels)
    made_again = family.vae.decoder.image(code, given.labels)
    torch.testing.assert_close(graphs["decoder"](mean, given.labels), made_again, rtol=1e-3, atol=1e-4)


def test_measures_are_of_the_right_labels() -> None:
    family, given = made("cvae"), batch()
    assert given.labels is not None
    found = family.measures(family.networks, given)
    mean, _ = family.vae.encoder(given.images, given.labels)
    mse = ((family.vae.decoder.image(mean, given.labels) - given.images) / 2).square().flatten(1).mean(1)
    torch.testing.assert_close(found["mse"], mse)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_losses_are_means_over_images(objective: str) -> None:
    check_additive(made("cvae", objective))


@pytest.mark.parametrize("objective", list(Cvae.private))
def test_private_objectives_have_per_sample_gradients(objective: str) -> None:
    check_private(made("cvae", objective))


def test_a_bundle_takes_the_label(tmp_path: Path) -> None:
    check_bundle(made("cvae"), tmp_path / "tiny", label=3)
