"""The losses of adversarial training, on logits: shared by every family with a discriminator.

Each is a mean over the batch of one term a sample. `real` and `made` are a discriminator's logits, (B,) each, of real
images and of made ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Adversary:
    """What the two networks are told.

    Attributes:
        discriminator: its loss, of (real, made).
        generator: the generator's, of (real, made).
        relative: the generator's loss depends on `real`, else any tensor will do there.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    relative: bool = False


def told_apart(real: Tensor, made: Tensor, real_label: float = 1.0) -> Tensor:
    """Binary cross-entropy of telling real from made (Goodfellow et al. 2014).

    `real_label` is what to say of real images; 0.9 is one-sided smoothing (Salimans et al. 2016).
    """
    one, zero = torch.full_like(real, real_label), torch.zeros_like(made)
    return F.binary_cross_entropy_with_logits(real, one) + F.binary_cross_entropy_with_logits(made, zero)


def taken_for_real(made: Tensor) -> Tensor:
    """The non-saturating loss of a generator: cross-entropy of its images' being called real."""
    return F.binary_cross_entropy_with_logits(made, torch.ones_like(made))


def hinge(real: Tensor, made: Tensor) -> Tensor:
    """Real above 1, made below -1 (Lim and Ye 2017; Miyato et al. 2018)."""
    return F.relu(1.0 - real).mean() + F.relu(1.0 + made).mean()


def relativistic(better: Tensor, worse: Tensor) -> Tensor:
    """Relativistic pairing loss (Jolicoeur-Martineau 2018): each of `better` above its partner in `worse`."""
    return F.softplus(worse - better).mean()


def slopes(logits: Tensor, images: Tensor) -> Tensor:
    """Gradient of each logit with respect to its image, (B, C, H, W), to be differentiated once more."""
    (found,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return found


def steepness(slopes: Tensor) -> Tensor:
    """Squared norm of each gradient: (B, ...) to (B,). Its mean at real images is R1 and at made ones R2
    (Mescheder, Geiger, Nowozin, "Which Training Methods for GANs do actually Converge?", 2018).
    """
    return slopes.square().flatten(1).sum(1)


def adversaries(real_label: float) -> dict[str, Adversary]:
    """By the name of the objective."""
    return {
        "r3gan": Adversary(relativistic, lambda real, made: relativistic(made, real), relative=True),
        "bce": Adversary(partial(told_apart, real_label=real_label), lambda _real, made: taken_for_real(made)),
        "hinge": Adversary(hinge, lambda _real, made: -made.mean()),
    }
