"""A variational autoencoder with an adversary: Larsen, Sønderby, Larochelle, Winther, "Autoencoding beyond pixels using
a learned similarity metric", 2016.

Two objectives: `r3gan`, the default, and `features`, the textbook one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from aigc_rt.train.generators import adversarial, dcgan, vae
from aigc_rt.train.generators.dcgan import Discriminator
from aigc_rt.train.generators.family import DataSpec
from aigc_rt.train.generators.likelihood import Bernoulli, Gaussian
from aigc_rt.train.generators.vae import Vae
from aigc_rt.train.settings import between
from aigc_rt.train.task import Batch, Loss, Recipe

PRIOR = 1
"""Stream of the samples that the adversary sees; that of the posterior's is 0."""


@dataclass(frozen=True)
class Settings(vae.Settings):
    """What is not in the data: what `vae` has, and what follows.

    Attributes:
        adversarial: weight of the adversary's word against the negative ELBO, in nats a pixel and channel.
        penalty: weight of R1 + R2, the mean squared norms of the discriminator's gradient (`r3gan`).
        judge_width: channels of the discriminator's largest maps.
    """

    adversarial: float = between(0, 1e6, 0.05)
    penalty: float = between(0, 1e6, 5.0)
    judge_width: int = between(1, 1 << 12, 32)


class VaeGan(Vae):
    """The family `vaegan`.

    `r3gan` is `vae` with its learned prior, whose samples are also to pass for real, by the relativistic loss of
    `dcgan`. `features` is the paper: the error is that of the discriminator's features, and the decoder alone learns
    to be taken for real, with what it makes of posteriors and of the prior.
    """

    settings_type: ClassVar[type[Settings]] = Settings
    private: ClassVar[Mapping[str, str]] = {}
    objectives: ClassVar[Mapping[str, Recipe]] = {
        "r3gan": Recipe(3, batch=64, lr=1e-3, betas=(0.5, 0.99), schedule="trapezoid", final_lr=0.02, threads=1),
        "features": Recipe(6, batch=64, lr=3e-4, betas=(0.5, 0.999), threads=1),
    }
    likelihoods: ClassVar[Mapping[str, type[Gaussian | Bernoulli]]] = {"r3gan": Gaussian, "features": Bernoulli}
    couplings: ClassVar[Mapping[str, int]] = {"r3gan": 8, "features": 0}
    settings: Settings

    def __init__(self, data: DataSpec, objective: str, settings: Settings) -> None:
        super().__init__(data, objective, settings)
        norm: Literal["group", "none"] = "group" if objective == "features" else "none"
        self.discriminator = Discriminator(
            data, dcgan.Settings(width=settings.judge_width, norm=norm, spectral_norm=False)
        )
        self.networks = {"vae": self.vae, "discriminator": self.discriminator}
        self.steps = {"r3gan": self.r3gan, "features": self.features}[objective]

    def losses(self, batch: Batch) -> Iterator[Loss]:
        """Those of the objective."""
        return self.steps(batch)

    def r3gan(self, batch: Batch) -> Iterator[Loss]:
        """The negative ELBO, and samples of the prior against real images."""
        judge, decoder = self.discriminator, self.vae.decoder
        made = decoder(batch.normal((self.settings.latent,), PRIOR))  # (B, C, H, W)
        both = torch.cat([batch.images, made.detach()]).requires_grad_()  # (2 B, C, H, W)
        logits = judge(both)
        real, fake = logits.chunk(2)  # (B,), (B,)
        penalty = adversarial.steepness(adversarial.slopes(logits, both)).sum() / len(made)  # R1 + R2
        yield Loss("discriminator", adversarial.relativistic(real, fake) + self.settings.penalty * penalty)
        passed = self.passed(self.vae, batch)
        elbo = self.elbo(passed, batch.images)
        with torch.no_grad():
            real = judge(batch.images)
        taken = adversarial.relativistic(judge(made), real)
        yield Loss("vae", elbo + self.settings.adversarial * taken, {"elbo": elbo, "kl_nats": passed.kl.mean()})

    def features(self, batch: Batch) -> Iterator[Loss]:
        """The paper's three losses; the encoder's and the decoder's are one, because no part learns from another's."""
        judge, decoder = self.discriminator, self.vae.decoder
        passed, z = self.passed(self.vae, batch), batch.normal((self.settings.latent,), PRIOR)
        made = torch.cat([decoder.image(passed.code.detach()), decoder(z)])  # (2 B, C, H, W)
        yield Loss("discriminator", adversarial.told_apart(judge(batch.images), judge(made.detach())))
        with torch.no_grad():
            seen = judge.body(batch.images)  # (B, features)
        error = 0.5 * (judge.body(torch.tanh(0.5 * passed.logits)) - seen).square().sum(1)  # (B,)
        nats = (error + self.settings.beta * passed.kl).mean() / batch.images[0].numel()
        taken = adversarial.taken_for_real(judge(made))
        watched = {"error": error.mean(), "kl_nats": passed.kl.mean()}
        yield Loss("vae", nats + self.settings.adversarial * taken, watched)
