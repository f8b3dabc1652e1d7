"""The one training loop. A task brings networks and losses; what watches a run is a list of watchers."""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from aigc_rt import noise
from aigc_rt.errors import RunError
from aigc_rt.train.data import Dataset, permutation
from aigc_rt.train.task import ORDER, TORCH, Batch, Recipe, Task, to_floats


class Watcher(Protocol):
    """Something that looks on: progress, curves, checkpoints."""

    def after(self, trainer: Trainer, losses: Mapping[str, float]) -> None:
        """After every step."""

    def end(self, trainer: Trainer) -> None:
        """After the last step, also when the run was interrupted; not after an error."""

    def close(self) -> None:
        """Always, last: let go of what is held."""


class Trainer:
    """A task with its data, optimizers and averages, at some step.

    All randomness of step k is keyed by (seed, k): the state to resume from is the tensors, the seed and the step.
    """

    def __init__(self, task: Task, data: Dataset, recipe: Recipe, seed: int) -> None:
        self.task, self.recipe, self.seed, self.step = task, recipe, seed, 0
        self._stream = _Stream(data, seed)
        self.steps = math.ceil(recipe.epochs * len(data.train) / recipe.batch)  # a batch may span two epochs
        self.networks = dict(task.networks)
        self.averages = {
            role: copy.deepcopy(self.networks[role]).eval().requires_grad_(False) for role in task.averaged
        }
        self.optimizers = {
            role: torch.optim.Adam(network.parameters(), recipe.lr, betas=recipe.betas, fused=True)
            for role, network in self.networks.items()
        }
        self._average = get_ema_multi_avg_fn(1.0 - recipe.ema)  # type: ignore[no-untyped-call]

    def advance(self) -> dict[str, float]:
        """Take one step.

        Returns:
            Every loss by the role it trains, and what the losses want watched.

        Raises:
            RunError: a loss is not finite.
        """
        torch.manual_seed(int(noise.words(self.seed, TORCH, self.step, 1, 1)[0, 0] >> np.uint64(1)))
        rate = self.recipe.lr * scale(self.recipe, self.step, self.steps)
        batch = self._stream.batch(self.step * self.recipe.batch, self.recipe.batch)
        seen: dict[str, float] = {}
        for loss in self.task.losses(batch):
            optimizer = self.optimizers[loss.trains]
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            # Only the trained network's leaves: what the loss passes through on its way gets no gradients.
            torch.autograd.backward(loss.value, inputs=optimizer.param_groups[0]["params"])
            optimizer.step()
            seen[loss.trains] = loss.value.item()
            seen.update({name: value.item() for name, value in loss.watched.items()})
        for role, average in self.averages.items():
            self._average(list(average.parameters()), list(self.networks[role].parameters()), 0)
        self.step += 1
        if not all(map(math.isfinite, seen.values())):
            raise RunError(f"take step {self.step}", f"the losses are {seen}", "Train with another seed or objective")
        return seen

    def tensors(self) -> dict[str, Tensor]:
        """The state by name: "network.ROLE.", "average.ROLE." and "optimizer.ROLE.N." for parameter number N."""
        found: dict[str, Tensor] = {}
        for kind, modules in (("network", self.networks), ("average", self.averages)):
            for role, module in modules.items():
                found |= {f"{kind}.{role}.{name}": value for name, value in module.state_dict().items()}
        for role, optimizer in self.optimizers.items():
            for number, state in optimizer.state_dict()["state"].items():
                found |= {f"optimizer.{role}.{number}.{name}": value for name, value in state.items()}
        return found

    def restore(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` returned at `step`.

        Raises:
            RunError: the tensors are not those of this task.
        """
        try:
            for kind, modules in (("network", self.networks), ("average", self.averages)):
                for role, module in modules.items():
                    module.load_state_dict({n: tensors[f"{kind}.{role}.{n}"] for n in module.state_dict()})
        except (KeyError, RuntimeError) as error:
            raise RunError(
                "load the checkpoint", f"its networks are others ({error})", "Train into another folder"
            ) from None
        for role, optimizer in self.optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in tensors.items():
                if name.startswith(f"optimizer.{role}."):
                    number, key = name.removeprefix(f"optimizer.{role}.").split(".")
                    state.setdefault(int(number), {})[key] = value.clone()
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        self.step = step


def fit(trainer: Trainer, stop: int, watchers: Sequence[Watcher] = ()) -> None:
    """Train up to step `stop`.

    Ctrl-C takes effect after the step in flight: the watchers end as at the last step, so that what they write can be
    resumed from. A second Ctrl-C does not wait.

    Raises:
        KeyboardInterrupt: after the watchers have ended.
        RunError: a loss is not finite.
    """
    try:
        with torch.random.fork_rng(devices=[]), _deferred_interrupt() as interrupted:
            while trainer.step < stop and not interrupted():
                losses = trainer.advance()
                for watcher in watchers:
                    watcher.after(trainer, losses)
            for watcher in watchers:
                watcher.end(trainer)
            if interrupted():
                raise KeyboardInterrupt
    finally:
        for watcher in watchers:
            watcher.close()


def scale(recipe: Recipe, step: int, steps: int) -> float:
    """The factor on the learning rate at `step` of `steps`."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    if recipe.schedule == "constant":
        return 1.0
    share = (step - recipe.warmup_steps) / max(1, steps - recipe.warmup_steps)
    height = min(1.0, 2.0 - 2.0 * share) if recipe.schedule == "trapezoid" else 0.5 * (1.0 + math.cos(math.pi * share))
    return recipe.final_lr + (1.0 - recipe.final_lr) * height


@dataclass
class _Stream:
    """The training images in an endless order: a new permutation for every epoch, keyed by seed and epoch."""

    data: Dataset
    seed: int

    def __post_init__(self) -> None:
        self._images = torch.from_numpy(self.data.images)  # (N, C, H, W) uint8
        self._labels = None if self.data.labels is None else torch.from_numpy(self.data.labels)
        self._orders: dict[int, np.ndarray[tuple[int], np.dtype[np.int64]]] = {}

    def batch(self, first: int, count: int) -> Batch:
        """Samples `first` to `first + count - 1` of the run."""
        size = len(self.data.train)
        epochs = range(first // size, (first + count - 1) // size + 1)
        for epoch in epochs:
            if epoch not in self._orders:
                self._orders = {e: order for e, order in self._orders.items() if e in epochs}
                self._orders[epoch] = self.data.train[permutation(self.seed, epoch, size, ORDER)]
        places = [divmod(k, size) for k in range(first, first + count)]
        chosen = torch.tensor([self._orders[epoch][place] for epoch, place in places])
        labels = None if self._labels is None else self._labels[chosen]
        return Batch(to_floats(self._images[chosen]), labels, self.seed, first)


@contextlib.contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C only makes the yielded function true; the second raises as ever."""
    asked = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def note(_signal: int, _frame: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
