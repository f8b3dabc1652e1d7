"""One network's optimizer: the gradients of one loss in, one step out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from aigc_rt.train.task import Recipe
from aigc_rt.train.workers import Workers

Parameters = list[nn.Parameter]
OPTIMIZERS: dict[str, Callable[[Parameters, Recipe], torch.optim.Optimizer]] = {
    "adam": lambda p, r: torch.optim.Adam(p, r.lr, betas=r.betas, weight_decay=r.weight_decay, fused=True),
    "adamw": lambda p, r: torch.optim.AdamW(p, r.lr, betas=r.betas, weight_decay=r.weight_decay, fused=True),
    "adafactor": lambda p, r: torch.optim.Adafactor(p, r.lr, weight_decay=r.weight_decay),
    "sgd": lambda p, r: torch.optim.SGD(p, r.lr, momentum=r.momentum, weight_decay=r.weight_decay, fused=True),
}


class Update:
    """Adds up the gradients of one step's parts, averages them over the processes, and steps.

    A network all of whose weights are frozen is left as it is.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, workers: Workers) -> None:
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self._clip, self._workers = recipe.clip, workers
        self.optimizer = OPTIMIZERS[recipe.optimizer](self.parameters, recipe) if self.parameters else None
        half = recipe.autocast == "fp16"
        # Gradients of fp16 activations underflow unless the loss is scaled up; bf16 has fp32's range.
        self._scaler = torch.amp.GradScaler(workers.device.type, enabled=half)

    def backward(self, value: Tensor) -> None:
        """Add the gradient of `value`, a loss, to this network's weights and to no other's.

        What the loss passes through on its way gets no gradients: only this network's weights are the leaves.
        """
        if self.parameters:
            torch.autograd.backward(self._scaler.scale(value), inputs=self.parameters)

    def step(self, rate: float) -> None:
        """Take one step at the learning rate `rate` with the gradients so far, and forget them."""
        if self.optimizer is None:
            return
        self._workers.mean_([p.grad for p in self.parameters if p.grad is not None])
        self._scaler.unscale_(self.optimizer)
        if self._clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self._clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad()

    def tensors(self) -> dict[str, Tensor]:
        """The state by name: "N.NAME" for weight number N, and the loss's scale in fp16."""
        found: dict[str, Tensor] = {}
        if self.optimizer is not None:
            for number, state in self.optimizer.state_dict()["state"].items():
                found |= {f"{number}.{name}": v for name, v in state.items() if isinstance(v, Tensor)}
        scaler = self._scaler.state_dict()
        return found | {f"scaler.{name}": torch.tensor(scaler[name]) for name in _SCALER if name in scaler}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` returned."""
        state: dict[int, dict[str, Tensor]] = {}
        scaler: dict[str, Any] = self._scaler.state_dict()
        for name, value in tensors.items():
            part, key = name.split(".")
            if part == "scaler":
                scaler[key] = value.item()
            else:
                state.setdefault(int(part), {})[key] = _laid_out(value, self.parameters[int(part)])
        if self.optimizer is not None:
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        if scaler:
            self._scaler.load_state_dict(scaler)


def _laid_out(value: Tensor, weight: Tensor) -> Tensor:
    """A copy in memory as the weight is: fused optimizers go through both as they lie, whatever their strides say."""
    if value.shape != weight.shape:
        return value.clone()
    return torch.empty_like(weight, dtype=value.dtype, requires_grad=False).copy_(value)


_SCALER = ("scale", "_growth_tracker")
