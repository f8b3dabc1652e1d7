"""The one training loop. A task brings networks and losses; what watches a run is a list of watchers."""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from aigc_rt import noise
from aigc_rt.errors import InputError, RunError
from aigc_rt.train import checkpoint
from aigc_rt.train.data import Dataset
from aigc_rt.train.stream import Shuffled, Stream
from aigc_rt.train.task import TORCH, Loss, Recipe, Task
from aigc_rt.train.update import Update
from aigc_rt.train.workers import Workers

MakeUpdate = Callable[[str, nn.Module], Update]
"""Of a role and its network."""


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

    All randomness of step k is keyed by (seed, k), and of a sample by its index over the whole run: the state to
    resume from is the tensors, the seed and the step, and several processes see what one would.

    Args:
        task: networks and losses.
        data: what to train on.
        recipe: how.
        seed: of everything random.
        workers: the processes that share the run.
        stream: the order of the images; None is a new permutation for every epoch, and no random changes.
        update: makes the optimizer of a role's network.

    Raises:
        InputError: see `Shuffled`, and fp16 without a GPU.
        RunError: batch norm in several processes without a GPU.
    """

    def __init__(
        self,
        task: Task,
        data: Dataset,
        recipe: Recipe,
        seed: int,
        workers: Workers | None = None,
        stream: Stream | None = None,
        update: MakeUpdate | None = None,
    ) -> None:
        self.task, self.recipe, self.seed, self.step = task, recipe, seed, 0
        self.workers = workers or Workers.alone()
        self.stream = stream or Shuffled(data, recipe, seed, self.workers)
        self.steps = self.stream.steps
        self.networks = {role: _placed(network, self.workers) for role, network in task.networks.items()}
        self.averages = {
            role: copy.deepcopy(self.networks[role]).eval().requires_grad_(False) for role in task.averaged
        }
        make = update or (lambda _role, network: Update(network, recipe, self.workers))
        self.updates = {role: make(role, network) for role, network in self.networks.items()}
        self._average = get_ema_multi_avg_fn(1.0 - recipe.ema)  # type: ignore[no-untyped-call]
        self._autocast = _autocast(recipe, self.workers.device.type)
        if recipe.compile:
            for network in self.networks.values():
                network.compile()

    def advance(self) -> dict[str, float]:
        """Take one step.

        Returns:
            Every loss by the role it trains, and what the losses want watched, as means over the whole batch.

        Raises:
            RunError: a loss is not finite.
        """
        torch.manual_seed(int(noise.words(self.seed, TORCH, self.step, 1, 1)[0, 0] >> np.uint64(1)))
        rate = self.recipe.lr * scale(self.recipe, self.step, self.steps)
        seen: dict[str, Tensor] = {}
        running = [self.task.losses(part) for part in self.stream.parts(self.step)]
        while trained := self._stage(running, seen):
            self.updates[trained].step(rate)
        for role, average in self.averages.items():
            self._follow(average, self.networks[role])
        self.step += 1
        means = torch.stack([value.float() for value in seen.values()])
        self.workers.mean_([means])
        found = dict(zip(seen, means.tolist(), strict=True))
        if not all(map(math.isfinite, found.values())):
            raise RunError(f"take step {self.step}", f"the losses are {found}", "Train with another seed or objective")
        return found

    def _stage(self, running: list[Iterator[Loss]], seen: dict[str, Tensor]) -> str | None:
        """Take the gradients of the next loss of every part; the role it trains, None after the last loss."""
        role = None
        for losses in running:
            with self._autocast():
                loss = next(losses, None)
            if loss is None:
                return None
            role = loss.trains
            self.updates[role].backward(loss.value / len(running))
            for name, value in {role: loss.value, **loss.watched}.items():
                part = value.detach() / len(running)
                seen[name] = seen[name] + part if name in seen else part
        return role

    @torch.no_grad()
    def _follow(self, average: nn.Module, network: nn.Module) -> None:
        """Move the averaged weights towards the network's; statistics (batch norm's, say) are taken over."""
        self._average(list(average.parameters()), list(network.parameters()), 0)
        for kept, new in zip(average.buffers(), network.buffers(), strict=True):
            kept.copy_(new)

    def tensors(self) -> dict[str, Tensor]:
        """The state by name: "network.ROLE.", "average.ROLE." and "optimizer.ROLE.", see `Update.tensors`."""
        found: dict[str, Tensor] = {}
        for kind, modules in (("network", self.networks), ("average", self.averages)):
            for role, module in modules.items():
                found |= {f"{kind}.{role}.{name}": value for name, value in module.state_dict().items()}
        for role, update in self.updates.items():
            found |= {f"optimizer.{role}.{name}": value for name, value in update.tensors().items()}
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
            for role, update in self.updates.items():
                update.restore(checkpoint.strip(tensors, f"optimizer.{role}."))
        except (KeyError, RuntimeError, ValueError) as error:
            raise RunError(
                "load the checkpoint", f"its networks are others ({error})", "Train into another folder"
            ) from None
        self.step = step


def _placed(network: nn.Module, workers: Workers) -> nn.Module:
    """The network on the workers' device, its batch norm, if any, over the batches of all of them."""
    normed = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
    if normed and workers.count > 1:
        if workers.device.type != "cuda":
            raise RunError(
                f"train in {workers.count} processes without a GPU",
                "the network has batch norm, which PyTorch shares between processes on GPUs only",
                "Use one process, or a setting without batch norm",
            )
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return network.to(workers.device)


def _autocast(recipe: Recipe, device: str) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    if recipe.autocast == "fp32":
        return contextlib.nullcontext
    if recipe.autocast == "fp16" and device != "cuda":
        raise InputError(f"train in fp16 on {device}", "fp16 training needs a GPU", "Use bf16 or fp32")
    dtype = torch.bfloat16 if recipe.autocast == "bf16" else torch.float16
    return lambda: torch.autocast(device, dtype)


def fit(trainer: Trainer, stop: int, watchers: Sequence[Watcher] = ()) -> None:
    """Train up to step `stop`.

    Ctrl-C and SIGTERM take effect after the step in flight, in all processes: the watchers end as at the last step,
    so that what they write can be resumed from. A second one does not wait.

    Raises:
        KeyboardInterrupt: after the watchers have ended.
        RunError: a loss is not finite.
    """
    try:
        with torch.random.fork_rng(devices=[]), _deferred_interrupt() as interrupted:
            ended = False
            while trainer.step < stop and not ended:
                losses = trainer.advance()
                for watcher in watchers:
                    watcher.after(trainer, losses)
                ended = trainer.workers.any(interrupted())
            for watcher in watchers:
                watcher.end(trainer)
            if ended or interrupted():
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


@contextlib.contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C or SIGTERM only makes the yielded function true; a second raises KeyboardInterrupt."""
    asked = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def note(_signal: int, _frame: object) -> None:
        nonlocal asked
        asked = True
        for number in before:
            signal.signal(number, signal.default_int_handler)

    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, note)
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
