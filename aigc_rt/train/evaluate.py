"""How good a generator is, in numbers: the one entry point for a run, a bundle, and the evidence in a bundle.

Every number stands beside what held-out real images get for it, and what the same networks got before training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from aigc_rt.errors import InputError
from aigc_rt.manifest import Condition
from aigc_rt.train import metrics
from aigc_rt.train.features import Images
from aigc_rt.train.memorisation import memorisation
from aigc_rt.train.quality import Judge
from aigc_rt.train.reconstruction import reconstruction
from aigc_rt.train.samplers import Sampler

SAMPLES = 1000
SEED = 0
QUICK_SUBSETS = 10
PRIVACY_NOTE = (
    "Differential privacy covers the networks and what they make. These numbers are computed from the training "
    "images themselves: epsilon does not cover them, and who sees them may learn of the images."
)


def evaluate(
    sampler: Sampler,
    judge: Judge,
    *,
    samples: int = SAMPLES,
    seed: int = SEED,
    untrained: Sampler | None = None,
    private: bool = False,
    figure: Path | None = None,
) -> dict[str, Any]:
    """Samples 0 to `samples - 1` of a seed against the images that were trained on.

    Args:
        sampler: what to evaluate; where it has a condition with the data's classes, each class is asked for as often
            as it occurs in the training images.
        judge: of the data.
        samples: how many, 6 or more.
        seed: which.
        untrained: the same networks with fresh weights, as a yardstick.
        private: trained with differential privacy: the result says that it is not covered, and no figure is written.
        figure: where to put the picture of samples beside their nearest training images.

    Returns:
        JSON, always of these keys, None where one does not apply. data, features, seed: what was compared, and in what.
        samples, reference, frechet, kernel, ...: `metrics.Distances` from the training images. frechet_ratio: the
        distance's share of `untrained`'s. sure, covered, classes, shares, ...: see `Judge.classes`. yardsticks,
        conditional, reconstruction, memorisation: see the functions of these names. privacy_note: a warning.

    Raises:
        InputError: too few samples, or they are not of the data's size.
        DataError: the distances are no finite numbers.
        WriteError: the figure, or the judge's cache, cannot be written.
    """
    _check(sampler, judge, samples)
    labels, images = _asked(sampler, judge, samples, seed)
    features = judge.features.of(images)
    found = metrics.distances(features, judge.reference)
    judge.finite(found.frechet)
    probabilities = judge.probabilities(images) if judge.classified else None
    before = None
    if untrained is not None:
        others = judge.features.of(_asked(untrained, judge, samples, seed)[1])
        before = metrics.distances(others, judge.reference)
    ratio = found.frechet / before.frechet if before is not None and judge.finite(before.frechet) > 0 else None
    data = judge.data
    named = found.to_dict()
    return {
        "data": {"name": data.name, "sha256": data.sha256, "training": len(data.train), "held_out": len(data.held_out)},
        "features": judge.features.to_dict(),
        "seed": seed,
        "samples": named.pop("count"),
        **named,
        "frechet_ratio": ratio,
        **judge.classes(probabilities),
        "yardsticks": yardsticks(features, judge, found, before),
        "conditional": None if labels is None else conditional(labels, probabilities, features, judge),
        "reconstruction": reconstruction(sampler, judge, samples),
        "memorisation": memorisation(images, features, judge, None if private else figure),
        "privacy_note": PRIVACY_NOTE if private else None,
    }


def quick(sampler: Sampler, judge: Judge, samples: int = SAMPLES, seed: int = SEED) -> dict[str, float]:
    """The few numbers worth a curve while training goes on: frechet, kernel and, with a classifier, covered."""
    _, images = _asked(sampler, judge, samples, seed)
    features = judge.features.of(images)
    kernel, _ = metrics.kernel_distance(features, judge.reference, QUICK_SUBSETS)
    found = {"frechet": metrics.frechet(features, judge.reference), "kernel": kernel}
    if judge.classified:
        found["covered"] = float(judge.classes(judge.probabilities(images))["covered"])
    return found


def yardsticks(
    features: Tensor, judge: Judge, found: metrics.Distances, before: metrics.Distances | None
) -> dict[str, Any]:
    """What there is to compare with, all of it against the training images.

    Returns:
        held_out: distances of real images that were not trained on, as many as there are samples, or as there are.
        samples: those of as many samples, as only equal counts compare. untrained: those of the untrained networks, of
        all samples.
    """
    count = min(len(features), len(judge.held_out)) if len(judge.data.held_out) else 0
    real = samples = None
    if count >= metrics.FEWEST:
        real = metrics.distances(judge.held_out[:count], judge.reference)
        samples = found if count == len(features) else metrics.distances(features[:count], judge.reference)
    known = {"held_out": real, "samples": samples, "untrained": before}
    return {name: None if one is None else one.to_dict() for name, one in known.items()}


def conditional(
    labels: NDArray[np.int64], probabilities: NDArray[np.float32] | None, features: Tensor, judge: Judge
) -> dict[str, Any]:
    """Whether samples are what was asked for.

    Returns:
        agreement: share of the samples that the classifier takes for the class asked for; real images get its accuracy.
        per_class: of each class. frechet: of each class's samples from its training images, where there are twice as
        many of both as features; fewer would not fill a covariance.
    """
    assert probabilities is not None
    right = probabilities.argmax(1) == labels
    real = judge.reference_labels()
    per_class, frechet = {}, {}
    for number in np.unique(labels).tolist():
        name, made, there = judge.name_of(number), labels == number, real == number
        per_class[name] = float(right[made].mean())
        if min(made.sum(), np.sum(there)) >= 2 * judge.features.width:
            frechet[name] = metrics.frechet(features[made], judge.reference[there])
    return {"agreement": float(right.mean()), "per_class": per_class, "frechet": frechet}


def _check(sampler: Sampler, judge: Judge, samples: int) -> None:
    if samples < metrics.FEWEST:
        raise InputError(f"evaluate {samples} samples", f"{metrics.FEWEST} are needed", "Give 1,000 or more")
    if sampler.shape != judge.data.shape:
        made, real = (" x ".join(map(str, shape)) for shape in (sampler.shape, judge.data.shape))
        raise InputError(
            f"evaluate a generator of images of {made} on {judge.data.name}",
            f"its images are {real} (channels, height, width)",
            "Give the data that it was trained on, in the same size and colours",
        )


def _asked(sampler: Sampler, judge: Judge, count: int, seed: int) -> tuple[NDArray[np.int64] | None, Images]:
    """Samples, and the classes asked for where the generator takes them."""
    real = judge.reference_labels()
    for name, condition in sampler.conditions.items():
        if real is not None and judge.classified and _is_class(condition, judge):
            labels = np.resize(real, count)  # over and over
            return labels, sampler.draw(count, seed, 0, **{name: labels + int(condition.low)})
    return None, sampler.draw(count, seed)


def _is_class(condition: Condition, judge: Judge) -> bool:
    whole = np.issubdtype(np.dtype(condition.dtype), np.integer)
    return whole and int(condition.high - condition.low) + 1 == judge.data.classes


def lines(result: dict[str, Any]) -> list[str]:
    """A result for a person."""
    data, features, found = result["data"], result["features"], []
    words = f"{features.get('model', 'classifier')} features {features['sha256'][:12]}"
    found.append(f"{result['samples']:,} samples of seed {result['seed']} against {data['name']}, {words}")
    rows = {"samples": result}
    for name, row in result["yardsticks"].items():
        if row is not None and row["frechet"] != result["frechet"]:
            rows["as many samples" if name == "samples" else name.replace("_", "-")] = row
    found.append(f"  {'':16}{'count':>7}" + "".join(f"{name:>11}" for name in _TABLE))
    for title, row in rows.items():
        count = row.get("count", row.get("samples"))
        found.append(f"  {title:16}{count:>7,}" + "".join(f"{row[name]:>11.4g}" for name in _TABLE))
    if result["covered"] is not None:
        least, real = result["covered_from"], result["classifier"]
        words = f"{result['covered']} of {result['classes']} classes have {least:.1%} of the samples or more"
        found.append(f"  {words}; the classifier is sure of {result['sure']:.0%} of the samples")
        if real["sure"] is not None:
            found[-1] += f", of {real['sure']:.0%} of the held-out images, and right on {real['accuracy']:.1%} of these"
    if (asked := result["conditional"]) is not None:
        found.append(f"  {asked['agreement']:.1%} are of the class asked for")
    if (again := result["reconstruction"]) is not None:
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in again.items() if name != "count")
        found.append(f"  reconstruction of {again['count']:,} held-out images: {numbers}")
    found.append(f"  {result['memorisation']['verdict']}")
    return found + ([f"  {result['privacy_note']}"] if result["privacy_note"] else [])


_TABLE = ("frechet", "kernel", "precision", "recall", "density", "coverage")
