"""Counter-based noise: value k of sample i of a seed is the same on every machine, in every batch and thread.

The words are Philox4x64-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
as `numpy.random.Philox` computes it: key (seed, stream), counter (block, 0, index, 0), four 64-bit words a block,
blocks counted from 1 because numpy increments before it computes. Normals are Box-Muller in float64, rounded once
to float32: float32 logarithms and sines differ between instruction sets, float64 ones rounded to float32 do not.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_rt.errors import InputError

WORD_LIMIT = 1 << 64
_SHIFT = np.uint64(11)  # a word's upper 53 bits become the float64's fraction
_UNIT = 2.0**-53
_TURN = 2.0 * np.pi * _UNIT


class _State(threading.local):
    """One generator a thread: setting its state costs 4 us, making a new one 10."""

    def __init__(self) -> None:
        self.bits = np.random.Philox(0)
        self.key = np.zeros(2, np.uint64)
        self.counter = np.zeros(4, np.uint64)
        self.state: Any = {
            "bit_generator": "Philox",
            "state": {"counter": self.counter, "key": self.key},
            "buffer": np.zeros(4, np.uint64),
            "buffer_pos": 4,  # an empty buffer: the next word comes from the next block
            "has_uint32": 0,
            "uinteger": 0,
        }


_local = _State()


def words(seed: int, stream: int, start: int, count: int, each: int) -> NDArray[np.uint64]:
    """The first `each` words of samples `start` to `start + count - 1`.

    Args:
        seed: 0 to 2**64 - 1.
        stream: 0 to 2**64 - 1; separate uses of one seed (two inputs, say) draw from separate streams.
        start: index of the first sample, 0 to 2**64 - count.
        count: number of samples.
        each: words a sample.

    Returns:
        (count, each) uint64.

    Raises:
        InputError: a number is out of its range.
    """
    check(seed, stream, start, count)
    seed, stream, start, count = map(operator.index, (seed, stream, start, count))  # numpy's integers would wrap
    local = _local
    local.key[0], local.key[1] = seed, stream
    out = np.empty((count, each), np.uint64)
    for row in range(count):
        local.counter[2] = start + row
        local.bits.state = local.state
        out[row] = local.bits.random_raw(each)
    return out


def normal(seed: int, stream: int, start: int, count: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normals, (count, *shape) float32; arguments and errors as in `words`."""
    size = int(np.prod(shape, dtype=np.int64))
    pairs = words(seed, stream, start, count, size + size % 2) >> _SHIFT
    radius = np.sqrt(-2.0 * np.log((pairs[:, 0::2] + 1.0) * _UNIT))  # log of (0, 1], never of 0
    angle = pairs[:, 1::2] * _TURN
    out = np.empty(pairs.shape, np.float32)
    np.multiply(radius, np.cos(angle), out=out[:, 0::2], casting="same_kind")
    np.multiply(radius, np.sin(angle), out=out[:, 1::2], casting="same_kind")
    return out[:, :size].reshape(count, *shape)


def uniform(seed: int, stream: int, start: int, count: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Uniform values in [0, 1), (count, *shape) float32; arguments and errors as in `words`."""
    size = int(np.prod(shape, dtype=np.int64))
    # 24 bits: all that a float32 in [0, 1) holds, so that rounding never reaches 1.
    fraction = words(seed, stream, start, count, size) >> np.uint64(40)
    return (fraction.astype(np.float32) * np.float32(2.0**-24)).reshape(count, *shape)


DISTRIBUTIONS: dict[str, Callable[[int, int, int, int, tuple[int, ...]], NDArray[np.float32]]] = {
    "normal": normal,
    "uniform": uniform,
}


def check(seed: int, stream: int, start: int, count: int) -> None:
    """Raise InputError unless the numbers name samples that exist."""
    if type(seed) is type(stream) is type(start) is type(count) is int and (
        0 <= seed < WORD_LIMIT and 0 <= stream < WORD_LIMIT and 0 <= count <= 2**31 and 0 <= start <= WORD_LIMIT - count
    ):
        return
    for name, value, low, high in (
        ("seed", seed, 0, WORD_LIMIT - 1),
        ("stream", stream, 0, WORD_LIMIT - 1),
        ("count", count, 0, 2**31),
        ("start", start, 0, WORD_LIMIT - (max(int(count), 1) if isinstance(count, (int, np.integer)) else 1)),
    ):
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
            raise InputError(f"{name}={value!r}", "it is not an integer", f"Give an integer {low} to {high}")
        if not low <= value <= high:
            raise InputError(f"{name}={value}", "it is out of range", f"Give an integer {low} to {high}")
