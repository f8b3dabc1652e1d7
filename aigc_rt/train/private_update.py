"""One network's optimizer under differential privacy: DP-SGD by Opacus.

Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang, "Deep Learning with Differential Privacy", 2016. In a step
the gradient of every image of a Poisson sample is scaled down to norm C where it is longer, Gaussian noise of deviation
sigma * C is added to their sum, and the sum is divided by the expected size of a sample, which is no secret. What
follows, the optimizer's moments and the averaged weights, is computed from that alone.

What one image can change the sum by is C, because it has one row in it and no other row depends on it:

* A network that is trained alone (an autoencoder) has one row an image: the gradient of that image's term of the loss.
  The row also depends on draws that go with its place in the sample, and without the image those behind it move up. The
  draws come from the run's secret and are independent and alike, so that moving up changes no probability.
* A discriminator is called with the real images once, and with made ones once. The two calls are taken apart: every
  real image has a row, every made one has a row of its own. How many are made is fixed, and neither they nor the draws
  that they are made from depend on which images were drawn, or on how many: their rows are the same without the image.
  They are clipped like the others, so that neither side outweighs the other, and they need no noise. A loss that pairs
  a real image with a made one would have to put both into one row, and two more would change without the image.
* Whatever else is trained, a generator, sees images only through the discriminator's weights, after the noise.

That a family keeps to this is not taken on trust: see `rehearsal`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from aigc_rt.train.accounting import Mechanism
from aigc_rt.train.poisson import PoissonStream
from aigc_rt.train.task import Recipe
from aigc_rt.train.update import Update
from aigc_rt.train.with_opacus import DPOptimizer, GradSampleHooks
from aigc_rt.train.workers import Workers

LARGEST = 1 << 22
"""Numbers in the per-sample gradients that are held at once, where a call can be cut into parts: what a cache holds."""
_LEFT = ("activations", "max_batch_len")
Rows = list[Tensor | None]
"""Of every parameter its gradients, (B, *shape), None where no loss reaches it."""


class SecretNoise(DPOptimizer):  # type: ignore[misc]  # Opacus has no types
    """Opacus' optimizer with noise from the run's secret: torch's generators can be seeded with 32 bits only."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, mechanism: Mechanism, max_grad_norm: float, stream: PoissonStream
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=mechanism.noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=stream.recipe.batch,
        )
        self._stream = stream

    @torch.no_grad()
    def add_noise(self) -> None:
        """Put the noisy sums into the parameters' gradients."""
        deviation = self.noise_multiplier * self.max_grad_norm
        for number, p in enumerate(self.params):
            noise = self._stream.secret.normal(f"noise {number}", self._stream.step, p.numel())
            noisy = p.summed_grad + deviation * noise.view(p.shape).to(p.device)
            p.grad = torch.empty_like(p).copy_(noisy)  # strides as the parameter's: fused optimizers rely on it


class PrivateUpdate(Update):
    """See above; `Update` otherwise.

    Args:
        network: the private one; some of its weights are not frozen.
        recipe: how.
        workers: this one process.
        mechanism: the noise.
        max_grad_norm: C.
        stream: what the images come from.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        workers: Workers,
        mechanism: Mechanism,
        max_grad_norm: float,
        stream: PoissonStream,
    ) -> None:
        super().__init__(network, recipe, workers)
        assert self.optimizer is not None
        self.network, self.stream = network, stream
        self.noisy = SecretNoise(self.optimizer, mechanism, max_grad_norm, stream)
        self.noisy.attach_step_hook(self._spare)
        self.hooks = GradSampleHooks(network, loss_reduction="sum")
        self._chunk = max(1, LARGEST // sum(p.numel() for p in self.parameters))
        self._calls: list[tuple[tuple[Tensor, ...], Tensor]] = []
        self._reached: set[int] = set()
        self._taken: int | None = None
        self.alone = stream.made is None
        if not self.alone:
            self.hooks.disable_hooks()
            network.register_forward_hook(self._note)

    def backward(self, value: Tensor) -> None:
        """Add the clipped gradients of the images, and of what was made."""
        for _, rows in self.rows(value):
            self._reached |= {number for number, found in enumerate(rows) if found is not None}
            size = max(len(found) for found in rows if found is not None)
            for p, found in zip(self.parameters, rows, strict=True):
                p.grad_sample = p.new_zeros((size, *p.shape)) if found is None else found  # type: ignore[attr-defined]
            self.noisy.clip_and_accumulate()
            self._clear()

    def step(self, rate: float) -> None:
        """Add the noise and take one step at the learning rate `rate`, also where no image was drawn."""
        for group in self.noisy.param_groups:
            group["lr"] = rate
        for p in self.parameters:
            p.grad_sample = p.new_zeros((0, *p.shape))  # type: ignore[attr-defined]  # all rows are in the sum
        self.noisy.step()
        self.noisy.zero_grad(set_to_none=True)
        self.forget()
        self._taken = self.stream.step

    def forget(self) -> None:
        """Forget the losses so far."""
        self._calls.clear()
        self._reached.clear()
        self._clear()

    def rows(self, value: Tensor) -> Iterator[tuple[int, Rows]]:
        """The gradients of `value`'s terms, unclipped, each with the number of the call that it comes from.

        They are those of terms, not of shares of a mean. A blank image has none.
        """
        batch = self.stream.batch
        assert batch is not None
        if self.alone:
            yield 0, self._gradients(value * len(batch.images), None, batch.drawn)
            return
        calls = self._calls[:]
        slopes = torch.autograd.grad(value, [output for _, output in calls], allow_unused=True)
        for number, ((given, _), slope) in enumerate(zip(calls, slopes, strict=True)):
            if slope is None or (not batch.drawn and given[0] is batch.images):
                continue
            for first in range(0, len(slope), self._chunk):
                part = slice(first, first + self._chunk)
                self.hooks.enable_hooks()
                try:
                    again = self.network(*(one[part] for one in given))
                    found = self._gradients(again, slope[part] * len(slope), len(again))
                finally:
                    self.hooks.disable_hooks()
                yield number, found

    def _gradients(self, value: Tensor, slope: Tensor | None, count: int) -> Rows:
        """The first `count` per-sample gradients of a value, or of several with their slopes."""
        with unwarned():
            torch.autograd.backward(value, slope, inputs=self.parameters)
        found = [p.grad_sample for p in self.parameters]  # type: ignore[attr-defined]
        self._clear()
        return [None if rows is None else rows[:count] for rows in found]

    def _clear(self) -> None:
        """Leave nothing behind that the next backward pass would add to."""
        for p in self.parameters:
            p.grad = p.grad_sample = None  # type: ignore[attr-defined]
            p._forward_counter = 0  # type: ignore[attr-defined]
        for module in self.network.modules():
            for name in _LEFT:
                with contextlib.suppress(AttributeError):
                    delattr(module, name)

    def _note(self, _module: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
        """Remember a call of the private network that its own loss is to come from."""
        if torch.is_grad_enabled() and not self.hooks.hooks_enabled and self._taken != self.stream.step:
            self._calls.append((given, output))

    def _spare(self, _optimizer: object) -> None:
        """Weights that no loss reaches get no noise either: which ones is no secret."""
        for number, p in enumerate(self.parameters):
            if number not in self._reached:
                p.grad = None


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """Within, torch does not warn of what is meant to be: the hooks of the first layer fire though images need no
    gradient.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Full backward hook is firing")
        yield
