"""run.json: what a training run was asked to do, on what, with what, and how far it came."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch

from aigc_rt import noise
from aigc_rt.errors import RunError
from aigc_rt.files import write_whole
from aigc_rt.train.augment import Augment
from aigc_rt.train.data import Dataset
from aigc_rt.train.data_options import DataOptions
from aigc_rt.train.generators.family import DataSpec
from aigc_rt.train.privacy import Privacy
from aigc_rt.train.settings import typed
from aigc_rt.train.task import Recipe
from aigc_rt.train.tuning import Tuning

FILE = "run.json"
CHECKPOINTS = "checkpoints"
FORMAT, SCHEMA = "aigc-rt-run", 1
THREADS = 1024
"""torch dies of more."""
Status = Literal["running", "interrupted", "stopped", "budget spent", "finished"]


@dataclass(frozen=True)
class DataRecord:
    """The data of a run: where it was read from and how, and what it was."""

    source: str
    options: DataOptions
    name: str
    sha256: str
    origin: str
    licence: str
    shape: tuple[int, int, int]
    train: int
    held_out: int
    classes: int
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, data: Dataset, source: str, options: DataOptions) -> Self:
        """The record of `data`, read from `source` with `options`."""
        return cls(
            source=source,
            options=options,
            name=data.name,
            sha256=data.sha256,
            origin=data.origin,
            licence=data.licence,
            shape=data.shape,
            train=len(data.train),
            held_out=len(data.held_out),
            classes=data.classes,
            class_names=data.class_names,
        )

    @property
    def spec(self) -> DataSpec:
        """What a family is told of it."""
        return DataSpec(self.shape, self.classes, self.class_names)


@dataclass(frozen=True)
class RunRecord:
    """run.json, one field a key.

    Attributes:
        family, objective: names.
        settings: the family's own, all of them.
        recipe: how it is optimised.
        seed: of everything random; not of a private run's noise, which is a secret.
        data: what it trains on.
        augment: random changes to the images.
        tuning: weights it started from, and what of them is trained.
        privacy: what was promised.
        spent: what of that is spent at `step`: epsilon, delta, and how they were computed.
        threads: torch's threads; sums split over other numbers of threads round differently.
        processes, device: that shared the run.
        versions: of what trains it.
        commit: of the checkout that trains it, and whether that had changes; None without one.
        step, steps: steps taken, as of the newest checkpoint, and steps of the whole recipe.
        status: "running" also after a kill; "stopped" at --max-steps; "budget spent" where privacy allows no more
            steps; "finished" at the last step.
        seconds: time spent in the loop, over all resumptions.
        quality: what evaluation said of the averaged generator.
        quality_note: why there is none.
    """

    family: str
    objective: str
    settings: dict[str, Any]
    recipe: Recipe
    seed: int
    data: DataRecord
    augment: Augment | None
    tuning: Tuning | None
    privacy: Privacy | None
    threads: int
    processes: int
    device: str
    versions: dict[str, str]
    commit: dict[str, Any] | None
    spent: dict[str, Any] | None = None
    step: int = 0
    steps: int = 1
    status: Status = "running"
    seconds: float = 0.0
    quality: dict[str, Any] | None = None
    quality_note: str | None = None

    def write(self, run: Path) -> Self:
        """Put it into the run's folder, in one step."""
        document = {"format": FORMAT, "schema": SCHEMA, **asdict(self)}
        write_whole(run / FILE, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
        return self

    def but(self, **changes: Any) -> Self:
        """A copy with other values in some fields."""
        return dataclasses.replace(self, **changes)

    def made(self) -> dict[str, Any]:
        """What a bundle records of the run; not who asked for its data, nor where on this machine anything lies, and of
        a private one no hash of its images: it would give any of them away.
        """
        kept = ("family", "objective", "settings", "seed", "step", "steps", "status", "versions", "commit")
        data = {key: getattr(self.data, key) for key in ("name", "origin", "licence", "train")}
        if self.privacy is None:
            data["sha256"] = self.data.sha256
        data["options"] = {key: value for key, value in asdict(self.data.options).items() if key != "project"}
        named = {name: getattr(self, name) for name in ("recipe", "augment", "tuning", "privacy")}
        parts = {name: None if part is None else asdict(part) for name, part in named.items()}
        if parts["tuning"] and parts["tuning"]["start"]:
            parts["tuning"]["start"] = Path(parts["tuning"]["start"]).name
        return {
            **{name: getattr(self, name) for name in kept},
            **parts,
            "spent": self.spent,
            "data": data,
        }


def read(run: Path) -> RunRecord:
    """The record of the run in that folder.

    Raises:
        RunError: there is none, or it is damaged or of another schema.
    """
    file = run / FILE
    mend = "Give the folder that `aigc-rt train` wrote"
    try:
        if not file.is_file():
            there = "a folder without run.json" if run.is_dir() else "a file" if run.exists() else "nothing"
            raise RunError(f"open the run {run}", f"there is {there}", mend)
        document = json.loads(file.read_bytes())
        json.dumps(document, allow_nan=False)
        if (document.pop("format"), document.pop("schema")) != (FORMAT, SCHEMA):
            raise RunError(
                f"read {file}", f"it is no {FORMAT} of schema {SCHEMA}", "Train with this version of aigc-rt"
            )
        found: RunRecord = typed(RunRecord, document, "the run")
        _check(found)
        return found
    except RunError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise RunError(f"read {file}", f"it is damaged ({type(error).__name__}: {error})", mend) from None


def _check(run: RunRecord) -> None:
    """Raise ValueError where a number is out of its range."""
    data = run.data
    fits: dict[str, bool] = {
        "seed": 0 <= run.seed < noise.WORD_LIMIT,
        "step": 0 <= run.step <= run.steps,
        "steps": run.steps >= 1,
        "threads": 1 <= run.threads <= THREADS,
        "seconds": run.seconds >= 0,
        "shape": data.shape[0] in (1, 3) and min(data.shape) >= 1 and math.prod(data.shape) <= 1 << 40,
        "train, held_out or classes": min(data.train - 1, data.held_out, data.classes) >= 0,
    }
    if wrong := [name for name, fine in fits.items() if not fine]:
        raise ValueError(f"out of range: {', '.join(wrong)}")


def versions() -> dict[str, str]:
    """Of what trains."""
    try:
        own = importlib.metadata.version("aigc-rt")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        own = "unknown"
    return {
        "aigc-rt": own,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
