"""What several tests of training share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aigc_rt.train import checkpoint, data
from aigc_rt.train.generators.family import DataSpec
from aigc_rt.train.generators.gan import Gan, Settings
from aigc_rt.train.loop import Trainer
from aigc_rt.train.settings import configured


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small networks gain nothing from a second thread, and on a busy machine they wait for it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", name="digits")
def load_digits() -> data.Dataset:
    return data.load("digits")


def make_gan(shape: tuple[int, int, int], objective: str, settings: Mapping[str, Any] | None = None) -> Gan:
    """A GAN with fresh weights from torch's generator."""
    return Gan(DataSpec(shape), objective, configured(Settings, settings or {}, "the family gan"))


def stepped(family: Any, objective: str, shape: tuple[int, int, int] = (1, 28, 28), steps: int = 2) -> Trainer:
    """Its trainer after some steps on images of noise in four classes, with finite losses."""
    images = np.random.default_rng(0).integers(0, 256, (20, *shape)).astype(np.uint8)
    everything = np.arange(20)
    noise = data.Dataset("noise", images, everything % 4, (), "here", "none", everything[:16], everything[16:])
    trainer = Trainer(family, noise, dataclasses.replace(family.objectives[objective], batch=4), seed=0)
    for _ in range(steps):
        assert all(np.isfinite(value) for value in trainer.advance().values())
    return trainer


def weights(run: Path) -> Mapping[str, torch.Tensor]:
    """Everything in a run's newest checkpoint."""
    path = checkpoint.newest(run / "checkpoints")
    assert path is not None
    return checkpoint.load(path).tensors


def same(one: Path, two: Path) -> bool:
    """Whether two runs came to the same, bit for bit."""
    a, b = weights(one), weights(two)
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)
