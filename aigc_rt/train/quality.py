"""The judge of a data set: the features that distances are taken in and, where there are labels, a classifier."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aigc_rt.errors import DataError
from aigc_rt.train import features, judges, metrics
from aigc_rt.train.classifier import Classifier
from aigc_rt.train.data import Dataset, permutation
from aigc_rt.train.features import FeatureName, Features, Images

SURE = 0.9
"""A judge is sure of a sample when its best class has at least this probability."""
COVERED, FAIR = 0.03, 0.3
"""A class is covered when this share of the samples is of it or, of more than ten classes, FAIR of an even share."""
REFERENCE: dict[FeatureName, int] = {"classifier": 100_000, "efficientnet": 10_000}
"""The most training images, and held-out images, that features are made of: half a minute of work on one thread."""


class Judge:
    """What is known of a data set's images, to hold samples against.

    Attributes:
        data: the set.
        features: what distances are taken in.
    """

    def __init__(self, data: Dataset, features: Features, network: Classifier | None, cache: Path) -> None:
        self.data, self.features = data, features
        self._network, self._cache = network, cache
        most = REFERENCE[features.name]
        self._train, self._held_out = (
            part[permutation(0, 0, len(part))[:most]] for part in (data.train, data.held_out)
        )

    @classmethod
    def of(
        cls, data: Dataset, cache: Path | None = None, quiet: bool = False, features: FeatureName | None = None
    ) -> Judge:
        """The judge of a data set: from the cache, or made and put there.

        Args:
            data: at least six images to train on.
            cache: folder of judges; None is the user's cache folder.
            quiet: no progress bar.
            features: None is the classifier where the images are of several classes, else EfficientNet.

        Raises:
            DataError: too few images, or the classifier's features asked for and no classes.
            MissingDependency: EfficientNet is not installed.
            WriteError: the cache cannot be written.
        """
        if len(data.train) < metrics.FEWEST:
            raise DataError(
                f"judge generators of {data.name}",
                f"{len(data.train)} images are there to compare with; {metrics.FEWEST} are needed",
                "Give more images, or train without evaluation",
            )
        classified = len(data.present) > 1
        if features == "classifier" and not classified:
            raise DataError(
                f"judge generators of {data.name} by a classifier",
                "its images have no labels" if data.labels is None else "its images are all of one class",
                "Use EfficientNet's features, or give labels (sub-folders named after the classes)",
            )
        place = judges.folder(cache)
        network = judges.trained(data, place, quiet) if classified else None
        return cls(data, _features(data, network, features), network, place)

    @cached_property
    def reference(self) -> Tensor:
        """Features of the training images, REFERENCE at most, in a random order that stays: (N, D)."""
        return self._kept("train", self._train)

    @cached_property
    def held_out(self) -> Tensor:
        """Features of the held-out images, likewise: (N, D)."""
        return self._kept("held-out", self._held_out)

    def _kept(self, part: str, chosen: NDArray[np.int64]) -> Tensor:
        name = f"{self.data.sha256[:16]}-{self.data.split_sha256[:16]}-{self.features.sha256[:16]}-{part}"
        return self.features.kept(nhwc(self.data.images[chosen]), self._cache / "features" / name)

    def held_out_images(self, most: int) -> tuple[Images, NDArray[np.int64] | None]:
        """The first of the held-out images as `held_out` has them, (N, H, W, C), and their labels."""
        chosen = self._held_out[:most]
        return nhwc(self.data.images[chosen]), None if self.data.labels is None else self.data.labels[chosen]

    def reference_labels(self) -> NDArray[np.int64] | None:
        """Of the images of `reference`."""
        return None if self.data.labels is None else self.data.labels[self._train]

    @cached_property
    def classifier(self) -> dict[str, Any] | None:
        """What the classifier is, None where there is none: its `accuracy` on the `held_out` images, so many and new to
        it, the share of them that it is `sure` of, and the hash of its weights.
        """
        if self._network is None:
            return None
        images, labels = self.held_out_images(len(self._held_out))
        found: dict[str, Any] = {"accuracy": None, "sure": None, "held_out": len(images)}
        if len(images):
            probabilities = self.probabilities(images)
            found["accuracy"] = float((probabilities.argmax(1) == labels).mean())
            found["sure"] = float((probabilities.max(1) >= SURE).mean())
        return found | {"sha256": features.weights_hash(self._network)}

    @property
    def classified(self) -> bool:
        """Whether it has a classifier."""
        return self._network is not None

    def probabilities(self, images: Images) -> NDArray[np.float32]:
        """Chance of each class: (N, H, W, C) uint8 to (N, K); only where it has a classifier."""
        assert self._network is not None
        with torch.no_grad():
            blocks = [self._network(block).softmax(1) for block in features.blocks(images)]
        found: NDArray[np.float32] = torch.cat(blocks).numpy()
        return found

    def name_of(self, number: int) -> str:
        """A class's name."""
        return self.data.class_names[number] if self.data.class_names else str(number)

    def classes(self, probabilities: NDArray[np.float32] | None) -> dict[str, Any]:
        """What the classifier says of samples, from `probabilities` of them; None throughout where it has none.

        Returns:
            sure: share of the samples it is sure of, `sure_from` on. shares: of each class, by name. covered: how many
            of the `classes` that were trained on have at least `covered_from` of the samples. classifier: see there.
        """
        present = self.data.present
        found: dict[str, Any] = dict.fromkeys(("sure", "sure_from", "shares", "covered", "covered_from", "classifier"))
        if probabilities is None:
            return found | {"classes": len(present)}
        shares = np.bincount(probabilities.argmax(1), minlength=self.data.classes) / len(probabilities)
        covered_from = min(COVERED, FAIR / len(present))
        return found | {
            "sure": float((probabilities.max(1) >= SURE).mean()),
            "sure_from": SURE,
            "shares": {self.name_of(number): float(share) for number, share in enumerate(shares)},
            "covered": int((shares[list(present)] >= covered_from).sum()),
            "covered_from": covered_from,
            "classes": len(present),
            "classifier": self.classifier,
        }

    def finite(self, found: float) -> float:
        """The distance itself.

        Raises:
            DataError: it is no finite number.
        """
        if not math.isfinite(found):
            raise DataError(
                f"judge generators of {self.data.name}",
                f"the distance of the samples is {found}",
                "Give more images, or train without evaluation",
            )
        return found


def _features(data: Dataset, network: Classifier | None, asked: FeatureName | None) -> Features:
    if network is None or asked == "efficientnet":
        return features.efficientnet(data.shape)
    return features.of_classifier(network)


def nhwc(images: NDArray[np.uint8]) -> Images:
    """(N, C, H, W) as (N, H, W, C)."""
    return images.transpose(0, 2, 3, 1)
