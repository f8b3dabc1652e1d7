"""How much privacy so many steps cost, by Opacus' accountant of Rényi differential privacy.

Mironov, Talwar, Zhang, "Rényi Differential Privacy of the Sampled Gaussian Mechanism", 2019. Opacus also has an
accountant of privacy loss variables (PRV), whose epsilon is 5 to 10 % lower; but that one is a numerical approximation
which takes seconds, and for small noise all of the memory. This one is an upper bound in closed form, for any noise.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from aigc_rt.errors import InputError
from aigc_rt.train.with_opacus import RDPAccountant, compute_rdp, get_noise_multiplier, get_privacy_spent

ORDERS = (*RDPAccountant.DEFAULT_ALPHAS, 64, 80, 96, 128, 192, 256, 512)
"""Opacus' own and higher ones: its own end at epsilon 0.18 for delta 1e-5, however much noise there is."""
_TOLERANCE = 0.01
"""Share of epsilon that the least noise may leave unspent."""


@dataclass(frozen=True)
class Mechanism:
    """Gaussian noise on a sum over a Poisson sample.

    Attributes:
        noise_multiplier: standard deviation of the noise, as a share of what one image can change the sum by.
        sample_rate: probability that an image is in the sample.
    """

    noise_multiplier: float
    sample_rate: float

    @cached_property
    def _step(self) -> Any:
        """What one step spends at each of `ORDERS`: a sum over hundreds of terms, and the same for every step."""
        return compute_rdp(q=self.sample_rate, noise_multiplier=self.noise_multiplier, steps=1, orders=ORDERS)

    def epsilon(self, steps: int, delta: float) -> float:
        """Spent after so many steps."""
        if not steps:
            return 0.0
        with warnings.catch_warnings():  # that the best order is the first or last: the bound holds all the same
            warnings.filterwarnings("ignore", "Optimal order is")
            return float(get_privacy_spent(orders=ORDERS, rdp=self._step * steps, delta=delta)[0])

    def last_step(self, steps: int, epsilon: float, delta: float) -> int:
        """The last of `steps` steps after which no more than `epsilon` is spent, 0 where the first is too many."""
        low, high = 0, steps
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.epsilon(middle, delta) <= epsilon else (low, middle - 1)
        return low


def least_noise(epsilon: float, delta: float, sample_rate: float, steps: int) -> Mechanism:
    """The mechanism with the least noise that allows all of `steps` steps.

    Raises:
        InputError: no noise is enough.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Optimal order is")
            multiplier = get_noise_multiplier(
                target_epsilon=epsilon,
                target_delta=delta,
                sample_rate=sample_rate,
                steps=steps,
                accountant="rdp",
                epsilon_tolerance=_TOLERANCE * min(1.0, epsilon),
                alphas=list(ORDERS),
            )
    except ValueError as error:
        raise InputError(
            f"train {steps:,} steps within epsilon={epsilon} and delta={delta}",
            f"no noise is enough ({error})",
            "Give a larger budget, or fewer steps",
        ) from None
    return Mechanism(float(multiplier), sample_rate)
