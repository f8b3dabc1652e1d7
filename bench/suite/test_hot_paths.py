"""The runtime's hot paths under pytest-benchmark: `pytest bench/suite --benchmark-only`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import aigc_rt
from aigc_rt import media, noise
from aigc_rt.export import export
from aigc_rt.manifest import Feedforward, Media, Noise

BATCHES = (1, 64)
LATENT = 100
MEDIA = Media("image", "image", "NCHW")


class Mlp(torch.nn.Module):
    """100-256-512-784, random weights: its time does not depend on them."""

    def __init__(self) -> None:
        super().__init__()
        hidden = (torch.nn.Linear(LATENT, 256), torch.nn.ReLU(), torch.nn.Linear(256, 512), torch.nn.ReLU())
        self.layers = torch.nn.Sequential(*hidden, torch.nn.Linear(512, 784), torch.nn.Tanh())

    def forward(self, z: torch.Tensor) -> torch.Tensor:  # (B, 100)
        image: torch.Tensor = self.layers(z).view(-1, 1, 28, 28)
        return image  # (B, 1, 28, 28)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("suite") / "mlp"
    program = Feedforward("generator", {"z": Noise(0, "normal", (LATENT,))}, MEDIA)
    example = {"z": torch.randn(2, LATENT)}
    export(Mlp().eval(), example, out, program=program, precisions=("fp32",), dynamic={"z": {0: ("batch", 1, 64)}})
    return out


@pytest.fixture(scope="session")
def generator(bundle: Path) -> Iterator[aigc_rt.Generator]:
    with aigc_rt.load(bundle, device="cpu") as loaded:
        yield loaded


@pytest.mark.parametrize("batch", BATCHES)
def test_noise(benchmark: Any, batch: int) -> None:
    assert benchmark(noise.normal, 7, 0, 0, batch, (LATENT,)).shape == (batch, LATENT)


@pytest.mark.parametrize("batch", BATCHES)
def test_pixels(benchmark: Any, batch: int) -> None:
    floats = noise.normal(7, 0, 0, batch, (1, 28, 28))
    assert benchmark(media.finish, floats, MEDIA).shape == (batch, 28, 28, 1)


@pytest.mark.parametrize("batch", BATCHES)
def test_run(benchmark: Any, generator: aigc_rt.Generator, batch: int) -> None:
    inputs = {"z": noise.normal(7, 0, 0, batch, (LATENT,))}
    assert benchmark(generator.run, inputs)["image"].shape == (batch, 1, 28, 28)


@pytest.mark.parametrize("batch", BATCHES)
def test_generate(benchmark: Any, generator: aigc_rt.Generator, batch: int) -> None:
    images = benchmark(generator.generate, batch, seed=7).array
    assert images.shape == (batch, 28, 28, 1)
    assert images.dtype == np.uint8


def test_load(benchmark: Any, bundle: Path) -> None:
    def load() -> str:
        with aigc_rt.load(bundle, device="cpu") as loaded:
            return loaded.plan.chosen[0].device

    assert benchmark(load) == "cpu"
