"""What several tests of training share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch

from aigc_rt.train import data
from aigc_rt.train.generators.family import DataSpec
from aigc_rt.train.generators.gan import Gan, Settings
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
