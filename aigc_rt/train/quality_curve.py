"""Quality while training goes on, as curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from aigc_rt.errors import DataError, MissingDependency
from aigc_rt.train.evaluate import quick
from aigc_rt.train.loop import Trainer, Watcher
from aigc_rt.train.quality import Judge
from aigc_rt.train.samplers import Sampler
from aigc_rt.train.watch import Curves


@dataclass
class QualityCurve(Watcher):
    """Fréchet distance, kernel distance and covered classes of the averaged generator, for TensorBoard.

    Attributes:
        curves: whose writer is written to.
        every: in steps.
        sampler: of the averaged networks.
        judge: with a classifier's features; EfficientNet's would take seconds for every point.
    """

    curves: Curves
    every: int
    sampler: Sampler
    judge: Judge
    _written: int = field(default=-1, init=False)

    def after(self, trainer: Trainer, losses: Mapping[str, float]) -> None:
        """Write when due."""
        if trainer.step % self.every == 0:
            self.end(trainer)

    def end(self, trainer: Trainer) -> None:
        """A last point."""
        if self._written == trainer.step:
            return
        for name, value in quick(self.sampler, self.judge).items():
            self.curves.writer.add_scalar(f"quality/{name}", value, trainer.step)
        self._written = trainer.step

    def close(self) -> None:
        """The writer is closed by who has opened it."""


def watching(curves: Curves, every: int, sampler: Sampler, judge: Callable[[], Judge]) -> list[Watcher]:
    """The watcher, where the data can be judged by a classifier; why it cannot is said when the run is judged."""
    try:
        found = judge()
    except (DataError, MissingDependency):
        return []
    return [QualityCurve(curves, every, sampler, found)] if found.features.name == "classifier" else []
