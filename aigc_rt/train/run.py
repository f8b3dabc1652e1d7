"""A training run: a folder with run.json, checkpoints, samples and TensorBoard's files."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from aigc_rt import noise
from aigc_rt.errors import AigcRtError, DataError, InputError, RunError, WriteError
from aigc_rt.train import checkpoint, record
from aigc_rt.train import data as datasets
from aigc_rt.train.data import Dataset
from aigc_rt.train.generators import FAMILIES
from aigc_rt.train.generators.family import Family, TrainedGenerator, sample, trained
from aigc_rt.train.loop import Trainer, Watcher, fit
from aigc_rt.train.quality import Judge
from aigc_rt.train.record import DataRecord, RunRecord, Status
from aigc_rt.train.task import Recipe
from aigc_rt.train.watch import GRID, Bar, Curves, Saver

CHECKPOINTS = "checkpoints"
SAVES, GRIDS, POINTS = 10, 20, 400
"""Checkpoints, sample grids and points of a curve in a whole recipe."""
ExportCheck = Callable[[TrainedGenerator], None]


@dataclass(frozen=True)
class TrainOptions:
    """What a user asks for; None is the family's default or, with `resume`, what the run was started with.

    Attributes:
        family: a key of `FAMILIES`.
        data: a data set's name or a folder; see `aigc_rt.train.data.load`.
        out: the run's folder.
        epochs: passes over the training images; the learning rate's schedule spans them.
        max_steps: stop after so many steps, short of the recipe's end; `resume` goes on as if it had not stopped.
        seed: of everything random; None is 0.
        resume: go on from the newest checkpoint in `out`.
        objective: a key of the family's `objectives`.
        batch: images a step.
        size: resize images from files to size x size.
        evaluate: have the result judged, where the data has labels.
        judge: cache folder of judges; None is the user's.
        quiet: no progress, on a terminal either.
        threads: torch's threads, on which the last bits of the weights depend.
    """

    family: str
    data: str
    out: Path
    epochs: int | None = None
    max_steps: int | None = None
    seed: int | None = None
    resume: bool = False
    objective: str | None = None
    batch: int | None = None
    size: int | None = None
    evaluate: bool = True
    judge: Path | None = None
    quiet: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "max_steps", "batch", "size", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"train with {name}={value}", "it is not positive", "Give 1 or more")
        for name, most in (("epochs", record.EPOCHS), ("size", record.SIZE), ("threads", record.THREADS)):
            if (getattr(self, name) or 0) > most:
                raise InputError(f"train with {name}={getattr(self, name)}", f"the most is {most:,}", "Give fewer")
        noise.check(self.seed or 0, 0, 0, 1)


def train(options: TrainOptions, export_check: ExportCheck | None = None) -> RunRecord:
    """Train a generator, and have it judged.

    Args:
        options: what is asked for.
        export_check: called with the untrained generator before a new run starts; what it raises ends the run
            before anything is written.

    Returns:
        The record as written to run.json.

    Raises:
        RunError: unknown family or objective, `out` in use, nothing to resume or something else to resume, damage,
            networks that do not fit into memory.
        InputError: a batch of more images than there are.
        DataError, MissingDependency: see `aigc_rt.train.data.load`.
        WriteError: the disk is full, or `out` cannot be written to.
        KeyboardInterrupt: after a checkpoint was saved.
    """
    _recipe(options)
    before = _resumed(options) if options.resume else None
    if before is None:
        _refuse_used(options.out)
    data = datasets.load(options.data, options.size)
    with _threads(options.threads or (before.threads if before else _recipe(options)[1].threads)):
        asked = _asked(options, data)
        run = _check_same(before, asked, options.out) if before else asked
        _check_batch(run, data)
        with _buildable(data.shape):
            family = _create(run)
            trainer = Trainer(family, data, run.recipe, run.seed)
        if trainer.steps != run.steps:
            raise _edited(options.out, f"its recipe has {trainer.steps} steps, not {run.steps}")
        if before is None:
            if export_check is not None:
                export_check(_generator(options.out.name, run, family, trainer))
            run.write(_made(options.out))
        else:
            _restore(trainer, options.out, run)
        run = _fit(options, run.but(step=trainer.step), family, trainer)
        return _judged(options, run, family, trainer, data)


def load_generator(run: Path) -> TrainedGenerator:
    """The averaged generator of a run's newest checkpoint.

    Raises:
        RunError: no run, no checkpoint in it, or a damaged one.
    """
    found = _opened(run)
    with _buildable(found.data.shape):
        family = _create(found)
    path = checkpoint.newest(run / CHECKPOINTS)
    if path is None:
        raise RunError(f"load the generator of {run}", "there is no checkpoint in it", "Train again with --resume")
    saved = _saved(path, found)
    module = _main(family)
    try:
        module.load_state_dict(checkpoint.strip(saved.tensors, f"average.{family.program.graph}."))
    except RuntimeError as error:
        raise RunError(f"load the generator of {path}", str(error), "Train again into another folder") from None
    quality = found.quality if found.step == saved.step else None
    made = found.but(step=saved.step).made()
    return trained(module.eval().requires_grad_(False), family.program, run.resolve().name, made, quality)


def _family(name: str) -> type[Family]:
    if name not in FAMILIES:
        raise RunError(f"train {name!r}", "there is no such family", f"Known families are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _create(run: RunRecord) -> Family:
    """The family's networks with the run's first weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed % (1 << 63))
        try:
            return _family(run.family).create(run.data.shape, run.objective, run.config)
        except RunError as error:
            raise RunError(error.asked, f"{record.FILE}: {error.found}", error.mend) from None


def _opened(run: Path) -> RunRecord:
    """Its record, of a family and an objective that are there, and a config that is the family's."""
    found = record.read(run)
    if found.family not in FAMILIES or found.objective not in FAMILIES[found.family].objectives:
        raise _edited(run, f"there is no family {found.family!r} with the objective {found.objective!r}")
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


def _main(family: Family) -> nn.Module:
    return family.networks[family.program.graph]


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
    given = {"family": options.family, "objective": options.objective, "seed": options.seed}
    now = {**{name: getattr(found, name) for name in given}, "batch": found.recipe.batch, "epochs": found.recipe.epochs}
    given |= {"batch": options.batch, "epochs": options.epochs}
    for name, value in given.items():
        if value not in (None, now[name]):
            raise RunError(
                f"resume {options.out} with {name} {value}", f"it was started with {now[name]}", f"Leave --{name} out"
            )
    return found


def _recipe(options: TrainOptions) -> tuple[str, Recipe]:
    """The objective and how it is to be optimised."""
    objectives = _family(options.family).objectives
    objective = options.objective or next(iter(objectives))
    if objective not in objectives:
        raise RunError(
            f"train {options.family} with the objective {objective!r}",
            "there is no such objective",
            f"Known objectives are {', '.join(objectives)}",
        )
    usual: Recipe = objectives[objective]
    return objective, dataclasses.replace(
        usual, epochs=options.epochs or usual.epochs, batch=options.batch or usual.batch
    )


def _asked(options: TrainOptions, data: Dataset) -> RunRecord:
    """The record of a new run."""
    objective, recipe = _recipe(options)
    with _buildable(data.shape):
        family = _family(options.family).create(data.shape, objective)
        steps = Trainer(family, data, recipe, 0).steps
    return RunRecord(
        family=options.family,
        objective=objective,
        config=family.config,
        recipe=recipe,
        seed=options.seed or 0,
        data=DataRecord.of(data, options.data, options.size),
        threads=torch.get_num_threads(),
        versions=record.versions(),
        step=0,
        steps=steps,
    )


def _check_same(before: RunRecord, asked: RunRecord, out: Path) -> RunRecord:
    """The run as it was started, now that its data is known to be the same."""
    if before.data.sha256 != asked.data.sha256:
        raise RunError(
            f"resume with the data {asked.data.source}",
            f"it is not what the run was started with ({before.data.name}, SHA-256 {before.data.sha256[:12]}...)",
            f"Give --data {before.data.source} as it was, or train into another folder",
        )
    if before.data.shape != asked.data.shape:
        raise _edited(out, f"its images have the shape {before.data.shape}, the data's have {asked.data.shape}")
    return before.but(threads=asked.threads, versions=asked.versions)


def _check_batch(run: RunRecord, data: Dataset) -> None:
    most = max(len(data.train), _family(run.family).objectives[run.objective].batch)
    if run.recipe.batch > most:
        raise InputError(
            f"train with batch={run.recipe.batch}",
            f"there are {len(data.train):,} images to train on",
            f"Give {most:,} or less",
        )


def _restore(trainer: Trainer, out: Path, run: RunRecord) -> None:
    path = checkpoint.newest(out / CHECKPOINTS)
    if path is not None:  # a kill before the first one: from the start
        saved = _saved(path, run)
        trainer.restore(saved.step, saved.tensors)


def _generator(name: str, run: RunRecord, family: Family, trainer: Trainer) -> TrainedGenerator:
    return trained(trainer.averages[family.program.graph], family.program, name, run.made(), run.quality)


def _fit(options: TrainOptions, run: RunRecord, family: Family, trainer: Trainer) -> RunRecord:
    """Take the steps that are left, and keep run.json in step with the checkpoints."""
    stop = min(run.steps, options.max_steps or run.steps)
    if trainer.step >= stop and run.status in ("stopped", "finished"):
        return run
    began, spent = time.perf_counter(), run.seconds

    def now(step: int, status: Status) -> RunRecord:
        seconds = spent + time.perf_counter() - began
        return run.but(step=step, status=status, seconds=seconds, quality=None, quality_note=None).write(options.out)

    def saved(step: int) -> None:
        now(step, "running")

    average = trainer.averages[family.program.graph]
    draw = partial(sample, average, family.program, run.seed, GRID)
    saver = Saver(options.out / CHECKPOINTS, math.ceil(run.steps / SAVES), run.versions, saved)
    curves = Curves(options.out, trainer.step, math.ceil(run.steps / POINTS), math.ceil(run.steps / GRIDS), draw)
    watchers: list[Watcher] = [saver, curves]
    if not options.quiet:
        watchers.append(Bar(options.family, trainer.step, stop))
    try:
        fit(trainer, stop, watchers)
    except KeyboardInterrupt:
        now(record.read(options.out).step, "interrupted")
        raise
    except OSError as error:
        if isinstance(error, AigcRtError):
            raise
        raise WriteError(
            f"write into the run {options.out}", error.strerror or str(error), "Free space, then go on with --resume"
        ) from error
    return now(trainer.step, "finished" if trainer.step == run.steps else "stopped")


def _judged(options: TrainOptions, run: RunRecord, family: Family, trainer: Trainer, data: Dataset) -> RunRecord:
    if run.quality is not None:
        return run
    if not options.evaluate:
        return run.but(quality_note="not asked for").write(options.out)
    try:
        judge = Judge.of(data, options.judge, options.quiet)
        module, program = trainer.averages[family.program.graph], family.program
        quality = judge.judge(module, _main(_create(run)).eval(), program, data)
    except DataError as error:
        return run.but(quality_note=f"{error.asked}: {error.found}").write(options.out)
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
