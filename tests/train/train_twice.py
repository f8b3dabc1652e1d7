"""Run by `accelerate launch`: the losses of 20 steps, as JSON, from the first process."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from aigc_rt.train import data, generators
from aigc_rt.train.generators.family import DataSpec
from aigc_rt.train.loop import Trainer
from aigc_rt.train.stream import Shuffled
from aigc_rt.train.task import Batch
from aigc_rt.train.workers import Workers

STEPS = 20
CASES = {
    "gan bce": (torch.float32, {}),
    "gan r3gan": (torch.float64, {}),  # Adam without momentum makes signs of rounding: in fp32 1e-2 after 20 steps
    "vae sigma": (torch.float32, {"width": 8, "latent": 8}),
}


class DoubleBatch(Batch):
    """In float64."""

    def normal(self, shape: tuple[int, ...], stream: int = 0) -> Tensor:
        return super().normal(shape, stream).double()


class DoubleStream(Shuffled):
    """In float64."""

    def batch(self, first: int, count: int) -> Batch:
        found = super().batch(first, count)
        return DoubleBatch(found.images.double(), found.labels, found.seed, found.first)


def losses(case: str, workers: Workers) -> list[dict[str, float]]:
    """Of the default recipe on mnist5k."""
    name, objective = case.split()
    dtype, settings = CASES[case]
    torch.manual_seed(0)
    images = data.load("mnist5k")
    recipe = dataclasses.replace(generators.find(name).objectives[objective], epochs=1)
    family = generators.create(name, DataSpec(images.shape, images.classes), objective, settings)
    stream = (DoubleStream if dtype == torch.float64 else Shuffled)(images, recipe, 7, workers)
    for network in family.networks.values():
        network.to(dtype)
    trainer = Trainer(family, images, recipe, 7, workers, stream)
    return [trainer.advance() for _ in range(STEPS)]


def main() -> None:
    torch.set_num_threads(1)
    workers = Workers.launched("cpu")
    found = {case: losses(case, workers) for case in CASES}
    if workers.first:
        Path(sys.argv[1]).write_text(json.dumps({"processes": workers.count, "losses": found}))


if __name__ == "__main__":
    main()
