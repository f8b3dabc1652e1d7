"""What a run's folder holds, back in memory: its record, its networks, the trainer that goes on with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from aigc_rt.errors import AigcRtError, InputError, RunError
from aigc_rt.train import adapters, checkpoint, generators, record, tuning
from aigc_rt.train.generators.family import Family, TrainedGenerator, trained
from aigc_rt.train.loop import Trainer
from aigc_rt.train.options import TrainOptions, check_resumable
from aigc_rt.train.privacy import respent
from aigc_rt.train.record import CHECKPOINTS, RunRecord
from aigc_rt.train.settings import configured
from aigc_rt.train.source import Source

Adapter = Literal["merged", "live"]


def load_generator(run: Path, adapter: Adapter = "merged") -> TrainedGenerator:
    """The averaged generator of a run's newest checkpoint.

    Args:
        run: its folder.
        adapter: "live" leaves the run's adapters beside the weights, see `adapters.live`.

    Raises:
        RunError: no run, no checkpoint in it, or a damaged one; live adapters of a run without any.
    """
    found, family, averages = restored(run, merge=adapter == "merged")
    if adapter == "live" and (found.tuning is None or found.tuning.rank is None):
        raise RunError(f"export {run} with a live adapter", "it has none", "Train with --adapter-rank 8, say")
    quality = found.quality if found.privacy is None else None  # computed from the images, past the promise
    made = trained(family, averages, run.resolve().name, found.made(), quality)
    return adapters.live(made) if adapter == "live" else made


def restored(run: Path, merge: bool = True) -> tuple[RunRecord, Family, dict[str, nn.Module]]:
    """A run's record as of its newest checkpoint, its family, and its averaged networks by role, on the CPU.

    Args:
        run: its folder.
        merge: fold adapters into the weights.

    Raises:
        RunError: no run, no checkpoint in it, or a damaged one.
    """
    found = _opened(run)
    with buildable(found.data.shape):
        family = create(found)
    path = checkpoint.newest(run / CHECKPOINTS)
    if path is None:
        raise RunError(f"load the generator of {run}", "there is no checkpoint in it", "Train again with --resume")
    saved = _saved(path, found)
    averages = {role: family.networks[role] for role in family.averaged}
    try:
        for role, network in averages.items():
            network.load_state_dict(checkpoint.strip(saved.tensors, f"average.{role}."))
    except RuntimeError as error:
        raise RunError(f"load the generator of {path}", str(error), "Train again into another folder") from None
    if merge:
        averages = {role: adapters.merge(network) for role, network in averages.items()}
    return _as_of(found, saved.step), family, averages


def create(run: RunRecord, source: Source | None = None) -> Family:
    """The family's networks with the run's first weights: fresh ones, or the source's; what is to be frozen is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed % (1 << 63))
        family = generators.create(run.family, run.data.spec, run.objective, run.settings)
        if source is not None:
            source.into(family, run.data.spec)
        if run.tuning is not None:
            tuning.apply(family, run.tuning)
        return family


def resumed(options: TrainOptions) -> RunRecord:
    """The record of the run in `options.out`, which is to go on as it was started.

    Raises:
        RunError: there is none, or something else is asked for.
    """
    found = _opened(options.out)
    if found.family != options.family:
        raise RunError(f"resume {options.out} as {options.family}", f"it is a {found.family}", "Name that family")
    check_resumable(options, found)
    return found


def same(before: RunRecord, asked: RunRecord, out: Path) -> RunRecord:
    """The run as it was started, by what trains it now.

    Args:
        before: its record.
        asked: the record of a new run with the data that is there now.
        out: its folder.

    Raises:
        RunError: the data is other data.
    """
    if before.data.sha256 != asked.data.sha256:
        raise RunError(
            f"resume with the data {asked.data.source}",
            f"it is not what the run was started with ({before.data.name}, SHA-256 {before.data.sha256[:12]}...)",
            f"Give --data {before.data.source} as it was, or train into another folder",
        )
    if before.data.shape != asked.data.shape:
        raise _edited(out, f"its images have the shape {before.data.shape}, the data's have {asked.data.shape}")
    now = {name: getattr(asked, name) for name in ("threads", "processes", "device", "versions", "commit")}
    return before.but(**now)


def restore(trainer: Trainer, out: Path, run: RunRecord) -> RunRecord:
    """Take over the newest checkpoint; the record as of it.

    Raises:
        RunError: the checkpoint is damaged or of another run.
    """
    if trainer.steps != run.steps:
        raise _edited(out, f"its recipe has {trainer.steps} steps, not {run.steps}")
    path = checkpoint.newest(out / CHECKPOINTS)
    if path is not None:  # a kill before the first one: from the start
        saved = _saved(path, run)
        trainer.restore(saved.step, saved.tensors)
    return _as_of(run, trainer.step)


def _as_of(run: RunRecord, step: int) -> RunRecord:
    """After a kill the record may be behind the newest checkpoint; what it says of quality is of its own step."""
    quality = run.quality if run.step == step else None
    return run.but(step=step, quality=quality, spent=respent(run.spent, step))


def _opened(run: Path) -> RunRecord:
    """Its record, of a family and an objective that are there, and settings that are the family's."""
    found = record.read(run)
    if found.family not in generators.FAMILIES or found.objective not in generators.find(found.family).objectives:
        raise _edited(run, f"there is no family {found.family!r} with the objective {found.objective!r}")
    if (found.privacy is None) != (found.spent is None):
        raise _edited(run, "it has privacy without what is spent of it, or the other way round")
    try:
        configured(generators.find(found.family).settings_type, found.settings, f"the family {found.family}")
    except InputError as error:
        raise _edited(run, error.found) from None
    return found


def _edited(run: Path, found: str) -> RunError:
    return RunError(
        f"read {run / record.FILE}", found, "It was edited or damaged: put it back, or train into another folder"
    )


@contextlib.contextmanager
def buildable(shape: tuple[int, int, int]) -> Iterator[None]:
    """Within, what torch says of networks for images of `shape`, (C, H, W), that are too large is a RunError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, AigcRtError):
            raise
        raise RunError(
            "make the networks for images of {} x {} x {}".format(*shape),
            f"they cannot be made ({str(error).splitlines()[0][:200] if str(error) else 'out of memory'})",
            "Train on smaller images, with --size",
        ) from None


def _saved(path: Path, run: RunRecord) -> checkpoint.Checkpoint:
    """A checkpoint of that run."""
    saved = checkpoint.load(path)
    if saved.seed != run.seed or saved.step > run.steps:
        raise RunError(
            f"read the checkpoint {path}",
            f"it is step {saved.step} of seed {saved.seed}, the run has {run.steps} steps and seed {run.seed}",
            "It or run.json is of another run: put it back, or train into another folder",
        )
    return saved
