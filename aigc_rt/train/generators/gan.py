"""The GAN of the classic tutorial, on flat images: Goodfellow et al., "Generative Adversarial Networks", 2014.

Two objectives: `r3gan`, the default, and `bce`, the textbook one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc_rt.manifest import Feedforward, Media, Noise
from aigc_rt.train.generators.adversarial import relativistic, taken_for_real, told_apart
from aigc_rt.train.generators.family import DataSpec
from aigc_rt.train.settings import between
from aigc_rt.train.task import Batch, Loss, Recipe

SLOPE = 0.2


@dataclass(frozen=True)
class Settings:
    """What is not in the data.

    Attributes:
        latent: length of z.
        widths: the generator's hidden layers; the discriminator has them in reverse.
        penalty: weight of R1 + R2, each the mean squared norm of the discriminator's gradient (`r3gan`).
        real_label: what the discriminator is to say of real images (`bce`); 0.9 is the usual smoothing.
    """

    latent: int = between(1, 1 << 20, 100)
    widths: tuple[int, ...] = between(1, 1 << 20, (256, 512))
    penalty: float = between(0, 1e6, 5.0)
    real_label: float = between(0, 1, 1.0)


class Generator(nn.Module):
    """z, (B, latent), to images, (B, C, H, W) in [-1, 1]."""

    def __init__(self, shape: tuple[int, int, int], settings: Settings) -> None:
        super().__init__()
        self.shape = shape
        sizes = (settings.latent, *settings.widths)
        hidden = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(sizes[-1], math.prod(shape)), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        """The images of z."""
        image: Tensor = self.layers(z)  # (B, C * H * W)
        return image.reshape(-1, *self.shape)  # (B, C, H, W)


class Discriminator(nn.Module):
    """Images, (B, C, H, W), to one logit each, (B,); its sigmoid is the chance that the image is real."""

    def __init__(self, shape: tuple[int, int, int], settings: Settings) -> None:
        super().__init__()
        sizes = (math.prod(shape), *reversed(settings.widths))
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.last = nn.Linear(sizes[-1], 1)

    def forward(self, image: Tensor) -> Tensor:
        """The logits."""
        x = image.flatten(1)  # (B, C * H * W)
        for layer in self.hidden:
            x = F.leaky_relu(layer(x), SLOPE)
        logits: Tensor = self.last(x)  # (B, 1)
        return logits.squeeze(1)  # (B,)

    def with_slopes(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The logits, (B,), and the gradient of each with respect to its image, (B, C * H * W).

        The gradient is written out as the product of the layers' Jacobians, so that one plain backward pass through
        it does what would otherwise be a double backward: leaky ReLU's second derivative is zero.
        """
        x, gates = image.flatten(1), []
        for layer in self.hidden:
            before = layer(x)
            gates.append(torch.where(before.detach() > 0, 1.0, SLOPE))
            x = F.leaky_relu(before, SLOPE)
        slopes = self.last.weight  # (1, width), the same for every image so far
        for layer, gate in zip(reversed(self.hidden), reversed(gates), strict=True):
            slopes = (slopes * gate) @ layer.weight  # type: ignore[operator]
        return self.last(x).squeeze(1), slopes


class Gan:
    """The family `gan`.

    `bce` is the textbook recipe: the discriminator tells real from made by binary cross-entropy, the generator is
    taught to be taken for real. Sigmoid and cross-entropy are computed together, from logits.

    `r3gan` (Huang, Gokaslan, Kuleshov, Tompkin, "The GAN is dead; long live the GAN! A Modern GAN Baseline",
    arXiv 2501.05441) compares each made image with a real one, and penalises the discriminator's gradient at real
    (R1) and at made images (R2). The networks are the textbook ones.
    """

    averaged = ("generator",)
    settings_type: ClassVar[type[Settings]] = Settings
    further: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    private: ClassVar[Mapping[str, str]] = {"bce": "discriminator"}
    objectives: ClassVar[Mapping[str, Recipe]] = {
        "r3gan": Recipe(90, batch=64, lr=1e-3, betas=(0.0, 0.99), schedule="trapezoid", final_lr=0.02, threads=1),
        "bce": Recipe(100, batch=128, lr=2e-4, betas=(0.5, 0.999), threads=1),
    }

    def __init__(self, data: DataSpec, objective: str, settings: Settings) -> None:
        self.generator = Generator(data.shape, settings)
        self.discriminator = Discriminator(data.shape, settings)
        self.networks = {"generator": self.generator, "discriminator": self.discriminator}
        self.settings = settings
        self.losses = {"r3gan": self.r3gan, "bce": self.bce}[objective]
        self.program = Feedforward(
            graph="generator",
            noise={"z": Noise(stream=0, distribution="normal", shape=(settings.latent,))},
            media=Media(kind="image", output="image", layout="NCHW", low=-1.0, high=1.0),
        )

    def graphs(self, networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
        """See `Family.graphs`."""
        return {"generator": networks["generator"]}

    def measures(self, networks: Mapping[str, nn.Module], batch: Batch) -> dict[str, Tensor]:
        """Nothing: a GAN has no likelihood and no encoder."""
        return {}

    def bce(self, batch: Batch) -> Iterator[Loss]:
        """Binary cross-entropy; the generator's loss is the non-saturating one."""
        made = self.generator(batch.normal((self.settings.latent,)))  # (B, C, H, W)
        real, fake = self.discriminator(batch.images), self.discriminator(made.detach())  # (B,), (B,)
        told = told_apart(real, fake, self.settings.real_label)
        yield Loss("discriminator", told, {"real": real.sigmoid().mean(), "made": fake.sigmoid().mean()})
        yield Loss("generator", taken_for_real(self.discriminator(made)))  # it has just learned

    def r3gan(self, batch: Batch) -> Iterator[Loss]:
        """Relativistic pairing loss with R1 and R2."""
        count = len(batch.images)
        made = self.generator(batch.normal((self.settings.latent,)))  # (B, C, H, W)
        both = torch.cat([batch.images, made.detach()])  # (2 B, C, H, W)
        logits, slopes = self.discriminator.with_slopes(both)  # (2 B,), (2 B, C * H * W)
        penalty = slopes.square().sum() / count  # R1 + R2
        told = relativistic(logits[:count], logits[count:])
        yield Loss("discriminator", told + self.settings.penalty * penalty, {"penalty": penalty})
        with torch.no_grad():
            real = self.discriminator(batch.images)
        yield Loss("generator", relativistic(self.discriminator(made), real))
