"""What several tests of training share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from aigc_rt.train import data


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
