"""What a reader of files hands to `aigc_rt.train.data`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Raw:
    """Images as read.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64 or None.
        origin, licence: in words.
        class_names: where classes have names.
        test_from: index of the first test image, where the set says itself which are for testing.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    origin: str
    licence: str
    class_names: tuple[str, ...] = ()
    test_from: int | None = None
