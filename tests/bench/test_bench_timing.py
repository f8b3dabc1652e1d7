"""The measuring loop under a fake clock, and its statistics against numbers worked out by hand."""

import numpy as np
import pytest

from aigc_rt import timing


class Clock:
    """Time passes only when `work` is called."""

    def __init__(self) -> None:
        self.now = 1_000

    def __call__(self) -> int:
        return self.now

    def work(self, *durations: int) -> object:
        steps = iter(durations)

        def call() -> None:
            self.now += next(steps)

        return call


def test_a_block_times_each_call_and_ends_after_its_time() -> None:
    clock = Clock()
    taken = timing.measure_block(clock.work(400, 300, 250, 100, 100), 1e-6, clock=clock)  # type: ignore[arg-type]
    assert taken.tolist() == [400, 300, 250, 100]  # 950 ns are short of the microsecond, 1,050 are not
    assert taken.dtype == np.int64


def test_a_slow_call_still_makes_a_block() -> None:
    clock = Clock()
    assert timing.measure_block(clock.work(5_000_000), 1e-6, clock=clock).tolist() == [5_000_000]  # type: ignore[arg-type]


def test_percentiles() -> None:
    assert timing.percentiles([40, 10, 20, 30]) == pytest.approx((25.0, 37.0, 39.7))
    assert timing.percentiles(range(101), (0, 1, 50, 99, 100)) == (0.0, 1.0, 50.0, 99.0, 100.0)
    assert timing.percentiles([7]) == (7.0, 7.0, 7.0)


def test_bootstrap_of_five_blocks_reaches_from_the_smallest_to_the_largest() -> None:
    # Three or more of five draws hit the smallest block with probability 181/3125 = 5.8%, more than the 2.5% tail.
    assert timing.bootstrap_median([5.0, 1.0, 4.0, 2.0, 3.0]) == timing.Interval(3.0, 1.0, 5.0)


def test_bootstrap_narrows_with_blocks_and_repeats_itself() -> None:
    values = np.random.default_rng(3).normal(10, 1, 400)
    wide, narrow = timing.bootstrap_median(values[:25]), timing.bootstrap_median(values)
    assert narrow == timing.bootstrap_median(values)
    assert wide.low is not None
    assert wide.high is not None
    assert narrow.low is not None
    assert narrow.high is not None
    assert narrow.high - narrow.low < wide.high - wide.low
    # 1.2533 / sqrt(400) is the standard error of a normal sample's median: the interval is 2 * 1.96 of them.
    assert narrow.high - narrow.low == pytest.approx(3.92 * 1.2533 / 20, rel=0.35)


def test_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        interval = timing.bootstrap_median(random.normal(1.0, 0.1, 25), resamples=500, seed=seed)
        covered += not interval.excludes(1.0)
    assert 180 <= covered <= 200


def test_one_block_has_no_interval() -> None:
    interval = timing.bootstrap_median([2.5])
    assert interval == timing.Interval(2.5, None, None)
    assert not interval.excludes(1.0)


def test_interval_excludes() -> None:
    assert timing.Interval(1.1, 1.05, 1.2).excludes(1.0)
    assert timing.Interval(0.9, 0.8, 0.95).excludes(1.0)
    assert not timing.Interval(1.0, 0.9, 1.1).excludes(1.0)


def test_block_ratios_divide_within_a_round() -> None:
    slow = [[30, 20, 10], [400, 400]]
    fast = [[5, 5, 5], [100, 200, 300, 200]]
    assert timing.block_medians(slow).tolist() == [20.0, 400.0]
    assert timing.block_ratios(slow, fast).tolist() == [4.0, 2.0]


def test_spread() -> None:
    assert timing.spread([[10], [12], [9]]) == pytest.approx(0.3)
    assert timing.spread([[10, 99, 10]]) == 0.0


def test_block_percentiles_count_each_block_the_same() -> None:
    quiet, disturbed = [1] * 900, [10] * 10
    assert timing.block_percentiles([quiet, disturbed, disturbed], (30, 50, 90)) == (1.0, 10.0, 10.0)
    assert timing.block_percentiles([[4, 4, 10], [8, 8]], (66, 67, 83, 84, 100)) == (8.0, 8.0, 8.0, 10.0, 10.0)
    assert timing.block_percentiles([[1, 2, 3, 4]], (25, 50, 100)) == (1.0, 2.0, 4.0)


def test_span_is_how_often_the_low_end_fits_into_the_high() -> None:
    assert timing.Interval(2.0, 1.0, 3.0).span() == 3.0
    assert timing.Interval(2.0, None, None).span() == 1.0
