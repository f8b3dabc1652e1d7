"""Checkpoints: a folder with `tensors.safetensors` and `state.json`, written aside and renamed; never a pickle.

`checkpoints/step-00001200/` is complete or not there: a kill while one is written leaves only a folder that starts
with a dot, which the next save removes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from aigc_rt.errors import RunError, WriteError

TENSORS, STATE = "tensors.safetensors", "state.json"
FORMAT, SCHEMA = "aigc-rt-checkpoint", 1
KEEP = 3
_NAME = re.compile(r"step-(\d{8,})")
_PARTIAL = ".partial-"
_LIMIT = 1 << 64


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        step: steps taken so far.
        seed: with the step, the state of all randomness: every draw is keyed by the two.
        tensors: weights, averages and optimizer state by name; see `Trainer.tensors`.
        versions: of what wrote it.
    """

    step: int
    seed: int
    tensors: dict[str, Tensor]
    versions: dict[str, str]


def save(folder: Path, checkpoint: Checkpoint, keep: int = KEEP) -> Path:
    """Write `folder/step-N` and remove all but the newest `keep`; one that is already there is left as it is.

    Raises:
        WriteError: it could not be written; the earlier ones are untouched.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    if final.is_dir():
        return final
    staging = folder / f"{_PARTIAL}{final.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(left)
        staging.mkdir()
        data = safetensors.torch.save({k: v.detach().contiguous() for k, v in checkpoint.tensors.items()})
        _write(staging / TENSORS, data)
        state = {
            "format": FORMAT,
            "schema": SCHEMA,
            "step": checkpoint.step,
            "seed": checkpoint.seed,
            "versions": checkpoint.versions,
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        _write(staging / STATE, (json.dumps(state, indent=1) + "\n").encode())
        staging.rename(final)
        for _, old in _all(folder)[:-keep]:
            shutil.rmtree(old)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise WriteError(
            f"write the checkpoint {final}",
            error.strerror or str(error),
            "Free space or make the folder writable, then train again with --resume",
        ) from error
    return final


def newest(folder: Path) -> Path | None:
    """The checkpoint of the highest step, or None."""
    found = _all(folder)
    return found[-1][1] if found else None


def newest_step(folder: Path) -> int:
    """Steps taken up to it; 0 where there is none."""
    found = _all(folder)
    return found[-1][0] if found else 0


def load(path: Path, only: str = "") -> Checkpoint:
    """Read a checkpoint, its hash checked.

    Args:
        path: the checkpoint's folder.
        only: prefix of the tensors wanted.

    Raises:
        RunError: it is truncated, damaged, or no checkpoint.
    """
    try:
        state: Any = json.loads((path / STATE).read_bytes())
        if (state["format"], state["schema"]) != (FORMAT, SCHEMA):
            raise _damaged(path, f"{STATE} is {state['format']} schema {state['schema']}, not {FORMAT} schema {SCHEMA}")
        step, seed, versions = state["step"], state["seed"], state["versions"]
        if type(step) is not int or type(seed) is not int or not (0 <= step < _LIMIT and 0 <= seed < _LIMIT):
            raise _damaged(path, f"{STATE}: step and seed are not whole numbers from 0 to 2**64 - 1")
        if not isinstance(versions, dict) or not all(isinstance(value, str) for value in versions.values()):
            raise _damaged(path, f"{STATE}: the versions are no object of strings")
        data = (path / TENSORS).read_bytes()
        if hashlib.sha256(data).hexdigest() != state["sha256"]:
            raise _damaged(path, f"{TENSORS} ({len(data):,} bytes) is not the file that was written")
        tensors = {k: v for k, v in safetensors.torch.load(data).items() if k.startswith(only)}
        return Checkpoint(step, seed, tensors, versions)
    except RunError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None


def strip(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose name starts with `prefix`, without it."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _all(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    named = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in named if match)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _damaged(path: Path, found: str) -> RunError:
    before = [p.name for _, p in _all(path.parent) if p.name < path.name]
    rest = f"remove it to go on from {before[-1]}" if before else "train again into another folder"
    return RunError(f"read the checkpoint {path}", found, rest[0].upper() + rest[1:])
