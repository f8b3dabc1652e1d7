"""What a user asks of a training run, and the record of a run that does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch

from aigc_rt import checkout, noise
from aigc_rt.errors import InputError, RunError
from aigc_rt.train import generators, record
from aigc_rt.train.augment import Augment
from aigc_rt.train.data import Dataset
from aigc_rt.train.data_options import DataOptions
from aigc_rt.train.privacy import Privacy
from aigc_rt.train.record import DataRecord, RunRecord
from aigc_rt.train.settings import assignments, configured
from aigc_rt.train.task import Recipe
from aigc_rt.train.tuning import Tuning
from aigc_rt.train.workers import Device, Workers

__all__ = [
    "Augment", "DataOptions", "Privacy", "Recipe", "TrainOptions", "Tuning",
    "assignments", "check_resumable", "new_run", "objective_of", "part",
]  # fmt: skip
T = TypeVar("T")


@dataclass(frozen=True)
class TrainOptions:
    """What a user asks for; None is the family's default or, with `resume`, what the run was started with.

    Attributes:
        family: a key of `FAMILIES`.
        data: a data set's name or path; see `aigc_rt.train.data.load`.
        out: the run's folder.
        objective: a key of the family's `objectives`.
        recipe: fields of `Recipe` that are to differ from the objective's.
        settings: fields of the family's settings that are to differ from their defaults.
        loading: what of the data is loaded, and how.
        augment: random changes to the images.
        tuning: weights to start from, and what of them is trained.
        privacy: train with differential privacy.
        seed: of everything random; None is 0.
        max_steps: stop after so many steps, short of the recipe's end; `resume` goes on as if it had not stopped.
        resume: go on from the newest checkpoint in `out`.
        device: "auto" is the GPU that PyTorch finds, else the CPU.
        evaluate: have the result judged.
        judge: cache folder of judges; None is the user's.
        quiet: no progress, on a terminal either.
    """

    family: str
    data: str
    out: Path
    objective: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    loading: DataOptions | None = None
    augment: Augment | None = None
    tuning: Tuning | None = None
    privacy: Privacy | None = None
    seed: int | None = None
    max_steps: int | None = None
    resume: bool = False
    device: Device = "auto"
    evaluate: bool = True
    judge: Path | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.max_steps is not None and self.max_steps < 1:
            raise InputError(f"train with max_steps={self.max_steps}", "it is not positive", "Give 1 or more")
        if self.device not in get_args(Device):
            raise InputError(f"train on {self.device!r}", "there is no such device", "Give auto, cpu or cuda")
        configured(Recipe, self.recipe, "how it is optimised")
        noise.check(self.seed or 0, 0, 0, 1)


def part(kind: type[T], given: Mapping[str, Any]) -> T | None:
    """A dataclass of options with those that are given, None where none is.

    Raises:
        InputError: see `configured`.
    """
    return configured(kind, given, f"the options ({', '.join(given)})") if given else None


def objective_of(options: TrainOptions) -> tuple[str, Recipe]:
    """The objective that is asked for, and how it is to be optimised.

    Raises:
        RunError: unknown family or objective.
    """
    objectives = generators.find(options.family).objectives
    objective = options.objective or next(iter(objectives))
    if objective not in objectives:
        raise RunError(
            f"train {options.family} with the objective {objective!r}",
            "there is no such objective",
            f"Known objectives are {', '.join(objectives)}",
        )
    return objective, configured(Recipe, asdict(objectives[objective]) | dict(options.recipe), "how it is optimised")


def new_run(options: TrainOptions, data: Dataset, workers: Workers) -> RunRecord:
    """The record of a run before its first step; `steps` is not known yet."""
    objective, recipe = objective_of(options)
    most = max(len(data.train), generators.find(options.family).objectives[objective].batch)
    if recipe.batch > most:
        found = f"there are {len(data.train):,} images to train on"
        raise InputError(f"train with batch={recipe.batch}", found, f"Give {most:,} or less")
    settings: Any = configured(
        generators.find(options.family).settings_type, options.settings, f"the family {options.family}"
    )
    return RunRecord(
        family=options.family,
        objective=objective,
        settings=asdict(settings),
        recipe=recipe,
        seed=options.seed or 0,
        data=DataRecord.of(data, options.data, options.loading or DataOptions()),
        augment=options.augment,
        tuning=options.tuning,
        privacy=options.privacy,
        threads=torch.get_num_threads(),
        processes=workers.count,
        device=workers.device.type,
        versions=record.versions(),
        commit=checkout.commit(),
    )


def check_resumable(options: TrainOptions, found: RunRecord) -> None:
    """Refuse to resume a run with anything else than it was started with; threads and device may change.

    Raises:
        RunError: it says what differs.
    """
    asked: dict[str, Any] = {"family": options.family, "objective": options.objective, "seed": options.seed}
    was: dict[str, Any] = {name: getattr(found, name) for name in asked}
    for group in ("recipe", "settings"):
        recorded = getattr(found, group)
        recorded = recorded if isinstance(recorded, Mapping) else asdict(recorded)
        asked |= {name: value for name, value in getattr(options, group).items() if name != "threads"}
        was |= {name: recorded.get(name) for name in getattr(options, group)}
    for name in ("augment", "tuning", "privacy"):
        asked[name], was[name] = getattr(options, name), getattr(found, name)
    was["tuning"] = found.tuning and found.tuning.asked()
    asked["loading"], was["loading"] = options.loading, found.data.options
    for name, value in asked.items():
        now, then, mend = _plain(value), _plain(was[name]), f"Leave {name} out"
        if now is None or now == then:
            continue
        if isinstance(now, dict) and isinstance(then, dict):
            key = next(key for key in now if now[key] != then.get(key))
            name, now, then = f"{name} {key}", now[key], then.get(key)
            mend = "Give these options all as they were, or none of them"
        raise RunError(
            f"resume {options.out} with {name} {now}",
            f"it was started {'without' if then is None else f'with {then}'}",
            f"{mend}, or train into another folder",
        )


def _plain(value: Any) -> Any:
    """A value as JSON has it: tuples are lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(item) for name, item in asdict(value).items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
