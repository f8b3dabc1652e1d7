"""The loop: seeds, resuming bit for bit, interrupts, schedules."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from train_help import load_digits, make_gan, one_thread  # noqa: F401

from aigc_rt.errors import InputError, RunError
from aigc_rt.train import data
from aigc_rt.train.loop import Trainer, Watcher, fit, scale
from aigc_rt.train.task import Batch, Loss, Recipe
from aigc_rt.train.update import Update
from aigc_rt.train.workers import Workers

RECIPE = Recipe(epochs=2, batch=32, lr=1e-3, betas=(0.5, 0.9))


def trainer(digits: data.Dataset, seed: int = 0, objective: str = "r3gan") -> Trainer:
    torch.manual_seed(seed)
    return Trainer(make_gan(digits.shape, objective, {"widths": [16, 16]}), digits, RECIPE, seed)


def same(one: Trainer, two: Trainer) -> bool:
    a, b = one.tensors(), two.tensors()
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


class Recorder(Watcher):
    def __init__(self) -> None:
        self.losses: list[Mapping[str, float]] = []
        self.calls: list[str] = []

    def after(self, trainer: Trainer, losses: Mapping[str, float]) -> None:
        self.losses.append(losses)

    def end(self, trainer: Trainer) -> None:
        self.calls.append(f"end {trainer.step}")

    def close(self) -> None:
        self.calls.append("close")


@pytest.mark.parametrize("objective", ["r3gan", "bce"])
def test_a_seed_reproduces_a_run(objective: str, digits: data.Dataset) -> None:
    one, two, other = (trainer(digits, seed, objective) for seed in (4, 4, 5))
    records = [Recorder(), Recorder(), Recorder()]
    for run, record in zip((one, two, other), records, strict=True):
        torch.manual_seed(np.random.default_rng().integers(1 << 30))  # nothing outside may matter
        fit(run, 12, [record])
    assert same(one, two)
    assert records[0].losses == records[1].losses
    assert not same(one, other)


@pytest.mark.parametrize("cut", [1, 7])
def test_resuming_is_exact(cut: int, digits: data.Dataset) -> None:
    whole = trainer(digits)
    fit(whole, 12)
    first = trainer(digits)
    fit(first, cut)
    kept = {name: value.clone() for name, value in first.tensors().items()}
    second = trainer(digits, seed=0)
    second.advance()  # whatever was there before is replaced
    second.restore(cut, kept)
    fit(second, 12)
    assert same(whole, second)
    assert second.step == 12


def test_restoring_another_network_is_refused(digits: data.Dataset) -> None:
    wider = Trainer(make_gan(digits.shape, "r3gan", {"widths": [16, 17]}), digits, RECIPE, 0)
    with pytest.raises(RunError, match="its networks are others"):
        trainer(digits).restore(1, wider.tensors())


def test_every_epoch_sees_every_training_image_once(digits: data.Dataset) -> None:
    seen: list[torch.Tensor] = []

    class Spy:
        def __init__(self) -> None:
            self.networks = {"n": nn.Linear(1, 1)}
            self.averaged = ()

        def losses(self, batch: Batch) -> Iterator[Loss]:
            seen.append(batch.images)
            yield Loss("n", self.networks["n"](torch.ones(1)).sum())

    run = Trainer(Spy(), digits, dataclasses.replace(RECIPE, batch=77), 0)
    assert run.steps == 42  # 2 * 1617 / 77
    fit(run, run.steps)
    pixels = torch.cat(seen).flatten(1)
    ours = torch.from_numpy(digits.images[digits.train]).flatten(1).float() / 127.5 - 1
    for epoch in torch.split(pixels, 1617):
        order, expected = (x[np.lexsort(x.numpy().T)] for x in (epoch, ours))
        assert torch.equal(order, expected)
    assert not torch.equal(pixels[:1617], pixels[1617:])


def test_noise_does_not_depend_on_the_batch() -> None:
    big = Batch(torch.zeros(8, 1, 2, 2), None, seed=1, first=0).normal((5,))
    small = Batch(torch.zeros(3, 1, 2, 2), None, seed=1, first=4).normal((5,))
    assert torch.equal(big[4:7], small)


def test_the_average_follows(digits: data.Dataset) -> None:
    run = trainer(digits)
    key = "generator.layers.0.weight"
    start = run.tensors()[f"average.{key}"].clone()
    run.advance()
    now = run.tensors()
    torch.testing.assert_close(now[f"average.{key}"], start + 0.005 * (now[f"network.{key}"] - start))
    assert not torch.equal(start, now[f"average.{key}"])


def test_an_infinite_loss_stops_the_run(digits: data.Dataset) -> None:
    run = trainer(digits)
    with torch.no_grad():
        run.networks["discriminator"].last.bias.fill_(float("nan"))  # type: ignore[union-attr, operator]
    record = Recorder()
    with pytest.raises(RunError, match="step 1"):
        fit(run, 5, [record])
    assert record.calls == ["close"]


def test_ctrl_c_waits_for_the_step(digits: data.Dataset) -> None:
    record = Recorder()

    class Interrupts(Recorder):
        def after(self, trainer: Trainer, losses: Mapping[str, float]) -> None:
            if trainer.step == 3:
                os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    run = trainer(digits)
    with pytest.raises(KeyboardInterrupt):
        fit(run, 12, [Interrupts(), record])
    assert record.calls == ["end 3", "close"]
    assert signal.getsignal(signal.SIGINT) is before
    whole = trainer(digits)
    fit(whole, 3)
    assert same(whole, run)


def test_a_second_ctrl_c_does_not_wait(digits: data.Dataset) -> None:
    class Twice(Recorder):
        def after(self, trainer: Trainer, losses: Mapping[str, float]) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    twice = Twice()
    with pytest.raises(KeyboardInterrupt):
        fit(trainer(digits), 12, [twice])
    assert twice.calls == ["close"]


def test_another_thread_can_train(digits: data.Dataset) -> None:
    run = trainer(digits)
    thread = threading.Thread(target=fit, args=(run, 2))
    thread.start()
    thread.join(60)
    assert run.step == 2


def test_fit_leaves_torchs_randomness_alone(digits: data.Dataset) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    run = Trainer(make_gan(digits.shape, "bce", {"widths": [4]}), digits, RECIPE, 0)
    torch.manual_seed(1)
    fit(run, 2)
    assert torch.equal(torch.rand(3), expected)


def test_schedules() -> None:
    assert {scale(RECIPE, step, 100) for step in range(100)} == {1.0}
    cosine = dataclasses.replace(RECIPE, schedule="cosine", final_lr=0.1, warmup_steps=10)
    values = [scale(cosine, step, 110) for step in range(110)]
    assert values[0] == pytest.approx(0.1)
    assert values[9] == values[10] == 1.0
    assert values[60] == pytest.approx(0.55)
    assert values[109] == pytest.approx(0.1, abs=1e-3)
    assert values[10:] == sorted(values[10:], reverse=True)
    trapezoid = dataclasses.replace(cosine, schedule="trapezoid", warmup_steps=0)
    assert [scale(trapezoid, step, 100) for step in (0, 50, 75, 100)] == pytest.approx([1, 1, 0.55, 0.1])


def test_the_rate_reaches_the_optimizers(digits: data.Dataset) -> None:
    torch.manual_seed(0)
    recipe = dataclasses.replace(RECIPE, schedule="cosine", final_lr=0.0, epochs=1, batch=809)
    run = Trainer(make_gan(digits.shape, "r3gan", {"widths": [4]}), digits, recipe, 0)
    assert run.steps == 2
    rates = []
    for _ in range(2):
        run.advance()
        rates.append([u.optimizer.param_groups[0]["lr"] for u in run.updates.values() if u.optimizer])
    assert rates == [[1e-3, 1e-3], pytest.approx([5e-4, 5e-4])]


def losses_of(digits: data.Dataset, steps: int = 3, objective: str = "bce", **changes: Any) -> list[dict[str, float]]:
    torch.manual_seed(0)
    recipe = dataclasses.replace(RECIPE, **changes)
    run = Trainer(make_gan(digits.shape, objective, {"widths": [16]}), digits, recipe, 0)
    return [run.advance() for _ in range(steps)]


@pytest.mark.parametrize("objective", ["r3gan", "bce"])
def test_an_accumulated_step_is_the_step(objective: str, digits: data.Dataset) -> None:
    whole, parts = (losses_of(digits, objective=objective, accumulate=count) for count in (1, 4))
    for one, other in zip(whole, parts, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"optimizer": "adafactor"},
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1},
        {"clip": 0.01, "optimizer": "sgd"},
        {"autocast": "bf16"},
        {"accumulate": 2, "warmup_steps": 3},
    ],
    ids=str,
)
def test_every_optimizer_trains_and_resumes_exactly(changes: dict[str, Any], digits: data.Dataset) -> None:
    recipe = dataclasses.replace(RECIPE, **changes)

    def new() -> Trainer:
        torch.manual_seed(0)
        return Trainer(make_gan(digits.shape, "bce", {"widths": [16]}), digits, recipe, 0)

    whole, first, second = new(), new(), new()
    fit(whole, 6)
    fit(first, 3)
    second.restore(3, {name: value.clone() for name, value in first.tensors().items()})
    fit(second, 6)
    assert same(whole, second)
    assert not torch.equal(whole.tensors()["network.generator.layers.0.weight"],
                           new().tensors()["network.generator.layers.0.weight"])  # fmt: skip


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_channels_last_weights_resume_exactly(optimizer: str) -> None:
    """A checkpoint holds tensors in the order of their axes, whatever the order in memory was."""
    recipe = Recipe(optimizer=optimizer, lr=0.01, momentum=0.9)  # type: ignore[arg-type]

    def made() -> tuple[nn.Module, Update]:
        torch.manual_seed(0)
        network = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network, Update(network, recipe, Workers.alone())

    def step(network: nn.Module, update: Update, seed: int) -> None:
        torch.manual_seed(seed)
        update.backward(network(torch.randn(2, 3, 5, 5)).square().mean())
        update.step(recipe.lr)

    (whole, going), (again, resumed) = made(), made()
    step(whole, going, 1)
    again.load_state_dict({name: value.clone().contiguous() for name, value in whole.state_dict().items()})
    resumed.restore({name: value.clone().contiguous() for name, value in going.tensors().items()})
    for seed in (2, 3):
        step(whole, going, seed)
        step(again, resumed, seed)
    assert all(torch.equal(one, two) for one, two in zip(whole.parameters(), again.parameters(), strict=True))


def test_each_setting_matters(digits: data.Dataset) -> None:
    plain = losses_of(digits, optimizer="sgd")[-1]
    others: list[dict[str, Any]] = [{"momentum": 0.9}, {"weight_decay": 1.0}, {"clip": 0.01}, {"autocast": "bf16"}]
    for changes in [*others, {"lr": 0.1}]:
        assert losses_of(digits, optimizer="sgd", **changes)[-1] != plain, changes


def test_clipping_bounds_the_step(digits: data.Dataset) -> None:
    recipe = dataclasses.replace(RECIPE, optimizer="sgd", clip=0.5, lr=1.0)
    run = Trainer(make_gan(digits.shape, "bce", {"widths": [16]}), digits, recipe, 0)
    before = {role: [p.clone() for p in net.parameters()] for role, net in run.networks.items()}
    run.advance()
    for role, net in run.networks.items():
        moved = sum(float((a - b).detach().square().sum()) for a, b in zip(before[role], net.parameters(), strict=True))
        assert 0 < moved <= 0.5**2 * 1.001


def test_half_precision_needs_a_gpu(digits: data.Dataset) -> None:
    with pytest.raises(InputError, match="fp16 training needs a GPU"):
        losses_of(digits, autocast="fp16")


def test_frozen_weights_stay(digits: data.Dataset) -> None:
    gan = make_gan(digits.shape, "bce", {"widths": [16]})
    gan.discriminator.requires_grad_(False)
    gan.generator.layers[0].requires_grad_(False)
    run = Trainer(gan, digits, RECIPE, 0)
    before = {name: value.clone() for name, value in run.tensors().items()}
    run.advance()
    moved = {name for name, value in run.tensors().items() if name in before and not torch.equal(value, before[name])}
    assert moved == {
        f"{kind}.generator.layers.2.{what}" for kind in ("network", "average") for what in ("weight", "bias")
    }


def test_statistics_are_averaged_with_the_weights(digits: data.Dataset) -> None:
    gan = make_gan(digits.shape, "bce", {"widths": [16]})
    gan.generator.layers.insert(1, nn.BatchNorm1d(16))
    run = Trainer(gan, digits, RECIPE, 0)
    run.advance()
    found = run.tensors()
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(found[f"average.generator.layers.1.{name}"], found[f"network.generator.layers.1.{name}"])
    assert found["average.generator.layers.1.num_batches_tracked"] == 1


@pytest.mark.slow
def test_compiled_networks_train_alike(digits: data.Dataset) -> None:
    for one, other in zip(losses_of(digits), losses_of(digits, compile=True), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
