"""A training run: a folder with run.json, checkpoints, samples and TensorBoard's files."""

from __future__ import annotations

import contextlib
import copy
import math
import shutil
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import torch

from aigc_rt.errors import AigcRtError, DataError, InputError, MissingDependency, RunError, WriteError
from aigc_rt.train import adapters, checkpoint
from aigc_rt.train import data as datasets
from aigc_rt.train.alone import alone
from aigc_rt.train.data import Dataset
from aigc_rt.train.data_options import DataOptions
from aigc_rt.train.evaluate import evaluate
from aigc_rt.train.generators.family import Family, TrainedGenerator, sample, trained
from aigc_rt.train.loop import Trainer, Watcher, fit
from aigc_rt.train.memorisation import FIGURE
from aigc_rt.train.options import TrainOptions, new_run, objective_of
from aigc_rt.train.privacy import Guard
from aigc_rt.train.quality import Judge
from aigc_rt.train.quality_curve import watching
from aigc_rt.train.record import CHECKPOINTS, RunRecord, Status
from aigc_rt.train.restore import buildable, create, restore, resumed, same
from aigc_rt.train.samplers import RunSampler
from aigc_rt.train.source import opened
from aigc_rt.train.stream import Shuffled
from aigc_rt.train.watch import GRID, Bar, Curves, Saver
from aigc_rt.train.workers import Workers

SAVES, GRIDS, POINTS = 10, 20, 400
"""Checkpoints, sample grids and points of a curve in a whole recipe."""
ExportCheck = Callable[[TrainedGenerator], None]


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
        KeyboardInterrupt: after a checkpoint was saved; at once when it is the second.
    """
    before = resumed(options) if options.resume else None
    options, source = (options, None) if before else opened(options)
    usual = objective_of(options)[1]
    if before is None:
        _refuse_used(options.out)
    workers = Workers.launched(options.device)
    progress(f"loading {options.data}")
    data = datasets.load(options.data, options.loading or (before.data.options if before else DataOptions()))
    threads = options.recipe.get("threads") or (before.threads if before else usual.threads)
    with contextlib.ExitStack() as held, _threads(threads):
        if before is not None and workers.first:
            held.enter_context(alone(options.out))
        run = same(before, new_run(options, data, workers), options.out) if before else new_run(options, data, workers)
        with buildable(data.shape):
            family = create(run, source)
            if source is None:
                _check_classes(family, data)
            guard = Guard.of(run, family, data, workers, options.out if before else None)
            stream = guard.stream if guard else Shuffled(data, run.recipe, run.seed, workers, run.augment)
            trainer = Trainer(family, data, run.recipe, run.seed, workers, stream, guard.update if guard else None)
        if before is None:
            run = run.but(steps=trainer.steps, spent=guard and guard.spent(0))
            if workers.first:
                if export_check is not None:
                    progress("checking that the generator can be exported")
                    export_check(_generator(options.out.name, run, family, trainer))
                _made(options.out)
                held.enter_context(alone(options.out))
                _refuse_used(options.out)  # by now another run may have begun there
                _start(options.out, run, trainer, guard)
        else:
            run = restore(trainer, options.out, run)
        workers.wait()
        judge = cache(partial(Judge.of, data, options.judge, options.quiet))
        run = _fit(options, run, family, trainer, judge, guard)
        if not workers.first:
            return run
        if options.evaluate and run.quality is None:
            progress("judging the samples")
        return _judged(options, run, family, trainer, judge)


def _refuse_used(out: Path) -> None:
    try:
        used = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:  # a name too long, a folder that may not be listed
        raise RunError(f"train into {out}", error.strerror or str(error), "Choose a place you may write to") from None
    if used:
        raise RunError(
            f"train into {out}",
            "something is already there",
            "Choose another --out, or go on with the run there with --resume",
        )


def _check_classes(family: Family, data: Dataset) -> None:
    """Refuse to train what takes a class without images of every class; fine-tuning is another thing."""
    missing = sorted(set(range(data.classes)) - set(data.present))
    if missing and "label" in family.program.conditions:
        shown = ", ".join(data.class_names[k] if data.class_names else str(k) for k in missing[:5])
        raise InputError(
            f"train a generator that takes a class on {len(data.present)} of the {data.classes} classes of {data.name}",
            f"it could be asked for what it never saw ({shown}{', ...' if len(missing) > 5 else ''})",
            "Train on all classes or on a folder of these alone, or start --from a generator of all",
        )


def _made(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"train into {out}", error.strerror or str(error), "Choose a place you may write to") from None


def _start(out: Path, run: RunRecord, trainer: Trainer, guard: Guard | None) -> None:
    """Fill a new run's folder, run.json last: without it nothing there is a run that could be resumed, and none is
    left behind in the way of the next.
    """
    try:
        if guard:
            guard.keep(out)
        if run.tuning is not None:  # its source may be gone when it is resumed
            first = checkpoint.Checkpoint(0, trainer.seed, trainer.tensors(), run.versions)
            checkpoint.save(out / CHECKPOINTS, first)
        run.write(out)
    except (AigcRtError, KeyboardInterrupt) as error:
        for left in out.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if isinstance(error, WriteError):
            raise WriteError(error.asked, error.found, "Free space or choose another place") from error
        raise


def _generator(name: str, run: RunRecord, family: Family, trainer: Trainer) -> TrainedGenerator:
    merged = {role: adapters.merge(copy.deepcopy(average).cpu()) for role, average in trainer.averages.items()}
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

    try:
        watchers = _watchers(options, run, family, trainer, stop, now, judge) if trainer.workers.first else []
        fit(trainer, stop, watchers)
    except KeyboardInterrupt:
        # After a second Ctrl-C the newest checkpoint is older than the last step; only the first process writes any.
        saved = checkpoint.newest_step(options.out / CHECKPOINTS) if trainer.workers.first else trainer.step
        step = now(saved, "interrupted").step
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
