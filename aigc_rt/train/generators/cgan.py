"""The class-conditional convolutional GAN: dcgan's networks, told the class. The discriminator's projection is that of
Miyato and Koyama, "cGANs with Projection Discriminator", 2018.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from aigc_rt.errors import InputError
from aigc_rt.manifest import Condition
from aigc_rt.train.generators import dcgan
from aigc_rt.train.generators.dcgan import Dcgan, Settings
from aigc_rt.train.generators.family import DataSpec
from aigc_rt.train.task import Batch


class Generator(nn.Module):
    """z, (B, latent), and classes, (B,) int64, to images, (B, C, H, W) in [-1, 1]."""

    def __init__(self, data: DataSpec, settings: Settings) -> None:
        super().__init__()
        self.embedding = nn.Embedding(data.classes, settings.latent)
        self.images = dcgan.Generator(data, dataclasses.replace(settings, latent=2 * settings.latent))

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        """The images of z, each of its class."""
        image: Tensor = self.images(torch.cat([z, self.embedding(label)], 1))  # (B, C, H, W)
        return image


class Discriminator(nn.Module):
    """Images, (B, C, H, W), and their classes, (B,) int64, to one logit each, (B,)."""

    def __init__(self, data: DataSpec, settings: Settings) -> None:
        super().__init__()
        self.images = dcgan.Discriminator(data, settings)
        self.embedding = nn.Embedding(data.classes, self.images.features)
        nn.init.normal_(self.embedding.weight, std=self.images.features**-0.5)

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        """The logits: of the image alone, and how well its features go with its class."""
        x = self.images.body(image)  # (B, features)
        logits: Tensor = self.images.last(x).squeeze(1) + (self.embedding(label) * x).sum(1)  # (B,)
        return logits


class Cgan(Dcgan):
    """The family `cgan`: objectives and settings are dcgan's."""

    def __init__(self, data: DataSpec, objective: str, settings: Settings) -> None:
        if not data.classes:
            raise InputError(
                "train cgan",
                "the images have no labels",
                "Give labels (sub-folders named after the classes), or train the family dcgan",
            )
        super().__init__(data, objective, settings)
        condition = Condition(input="label", dtype="int64", low=0, high=data.classes - 1, names=data.class_names)
        self.program = dataclasses.replace(self.program, conditions={"label": condition})

    def build(self, data: DataSpec) -> tuple[nn.Module, nn.Module]:
        """The generator and the discriminator."""
        return Generator(data, self.settings), Discriminator(data, self.settings)

    def conditions(self, batch: Batch) -> tuple[Tensor, ...]:
        """The classes of the real images."""
        assert batch.labels is not None
        return (batch.labels,)

    def asked(self, batch: Batch) -> tuple[Tensor, ...]:
        """The classes that made images are to be of."""
        assert batch.asked is not None
        return (batch.asked,)
