"""How well an autoencoder makes real images again."""

from __future__ import annotations

import numpy as np
import torch

from aigc_rt.train.features import blocks
from aigc_rt.train.generators.vae import similarity
from aigc_rt.train.quality import Judge
from aigc_rt.train.samplers import Sampler


def reconstruction(sampler: Sampler, judge: Judge, most: int) -> dict[str, float] | None:
    """Of up to `most` held-out images, as means over them; None without an encoder or such images.

    Returns:
        count: of images. mse: of pixels in [0, 1]. psnr_db, ssim: of the same. kl_nats: divergence of the posterior
        from the standard normal. Of a run, also what its family measures: a VAE's elbo_bits_per_dim.
    """
    images, labels = judge.held_out_images(most)
    made = sampler.reconstruct(images, labels) if len(images) else None
    if made is None:
        return None
    error = (made.images.astype(np.float64) - images) / 255
    mse = (error**2).reshape(len(images), -1).mean(1)  # (N,)
    pairs = zip(blocks(made.images), blocks(images), strict=True)
    mean, log_variance = made.mean.astype(np.float64), made.log_variance.astype(np.float64)
    own = {
        "count": len(images),
        "mse": float(mse.mean()),
        "psnr_db": float((-10 * np.log10(np.maximum(mse, 1e-12))).mean()),
        "ssim": float(torch.cat([similarity(one, two) for one, two in pairs]).mean()),
        "kl_nats": float(0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(1).mean()),
    }
    return sampler.measures(images, labels) | own
