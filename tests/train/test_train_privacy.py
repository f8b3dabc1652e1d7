"""Private training: what one image can change, the noise, the sampling, the budget, the secret, what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from train_help import load_digits, one_thread, same, weights  # noqa: F401

from aigc_rt.errors import InputError, RunError
from aigc_rt.train import accounting, checkpoint, generators, private_update, record
from aigc_rt.train.accounting import Mechanism, least_noise
from aigc_rt.train.augment import Augment
from aigc_rt.train.data import Dataset
from aigc_rt.train.generators import adversarial
from aigc_rt.train.generators.family import DataSpec
from aigc_rt.train.generators.gan import Gan, Settings
from aigc_rt.train.options import TrainOptions
from aigc_rt.train.poisson import PoissonBatch, PoissonStream, Secret
from aigc_rt.train.privacy import Privacy, respent
from aigc_rt.train.private_update import PrivateUpdate
from aigc_rt.train.rehearsal import rehearse
from aigc_rt.train.restore import load_generator
from aigc_rt.train.run import train
from aigc_rt.train.task import Batch, Loss, Recipe
from aigc_rt.train.with_opacus import RDPAccountant
from aigc_rt.train.workers import Workers

SECRET = Secret(bytes(range(32)))
ALONE = Workers.alone()
SMALL: dict[str, dict[str, Any]] = {
    "gan": {"widths": [16, 16], "latent": 4},
    "dcgan": {"width": 8, "latent": 4, "norm": "group", "spectral_norm": False},
    "cgan": {"width": 8, "latent": 4, "norm": "none", "spectral_norm": False},
    "vae": {"width": 4, "latent": 4},
    "cvae": {"width": 4, "latent": 4},
}
PRIVATE = [(name, objective) for name, family in generators.FAMILIES.items() for objective in family.private]


def a_set(count: int = 40, side: int = 28, classes: int = 3) -> Dataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 1, side, side), dtype=np.uint8)
    labels = rng.integers(0, classes, count)
    return Dataset("noise", images, labels, (), "here", "none", np.arange(count), np.arange(0))


@dataclasses.dataclass
class Private:
    """A family's private network and its update."""

    family: Any
    update: PrivateUpdate
    stream: PoissonStream

    @property
    def parameters(self) -> list[Any]:
        return self.update.parameters

    def batch(self, images: Tensor, labels: Tensor, step: int = 0) -> PoissonBatch:
        made = self.stream.made
        self.stream.step, self.stream.batch = step, PoissonBatch(images, labels, 5, step << 32, len(images), made, 3)
        return self.stream.batch

    def plain(self, value: Tensor) -> tuple[Tensor | None, ...]:
        """Its gradients without Opacus."""
        with private_update.unwarned():
            self.update.hooks.hooks_enabled, before = False, self.update.hooks.hooks_enabled
            found = torch.autograd.grad(value, self.parameters, allow_unused=True, retain_graph=True)
            self.update.hooks.hooks_enabled = before
        return found

    def sums(self, images: Tensor, labels: Tensor) -> Tensor:
        """The clipped sum of a step on those images."""
        self.update.backward(next(self.family.losses(self.batch(images, labels))).value)
        found = torch.cat([p.summed_grad.flatten() for p in self.parameters])
        self.update.noisy.zero_grad()
        self.update.forget()
        return found


def private(name: str, objective: str, sigma: float = 1.0, clip: float = 1.0) -> Private:
    torch.manual_seed(0)
    recipe = Recipe(batch=8, optimizer="sgd", lr=1.0)
    family = generators.create(name, DataSpec((1, 28, 28), 3), objective, SMALL[name])
    made = recipe.batch if len(family.networks) > 1 else None
    stream = PoissonStream(a_set(), recipe, SECRET, ALONE, None, made)
    network = family.networks[family.private[objective]]
    return Private(family, PrivateUpdate(network, recipe, ALONE, Mechanism(sigma, 0.2), clip, stream), stream)


def some(count: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(count, 1, 28, 28) * 2 - 1, torch.arange(count) % 3


@pytest.mark.parametrize(("name", "objective"), PRIVATE)
@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_one_image_changes_the_sum_by_no_more_than_its_norm(name: str, objective: str, clip: float) -> None:
    found = private(name, objective, clip=clip)
    images, labels = some(6)
    # What is drawn for an image of an autoencoder goes by its place: the last one leaves the others where they are.
    gone = 5 if found.update.alone else 2
    kept = [place for place in range(6) if place != gone]
    whole, without = found.sums(images, labels), found.sums(images[kept], labels[kept])
    images[gone], labels[gone] = -images[gone], (labels[gone] + 1) % 3
    replaced = found.sums(images, labels)
    assert 0 < (whole - without).norm() <= clip * (1 + 1e-4)
    assert 0 < (replaced - without).norm() <= clip * (1 + 1e-4)
    assert torch.equal(found.sums(images, labels), replaced)  # nothing is left behind
    if clip < 1:  # and that is what limits it
        assert (whole - without).norm() > 0.99 * clip


@pytest.mark.parametrize(("name", "objective"), PRIVATE)
def test_with_neither_clipping_nor_noise_it_is_the_gradient(name: str, objective: str) -> None:
    found = private(name, objective, sigma=0.0, clip=1e9)
    images, labels = some(8)  # as many as are expected: then shares of the sample are shares of the expected one
    loss = next(found.family.losses(found.batch(images, labels)))
    plain = found.plain(loss.value)
    before = [p.detach().clone() for p in found.parameters]
    found.update.backward(loss.value)
    found.update.step(1.0)
    for p, was, gradient in zip(found.parameters, before, plain, strict=True):
        expected = torch.zeros_like(p) if gradient is None else gradient
        assert torch.allclose(was - p.detach(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("name", ["gan", "dcgan"])
def test_the_generators_turn_leaves_nothing_in_the_discriminator(name: str) -> None:
    found = private(name, "bce")
    losses = found.family.losses(found.batch(*some(5)))
    found.update.backward(next(losses).value)
    found.update.step(0.1)
    weights = list(found.family.generator.parameters())
    torch.autograd.backward(next(losses).value, inputs=weights)
    assert all(p.grad is not None for p in weights)
    assert all(p.grad is None and p.grad_sample is None and p.summed_grad is None for p in found.parameters)
    assert not any(hasattr(m, "activations") for m in found.family.discriminator.modules())


def test_a_large_sample_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = private("gan", "bce").sums(*some(7))
    monkeypatch.setattr(private_update, "LARGEST", 1)
    assert torch.allclose(private("gan", "bce").sums(*some(7)), whole, atol=1e-5)


@pytest.mark.parametrize("name", ["gan", "vae"])
def test_noise_of_the_promised_size_is_added(name: str) -> None:
    """An empty sample shows the noise alone; SGD with a rate of 1 takes the step as it is."""
    found = private(name, "bce" if name == "gan" else "sigma", sigma=2.0, clip=0.5)
    if name == "gan":  # of a GAN the made images are there all the same: the noise is the difference
        quiet = private(name, "bce", sigma=0.0, clip=0.5)
    before = [p.detach().clone() for p in found.parameters]
    for one in (found, quiet) if name == "gan" else (found,):
        batch = PoissonBatch(torch.zeros(1, 1, 28, 28), torch.zeros(1).long(), 5, 0, 0, one.stream.made, 3)
        one.stream.step, one.stream.batch = 3, batch
        one.update.backward(next(one.family.losses(batch)).value)
        one.update.step(1.0)
    base = before if name == "vae" else [p.detach() for p in quiet.parameters]
    moved = torch.cat([(b - p.detach()).flatten() for b, p in zip(base, found.parameters, strict=True)])
    expected = 2.0 * 0.5 / 8  # sigma * C / batch
    assert moved.std() == pytest.approx(expected, rel=4 / math.sqrt(2 * len(moved)))
    assert abs(moved.mean()) < 5 * expected / math.sqrt(len(moved))


def test_weights_that_no_loss_reaches_get_no_noise() -> None:
    found = private("gan", "bce")
    found.update.hooks.remove_hooks()
    found.family.discriminator.more = torch.nn.Linear(2, 2)
    found.update = PrivateUpdate(
        found.family.discriminator, found.stream.recipe, ALONE, Mechanism(1.0, 0.2), 1.0, found.stream
    )
    loss = next(found.family.losses(found.batch(*some(4))))
    plain = found.plain(loss.value)
    before = [p.detach().clone() for p in found.parameters]
    found.update.backward(loss.value)
    found.update.step(1.0)
    assert None in plain
    for p, was, gradient in zip(found.parameters, before, plain, strict=True):
        assert torch.equal(p.detach(), was) == (gradient is None)


class Pairing(Gan):
    """A family that says it can be private and pairs images."""

    def bce(self, batch: Batch) -> Iterator[Loss]:
        made = self.generator(torch.zeros(len(batch.images), self.settings.latent))
        both = self.discriminator(batch.images), self.discriminator(made.detach())
        yield Loss("discriminator", adversarial.relativistic(*both))


class Counting(Gan):
    """One that makes as many images as there are."""

    def bce(self, batch: Batch) -> Iterator[Loss]:
        made = self.generator(torch.zeros(len(batch.images), self.settings.latent))
        told = adversarial.told_apart(self.discriminator(batch.images), self.discriminator(made.detach()))
        yield Loss("discriminator", told)


class Centring(Gan):
    """One whose images are taken relative to their mean."""

    def bce(self, batch: Batch) -> Iterator[Loss]:
        yield Loss("discriminator", self.discriminator(batch.images - batch.images.mean(0)).square().mean())


class Copying(Gan):
    """One whose generator sees the images."""

    def bce(self, batch: Batch) -> Iterator[Loss]:
        yield next(super().bce(batch))
        made = self.generator(batch.normal((self.settings.latent,)))
        yield Loss("generator", (made.mean(0) - batch.images.mean(0)).square().mean())


class Backwards(Gan):
    """One whose generator is first."""

    def bce(self, batch: Batch) -> Iterator[Loss]:
        yield from reversed(list(super().bce(batch)))


@pytest.mark.parametrize("kind", [Gan, Pairing, Counting, Centring, Copying, Backwards])
def test_the_rehearsal_finds_families_that_break_the_promise(kind: type[Gan], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    spec, recipe = DataSpec((1, 8, 8)), Recipe(batch=8)
    task = kind(spec, "bce", Settings(widths=(8,)))
    stream = PoissonStream(a_set(side=8), recipe, SECRET, ALONE, None, 8)
    update = PrivateUpdate(task.discriminator, recipe, ALONE, Mechanism(1.0, 0.2), 1.0, stream)
    state = {name: value.clone() for name, value in task.discriminator.state_dict().items()}
    if kind is Gan:
        monkeypatch.setattr(update, "_chunk", 2)
        rehearse(task, "discriminator", spec, update)
        assert all(torch.equal(value, state[name]) for name, value in task.discriminator.state_dict().items())
        assert (stream.step, stream.batch) == (-1, None)
        return
    with pytest.raises(InputError, match="differential privacy"):
        rehearse(task, "discriminator", spec, update)


# The sample


def test_every_image_is_drawn_at_the_rate() -> None:
    data, recipe = a_set(200, 8), Recipe(batch=20, epochs=30)
    stream = PoissonStream(data, recipe, SECRET, ALONE)
    assert (stream.rate, stream.steps) == (0.1, 300)
    floats = torch.from_numpy(data.images).float().flatten(1) / 127.5 - 1
    times, sizes, firsts = torch.zeros(200), [], set()
    for step in range(400):
        (batch,) = stream.parts(step)
        places = torch.cdist(batch.images.flatten(1), floats).argmin(1)
        assert len(set(places.tolist())) == len(places) == batch.drawn
        assert batch.labels is not None
        assert torch.equal(batch.labels, torch.from_numpy(data.labels)[places])
        times[places] += 1
        sizes.append(batch.drawn)
        firsts.add((batch.seed, batch.first))
    assert len(firsts) == 400
    assert np.mean(sizes) == pytest.approx(20, abs=5 * math.sqrt(200 * 0.09 / 400))
    assert np.var(sizes) == pytest.approx(200 * 0.09, rel=0.35)  # of a binomial distribution; a fixed size has none
    assert (times - 40).abs().max() < 5 * math.sqrt(400 * 0.09)


def test_what_is_drawn_for_a_generator_says_nothing_of_the_sample() -> None:
    images, labels = some(5)
    batch = PoissonBatch(images, labels, 1, 0, 5, 8, 3)
    other = PoissonBatch(images[:2], labels[:2], 1, 0, 2, 8, 3)
    assert batch.normal((2,)).shape == (8, 2)
    assert torch.equal(batch.normal((2,)), other.normal((2,)))
    assert torch.equal(batch.uniform((2,)), other.uniform((2,)))
    assert batch.asked is not None
    assert other.asked is not None
    assert torch.equal(batch.asked, other.asked)
    assert set(PoissonBatch(images, labels, 1, 0, 5, 99, 3).asked.tolist()) == {0, 1, 2}  # type: ignore[union-attr]
    own = PoissonBatch(images, labels, 1, 0, 5, None, 3)
    assert own.normal((2,)).shape == (5, 2)
    assert own.asked is labels


def test_an_empty_sample_is_a_blank_image_without_a_gradient() -> None:
    stream = PoissonStream(a_set(10, 8), Recipe(batch=1), SECRET, ALONE)
    empty = next(batch for step in range(99) for batch in stream.parts(step) if not batch.drawn)
    assert empty.images.shape == (1, 1, 8, 8)
    assert not empty.images.any()


def test_augmentation_is_drawn_from_the_secret() -> None:
    def changed(secret: Secret) -> Tensor:
        every = Recipe(batch=10)
        (batch,) = PoissonStream(a_set(10, 8), every, secret, ALONE, Augment(shift=0.5)).parts(0)
        return batch.images

    assert torch.equal(changed(SECRET), changed(SECRET))
    assert not torch.equal(changed(SECRET), changed(Secret(bytes(32))))


def test_the_secret(tmp_path: Path) -> None:
    made = Secret.new()
    made.write(tmp_path)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert Secret.read(tmp_path) == made != Secret.new()
    assert made.key.hex() not in repr(made)
    assert repr(made.key) not in repr(made)
    drawn = SECRET.normal("noise", 0, 100_001)
    assert drawn.shape == (100_001,)
    assert drawn.mean() == pytest.approx(0, abs=0.015)
    assert drawn.std() == pytest.approx(1, abs=0.01)
    assert (drawn.abs() < 1).float().mean() == pytest.approx(0.6827, abs=0.008)
    assert torch.equal(drawn, SECRET.normal("noise", 0, 100_001))
    for other in (
        SECRET.normal("noise", 1, 100_001),
        SECRET.normal("other", 0, 100_001),
        made.normal("noise", 0, 100_001),
    ):
        assert abs(torch.corrcoef(torch.stack([drawn, other]))[0, 1]) < 0.02
    (tmp_path / "secret").chmod(0o700)
    (tmp_path / "secret").write_bytes(b"short")
    with pytest.raises(RunError, match="5 bytes"):
        Secret.read(tmp_path)


# The budget


@pytest.mark.parametrize(("sigma", "rate", "steps"), [(1.0, 0.03, 1000), (0.6, 0.02, 51), (3.0, 1.0, 20)])
def test_epsilon_is_opacus_own(sigma: float, rate: float, steps: int) -> None:
    theirs = RDPAccountant()
    for _ in range(steps):
        theirs.step(noise_multiplier=sigma, sample_rate=rate)
    ours = Mechanism(sigma, rate).epsilon(steps, 1e-5)
    assert ours == pytest.approx(theirs.get_epsilon(1e-5, alphas=list(accounting.ORDERS)))
    assert ours <= theirs.get_epsilon(1e-5) + 1e-9


@pytest.mark.parametrize("epsilon", [0.05, 1.0, 8.0, 200.0])
def test_the_least_noise(epsilon: float) -> None:
    found = least_noise(epsilon, 1e-5, 0.02, 500)
    assert 0.98 * epsilon <= found.epsilon(500, 1e-5) <= epsilon
    assert found.last_step(500, epsilon, 1e-5) == 500


def test_a_budget_that_no_noise_meets() -> None:
    with pytest.raises(InputError, match="no noise is enough"):
        least_noise(1e-3, 1e-12, 1.0, 100_000)


def test_the_last_step() -> None:
    found = Mechanism(0.7, 0.05)
    last = found.last_step(1000, 8.0, 1e-5)
    assert 1 < last < 1000
    assert found.epsilon(last, 1e-5) <= 8.0 < found.epsilon(last + 1, 1e-5)
    assert found.last_step(1000, 1e-3, 1e-5) == 0


# Runs


def options(out: Path, **changes: Any) -> TrainOptions:
    """Of a private run of 26 steps."""
    base = TrainOptions(
        "gan",
        "digits",
        out,
        objective="bce",
        recipe={"epochs": 1, "batch": 64},
        settings={"widths": [16, 16]},
        privacy=Privacy(noise_multiplier=0.8),
        evaluate=False,
        quiet=True,
    )
    return dataclasses.replace(base, **changes)


def test_a_private_run(tmp_path: Path) -> None:
    run = train(options(tmp_path / "run", privacy=Privacy()))
    spent = run.spent
    assert spent is not None
    assert (run.status, run.step, spent["steps"]) == ("finished", 26, 26)
    assert 7.9 < spent["epsilon"] <= 8.0
    theirs = RDPAccountant()
    theirs.history = [(spent["noise_multiplier"], spent["sample_rate"], 26)]
    assert spent["epsilon"] == pytest.approx(theirs.get_epsilon(spent["delta"]))
    assert spent["sample_rate"] == 64 / run.data.train
    said = {name: spent[name] for name in ("private", "sampling", "adjacency", "accountant", "max_grad_norm")}
    assert said == {
        "private": "discriminator",
        "sampling": "Poisson",
        "adjacency": "add or remove one image",
        "accountant": "RDP",
        "max_grad_norm": 1.0,
    }
    assert record.read(tmp_path / "run").spent == spent
    assert load_generator(tmp_path / "run").made["spent"] == spent


@pytest.mark.parametrize(("family", "objective"), [("gan", "bce"), ("vae", "sigma")])
def test_resumed_bit_for_bit(family: str, objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Secret, "new", lambda: SECRET)
    given = {"family": family, "objective": objective, "settings": SMALL[family]}
    train(options(tmp_path / "whole", **given))
    parts = options(tmp_path / "parts", **given)
    stopped = train(dataclasses.replace(parts, max_steps=11))
    assert stopped.status == "stopped"
    assert stopped.spent is not None
    assert stopped.spent["steps"] == 11
    assert not same(tmp_path / "whole", tmp_path / "parts")
    monkeypatch.setattr(Secret, "new", Secret.read)  # fails where it is called
    gone_on = train(dataclasses.replace(parts, resume=True))
    assert same(tmp_path / "whole", tmp_path / "parts")
    assert gone_on.spent == record.read(tmp_path / "whole").spent


def test_another_secret_is_another_run(tmp_path: Path) -> None:
    train(options(tmp_path / "one", max_steps=2))
    train(options(tmp_path / "two", max_steps=2))
    assert not same(tmp_path / "one", tmp_path / "two")


def test_a_run_ends_before_the_budget_is_overspent(tmp_path: Path) -> None:
    asked = options(tmp_path / "run", privacy=Privacy(epsilon=6.0, noise_multiplier=0.6))
    run = train(asked)
    assert run.status == "budget spent"
    assert 0 < run.step < run.steps
    assert run.spent is not None
    assert run.spent["epsilon"] <= 6.0
    mechanism = Mechanism(0.6, run.spent["sample_rate"])
    assert mechanism.epsilon(run.step + 1, 1e-5) > 6.0
    assert f"step-{run.step:08d}" in str(checkpoint.newest(tmp_path / "run" / "checkpoints"))
    before = weights(tmp_path / "run")
    again = train(dataclasses.replace(asked, resume=True))
    assert (again.status, again.step) == ("budget spent", run.step)
    assert all(torch.equal(value, before[name]) for name, value in weights(tmp_path / "run").items())
    with pytest.raises(RunError, match="privacy"):
        train(dataclasses.replace(asked, resume=True, privacy=Privacy(epsilon=50.0, noise_multiplier=0.6)))


def test_the_secret_stays_in_its_file(tmp_path: Path) -> None:
    from aigc_rt.export.run import export_run

    out = tmp_path / "run"
    train(options(out, max_steps=2))
    secret = (out / "secret").read_bytes()
    export_run(out, tmp_path / "bundle", precisions=("fp32",))
    others = [p for p in tmp_path.rglob("*") if p.is_file() and p != out / "secret"]
    assert any(p.name == "manifest.json" for p in others)
    for path in others:
        held = path.read_bytes()
        assert secret not in held
        assert secret.hex().encode() not in held.lower()
    made = json.loads((tmp_path / "bundle" / "manifest.json").read_text())["made"]["training"]
    assert made["privacy"]["epsilon"] == 8.0
    assert made["spent"]["steps"] == 2
    assert "sha256" not in made["data"]  # a hash of the images tells whether one is among them


def test_without_its_secret_a_run_is_not_resumed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(options(out, max_steps=2))
    (out / "secret").unlink()
    with pytest.raises(RunError, match="secret cannot be read"):
        train(options(out, resume=True))
    assert load_generator(out).made["spent"]["steps"] == 2  # it can still be used


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    Secret.new().write(tmp_path)
    (tmp_path / "secret").chmod(0o640)
    with pytest.raises(RunError, match=r"others may read it .*640.* chmod 600"):
        Secret.read(tmp_path)


@pytest.mark.parametrize(
    ("part", "name", "value", "words"),
    [
        ("spent", "epsilon", 0.1, "come to: epsilon"),
        ("spent", "steps", 1, "come to: steps"),
        ("spent", "noise_multiplier", 90.0, "come to: epsilon"),
        ("spent", "noise_multiplier", -1.0, "damaged"),
        ("spent", "noise_multiplier", 1e300, "damaged"),
        ("spent", "sample_rate", 0.5, "come to: sample_rate"),
        ("privacy", "delta", 1e-6, "come to: delta, epsilon"),
        ("privacy", "max_grad_norm", 9.0, "come to: max_grad_norm"),
        ("", "privacy", None, "without what is spent"),
        ("", "spent", None, "without what is spent"),
    ],
)
def test_an_edited_promise_is_not_kept_up(
    part: str, name: str, value: object, words: str, stopped: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    document = json.loads((out / "run.json").read_text())
    (document[part] if part else document)[name] = value
    (out / "run.json").write_text(json.dumps(document))
    with pytest.raises(RunError, match=words):
        train(options(out, resume=True, privacy=None, max_steps=3))


@pytest.fixture(scope="module", name="stopped")
def stop_early(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "stopped"
    train(options(out, max_steps=2))
    return out


def test_a_record_that_is_behind_its_checkpoint() -> None:
    spent = {"noise_multiplier": 1.0, "sample_rate": 0.1, "delta": 1e-5, "steps": 3, "epsilon": 0.0, "private": "vae"}
    found = respent(spent, 7)
    assert found == spent | {"steps": 7, "epsilon": Mechanism(1.0, 0.1).epsilon(7, 1e-5)}
    assert respent(spent, 3) is spent
    assert respent(None, 3) is None
    with pytest.raises(RunError, match="damaged"):
        respent({"steps": 3}, 4)


def test_opacus_is_imported_late_and_leaves_the_root_logger_alone() -> None:
    code = """
import logging, sys
import aigc_rt.train.run
assert "opacus" not in sys.modules
import aigc_rt.train.with_opacus
assert not logging.root.handlers
"""
    subprocess.run([sys.executable, "-c", code], check=True)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "objective": ({"objective": "r3gan"}, "--objective bce"),
    "family": ({"family": "vaegan", "objective": None, "settings": {}, "data": "mnist5k"}, "does not allow it"),
    "accumulate": ({"recipe": {"accumulate": 2}}, "accumulate=2"),
    "autocast": ({"recipe": {"autocast": "bf16"}}, "autocast=bf16"),
    "clip": ({"recipe": {"clip": 1.0}}, "clip=1.0"),
    "compile": ({"recipe": {"compile": True}}, "compile=true"),
    "delta": ({"privacy": Privacy(delta=1e-3)}, "not below 1 in 1,617"),
    "epsilon": ({"privacy": Privacy(epsilon=-1.0)}, "epsilon is -1.0"),
    "nan": ({"privacy": Privacy(epsilon=math.nan)}, "epsilon is nan"),
    "norm": ({"privacy": Privacy(max_grad_norm=0.0)}, "max_grad_norm is 0.0"),
    "noise": ({"privacy": Privacy(epsilon=0.1, noise_multiplier=0.5)}, "the first step spends"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str, tmp_path: Path) -> None:
    changes, words = REFUSED[case]
    with pytest.raises(InputError, match=words):
        train(options(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"norm": "batch"}, "BatchNorm cannot support"),
        ({"norm": "none", "spectral_norm": True}, "buffers"),
        ({"norm": "none", "penalty": 1.0}, "not the sum of one gradient an image"),
        ({"norm": "none", "diff_augment": "translation"}, "cannot be taken image by image"),
    ],
)
def test_settings_that_mix_images_are_refused(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    asked = {"family": "dcgan", "settings": {"width": 8} | settings, "data": "mnist5k"}
    with pytest.raises(InputError, match=words):
        train(options(tmp_path / "run", **asked))
    assert not (tmp_path / "run").exists()
