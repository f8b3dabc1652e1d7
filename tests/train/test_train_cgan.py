"""The class-conditional GAN: what the label does, and that a bundle takes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_train_dcgan import batch, made
from train_help import one_thread  # noqa: F401

import aigc_rt
from aigc_rt.errors import InputError
from aigc_rt.train.generators import create
from aigc_rt.train.generators.family import DataSpec, sample, trained


def test_labels_are_needed() -> None:
    with pytest.raises(InputError, match="no labels"):
        create("cgan", DataSpec((1, 28, 28)), "r3gan", {})


def test_the_label_is_a_condition_that_must_be_given() -> None:
    names = ("ant", "bee", "cat")
    family = create("cgan", DataSpec((1, 28, 28), 3, names), "r3gan", {"width": 8})
    condition = family.program.conditions["label"]
    assert (condition.input, condition.dtype, condition.low, condition.high) == ("label", "int64", 0, 2)
    assert condition.names == names
    assert condition.default is None


def test_the_label_changes_the_sample() -> None:
    family = made("cgan")
    ones, twos = (sample(family.generator, family.program, 0, 4, conditions={"label": k}) for k in (1, 2))
    assert all((a != b).any() for a, b in zip(ones, twos, strict=True))
    mixed = sample(family.generator, family.program, 0, 4, conditions={"label": np.array([1, 2, 1, 2])})
    assert np.abs(mixed[::2].astype(int) - ones[::2]).max() <= 1
    assert np.abs(mixed[1::2].astype(int) - twos[1::2]).max() <= 1


def test_the_discriminator_is_told_the_class() -> None:
    family, given = made("cgan"), batch()
    assert given.labels is not None
    right, wrong = (family.discriminator(given.images, label) for label in (given.labels, (given.labels + 1) % 4))
    assert (right != wrong).all()
    # Miyato and Koyama: the logit of the image alone, plus the class's vector times the features.
    net = family.discriminator
    features = net.images.body(given.images)
    expected = net.images(given.images) + torch.einsum("bf,bf->b", net.embedding.weight[given.labels], features)
    torch.testing.assert_close(right, expected)


@pytest.mark.parametrize("upsampling", ["transpose", "nearest", "shuffle"])
def test_a_bundle_takes_the_label(upsampling: str, tmp_path: Path) -> None:
    from aigc_rt.export import export

    family = made("cgan", norm="batch", upsampling=upsampling)
    found = trained(family, family.networks, "tiny", {}, None)
    path = tmp_path / "tiny"
    export(found.module, found.example_inputs, path, program=found.program, dynamic=found.dynamic, precisions=("fp32",))
    with aigc_rt.load(path, device="cpu") as generator:
        ours = generator.generate(5, seed=2, label=3).array
        with pytest.raises(InputError, match="label"):
            generator.generate(1)
    theirs = sample(found.module, found.program, 2, 5, conditions={"label": 3})
    assert np.abs(ours.astype(int) - theirs).max() <= 1
