"""The weights that a fine-tuned run starts from: those of another run, or of one of its checkpoints."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from aigc_rt.errors import AigcRtError, InputError, RunError
from aigc_rt.train import adapters, checkpoint, generators, record, tuning
from aigc_rt.train.generators.family import DataSpec, Family
from aigc_rt.train.options import TrainOptions
from aigc_rt.train.record import RunRecord

SHOWN = 4
"""Weights that an error names."""


@dataclass(frozen=True, eq=False)
class Source:
    """A checkpoint to start from.

    Attributes:
        path: its folder.
        run: the record of the run it is of.
        step: steps taken up to it.
        sha256: hash of its tensors.
        family: the networks with its weights: the averaged ones of a role that has an average, adapters merged.
    """

    path: Path
    run: RunRecord
    step: int
    sha256: str
    family: Family

    @classmethod
    def open(cls, place: Path) -> Source:
        """The newest checkpoint of a run's folder, or the checkpoint in a folder `RUN/checkpoints/step-N`.

        Raises:
            RunError: there is neither, it is damaged, or its networks are not those that its run.json tells of.
        """
        try:
            named = (place / checkpoint.STATE).is_file()
        except OSError as error:  # a name too long, say
            mend = "Give the folder that `aigc-rt train` wrote"
            raise RunError(f"start from {place}", error.strerror or str(error), mend) from None
        folder = place.resolve().parent.parent if named else place
        run = record.read(folder)
        path = place if named else checkpoint.newest(folder / record.CHECKPOINTS)
        if path is None:
            raise RunError(f"start from {place}", "there is no checkpoint in it", "Train it first, or name another run")
        saved = checkpoint.load(path)
        with (path / checkpoint.TENSORS).open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return cls(path, run, saved.step, sha256, _family(path, run, saved))

    def settled(self, options: TrainOptions) -> TrainOptions:
        """The options with this source in them: its family's settings, and its objective, where none are given.

        Raises:
            RunError: another family is asked for.
        """
        if options.family != self.run.family:
            raise RunError(
                f"start a {options.family} from {self.path}",
                f"it is a {self.run.family}",
                f"Train the family {self.run.family}, or start from another run",
            )
        assert options.tuning is not None
        lineage = self.run.but(step=self.step).made()
        return dataclasses.replace(
            options,
            objective=options.objective or self.run.objective,
            settings=asdict(self.family.settings) | dict(options.settings),
            tuning=dataclasses.replace(options.tuning, sha256=self.sha256, lineage=lineage),
        )

    def into(self, family: Family, data: DataSpec) -> None:
        """Copy the weights into networks that are made for `data`.

        Raises:
            RunError: the networks are others; it names the weights that do not fit.
        """
        if data.shape != self.run.data.shape:
            raise RunError(
                f"start from {self.path} with images of {_size(data)}",
                f"it makes images of {_size(self.run.data.spec)}",
                "Give images of that size, with --size or --colour",
            )
        here, there = _shapes(family), _shapes(self.family)
        wrong = [name for name in {**there, **here} if there.get(name) != here.get(name)]
        if wrong:
            named = "; ".join(f"{n} is {_said(there.get(n))} there, {_said(here.get(n))} here" for n in wrong[:SHOWN])
            more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
            mend = "Leave out settings of the networks, and give data with as many classes"
            raise RunError(f"start from {self.path}", f"weights do not fit: {named}{more}", mend)
        for role, network in family.networks.items():
            network.load_state_dict(self.family.networks[role].state_dict())


def opened(options: TrainOptions) -> tuple[TrainOptions, Source | None]:
    """The options of a new run with what its source says, see `Source.settled`, and that source, if it has one.

    Raises:
        RunError: see `Source.open` and `Source.settled`.
        InputError: adapters on weights that nothing was learned in.
    """
    if options.tuning is None:
        return options, None
    if options.tuning.start is None:
        if options.tuning.rank is not None:
            raise InputError("train adapters", "there are only fresh weights to put them on", "Give --from RUN too")
        return options, None
    source = Source.open(Path(options.tuning.start))
    return source.settled(options), source


def _family(path: Path, run: RunRecord, saved: checkpoint.Checkpoint) -> Family:
    try:
        with torch.random.fork_rng(devices=[]):
            family = generators.create(run.family, run.data.spec, run.objective, run.settings)
            if run.tuning is not None:
                tuning.apply(family, run.tuning)
        for role, network in family.networks.items():
            kind = "average" if role in family.averaged else "network"
            network.load_state_dict(checkpoint.strip(saved.tensors, f"{kind}.{role}."))
            adapters.merge(network)
    except (RuntimeError, MemoryError, KeyError, ValueError) as error:
        found = error.found if isinstance(error, AigcRtError) else f"its networks are others ({error})"
        raise RunError(f"start from {path}", found, "Bring back its run.json, or start from another run") from None
    return family


def _shapes(family: Family) -> dict[str, tuple[int, ...]]:
    return {
        f"{role}.{name}": tuple(value.shape)
        for role, network in family.networks.items()
        for name, value in network.state_dict().items()
        if isinstance(value, Tensor)
    }


def _said(shape: tuple[int, ...] | None) -> str:
    return "not" if shape is None else str(shape)


def _size(data: DataSpec) -> str:
    return "{} x {} x {}".format(*data.shape)
