"""The GAN of the classic tutorial, on flat images: Goodfellow et al., "Generative Adversarial Networks", 2014.

Two objectives: `r3gan`, the default, and `bce`, the textbook one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc_rt.errors import RunError
from aigc_rt.manifest import Feedforward, Media, Noise
from aigc_rt.train.task import Batch, Loss, Recipe

SLOPE = 0.2
_WIDEST = 1 << 20
_DEEPEST = 64
_LARGEST = 1e6


@dataclass(frozen=True)
class GanConfig:
    """What is not in the data.

    Attributes:
        latent: length of z.
        widths: the generator's hidden layers; the discriminator has them in reverse.
        penalty: weight of R1 + R2, each the mean squared norm of the discriminator's gradient (`r3gan`).
        real_label: what the discriminator is to say of real images (`bce`); 0.9 is the usual smoothing.
    """

    latent: int = 100
    widths: tuple[int, ...] = (256, 512)
    penalty: float = 5.0
    real_label: float = 1.0


def _config(given: dict[str, Any]) -> GanConfig:
    """The settings that a run recorded."""

    def width(value: Any) -> bool:
        return type(value) is int and 1 <= value <= _WIDEST

    def number(value: Any) -> bool:
        return type(value) in (int, float) and abs(value) <= _LARGEST  # not so of NaN

    def widths(value: Any) -> bool:
        return isinstance(value, (list, tuple)) and len(value) <= _DEEPEST and all(map(width, value))

    fits: dict[str, Callable[[Any], bool]] = {
        "latent": width,
        "widths": widths,
        "penalty": number,
        "real_label": number,
    }
    wrong = [key for key, value in given.items() if key not in fits or not fits[key](value)]
    if wrong:
        raise RunError(
            "make the networks of a gan",
            f"{', '.join(map(str, wrong))[:80]} cannot be what it is in its config",
            f"Give {', '.join(fits)}: whole numbers from 1 to {_WIDEST:,}, a list of such, and finite numbers",
        )
    settings: dict[str, Any] = {k: tuple(v) if k == "widths" else v for k, v in given.items()}
    return GanConfig(**settings)


class Generator(nn.Module):
    """z, (B, latent), to images, (B, C, H, W) in [-1, 1]."""

    def __init__(self, shape: tuple[int, int, int], config: GanConfig) -> None:
        super().__init__()
        self.shape = shape
        sizes = (config.latent, *config.widths)
        hidden = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(sizes[-1], math.prod(shape)), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        """The images of z."""
        image: Tensor = self.layers(z)  # (B, C * H * W)
        return image.reshape(-1, *self.shape)  # (B, C, H, W)


class Discriminator(nn.Module):
    """Images, (B, C, H, W), to one logit each, (B,); its sigmoid is the chance that the image is real."""

    def __init__(self, shape: tuple[int, int, int], config: GanConfig) -> None:
        super().__init__()
        sizes = (math.prod(shape), *reversed(config.widths))
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
    objectives: ClassVar[dict[str, Recipe]] = {
        "r3gan": Recipe(90, batch=64, lr=1e-3, betas=(0.0, 0.99), schedule="trapezoid", final_lr=0.02, threads=1),
        "bce": Recipe(100, batch=128, lr=2e-4, betas=(0.5, 0.999), threads=1),
    }

    def __init__(self, shape: tuple[int, int, int], objective: str, config: GanConfig) -> None:
        self.generator = Generator(shape, config)
        self.discriminator = Discriminator(shape, config)
        self.networks = {"generator": self.generator, "discriminator": self.discriminator}
        self.settings = config
        self.config = asdict(config)
        self.losses = {"r3gan": self.r3gan, "bce": self.bce}[objective]
        self.program = Feedforward(
            graph="generator",
            noise={"z": Noise(stream=0, distribution="normal", shape=(config.latent,))},
            media=Media(kind="image", output="image", layout="NCHW", low=-1.0, high=1.0),
        )

    @classmethod
    def create(cls, shape: tuple[int, int, int], objective: str, config: dict[str, Any] | None = None) -> Self:
        """See `Family.create`."""
        return cls(shape, objective, _config(config or {}))

    def bce(self, batch: Batch) -> Iterator[Loss]:
        """Binary cross-entropy; the generator's loss is the non-saturating one."""
        made = self.generator(batch.normal((self.settings.latent,)))  # (B, C, H, W)
        real, fake = self.discriminator(batch.images), self.discriminator(made.detach())  # (B,), (B,)
        one, zero = torch.full_like(real, self.settings.real_label), torch.zeros_like(fake)
        told = F.binary_cross_entropy_with_logits(real, one) + F.binary_cross_entropy_with_logits(fake, zero)
        yield Loss("discriminator", told, {"real": real.sigmoid().mean(), "made": fake.sigmoid().mean()})
        taken = self.discriminator(made)  # by the discriminator that has just learned
        yield Loss("generator", F.binary_cross_entropy_with_logits(taken, torch.ones_like(taken)))

    def r3gan(self, batch: Batch) -> Iterator[Loss]:
        """Relativistic pairing loss with R1 and R2."""
        count = len(batch.images)
        made = self.generator(batch.normal((self.settings.latent,)))  # (B, C, H, W)
        both = torch.cat([batch.images, made.detach()])  # (2 B, C, H, W)
        logits, slopes = self.discriminator.with_slopes(both)  # (2 B,), (2 B, C * H * W)
        penalty = slopes.square().sum() / count  # R1 + R2
        told = F.softplus(logits[count:] - logits[:count]).mean()
        yield Loss("discriminator", told + self.settings.penalty * penalty, {"penalty": penalty})
        with torch.no_grad():
            real = self.discriminator(batch.images)
        yield Loss("generator", F.softplus(real - self.discriminator(made)).mean())
