"""The convolutional GAN: Radford, Metz, Chintala, "Unsupervised Representation Learning with Deep Convolutional
Generative Adversarial Networks", 2015.

Three objectives: `r3gan`, the default, `bce`, the textbook one, and `hinge`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from aigc_rt.errors import InputError
from aigc_rt.manifest import Feedforward, Media, Noise
from aigc_rt.train import diff_augment
from aigc_rt.train.generators import adversarial
from aigc_rt.train.generators.family import DataSpec
from aigc_rt.train.settings import between
from aigc_rt.train.task import Batch, Loss, Recipe

SLOPE = 0.2
STAGES = {28: 2, 32: 3, 64: 4}
"""How often an image of that side is halved; the smallest maps are 7 x 7 or 4 x 4."""


@dataclass(frozen=True)
class Settings:
    """What is not in the data. None and "usual" stand for what is usual for the objective, see `USUAL`.

    Attributes:
        latent: length of z.
        width: channels of the largest maps; every halving doubles them.
        hidden: units of the dense layer that each network has beside its smallest maps, to see the image as a whole;
            0 is none.
        norm: of both networks' maps; "group" has groups of 16 channels. A discriminator with spectral_norm has no
            other norm.
        spectral_norm: the discriminator's layers are divided by their largest singular values (Miyato et al. 2018).
        upsampling: how the generator doubles its maps: "transpose" is a 4 x 4 transposed convolution; "nearest"
            repeats pixels and "shuffle" rearranges channels (Shi et al. 2016), each beside a 3 x 3 convolution.
        penalty: weight of R1 + R2, the mean squared norms of the discriminator's gradient at real and made images.
        penalty_every: only one image in so many bears the penalty, as many times as strong: a double backward pass
            costs more than all the rest.
        real_label: what the discriminator is to say of real images (`bce`); 0.9 is the usual smoothing.
        diff_augment: changes through which the discriminator sees all images, as "color,translation,cutout"; see
            `aigc_rt.train.diff_augment`. It helps where images are few.
    """

    latent: int = between(1, 1 << 20, 64)
    width: int = between(1, 1 << 12, 32)
    hidden: int | None = between(0, 1 << 16, None)
    norm: Literal["usual", "none", "batch", "group"] = "usual"
    spectral_norm: bool | None = None
    upsampling: Literal["transpose", "nearest", "shuffle"] = "transpose"
    penalty: float | None = between(0, 1e6, None)
    penalty_every: int = between(1, 1 << 16, 4)
    real_label: float = between(0, 1, 1.0)
    diff_augment: str = ""


USUAL: Mapping[str, Mapping[str, Any]] = {
    "r3gan": {"hidden": 256, "norm": "none", "spectral_norm": False, "penalty": 1.0},
    "bce": {"hidden": 0, "norm": "batch", "spectral_norm": False, "penalty": 0.0},
    "hinge": {"hidden": 0, "norm": "batch", "spectral_norm": True, "penalty": 0.0},
}
"""Settings that depend on the objective."""


def settled(settings: Settings, objective: str) -> Settings:
    """The settings with the objective's usual ones where none are given."""
    left = {n: v for n, v in USUAL[objective].items() if getattr(settings, n) in (None, "usual")}
    return dataclasses.replace(settings, **left)


def _maps(data: DataSpec, width: int) -> list[int]:
    """Channels of the maps, the image's first, each half as wide as the one before.

    Raises:
        InputError: the images are of another size than those in STAGES.
    """
    channels, height, width_px = data.shape
    if height != width_px or height not in STAGES:
        raise InputError(
            f"make images of {height} x {width_px} pixels with convolutions",
            f"they can be {', '.join(map(str, STAGES))} pixels square",
            "Train with --size 32, say, or train the family gan",
        )
    return [channels, *(width << k for k in range(STAGES[height]))]


def _norm(kind: str, channels: int) -> list[nn.Module]:
    if kind == "batch":
        return [nn.BatchNorm2d(channels)]
    return [nn.GroupNorm(channels // math.gcd(channels, 16), channels)] if kind == "group" else []


def _transpose(a: int, b: int) -> list[nn.Module]:
    return [nn.ConvTranspose2d(a, b, 4, 2, 1)]


def _nearest(a: int, b: int) -> list[nn.Module]:
    return [nn.Upsample(scale_factor=2), nn.Conv2d(a, b, 3, padding=1)]


def _shuffle(a: int, b: int) -> list[nn.Module]:
    return [nn.Conv2d(a, 4 * b, 3, padding=1), nn.PixelShuffle(2)]


_DOUBLED: dict[str, Callable[[int, int], list[nn.Module]]] = {
    "transpose": _transpose,
    "nearest": _nearest,
    "shuffle": _shuffle,
}


class Generator(nn.Module):
    """z, (B, latent), to images, (B, C, H, W) in [-1, 1]."""

    def __init__(self, data: DataSpec, settings: Settings) -> None:
        super().__init__()
        maps = _maps(data, settings.width)[::-1]
        side = data.shape[1] >> STAGES[data.shape[1]]
        sizes = (settings.latent, *([settings.hidden] if settings.hidden else []), maps[0] * side * side)
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layers += [*([nn.ReLU()] if layers else []), nn.Linear(a, b)]
        layers.append(nn.Unflatten(1, (maps[0], side, side)))
        for a, b in itertools.pairwise(maps):
            layers += [*_norm(settings.norm, a), nn.ReLU(), *_DOUBLED[settings.upsampling](a, b)]
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        """The images of z."""
        image: Tensor = self.layers(z)  # (B, C, H, W)
        return image


class Discriminator(nn.Module):
    """Images, (B, C, H, W), to one logit each, (B,); its sigmoid is the chance that the image is real."""

    def __init__(self, data: DataSpec, settings: Settings) -> None:
        super().__init__()
        maps = _maps(data, settings.width)
        bound: Callable[[Any], nn.Module] = spectral_norm if settings.spectral_norm else lambda layer: layer
        layers: list[nn.Module] = []
        for number, (a, b) in enumerate(itertools.pairwise(maps)):
            norm = [] if settings.spectral_norm or number == 0 else _norm(settings.norm, b)
            layers += [bound(nn.Conv2d(a, b, 4, 2, 1)), *norm, nn.LeakyReLU(SLOPE)]
        layers.append(nn.Flatten())
        self.features = maps[-1] * (data.shape[1] >> (len(maps) - 1)) ** 2
        if settings.hidden:
            layers += [bound(nn.Linear(self.features, settings.hidden)), nn.LeakyReLU(SLOPE)]
            self.features = settings.hidden
        self.body = nn.Sequential(*layers)
        self.last = bound(nn.Linear(self.features, 1))

    def forward(self, image: Tensor) -> Tensor:
        """The logits."""
        x = self.body(image)  # (B, features)
        logits: Tensor = self.last(x)  # (B, 1)
        return logits.squeeze(1)  # (B,)


class Dcgan:
    """The family `dcgan`.

    `r3gan` (Huang, Gokaslan, Kuleshov, Tompkin, "The GAN is dead; long live the GAN! A Modern GAN Baseline",
    arXiv 2501.05441) compares each made image with a real one and penalises the discriminator's gradient at both.
    `bce` is the textbook recipe. `hinge` is that of Miyato, Kataoka, Koyama, Yoshida, "Spectral Normalization for
    Generative Adversarial Networks", 2018.

    With differential privacy (`bce`, `hinge`) no layer of the discriminator may mix images or compute its weights
    anew: norm="group" or "none", spectral_norm=false.
    """

    averaged = ("generator",)
    settings_type: ClassVar[type[Settings]] = Settings
    further: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    private: ClassVar[Mapping[str, str]] = {"bce": "discriminator", "hinge": "discriminator"}
    objectives: ClassVar[Mapping[str, Recipe]] = {
        "r3gan": Recipe(40, batch=64, lr=2e-3, betas=(0.0, 0.99), schedule="trapezoid", final_lr=0.02, threads=1),
        "bce": Recipe(60, batch=64, lr=2e-4, betas=(0.5, 0.999), threads=1),
        "hinge": Recipe(60, batch=64, lr=2e-4, betas=(0.0, 0.9), threads=1),
    }

    def __init__(self, data: DataSpec, objective: str, settings: Settings) -> None:
        self.settings = settled(settings, objective)
        self._policy = tuple(name for name in self.settings.diff_augment.split(",") if name)
        diff_augment.check_policy(self._policy)
        self.generator, self.discriminator = self.build(data)
        self.networks = {"generator": self.generator, "discriminator": self.discriminator}
        if objective not in self.private:  # opacus takes channels-last maps for others: its gradients would be zero
            for network in self.networks.values():
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.program = Feedforward(
            graph="generator",
            noise={"z": Noise(stream=0, distribution="normal", shape=(self.settings.latent,))},
            media=Media(kind="image", output="image", layout="NCHW", low=-1.0, high=1.0),
        )
        self._adversary = adversarial.adversaries(self.settings.real_label)[objective]

    def build(self, data: DataSpec) -> tuple[nn.Module, nn.Module]:
        """The generator and the discriminator."""
        return Generator(data, self.settings), Discriminator(data, self.settings)

    def conditions(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the discriminator is told besides a real image."""
        return ()

    def asked(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the generator is told besides z, and the discriminator besides a made image."""
        return ()

    def graphs(self, networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
        """See `Family.graphs`."""
        return {"generator": networks["generator"]}

    def measures(self, networks: Mapping[str, nn.Module], batch: Batch) -> dict[str, Tensor]:
        """Nothing: a GAN has no likelihood and no encoder."""
        return {}

    def losses(self, batch: Batch) -> Iterator[Loss]:
        """The discriminator's loss with its penalty, then the generator's."""
        given, asked, judge = self.conditions(batch), self.asked(batch), self.discriminator
        real = self._seen(batch, batch.images, 1)
        made = self._seen(batch, self.generator(batch.normal((self.settings.latent,)), *asked), 2)  # (B, C, H, W)
        shown = made.detach()
        at_real, at_made = judge(real, *given), judge(shown, *asked)  # (B,), (B,)
        told = self._adversary.discriminator(at_real, at_made)
        watched = {"real": at_real.mean(), "made": at_made.mean()}
        if self.settings.penalty:
            watched["penalty"] = self._penalty(batch.first, (real, *given), (shown, *asked))
            told = told + self.settings.penalty * watched["penalty"]
        yield Loss("discriminator", told, watched)
        if self._adversary.relative:
            with torch.no_grad():
                at_real = judge(real, *given)
        yield Loss("generator", self._adversary.generator(at_real, judge(made, *asked)))

    def _seen(self, batch: Batch, images: Tensor, stream: int) -> Tensor:
        """The images as the discriminator sees them."""
        if not self._policy:
            return images
        return diff_augment.diff_augment(images, batch.uniform((diff_augment.UNIFORMS,), stream), self._policy)

    def _penalty(self, first: int, real: tuple[Tensor, ...], made: tuple[Tensor, ...]) -> Tensor:
        """R1 + R2, a mean over the batch, of which the first image is number `first` of the run.

        `real` and `made` are images, (B, C, H, W) each, and what the discriminator is told besides them.
        """
        every = self.settings.penalty_every
        borne = slice(-first % every, None, every)
        seen, *told = (torch.cat([a[borne], b[borne]]) for a, b in zip(real, made, strict=True))
        logits = self.discriminator(seen.requires_grad_(), *told)
        return adversarial.steepness(adversarial.slopes(logits, seen)).sum() * every / len(made[0])
