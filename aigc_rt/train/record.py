"""run.json: what a training run was asked to do, on what, with what, and how far it came."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import platform
import types
import typing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch

from aigc_rt import noise
from aigc_rt.errors import RunError
from aigc_rt.files import write_whole
from aigc_rt.train.data import Dataset
from aigc_rt.train.task import Recipe

FILE = "run.json"
FORMAT, SCHEMA = "aigc-rt-run", 1
EPOCHS, THREADS, SIZE = 1_000_000, 1024, 4096
"""The most that can be asked for: torch dies of more threads, and no such network fits into memory."""
QUALITY = ("samples", "sure", "covered", "classes", "frechet", "frechet_untrained", "frechet_ratio")
"""Numbers that a judgement has at least."""
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
        found: RunRecord = _typed(RunRecord, document, "the run")
        _check(found)
        return found
    except RunError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise RunError(f"read {file}", f"it is damaged ({type(error).__name__}: {error})", mend) from None


def _typed(kind: Any, value: Any, where: str) -> Any:
    """`value`, as JSON has it, as the type `kind`, or a ValueError that names the place."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is types.UnionType:  # a type or None
        return None if value is None else _typed(args[0], value, where)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints, fields = typing.get_type_hints(kind), {f.name: f for f in dataclasses.fields(kind)}
        needed = {name for name, f in fields.items() if f.default is dataclasses.MISSING}
        if wrong := (value.keys() - fields.keys()) | (needed - value.keys()):
            raise ValueError(f"{where}: the keys {sorted(wrong)} are missing or unknown")
        return typing.cast(Any, kind)(**{name: _typed(hints[name], v, name) for name, v in value.items()})
    if origin is dict and isinstance(value, dict):
        return {name: _typed(args[1], item, f"{where}: {name}") for name, item in value.items()}
    if origin is tuple and isinstance(value, list) and len(value) == len(args):
        return tuple(_typed(one, item, where) for one, item in zip(args, value, strict=True))
    if origin is Literal and value in args:
        return value
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind in (int, str) and type(value) is kind:
        return value
    raise ValueError(f"{where} is {repr(value)[:60]}")


def _check(run: RunRecord) -> None:
    """Raise ValueError where a number is out of its range."""
    recipe, data = run.recipe, run.data
    quality = dict.fromkeys(QUALITY, 0) if run.quality is None else run.quality
    fits: dict[str, bool] = {
        "seed": 0 <= run.seed < noise.WORD_LIMIT,
        "step": 0 <= run.step <= run.steps,
        "steps": run.steps >= 1,
        "threads": all(1 <= count <= THREADS for count in (run.threads, recipe.threads or 1)),
        "seconds": run.seconds >= 0,
        "epochs": 1 <= recipe.epochs <= EPOCHS,
        "batch": 1 <= recipe.batch <= noise.WORD_LIMIT,
        "lr": recipe.lr > 0,
        "betas": all(0 <= beta < 1 for beta in recipe.betas),
        "ema": 0 < recipe.ema <= 1,
        "final_lr": recipe.final_lr >= 0,
        "warmup_steps": recipe.warmup_steps >= 0,
        "shape": data.shape[0] in (1, 3) and min(data.shape) >= 1 and math.prod(data.shape) <= 1 << 40,
        "size": data.size is None or 1 <= data.size <= SIZE,
        "train, held_out or classes": min(data.train - 1, data.held_out, data.classes) >= 0,
        "quality": all(type(quality.get(name)) in (int, float) for name in QUALITY),
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
