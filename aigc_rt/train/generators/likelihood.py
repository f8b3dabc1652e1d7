"""What a decoder's logits say of images: in training, and of the same images as the 8-bit pixels that they are.

Each is a module, because what it learns is trained with the decoder. All values are in nats, one an image.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 255
"""From the darkest to the brightest value of a pixel."""
SIGMA = 0.25
"""First deviation of the Gaussian."""


class Likelihood(Protocol):
    """The contract; sigmoid(logits) is the image in [0, 1], tanh(logits / 2) in [-1, 1]."""

    def nats(self, logits: Tensor, images: Tensor) -> Tensor:
        """What is trained on: logits and images in [-1, 1], (B, C, H, W) each, to (B,)."""

    def pixels(self, logits: Tensor, images: Tensor) -> Tensor:
        """The same of the images as 8-bit pixels, whose 256 values have chances that sum to 1."""

    def watched(self) -> dict[str, Tensor]:
        """Scalars worth a curve."""


class Gaussian(nn.Module):
    """Pixels in [-1, 1] around tanh(logits / 2), with one learned deviation sigma for all pixels of all images: Rybkin,
    Daniilidis, Levine, "Simple and Effective VAE Training with Calibrated Decoders", 2021.

    The weight of the error against the divergence, which beta-VAEs have to set, follows from sigma.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_sigma = nn.Linear(1, 1, bias=False)  # a layer, no bare parameter: per-sample gradients go by layers
        nn.init.constant_(self.log_sigma.weight, math.log(SIGMA))

    def nats(self, logits: Tensor, images: Tensor) -> Tensor:
        """Minus the log of the density."""
        error = ((0.5 * logits).tanh() - images).square().flatten(1).sum(1)  # (B,)
        log_sigma = self.log_sigma(torch.ones_like(error)[:, None]).squeeze(1)  # (B,)
        spread = images[0].numel() * (log_sigma + 0.5 * math.log(2.0 * math.pi))  # (B,)
        nats: Tensor = 0.5 * error * (-2.0 * log_sigma).exp() + spread
        return nats

    def pixels(self, logits: Tensor, images: Tensor) -> Tensor:
        """A value has the density's mass over its width of 2 / 255, the lowest and the highest all beyond, too."""
        mean, x, half = (0.5 * logits.double()).tanh(), images.double(), 1.0 / STEPS
        sigma = self.log_sigma.weight.double().exp()
        low = ((x - half - mean) / sigma).masked_fill(x < half - 1.0, -math.inf)
        high = ((x + half - mean) / sigma).masked_fill(x > 1.0 - half, math.inf)
        low, high = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)  # the tail that keeps its digits
        below_low: Tensor = torch.special.log_ndtr(low)
        below_high: Tensor = torch.special.log_ndtr(high)
        mass = below_high + torch.log1p(-(below_low - below_high).exp())  # (B, C, H, W), logs
        return -mass.flatten(1).sum(1)

    def watched(self) -> dict[str, Tensor]:
        """Sigma."""
        return {"sigma": self.log_sigma.weight.detach().exp().squeeze()}


class Bernoulli(nn.Module):
    """Pixels in [0, 1] as chances: the textbook's cross-entropy, which is no likelihood of pixels between 0 and 1."""

    def nats(self, logits: Tensor, images: Tensor) -> Tensor:
        """The cross-entropy of sigmoid(logits) with the images in [0, 1]."""
        targets = 0.5 * images + 0.5
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").flatten(1).sum(1)

    def pixels(self, logits: Tensor, images: Tensor) -> Tensor:
        """Value k has the chance p^(k / 255) (1 - p)^(1 - k / 255), p = sigmoid(logits), divided by the sum over all k:
        Loaiza-Ganem, Cunningham, "The continuous Bernoulli: fixing a pervasive error in variational autoencoders",
        2019, in 256 steps.
        """
        x = logits.double()
        slope = (x.abs() / STEPS).clamp_min(1e-9)
        # The sum over k of exp(-slope k) is a geometric one; for positive logits it is counted from the other end.
        total = (torch.expm1(-slope * (STEPS + 1)) / torch.expm1(-slope)).log() + F.relu(x)
        return (total - x * (0.5 * images.double() + 0.5)).flatten(1).sum(1)

    def watched(self) -> dict[str, Tensor]:
        """Nothing: it learns nothing."""
        return {}


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Of the posterior from the standard normal: (B, latent) each to (B,)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(1)
