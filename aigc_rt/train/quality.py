"""How good a generator is, in numbers: a classifier of the same data says what the samples are and how far they are
from real ones (Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017, for the Fréchet distance).
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aigc_rt.errors import DataError, RunError, WriteError
from aigc_rt.manifest import Feedforward
from aigc_rt.train import checkpoint, classifier
from aigc_rt.train.data import SPLIT_SEED, Dataset
from aigc_rt.train.generators.family import sample
from aigc_rt.train.loop import Trainer, fit
from aigc_rt.train.task import to_floats
from aigc_rt.train.watch import Bar, Saver

SURE = 0.9
"""A judge is sure of a sample when its best class has at least this probability."""
COVERED = 0.03
"""A class is covered when at least this share of the samples is of it."""
SAMPLES = 1000
_JUDGE_SEED = 0
_VERSION = 1
_BLOCK = 250


class Judge:
    """A classifier of a data set's classes, and what it says about samples.

    Attributes:
        accuracy: its share of right answers on the `held_out` images, on which it was not trained.
        sha256: hash of its weights.
    """

    def __init__(self, network: classifier.Classifier, data: Dataset) -> None:
        assert data.labels is not None
        self._network = network.eval().requires_grad_(False)
        self._names = data.class_names or tuple(str(k) for k in range(data.classes))
        self.sha256 = hashlib.sha256(safetensors.torch.save(dict(network.state_dict()))).hexdigest()
        self.held_out = len(data.held_out)
        answers = self.probabilities(_nhwc(data.images[data.held_out])).argmax(1)
        self.accuracy = float((answers == data.labels[data.held_out]).mean())

    @classmethod
    def of(cls, data: Dataset, cache: Path | None = None, quiet: bool = False) -> Judge:
        """The judge of a data set: from the cache, or trained (some 10 s on two cores) and put there.

        Args:
            data: images with labels of at least two classes.
            cache: folder of judges; None is the user's cache folder.
            quiet: no progress bar.

        Raises:
            DataError: no labels, one class, or fewer than two images to train on.
            WriteError: the cache cannot be written.
        """
        if data.labels is None or data.classes < 2:
            raise DataError(
                f"judge generators of {data.name}",
                "its images have no labels" if data.labels is None else "its images are all of one class",
                "Give labels (sub-folders named after the classes), or train without evaluation",
            )
        if len(data.train) < 2:
            raise DataError(
                f"judge generators of {data.name}",
                f"{len(data.train)} image is there to compare with, {len(data.held_out)} held out; two are needed",
                "Give more images, or train without evaluation",
            )
        folder = (cache or Path(platformdirs.user_cache_dir("aigc-rt", appauthor=False)) / "judges") / _key(data)
        if folder.is_dir():
            try:
                return cls(_load(folder, data), data)
            except RunError:  # a damaged cache is mended by making it again
                shutil.rmtree(folder)
        _train(folder, data, quiet)
        return cls(_load(folder, data), data)

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Chance of each class: (N, H, W, C) uint8 to (N, K)."""
        with torch.no_grad():
            blocks = [self._network(block).softmax(1) for block in _blocks(images)]
        probabilities: NDArray[np.float32] = torch.cat(blocks).numpy()
        return probabilities

    def frechet(self, samples: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
        """Fréchet distance of two sets of images, each (N, H, W, C) uint8, in the judge's features."""
        from torchmetrics.image.fid import FrechetInceptionDistance  # 2 s to import

        metric = FrechetInceptionDistance(feature=_Features(self._network))
        for images, real in ((reference, True), (samples, False)):
            for block in _blocks(images):
                metric.update(block, real=real)
        return float(metric.compute())

    def measure(self, samples: NDArray[np.uint8], reference: NDArray[np.uint8]) -> dict[str, Any]:
        """What the judge says of samples against real images, each (N, H, W, C) uint8, as JSON.

        Returns:
            samples, reference: how many. sure: share of the samples it is sure of, `sure_from` on. shares: of each
            class. covered: classes with at least `covered_from` of the samples, of `classes`. frechet: the distance.
            judge: its own accuracy on `held_out` images, and the hash of its weights.

        Raises:
            ValueError: fewer than two samples or reference images: no covariance.
        """
        if min(len(samples), len(reference)) < 2:
            raise ValueError(f"{len(samples)} samples, {len(reference)} reference images: two of each are needed")
        probabilities = self.probabilities(samples)
        shares = np.bincount(probabilities.argmax(1), minlength=len(self._names)) / len(samples)
        return {
            "samples": len(samples),
            "reference": len(reference),
            "sure": float((probabilities.max(1) >= SURE).mean()),
            "sure_from": SURE,
            "shares": {name: float(share) for name, share in zip(self._names, shares, strict=True)},
            "covered": int((shares >= COVERED).sum()),
            "covered_from": COVERED,
            "classes": len(self._names),
            "frechet": self.frechet(samples, reference),
            "judge": {"accuracy": self.accuracy, "held_out": self.held_out, "sha256": self.sha256},
        }

    def judge(
        self, module: nn.Module, untrained: nn.Module, program: Feedforward, data: Dataset, seed: int = 0
    ) -> dict[str, Any]:
        """`measure` of SAMPLES samples of a generator against the images it was trained on, with two yardsticks.

        Returns:
            What `measure` returns, and: frechet_untrained: the distance of the same family with fresh weights;
            frechet_ratio: the trained one's share of that; frechet_held_out: that of real images not trained on.

        Raises:
            DataError: the distances are no finite numbers.
        """
        real = _nhwc(data.images[data.train])
        found = self.measure(sample(module, program, seed, SAMPLES), real)
        before = self.frechet(sample(untrained, program, seed, SAMPLES), real)
        held_out = self.frechet(_nhwc(data.images[data.held_out]), real) if self.held_out > 1 else None
        if not (math.isfinite(found["frechet"]) and math.isfinite(before) and before > 0):
            raise DataError(
                f"judge generators of {data.name}",
                f"the distances are {found['frechet']} trained and {before} untrained",
                "Give more images, or train without evaluation",
            )
        return found | {
            "frechet_untrained": before,
            "frechet_ratio": found["frechet"] / before,
            "frechet_held_out": held_out,
            "noise_seed": seed,
        }


class _Features(nn.Module):
    """What torchmetrics asks for: a module that makes features and says how many."""

    num_features = classifier.FEATURES

    def __init__(self, network: classifier.Classifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, num_features)."""
        return self.network.features(images)


def _key(data: Dataset) -> str:
    """Everything that decides a judge's weights on one machine."""
    said = [_VERSION, data.sha256, SPLIT_SEED, _JUDGE_SEED, asdict(classifier.recipe(len(data.train)))]
    said += [classifier.FEATURES, classifier.SHIFT, torch.__version__]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def _train(folder: Path, data: Dataset, quiet: bool) -> None:
    """Train a judge and put it at `folder`, whole or not at all; another process may do the same."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as aside:
            trainer = Trainer(_task(data), data, classifier.recipe(len(data.train)), _JUDGE_SEED)
            bar = [] if quiet else [Bar("judge", 0, trainer.steps)]
            fit(
                trainer,
                trainer.steps,
                [*bar, Saver(Path(aside) / "judge", trainer.steps, {"torch": torch.__version__})],
            )
            if not folder.is_dir():
                (Path(aside) / "judge").rename(folder)
    except OSError as error:
        if isinstance(error, WriteError) or folder.is_dir():
            raise
        raise WriteError(
            f"write the judge {folder}", error.strerror or str(error), "Name a folder you may write to as its cache"
        ) from error


def _task(data: Dataset) -> classifier.Judging:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_JUDGE_SEED)
        return classifier.Judging(data.shape, data.classes)


def _load(folder: Path, data: Dataset) -> classifier.Classifier:
    path = checkpoint.newest(folder)
    if path is None:
        raise RunError(f"read the judge {folder}", "there is no checkpoint in it", "Remove it")
    network = _task(data).judge
    try:
        network.load_state_dict(checkpoint.strip(checkpoint.load(path).tensors, "average.judge."))
    except RuntimeError as error:
        raise RunError(f"read the judge {folder}", str(error), "Remove it") from None
    return network


def _nhwc(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return images.transpose(0, 2, 3, 1)


def _blocks(images: NDArray[np.uint8]) -> list[Tensor]:
    """(N, H, W, C) uint8 as blocks of (B, C, H, W) float32 in [-1, 1]."""
    floats = to_floats(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))))
    return list(torch.split(floats, _BLOCK))
