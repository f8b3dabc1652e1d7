"""Differential privacy."""

from __future__ import annotations

from dataclasses import dataclass

from aigc_rt.train.settings import between


@dataclass(frozen=True)
class Privacy:
    """What is promised about any one training image.

    Attributes:
        epsilon, delta: the budget: the run ends before it is spent.
        max_grad_norm: the gradient of every image is scaled down to this norm where it is longer.
        noise_multiplier: standard deviation of the noise as a share of `max_grad_norm`; None is the least that
            makes the whole recipe fit into the budget.
    """

    epsilon: float = between(1e-3, 1e3, 8.0)
    delta: float = between(1e-12, 0.5, 1e-5)
    max_grad_norm: float = between(1e-6, 1e6, 1.0)
    noise_multiplier: float | None = between(1e-3, 1e3, None)
