"""run.json: what a training run was asked to do, on what, with what, and how far it came."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch

from aigc_rt.errors import RunError
from aigc_rt.files import write_whole
from aigc_rt.train.data import Dataset
from aigc_rt.train.task import Recipe

FILE = "run.json"
FORMAT, SCHEMA = "aigc-rt-run", 1
Status = Literal["running", "interrupted", "stopped", "finished"]


@dataclass(frozen=True)
class DataRecord:
    """The data of a run: where it was read from, and what it was."""

    source: str
    size: int | None
    name: str
    sha256: str
    origin: str
    licence: str
    shape: tuple[int, int, int]
    train: int
    held_out: int
    classes: int

    @classmethod
    def of(cls, data: Dataset, source: str, size: int | None) -> Self:
        """The record of `data`, read from `source` at `size`."""
        return cls(
            source=source,
            size=size,
            name=data.name,
            sha256=data.sha256,
            origin=data.origin,
            licence=data.licence,
            shape=data.shape,
            train=len(data.train),
            held_out=len(data.held_out),
            classes=data.classes,
        )


@dataclass(frozen=True)
class RunRecord:
    """run.json, one field a key.

    Attributes:
        family, objective: names.
        config: the family's own settings.
        recipe: how it is optimised.
        seed: of everything random.
        data: what it trains on.
        threads: torch's threads; sums split over other numbers of threads round differently.
        versions: of what trains it.
        step, steps: steps taken, as of the newest checkpoint, and steps of the whole recipe.
        status: "running" also after a kill; "stopped" at --max-steps; "finished" at the last step.
        seconds: time spent in the loop, over all resumptions.
        quality: the judge's word on the averaged generator; see `Judge.judge`.
        quality_note: why there is none.
    """

    family: str
    objective: str
    config: dict[str, Any]
    recipe: Recipe
    seed: int
    data: DataRecord
    threads: int
    versions: dict[str, str]
    step: int
    steps: int
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
        """What a bundle records of the run."""
        return {
            "family": self.family,
            "objective": self.objective,
            "config": self.config,
            "recipe": asdict(self.recipe),
            "seed": self.seed,
            "step": self.step,
            "steps": self.steps,
            "status": self.status,
            "data": {key: getattr(self.data, key) for key in ("name", "sha256", "origin", "licence", "train")},
            "versions": self.versions,
        }


def read(run: Path) -> RunRecord:
    """The record of the run in that folder.

    Raises:
        RunError: there is none, or it is damaged or of another schema.
    """
    file = run / FILE
    mend = "Give the folder that `aigc-rt train` wrote"
    if not file.is_file():
        there = "a folder without run.json" if run.is_dir() else "a file" if run.exists() else "nothing"
        raise RunError(f"open the run {run}", f"there is {there}", mend)
    try:
        document = json.loads(file.read_bytes())
        if (document.pop("format"), document.pop("schema")) != (FORMAT, SCHEMA):
            raise RunError(
                f"read {file}", f"it is no {FORMAT} of schema {SCHEMA}", "Train with this version of aigc-rt"
            )
        recipe, data = document.pop("recipe"), document.pop("data")
        return RunRecord(
            recipe=Recipe(**recipe | {"betas": tuple(recipe["betas"])}),
            data=DataRecord(**data | {"shape": tuple(data["shape"])}),
            **document,
        )
    except RunError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"read {file}", f"it is damaged ({type(error).__name__}: {error})", mend) from None


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
