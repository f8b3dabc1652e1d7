"""Watchers of a run: progress on a terminal, TensorBoard, sample grids, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from aigc_rt import media
from aigc_rt.files import write_whole
from aigc_rt.train import checkpoint
from aigc_rt.train.loop import Trainer, Watcher

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

GRID = 64
"""Samples in a grid."""


class _Rate(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0.0:.0f}/s")


class Bar(Watcher):
    """Losses, steps a second and time left, on a terminal; nothing in a pipe."""

    def __init__(self, what: str, done: int, stop: int) -> None:
        self._shown = Console(stderr=True).is_terminal
        self._columns = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),  # the whole line fits into 80 columns
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}", table_column=Column(no_wrap=True)),
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        self._task = self._columns.add_task(what, total=stop, completed=done, losses="")
        if self._shown:
            self._columns.start()

    def after(self, trainer: Trainer, losses: Mapping[str, float]) -> None:
        """Move on; the text is made only now and then."""
        if not self._shown:
            return
        self._columns.update(self._task, completed=trainer.step)
        if trainer.step % 20 == 0:
            text = " ".join(f"{role} {losses[role]:.2f}" for role in trainer.networks if role in losses)
            self._columns.update(self._task, losses=text)

    def end(self, trainer: Trainer) -> None:
        """Nothing to write."""

    def close(self) -> None:
        """Give the terminal back."""
        if self._shown:
            self._columns.stop()


@dataclass
class Curves(Watcher):
    """Scalars and grids for TensorBoard, grids as PNG too.

    Attributes:
        folder: the run's folder.
        start: step from which this process goes on; what TensorBoard holds from there on is set aside.
        scalars_every, grids_every: in steps.
        draw: GRID samples of the averaged generator, (GRID, H, W, C) uint8.
    """

    folder: Path
    start: int
    scalars_every: int
    grids_every: int
    draw: Callable[[], NDArray[np.uint8]]
    _writer: SummaryWriter | None = field(default=None, init=False)
    _grid_at: int = field(default=-1, init=False)
    _since: tuple[int, float] = field(default=(0, 0.0), init=False)

    @property
    def writer(self) -> SummaryWriter:
        """TensorBoard's writer; importing it takes over a second, so the first use does."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            purge = self.start + 1 if self.start else None
            self._writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=purge)
            self._since = (self.start, time.perf_counter())
        return self._writer

    def after(self, trainer: Trainer, losses: Mapping[str, float]) -> None:
        """Write what is due."""
        if trainer.step % self.scalars_every == 0:
            writer, now = self.writer, time.perf_counter()
            for name, value in losses.items():
                writer.add_scalar(f"loss/{name}", value, trainer.step)
            step, then = self._since
            if trainer.step > step:
                writer.add_scalar("speed/steps_per_s", (trainer.step - step) / (now - then), trainer.step)
            self._since = (trainer.step, now)
        if trainer.step % self.grids_every == 0:
            self._grid(trainer.step)

    def end(self, trainer: Trainer) -> None:
        """A last grid."""
        if self._grid_at != trainer.step:
            self._grid(trainer.step)

    def close(self) -> None:
        """Flush."""
        if self._writer is not None:
            self._writer.close()

    def _grid(self, step: int) -> None:
        picture = media.grid(self.draw())
        path = self.folder / "samples" / f"step-{step:08d}.png"
        path.parent.mkdir(exist_ok=True)
        write_whole(path, media.png(picture))
        self.writer.add_image("samples", picture, step, dataformats="HWC")
        self._grid_at = step


@dataclass
class Saver(Watcher):
    """Checkpoints every so many steps and at the end; `saved` is told of each, once it is on the disk."""

    folder: Path
    every: int
    versions: dict[str, str]
    saved: Callable[[int], object] = lambda _step: None

    def after(self, trainer: Trainer, losses: Mapping[str, float]) -> None:
        """Save when due."""
        if trainer.step % self.every == 0:
            self.end(trainer)

    def end(self, trainer: Trainer) -> None:
        """Save."""
        state = checkpoint.Checkpoint(trainer.step, trainer.seed, trainer.tensors(), self.versions)
        checkpoint.save(self.folder, state)
        self.saved(trainer.step)

    def close(self) -> None:
        """Nothing is held."""
