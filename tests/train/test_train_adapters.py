"""Low-rank adapters: nothing at first, foldable, with a strength for every sample; frozen weights stay bit by bit."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from train_help import one_thread  # noqa: F401

import aigc_rt
from aigc_rt.errors import InputError
from aigc_rt.export import export
from aigc_rt.manifest import Condition, Feedforward, Media, Noise
from aigc_rt.train import adapters
from aigc_rt.train.generators.family import TrainedGenerator, inputs

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 5), (3, 6)),
    "linear of tokens": (lambda: nn.Linear(6, 5, bias=False), (3, 4, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (3, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1), (3, 4, 8, 8)),
    "strided, dilated": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 0), dilation=2), (3, 4, 9, 8)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (3, 4, 8, 8)),
    "reflecting, same": (lambda: nn.Conv2d(4, 6, 3, padding="same", padding_mode="reflect"), (3, 4, 8, 8)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 4, 2, 1), (3, 4, 5, 5)),
    "transposed, odd": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, dilation=2), (3, 4, 5, 5)),
    "transposed, groups": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, groups=2, bias=False), (3, 4, 5, 5)),
}


class Small(nn.Module):
    """Every kind of layer, and a class: (B, 8) and (B,) int64 to (B, 1, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 8)
        self.first = nn.Linear(8, 6 * 16)
        self.rest = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.ConvTranspose2d(6, 4, 4, 2, 1), nn.Conv2d(4, 1, 1))

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        made: Tensor = self.rest(self.first(z + self.embedding(label)).reshape(-1, 6, 4, 4))
        return made.tanh()


def learned(network: nn.Module) -> nn.Module:
    """The network with adapters that do something."""
    for layer in adapters.adapted(network).values():
        nn.init.normal_(layer.up.weight, std=0.2)  # type: ignore[arg-type]
    return network


def small() -> tuple[nn.Module, nn.Module]:
    """A network, and the same with adapters that do something."""
    torch.manual_seed(3)
    plain = Small().eval()
    network = copy.deepcopy(plain)
    adapters.adapt(network, 2, 4.0)
    return plain, learned(network)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer(kind: str) -> None:
    make, shape = LAYERS[kind]
    torch.manual_seed(0)
    network, x = nn.Sequential(make()), torch.randn(shape)
    before = network(x)
    plain = {name: value.clone() for name, value in network.state_dict().items()}
    assert adapters.adapt(network, 2, 3.0) == ("0",)
    assert torch.equal(network(x), before), "an adapter is nothing at first"
    branch = learned(network)(x)
    assert (branch - before).abs().max() > 0.01
    found = adapters.merge(network)
    assert {n: v.shape for n, v in found.state_dict().items()} == {n: v.shape for n, v in plain.items()}
    assert type(found[0]) is type(make())
    torch.testing.assert_close(found(x), branch, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_strength_for_every_sample(kind: str) -> None:
    make, shape = LAYERS[kind]
    torch.manual_seed(0)
    plain, x = make(), torch.randn(shape)
    layer = adapters.Adapted(copy.deepcopy(plain), 2, 2.0)  # type: ignore[arg-type]
    nn.init.normal_(layer.up.weight)  # type: ignore[arg-type]
    with torch.no_grad():
        layer.scale = torch.tensor([0.0, 0.5, 2.0])
        together = layer(x)
        assert torch.equal(together[:1], plain(x)[:1]), "strength 0 is the layer alone"
        for place, strength in enumerate((0.0, 0.5, 2.0)):
            layer.scale = torch.tensor([strength])
            torch.testing.assert_close(layer(x[place : place + 1])[0], together[place], rtol=1e-5, atol=1e-5)


def test_merging_takes_the_strength_with_it() -> None:
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(6, 5)), torch.randn(3, 6)
    source = network(x)
    adapters.adapt(network, 2, 2.0)
    learned(network)
    adapters.adapted(network)["0"].scale.fill_(0.5)
    half = network(x)
    torch.testing.assert_close(adapters.merge(network)(x), half)
    assert not torch.equal(half, source)


def test_rank_and_alpha() -> None:
    network = nn.Sequential(nn.Linear(100, 50), nn.Conv2d(1, 4, 3), nn.Linear(100, 3))
    adapters.adapt(network, 8, 4.0)
    found = adapters.adapted(network)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items() if name.endswith("down.weight")}
    assert shapes == {"0.down.weight": (8, 100), "1.down.weight": (4, 1, 3, 3), "2.down.weight": (3, 100)}
    assert {layer.strength for layer in found.values()} == {0.5}, "of the rank that was asked for"


def test_which_layers() -> None:
    network = nn.Sequential(
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)),
        nn.Linear(2, 2),
        spectral_norm(nn.Linear(2, 2)),
        nn.Linear(2, 2),
    )
    network[3].requires_grad_(False)
    assert list(adapters.adaptable(network)) == ["0.0", "1"]
    assert adapters.adapt(copy.deepcopy(network), 1, 1.0, ["0.*"]) == ("0.0",)
    assert adapters.adapt(network, 1, 1.0, ["1", "0.*"]) == ("0.0", "1")
    assert adapters.adapt(network, 1, 1.0, ["*"]) == (), "those that have one get no second"


def test_a_strength_as_an_input() -> None:
    plain, network = small()
    module = copy.deepcopy(adapters.scaled(network))
    assert list(inspect.signature(module.forward).parameters) == ["z", "label", "adapter_scale"]
    assert not module.training
    z, label = torch.randn(3, 8), torch.tensor([0, 2, 1])
    with torch.no_grad():
        assert torch.equal(module(z, label, torch.zeros(3)), plain(z, label))
        assert torch.equal(module(z=z, label=label, adapter_scale=torch.ones(3)), network(z, label))
        merged = adapters.merge(copy.deepcopy(network))(z, label)
        torch.testing.assert_close(module(z, label, torch.ones(3)), merged, rtol=0, atol=1e-5)


def test_live_in_a_bundle(tmp_path: Path) -> None:
    plain, network = small()
    program = Feedforward(
        "generator",
        {"z": Noise(0, "normal", (8,))},
        Media("array", "output"),
        {"label": Condition("label", "int64", 0, 2)},
    )
    dynamic = {name: {0: ("batch", 1, 64)} for name in ("z", "label")}
    made = adapters.live(TrainedGenerator(network, inputs(program, 0, 0, 2), dynamic, program, "x", {}, None))
    bundle = export(made.module, made.example_inputs, tmp_path / "b", program=made.program, dynamic=made.dynamic)
    condition = bundle.manifest.program.conditions["adapter_scale"]  # type: ignore[union-attr]
    assert (condition.low, condition.high, condition.default, condition.dtype) == (0.0, 2.0, 1.0, "float32")
    given = inputs(program, 7, 0, 4, {"label": np.array([0, 1, 2, 1])})
    strengths = np.array([0.0, 0.5, 1.0, 2.0], np.float32)
    with torch.no_grad(), aigc_rt.load(tmp_path / "b", device="cpu", precision="fp32") as gen:
        found = gen.generate(4, seed=7, label=[0, 1, 2, 1], adapter_scale=strengths, raw=True).raw
        expected = made.module(**given, adapter_scale=torch.from_numpy(strengths)).numpy()
        assert found is not None
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(found[0], plain(**given)[0].numpy(), atol=1e-5)
        usual = gen.generate(4, seed=7, label=[0, 1, 2, 1], raw=True).raw
        assert usual is not None
        np.testing.assert_allclose(usual, network(**given).numpy(), atol=1e-5)
        with pytest.raises(InputError, match="adapter_scale"):
            gen.generate(1, seed=7, label=0, adapter_scale=2.5)
