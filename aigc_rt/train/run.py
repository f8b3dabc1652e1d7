"""A training run: a folder with run.json, checkpoints, samples and TensorBoard's files."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from aigc_rt.errors import AigcRtError, DataError, InputError, MissingDependency, RunError, WriteError
from aigc_rt.train import adapters, checkpoint, generators, record, tuning
from aigc_rt.train import data as datasets
from aigc_rt.train.data_options import DataOptions
from aigc_rt.train.evaluate import evaluate
from aigc_rt.train.generators.family import Family, TrainedGenerator, sample, trained
from aigc_rt.train.loop import Trainer, Watcher, fit
from aigc_rt.train.memorisation import FIGURE
from aigc_rt.train.options import TrainOptions, check_resumable, new_run, objective_of
from aigc_rt.train.privacy import Guard, respent
from aigc_rt.train.quality import Judge
from aigc_rt.train.quality_curve import watching
from aigc_rt.train.record import CHECKPOINTS, RunRecord, Status
from aigc_rt.train.samplers import RunSampler
from aigc_rt.train.settings import configured
from aigc_rt.train.source import Source, opened
from aigc_rt.train.stream import Shuffled
from aigc_rt.train.watch import GRID, Bar, Curves, Saver
from aigc_rt.train.workers import Workers

SAVES, GRIDS, POINTS = 10, 20, 400
"""Checkpoints, sample grids and points of a curve in a whole recipe."""
ExportCheck = Callable[[TrainedGenerator], None]
Adapter = Literal["merged", "live"]


def train(
    options: TrainOptions,
    export_check: ExportCheck | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> RunRecord:
    """Train a generator, and have it judged.

    Args:
        options: what is asked for.
        export_check: called with the untrained generator before a new run starts; what it raises ends the run
            before anything is written.
        progress: is told what happens before and after the steps.

    Returns:
        The record as written to run.json.

    Raises:
        RunError: unknown family or objective, `out` in use, nothing to resume or something else to resume, damage,
            networks that do not fit into memory.
        InputError: a batch of more images than there are, settings that are none of the family's.
        DataError, AccessDenied, MissingDependency: see `aigc_rt.train.data.load`.
        DeviceUnavailable: a GPU was asked for and there is none.
        WriteError: the disk is full, or `out` cannot be written to.
        KeyboardInterrupt: after a checkpoint was saved.
    """
    before = _resumed(options) if options.resume else None
    options, source = (options, None) if before else opened(options)
    usual = objective_of(options)[1]
    if before is None:
        _refuse_used(options.out)
    workers = Workers.launched(options.device)
    progress(f"loading {options.data}")
    data = datasets.load(options.data, options.loading or (before.data.options if before else DataOptions()))
    with _threads(options.recipe.get("threads") or (before.threads if before else usual.threads)):
        run = _same(before, new_run(options, data, workers), options.out) if before else new_run(options, data, workers)
        with _buildable(data.shape):
            family = create(run, source)
            guard = Guard.of(run, family, data, workers, options.out if before else None)
            stream = guard.stream if guard else Shuffled(data, run.recipe, run.seed, workers, run.augment)
            trainer = Trainer(family, data, run.recipe, run.seed, workers, stream, guard.update if guard else None)
        if before is None:
            run = run.but(steps=trainer.steps, spent=guard and guard.spent(0))
            if workers.first:
                if export_check is not None:
                    progress("checking that the generator can be exported")
                    export_check(_generator(options.out.name, run, family, trainer))
                if guard:
                    guard.keep(_made(options.out))
                run.write(_made(options.out))
        else:
            _restore(trainer, options.out, run)
        workers.wait()
        judge = cache(partial(Judge.of, data, options.judge, options.quiet))
        run = _fit(options, run.but(step=trainer.step), family, trainer, judge, guard)
        if not workers.first:
            return run
        progress("judging the samples")
        return _judged(options, run, family, trainer, judge)


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
    with _buildable(found.data.shape):
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
    quality = found.quality if found.step == saved.step else None
    spent = respent(found.spent, saved.step)
    return found.but(step=saved.step, quality=quality, spent=spent), family, averages


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


def _opened(run: Path) -> RunRecord:
    """Its record, of a family and an objective that are there, and settings that are the family's."""
    found = record.read(run)
    if found.family not in generators.FAMILIES or found.objective not in generators.find(found.family).objectives:
        raise _edited(run, f"there is no family {found.family!r} with the objective {found.objective!r}")
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
def _buildable(shape: tuple[int, int, int]) -> Iterator[None]:
    """Within, what torch says of networks too large is a RunError."""
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


def _refuse_used(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(
            f"train into {out}",
            "something is already there",
            "Choose another --out, or go on with the run there with --resume",
        )


def _made(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"train into {out}", error.strerror or str(error), "Choose a place you may write to") from None
    return out


def _resumed(options: TrainOptions) -> RunRecord:
    found = _opened(options.out)
    if found.family != options.family:
        raise RunError(f"resume {options.out} as {options.family}", f"it is a {found.family}", "Name that family")
    check_resumable(options, found)
    return found


def _same(before: RunRecord, asked: RunRecord, out: Path) -> RunRecord:
    """The run as it was started, now that its data is known to be the same."""
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


def _restore(trainer: Trainer, out: Path, run: RunRecord) -> None:
    if trainer.steps != run.steps:
        raise _edited(out, f"its recipe has {trainer.steps} steps, not {run.steps}")
    path = checkpoint.newest(out / CHECKPOINTS)
    if path is not None:  # a kill before the first one: from the start
        saved = _saved(path, run)
        trainer.restore(saved.step, saved.tensors)


def _generator(name: str, run: RunRecord, family: Family, trainer: Trainer) -> TrainedGenerator:
    merged = {role: adapters.merge(copy.deepcopy(average)) for role, average in trainer.averages.items()}
    return trained(family, merged, name, run.made(), run.quality)


def _fit(
    options: TrainOptions,
    run: RunRecord,
    family: Family,
    trainer: Trainer,
    judge: Callable[[], Judge],
    guard: Guard | None,
) -> RunRecord:
    """Take the steps that are left, and keep run.json in step with the checkpoints."""
    last = guard.last_step if guard else run.steps
    stop = min(last, options.max_steps or run.steps)
    if trainer.step >= stop and run.status in ("stopped", "budget spent", "finished"):
        return run
    began, spent = time.perf_counter(), run.seconds

    def now(step: int, status: Status) -> RunRecord:
        seconds = spent + time.perf_counter() - began
        privacy = guard and guard.spent(step)
        found = run.but(step=step, status=status, seconds=seconds, spent=privacy, quality=None, quality_note=None)
        return found.write(options.out) if trainer.workers.first else found

    watchers = _watchers(options, run, family, trainer, stop, now, judge) if trainer.workers.first else []
    try:
        fit(trainer, stop, watchers)
    except KeyboardInterrupt:
        step = now(trainer.step, "interrupted").step
        words = f"at step {step:,} of {run.steps:,}, which is saved"
        raise KeyboardInterrupt(f"{words}; go on with the same command and --resume") from None
    except OSError as error:
        if isinstance(error, AigcRtError):
            raise
        raise WriteError(
            f"write into the run {options.out}", error.strerror or str(error), "Free space, then go on with --resume"
        ) from error
    ends: dict[int, Status] = {last: "budget spent", run.steps: "finished"}
    return now(trainer.step, ends.get(trainer.step, "stopped"))


def _watchers(
    options: TrainOptions,
    run: RunRecord,
    family: Family,
    trainer: Trainer,
    stop: int,
    now: Callable[[int, Status], RunRecord],
    judge: Callable[[], Judge],
) -> list[Watcher]:
    main = family.graphs(trainer.averages)[family.program.graph]
    draw = partial(sample, main, family.program, run.seed, GRID)
    curves = Curves(options.out, trainer.step, math.ceil(run.steps / POINTS), math.ceil(run.steps / GRIDS), draw)
    watchers: list[Watcher] = [
        Saver(options.out / CHECKPOINTS, math.ceil(run.steps / SAVES), run.versions, lambda step: now(step, "running")),
        curves,
    ]
    if options.evaluate and run.privacy is None:  # a curve of a private run would tell of its images at every point
        watchers += watching(curves, math.ceil(run.steps / SAVES), RunSampler(family, trainer.averages), judge)
    return watchers if options.quiet else [*watchers, Bar(options.family, trainer.step, stop)]


def _judged(
    options: TrainOptions, run: RunRecord, family: Family, trainer: Trainer, judge: Callable[[], Judge]
) -> RunRecord:
    if run.quality is not None:
        return run
    if not options.evaluate:
        return run.but(quality_note="not asked for").write(options.out)
    try:
        fresh = create(run)
        quality = evaluate(
            RunSampler(family, trainer.averages),
            judge(),
            untrained=RunSampler(fresh, fresh.networks),
            private=run.privacy is not None,
            figure=options.out / FIGURE,
        )
    except (DataError, MissingDependency) as error:
        return run.but(quality_note=f"{error.asked}: {error.found}").write(options.out)
    except KeyboardInterrupt:
        run.but(quality_note="interrupted before it was judged").write(options.out)
        raise KeyboardInterrupt("trained, but not judged; judge it with the same command and --resume") from None
    return run.but(quality=quality, quality_note=None).write(options.out)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
