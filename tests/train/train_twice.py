"""Run by `accelerate launch`: the losses of 20 steps of each family, as JSON, from the first process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from aigc_rt.train import data, generators
from aigc_rt.train.generators.family import DataSpec
from aigc_rt.train.loop import Trainer
from aigc_rt.train.task import Recipe
from aigc_rt.train.workers import Workers

STEPS = 20
SETTINGS: dict[str, dict[str, Any]] = {"gan": {"widths": [32, 32]}, "vae": {"width": 8, "latent": 8}}


def losses(family: str, workers: Workers) -> list[dict[str, float]]:
    torch.manual_seed(0)
    images = data.load("mnist5k" if family == "vae" else "digits")
    find = generators.find(family)
    recipe = Recipe(epochs=1, batch=32, lr=1e-3, betas=(0.5, 0.9))
    spec = DataSpec(images.shape, images.classes)
    made = generators.create(family, spec, next(iter(find.objectives)), SETTINGS[family])
    trainer = Trainer(made, images, recipe, 7, workers)
    return [trainer.advance() for _ in range(STEPS)]


def main() -> None:
    torch.set_num_threads(1)
    workers = Workers.launched("cpu")
    found = {family: losses(family, workers) for family in SETTINGS}
    if workers.first:
        Path(sys.argv[1]).write_text(json.dumps({"processes": workers.count, "losses": found}))


if __name__ == "__main__":
    main()
