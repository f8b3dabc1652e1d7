"""The networks of the autoencoders: convolutional, halved down to a side of 4 to 7 and doubled back up.

No layer mixes the images of a batch and none works in place, so that per-sample gradients can be taken of all.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc_rt.errors import InputError
from aigc_rt.train.generators.flow import Flow
from aigc_rt.train.generators.likelihood import Bernoulli, Gaussian, divergence

Shape = tuple[int, int, int]
LARGEST = 7
"""Longest side of the smallest feature maps."""
LOG_VARIANCE = (-12.0, 6.0)
"""Of the posterior; far from what fp16 cannot hold."""
HIDDEN = 128
"""Width of the prior's layers."""


@dataclass(frozen=True)
class Sizes:
    """Of the networks; see `vae.Settings`."""

    latent: int
    width: int
    blocks: int
    couplings: int


def halvings(shape: Shape) -> int:
    """How often images (C, H, W) are halved: at least once.

    Raises:
        InputError: a side is too short, or not even so often.
    """
    _, height, width = shape
    count = 1
    while max(height, width) >> count > LARGEST:
        count += 1
    if min(height, width) >> count < 2 or height % (1 << count) or width % (1 << count):
        step = 1 << count
        near = max(8, round(max(height, width) / step) * step)
        raise InputError(
            f"make an autoencoder for images of {height} x {width}",
            f"they are halved {count} times: sides are multiples of {step}, 28, 32 and 64 are",
            f"Resize the images, with --size {near} say",
        )
    return count


def widths(count: int, width: int) -> list[int]:
    """Channels after each of `count` halvings."""
    return [width * min(1 << level, 4) for level in range(count)]


class Block(nn.Module):
    """A residual block of two convolutions, the second starting from zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = conv(width, width), conv(width, width)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W), in and out."""
        changed: Tensor = x + self.second(F.relu(self.first(F.relu(x))))
        return changed


def conv(given: int, made: int, stride: int = 1) -> nn.Conv2d:
    """A 3 x 3 convolution that keeps the size, or divides it by `stride`; its bias starts from zero."""
    layer = nn.Conv2d(given, made, 3, stride, padding=1)
    assert layer.bias is not None
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


class Encoder(nn.Module):
    """Images, (B, C, H, W) in [-1, 1], to mean and log variance of the posterior of their codes, (B, latent) each."""

    def __init__(self, shape: Shape, sizes: Sizes) -> None:
        super().__init__()
        channels = widths(count := halvings(shape), sizes.width)
        self.stem = conv(shape[0], sizes.width, 2)
        layers: list[nn.Module] = [Block(sizes.width) for _ in range(sizes.blocks)]
        for given, made in itertools.pairwise(channels):
            layers += [nn.ReLU(), conv(given, made, 2), *(Block(made) for _ in range(sizes.blocks))]
        self.layers = nn.Sequential(*layers, nn.ReLU(), nn.Flatten())
        self.last = nn.Linear(channels[-1] * (shape[1] >> count) * (shape[2] >> count), 2 * sizes.latent)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance."""
        return self.posterior(self.stem(image))

    def posterior(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, of the stem's features, (B, width, H / 2, W / 2)."""
        mean, log_variance = self.last(self.layers(features)).chunk(2, dim=1)  # (B, latent), (B, latent)
        return mean, log_variance.clamp(*LOG_VARIANCE)


class Decoder(nn.Module):
    """z, (B, latent), to images, (B, C, H, W) in [-1, 1], by way of their codes."""

    def __init__(self, shape: Shape, sizes: Sizes, classes: int = 0) -> None:
        super().__init__()
        channels = widths(count := halvings(shape), sizes.width)
        self.smallest = (channels[-1], shape[1] >> count, shape[2] >> count)
        self.prior = Flow(sizes.latent, sizes.couplings, HIDDEN, classes)
        self.first = nn.Linear(sizes.latent, math.prod(self.smallest))
        layers: list[nn.Module] = [Block(channels[-1]) for _ in range(sizes.blocks)]
        for given, made in itertools.pairwise(reversed(channels)):
            layers += [nn.ReLU(), conv(given, 4 * made), nn.PixelShuffle(2)]
            layers += [Block(made) for _ in range(sizes.blocks)]
        self.layers = nn.Sequential(*layers, nn.ReLU(), conv(channels[0], 4 * shape[0]), nn.PixelShuffle(2))

    def forward(self, z: Tensor) -> Tensor:
        """The images of z."""
        return self.image(self.prior.inverse(z))

    def image(self, code: Tensor) -> Tensor:
        """The images of codes."""
        return torch.tanh(0.5 * self.logits(code))

    def logits(self, code: Tensor) -> Tensor:
        """Their sigmoids are the images in [0, 1], (B, C, H, W)."""
        return self.pixels(self.first(code))

    def pixels(self, features: Tensor) -> Tensor:
        """The logits, of the first layer's features."""
        made: Tensor = self.layers(features.reshape(-1, *self.smallest))
        return made


class Inference(nn.Module):
    """What is exported as the encoder: z, which the decoder takes, and not the code within it."""

    def __init__(self, encoder: Encoder, prior: Flow) -> None:
        super().__init__()
        self.encoder, self.prior = encoder, prior

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The z of the posterior's mean and its log variance, exact where there is no flow, else to first order."""
        mean, log_variance = self.prior(*self.encoder(image))
        return mean, log_variance


class Passed(NamedTuple):
    """What becomes of images, by way of one sample of their posteriors."""

    code: Tensor
    """(B, latent)"""
    logits: Tensor
    """(B, C, H, W)"""
    kl: Tensor
    """Divergence of the posterior from the prior in nats, (B,): exact, or by the sample where the prior is learned."""


class Autoencoder(nn.Module):
    """An encoder, a decoder, and what its logits say of images: trained as one."""

    def __init__(self, encoder: Encoder, decoder: Decoder, likelihood: Gaussian | Bernoulli) -> None:
        super().__init__()
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood

    def forward(self, image: Tensor, noise: Tensor, **given: Tensor) -> Passed:
        """Of images (B, C, H, W), standard normals (B, latent), and conditions."""
        mean, log_variance = (half.to(image.dtype) for half in self.encoder(image, **given))  # (B, latent), (B, latent)
        code = mean + (0.5 * log_variance).exp() * noise
        logits = self.decoder.logits(code, **given).to(image.dtype)  # autocast's are coarser
        if not len(self.decoder.prior.couplings):
            return Passed(code, logits, divergence(mean, log_variance))
        z, log_variance = self.decoder.prior(code, log_variance, **given)
        return Passed(code, logits, 0.5 * (z.square() - 1.0 - log_variance).sum(1))
