from __future__ import annotations

from pathlib import Path

import pytest
import toy


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of images in fp32 and fp16; tests that change one make their own."""
    return toy.bundle(tmp_path_factory.mktemp("bundles") / "toy")


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a label as condition."""
    return toy.bundle(tmp_path_factory.mktemp("bundles") / "labelled", labelled=True)
