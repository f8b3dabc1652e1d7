"""The measuring loop of `aigc-rt bench` and its statistics. Times are nanoseconds.

A block is a run of calls without a pause. Calls of one block share whatever the machine was doing at that moment, so
intervals are taken over blocks, never over calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Clock = Callable[[], int]
"""Nanoseconds since some fixed moment, never going back: `time.perf_counter_ns`, or a fake one in a test."""


def measure_block(
    call: Callable[[], object],
    seconds: float,
    *,
    clock: Clock = time.perf_counter_ns,
) -> NDArray[np.int64]:
    """Call until the time is over, once at least, and time every call.

    Args:
        call: what is measured; what it returns is dropped inside the measured time.
        seconds: how long the block is at least; its last call may go over.
        clock: where the time comes from.

    Returns:
        (calls,) nanoseconds, in the order of the calls.
    """
    taken: list[int] = []
    stop = clock() + round(seconds * 1e9)
    while True:
        begin = clock()
        call()
        end = clock()
        taken.append(end - begin)
        if end >= stop:
            return np.array(taken, np.int64)


def percentiles(samples: ArrayLike, wanted: Sequence[float] = (50, 90, 99)) -> tuple[float, ...]:
    """Percentiles 0 to 100 with linear interpolation between neighbours (type 7 of Hyndman and Fan, 1996)."""
    return tuple(float(p) for p in np.percentile(np.asarray(samples), wanted))


def block_percentiles(blocks: Sequence[ArrayLike], wanted: Sequence[float] = (90, 99)) -> tuple[float, ...]:
    """Percentiles 0 to 100 of the calls of several blocks, each block counting the same.

    A block that was disturbed has fewer calls in its time: counted by calls, it would hide behind the quiet ones.
    The percentile is the smallest call that at least so much of the weight does not exceed (Hyndman and Fan's type 1).
    """
    arrays = [np.asarray(block, np.float64) for block in blocks]
    calls = np.concatenate(arrays)
    weights = np.concatenate([np.full(len(block), 1 / len(block) / len(arrays)) for block in arrays])
    order = np.argsort(calls, kind="stable")
    below = np.cumsum(weights[order])
    places = np.searchsorted(below, np.asarray(wanted) / 100 - 1e-9)
    return tuple(float(call) for call in calls[order][np.minimum(places, len(calls) - 1)])


@dataclass(frozen=True)
class Interval:
    """A median and the interval that holds it with the stated confidence; None where one block says nothing."""

    median: float
    low: float | None
    high: float | None

    def excludes(self, value: float) -> bool:
        """Whether the interval exists and leaves `value` out."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high

    def span(self) -> float:
        """How many times the lower end fits into the upper; 1 for a single block."""
        return self.high / self.low if self.low and self.high else 1.0


def bootstrap_median(
    values: ArrayLike, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """The median with a percentile bootstrap interval (Efron and Tibshirani, 1993, chapter 13).

    Args:
        values: one number a block, at least one; blocks are drawn with replacement.
        confidence: of the interval, between 0 and 1.
        resamples: how many times the blocks are drawn.
        seed: of the draws, so that the same blocks always give the same interval.
    """
    blocks = np.asarray(values, np.float64)
    assert blocks.ndim == 1
    assert len(blocks)
    median = float(np.median(blocks))
    if len(blocks) == 1:
        return Interval(median, None, None)
    drawn = np.random.default_rng(seed).integers(len(blocks), size=(resamples, len(blocks)))
    tail = 50 * (1 - confidence)
    low, high = percentiles(np.median(blocks[drawn], axis=1), (tail, 100 - tail))
    return Interval(median, low, high)


def block_medians(blocks: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """The median call of each block, (blocks,) nanoseconds."""
    return np.array([np.median(np.asarray(block)) for block in blocks], np.float64)


def block_ratios(numerator: Sequence[ArrayLike], denominator: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """Median call of a block over that of the other's block of the same round, (blocks,).

    Dividing within a round cancels what drifts slower than a round: heat, clock frequency, a neighbour's load.
    """
    assert len(numerator) == len(denominator)
    return block_medians(numerator) / block_medians(denominator)


def spread(blocks: Sequence[ArrayLike]) -> float:
    """How far the block medians lie apart: (largest - smallest) / median, 0 for a single block."""
    medians = block_medians(blocks)
    return float((medians.max() - medians.min()) / np.median(medians))
