"""The variational autoencoder, convolutional: Kingma and Welling, "Auto-Encoding Variational Bayes", 2013.

Two objectives: `sigma`, the default, and `bernoulli`, the textbook one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from aigc_rt.manifest import Condition, Feedforward, Media, Noise
from aigc_rt.train.generators.autoencoder import Autoencoder, Decoder, Encoder, Inference, Passed, Sizes
from aigc_rt.train.generators.family import DataSpec
from aigc_rt.train.generators.likelihood import Bernoulli, Gaussian
from aigc_rt.train.settings import between
from aigc_rt.train.task import Batch, Loss, Recipe


@dataclass(frozen=True)
class Settings:
    """What is not in the data.

    Attributes:
        latent: length of z.
        width: channels at half the image's size; they double with every further halving, up to four times as many.
        blocks: residual blocks at every size.
        couplings: of the learned prior (see `flow`); 0 is a standard normal, None the objective's own.
        beta: weight of the divergence from the prior (Higgins et al., "beta-VAE", 2017); 1 is the ELBO.
    """

    latent: int = between(1, 1 << 20, 24)
    width: int = between(1, 1 << 12, 32)
    blocks: int = between(0, 64, 0)
    couplings: int | None = between(0, 64, None)
    beta: float = between(0, 1e6, 1.0)


class Vae:
    """The family `vae`.

    `bernoulli` is the textbook recipe, which takes pixels for chances. `sigma` has a Gaussian likelihood and learns its
    deviation with the rest. Both losses are means over the images, whose noise has its own key.
    """

    averaged = ("vae",)
    likelihoods: ClassVar[Mapping[str, type[Gaussian | Bernoulli]]] = {"sigma": Gaussian, "bernoulli": Bernoulli}
    couplings: ClassVar[Mapping[str, int]] = {"sigma": 8, "bernoulli": 0}
    inference: ClassVar[type[Inference]] = Inference
    settings_type: ClassVar[type[Settings]] = Settings
    further: ClassVar[Mapping[str, tuple[str, ...]]] = {"encoder": ("mean", "log_variance")}
    private: ClassVar[Mapping[str, str]] = {"sigma": "vae", "bernoulli": "vae"}
    objectives: ClassVar[Mapping[str, Recipe]] = {
        "sigma": Recipe(8, batch=64, lr=2e-3, schedule="trapezoid", final_lr=0.02, threads=1),
        "bernoulli": Recipe(8, batch=64, lr=1e-3, threads=1),
    }

    def __init__(self, data: DataSpec, objective: str, settings: Settings) -> None:
        couplings = self.couplings[objective] if settings.couplings is None else settings.couplings
        self.settings = settings
        self.sizes = Sizes(settings.latent, settings.width, settings.blocks, couplings)
        self.vae = Autoencoder(*self.halves(data), self.likelihoods[objective]())
        self.networks: dict[str, nn.Module] = {"vae": self.vae}
        self.program = Feedforward(
            graph="decoder",
            noise={"z": Noise(stream=0, distribution="normal", shape=(settings.latent,))},
            media=Media(kind="image", output="image", layout="NCHW", low=-1.0, high=1.0),
            conditions=self.conditions(data),
        )

    def halves(self, data: DataSpec) -> tuple[Encoder, Decoder]:
        """The encoder and the decoder."""
        return Encoder(data.shape, self.sizes), Decoder(data.shape, self.sizes)

    def conditions(self, data: DataSpec) -> dict[str, Condition]:
        """What both are told besides z or the image, by name."""
        return {}

    def given(self, batch: Batch) -> dict[str, Tensor]:
        """The conditions of a batch, by name."""
        return {}

    def graphs(self, networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
        """See `Family.graphs`."""
        vae = _autoencoder(networks)
        return {"decoder": vae.decoder, "encoder": self.inference(vae.encoder, vae.decoder.prior)}

    def passed(self, vae: Autoencoder, batch: Batch) -> Passed:
        """What `vae` makes of a batch, with the batch's own noise."""
        passed: Passed = vae(batch.images, batch.normal((self.settings.latent,)), **self.given(batch))
        return passed

    def losses(self, batch: Batch) -> Iterator[Loss]:
        """The negative ELBO in nats a pixel and channel, from one sample of the posterior."""
        passed = self.passed(self.vae, batch)
        watched = {"kl_nats": passed.kl.mean(), **self.vae.likelihood.watched()}
        yield Loss("vae", self.elbo(passed, batch.images), watched)

    def elbo(self, passed: Passed, images: Tensor) -> Tensor:
        """Minus the ELBO with beta, a mean over the images."""
        nats = self.vae.likelihood.nats(passed.logits, images)  # (B,)
        return (nats + self.settings.beta * passed.kl).mean() / images[0].numel()

    def measures(self, networks: Mapping[str, nn.Module], batch: Batch) -> dict[str, Tensor]:
        """How well images are made again from the means of their posteriors, and what the whole says of them.

        Returns:
            mse: of pixels in [0, 1]; psnr_db and ssim: of the same. kl_nats: divergence from the prior, by one sample
            where that is learned. elbo_bits_per_dim: at most so many bits a pixel and channel takes, as an 8-bit value
            under the objective's likelihood (`Gaussian.pixels`, `Bernoulli.pixels`), from one sample of the posterior
            and whatever beta is.
        """
        vae = _autoencoder(networks)
        given = self.given(batch)
        passed = self.passed(vae, batch)
        nats = vae.likelihood.pixels(passed.logits, batch.images)  # (B,)
        made = vae.decoder.image(vae.encoder(batch.images, **given)[0], **given)  # (B, C, H, W)
        mse = (0.5 * (made - batch.images)).square().flatten(1).mean(1)  # (B,)
        return {
            "mse": mse,
            "psnr_db": -10.0 * mse.clamp_min(1e-12).log10(),
            "ssim": similarity(made, batch.images),
            "kl_nats": passed.kl,
            "elbo_bits_per_dim": (nats + passed.kl) / (batch.images[0].numel() * math.log(2.0)),
        }


def similarity(made: Tensor, images: Tensor) -> Tensor:
    """SSIM (Wang et al., "Image Quality Assessment", 2004) of images (B, C, H, W) in [-1, 1], (B,).

    The window is a Gaussian of deviation 1.5; where a side is shorter than its 11 pixels, of 0.5.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure  # 2 s to import

    sigma = 1.5 if min(images.shape[2:]) > 10 else 0.5
    pair = (0.5 * made + 0.5, 0.5 * images + 0.5)  # below 0 its terms change their signs
    found = structural_similarity_index_measure(*pair, sigma=sigma, data_range=1.0, reduction="none")
    assert isinstance(found, Tensor)
    return found.reshape(-1)  # one image alone comes without its axis


def _autoencoder(networks: Mapping[str, nn.Module]) -> Autoencoder:
    found = networks["vae"]
    assert isinstance(found, Autoencoder)
    return found
