"""Whether a generator repeats its training images: how near its samples are to them, and how near new real images are.

That is the data-copying test of Meehan, Chaudhuri, Dasgupta, "A Non-Parametric Test to Detect Data-Copying in
Generative Models", 2020, over all images at once where the paper adds up cells, in pixels and in a judge's features.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aigc_rt import media
from aigc_rt.files import write_whole
from aigc_rt.train.features import Images
from aigc_rt.train.metrics import nearest
from aigc_rt.train.quality import Judge, nhwc

EXPECTED, SUSPECT = 0.01, 0.05
"""Share of samples that are as near as the nearest hundredth of the held-out images: where nothing is copied, and from
where on it is said. Of the 180 held-out images of a small set the nearest hundredth is two: it may be 3% by chance.
"""
ENOUGH, MOST = 50, 1000
"""Held-out images: with fewer, nothing is said; no more are looked at, unless there are more samples."""
SHOWN = 16
FIGURE = "nearest.png"
_COLUMNS, _LEAST_SIDE = 8, 48


def memorisation(samples: Images, features: Tensor, judge: Judge, figure: Path | None = None) -> dict[str, Any]:
    """Distances of samples to their nearest training images, against those of held-out images.

    Args:
        samples: (N, H, W, C).
        features: theirs, (N, D).
        judge: of the data that the generator was trained on.
        figure: a PNG to write: the SHOWN samples that are nearest in pixels, each left of its training image.

    Returns:
        pixels, features: see `_compared`; a distance in pixels is a root mean square in [0, 1], to all training images;
        one in features is to those that the judge has features of. pixels.copies: images that are a training image,
        pixel for pixel. verdict: in words.

    Raises:
        WriteError: the figure cannot be written.
    """
    most = max(len(samples), MOST)
    held_out, _ = judge.held_out_images(most)
    training = judge.data.images[judge.data.train]
    flat = torch.from_numpy(training.reshape(len(training), -1))
    to_training, which = nearest(_flat(samples), flat)
    of_held_out, _ = nearest(_flat(held_out), flat) if len(held_out) else (torch.zeros(0), None)
    if figure is not None:
        write_whole(figure, media.png(_figure(samples, nhwc(training), to_training, which)))
    unit = 255.0 * math.sqrt(flat.shape[1])
    pixels = _compared(to_training / unit, of_held_out / unit, len(training))
    pixels["copies"] = {"samples": int((to_training == 0).sum()), "held_out": int((of_held_out == 0).sum())}
    own, _ = nearest(features, judge.reference)
    new, _ = nearest(judge.held_out[:most], judge.reference) if len(held_out) else (torch.zeros(0), None)
    found = {"pixels": pixels, "features": _compared(own, new, len(judge.reference))}
    return {"expected": EXPECTED, "held_out": len(held_out), **found, "verdict": _verdict(found, len(held_out))}


def _compared(samples: Tensor, held_out: Tensor, training: int) -> dict[str, Any]:
    """Two sets of distances to the nearest of `training` images.

    Returns:
        samples, held_out: median and low percentiles of each. closer: share of the samples that are closer than the
        closest hundredth of the held-out images. z: of the Mann-Whitney test, below 0 where samples are closer. None
        where no image is held out.
    """
    made, new = samples.numpy(), np.sort(held_out.numpy())
    found: dict[str, Any] = {"training": training, "samples": _summary(made)}
    if not len(new):
        return found | {"held_out": None, "closer": None, "z": None}
    below, upto = (np.searchsorted(new, made, side) for side in ("left", "right"))
    farther = float((below + upto).sum()) / 2  # pairs in which the sample is farther; ties count half
    pairs = len(made) * len(new)
    z = (farther - pairs / 2) / math.sqrt(pairs * (len(made) + len(new) + 1) / 12)
    closer = float((made < np.quantile(new, EXPECTED)).mean())
    return found | {"held_out": _summary(new), "closer": closer, "z": z}


def _summary(distances: NDArray[np.float64]) -> dict[str, float]:
    p01, p05, median = np.quantile(distances, (0.01, 0.05, 0.5)).tolist()
    return {"p01": p01, "p05": p05, "median": median}


def _verdict(found: dict[str, dict[str, Any]], held_out: int) -> str:
    copies = found["pixels"]["copies"]
    exact = f"{copies['samples']} samples are training images, pixel for pixel"
    if held_out < ENOUGH:
        few = f"too few held-out images ({held_out}) to say how near new images are"
        return f"signs of copying: {exact}; {few}" if copies["samples"] else few
    shares = {space: found[space]["closer"] for space in ("pixels", "features")}
    words = " and ".join(f"{share:.1%} of the samples in {space}" for space, share in shares.items())
    words = f"{words} are closer to a training image than 99% of the held-out images are (expected 1%)"
    suspect = [space for space, share in shares.items() if share >= SUSPECT]
    if copies["samples"] and not copies["held_out"]:  # else the data itself repeats images
        return f"signs of copying: {exact}; {words}"
    if len(suspect) == 2:
        return f"signs of copying: {words}"
    if suspect:
        others = {"pixels": "smooth", "features": "typical"}[suspect[0]]
        return f"no clear sign of copying, {others} images are as close in {suspect[0]}: {words}"
    return f"no sign of copying: {words}"


def _flat(images: Images) -> Tensor:
    """(N, H, W, C) to (N, C * H * W), uint8."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1))


def _figure(samples: Images, training: Images, distances: Tensor, which: Tensor) -> NDArray[np.uint8]:
    """Samples and their nearest training images in turn, the nearest pair first."""
    order = torch.argsort(distances, stable=True)[:SHOWN].numpy()
    pairs = np.stack([samples[order], training[which.numpy()[order]]], 1).reshape(-1, *samples.shape[1:])
    times = max(1, _LEAST_SIDE // max(samples.shape[1:3]))
    return media.grid(pairs.repeat(times, 1).repeat(times, 2), _COLUMNS)
