"""What `aigc-rt evaluate` is given, as what `evaluate` takes: a run or a bundle, and the data to hold it against."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aigc_rt.errors import DataError
from aigc_rt.generator import load
from aigc_rt.train import data as datasets
from aigc_rt.train import record
from aigc_rt.train.data import Dataset
from aigc_rt.train.data_options import DataOptions
from aigc_rt.train.restore import create, restored
from aigc_rt.train.samplers import BundleSampler, RunSampler, Sampler
from aigc_rt.train.settings import typed


@dataclass(frozen=True, eq=False)
class Subject:
    """What is evaluated.

    Attributes:
        sampler: of its samples.
        data: what they are held against.
        untrained: a run's family with fresh weights; None of a bundle.
        private: whether it was trained with differential privacy.
        said: what it is, as JSON.
    """

    sampler: Sampler
    data: Dataset
    untrained: Sampler | None
    private: bool
    said: dict[str, Any]


@dataclass(frozen=True)
class DataRequest:
    """The data asked for: None is what the subject was trained on. `project` asks for it, see `train.access`."""

    name: str | None = None
    project: str | None = None


def is_run(path: Path) -> bool:
    """Whether `aigc-rt train` wrote it."""
    return (path / record.FILE).is_file()


@contextlib.contextmanager
def opened(path: Path, source: DataRequest, request: Mapping[str, Any]) -> Iterator[Subject]:
    """A run, or a bundle loaded as `request` says.

    Raises:
        RunError, BundleError, PlanError: it cannot be opened.
        DataError: its data is not there any more, or is other data; it does not say what it was trained on.
        InputError: a bundle that makes no images.
    """
    if is_run(path):
        yield _run(path, source)
        return
    with load(path, **request) as generator:
        sampler = BundleSampler(generator)
        training = generator.bundle.manifest.made.get("training")
        training = training if isinstance(training, dict) else {}
        chosen = generator.plan.chosen[0]
        said = {"kind": "bundle", "path": str(path), "digest": generator.bundle.digest}
        said |= {"variant": chosen.variant, "backend": chosen.backend, "device": chosen.device}
        data = _of_bundle(path, training.get("data"), sampler.shape, source)
        yield Subject(sampler, data, None, training.get("privacy") is not None, said)


def _run(path: Path, source: DataRequest) -> Subject:
    found, family, averages = restored(path)
    sampler, of, fresh = RunSampler(family, averages), found.data, create(found)
    if source.name is None or source.name == of.source:
        data = _same(path, of.source, _asking(of.options, source), of.sha256 if source.name is None else None)
    else:
        data = _known(source.name, sampler.shape, source, of.options, of.sha256)
    said = {"kind": "run", "path": str(path), "family": found.family, "step": found.step}
    return Subject(sampler, data, RunSampler(fresh, fresh.networks), found.privacy is not None, said)


def _of_bundle(path: Path, recorded: Any, shape: tuple[int, int, int], source: DataRequest) -> Dataset:
    """The data that a bundle's free-form record names, or that was given."""
    recorded = recorded if isinstance(recorded, dict) and isinstance(recorded.get("name"), str) else {}
    name = recorded.get("name")
    if source.name is None and name not in datasets.NAMED:
        found = "the bundle does not say what it was trained on" if name is None else f"it was trained on files: {name}"
        raise DataError(f"evaluate {path}", found, "Give the data with --data")
    options = _recorded_options(recorded.get("options"))
    if source.name is None or (source.name == name and options is not None):
        asked = _asking(options or _fitting(shape, source), source)
        return _same(path, str(name), asked, recorded.get("sha256") if source.name is None else None)
    return _known(source.name, shape, source, options, recorded.get("sha256"))


def _known(
    name: str, shape: tuple[int, int, int], source: DataRequest, options: DataOptions | None, sha256: Any
) -> Dataset:
    """The data of that name: with the classes, limit and split that were trained on where its hash is the same, since
    by another split images that were trained on would count as held out; else in the samples' size and colours.
    """
    if options is not None and sha256 is not None:
        with contextlib.suppress(DataError):  # other data may lack the classes, say; an error of its own comes below
            data = datasets.load(name, _asking(options, source))
            if data.sha256 == sha256:
                return data
    return datasets.load(name, _fitting(shape, source))


def _same(path: Path, name: str, options: DataOptions, sha256: Any) -> Dataset:
    """Data whose hash, if given, is what was trained on."""
    data = datasets.load(name, options)
    if sha256 is not None and data.sha256 != sha256:
        found = f"{name} has the SHA-256 {data.sha256[:12]}..., it was trained on {str(sha256)[:12]}..."
        raise DataError(f"evaluate {path}", found, f"Bring back that data, or give --data {name} to use this")
    return data


def _fitting(shape: tuple[int, int, int], source: DataRequest) -> DataOptions:
    """How to load other data in the samples' size and colours."""
    channels, height, width = shape
    size = height if height == width else None
    return DataOptions(size=size, colour="grey" if channels == 1 else "rgb", project=source.project)


def _recorded_options(values: Any) -> DataOptions | None:
    try:
        found: DataOptions = typed(DataOptions, values, "the data's options")
    except (TypeError, ValueError, AttributeError):  # free-form: another writer's may be anything
        return None
    return found


def _asking(options: DataOptions, source: DataRequest) -> DataOptions:
    return options if source.project is None else replace(options, project=source.project)
