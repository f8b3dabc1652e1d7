"""The classifiers that judge: trained once for a data set, kept in a cache folder, made again where that is damaged."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

import platformdirs
import torch

from aigc_rt.errors import RunError, WriteError
from aigc_rt.train import checkpoint, classifier
from aigc_rt.train.classifier import Classifier
from aigc_rt.train.data import Dataset
from aigc_rt.train.loop import Trainer, fit
from aigc_rt.train.watch import Bar, Saver

_SEED = 0
_VERSION = 1


def folder(cache: Path | None) -> Path:
    """The folder of judges: `cache`, or the user's."""
    return cache or Path(platformdirs.user_cache_dir("aigc-rt", appauthor=False)) / "judges"


def trained(data: Dataset, cache: Path, quiet: bool = False) -> Classifier:
    """A classifier of a data set's classes, from the cache, or trained (some 10 s on two cores) and put there.

    Raises:
        WriteError: the cache cannot be written.
    """
    place = cache / key(data)
    if place.is_dir():
        try:
            return _load(place, data)
        except RunError:  # a damaged cache is mended by making it again
            shutil.rmtree(place)
    _train(place, data, quiet)
    return _load(place, data)


def key(data: Dataset) -> str:
    """Everything that decides a judge's weights on one machine."""
    said = [_VERSION, data.sha256, data.split_sha256, _SEED, asdict(classifier.recipe(len(data.train)))]
    said += [classifier.FEATURES, classifier.SHIFT, torch.__version__]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def _train(place: Path, data: Dataset, quiet: bool) -> None:
    """Train a judge and put it at `place`, whole or not at all; another process may do the same."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".partial-") as aside:
            trainer = Trainer(_task(data), data, classifier.recipe(len(data.train)), _SEED)
            bar = [] if quiet else [Bar("judge", 0, trainer.steps)]
            saver = Saver(Path(aside) / "judge", trainer.steps, {"torch": torch.__version__})
            fit(trainer, trainer.steps, [*bar, saver])
            if not place.is_dir():
                (Path(aside) / "judge").rename(place)
    except OSError as error:
        if isinstance(error, WriteError) or place.is_dir():
            raise
        raise WriteError(
            f"write the judge {place}", error.strerror or str(error), "Set XDG_CACHE_HOME to a folder you may write to"
        ) from error


def _task(data: Dataset) -> classifier.Judging:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return classifier.Judging(data.shape, data.classes)


def _load(place: Path, data: Dataset) -> Classifier:
    path = checkpoint.newest(place)
    if path is None:
        raise RunError(f"read the judge {place}", "there is no checkpoint in it", "Remove it")
    network = _task(data).judge
    try:
        network.load_state_dict(checkpoint.strip(checkpoint.load(path).tensors, "average.judge."))
    except RuntimeError as error:
        raise RunError(f"read the judge {place}", str(error), "Remove it") from None
    return network.eval().requires_grad_(False)
