"""What a reader of files hands to `aigc_rt.train.data`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from aigc_rt.errors import DataError

UNSTATED = "not stated"
_PIECE_BYTES = 16 << 20


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
    licence: str = UNSTATED
    class_names: tuple[str, ...] = ()
    test_from: int | None = None


def check_classes(where: Path | str, classes: int, total: int) -> None:
    """Raise DataError if there are more classes than images: every class takes memory in the judge, used or not."""
    if classes > total:
        raise DataError(
            f"read {where}",
            f"it has the label {classes - 1}, and there are only {total} images",
            "Number the classes 0 to K - 1, at most one class an image",
        )


def read_up_to(stream: IO[bytes], wanted: int) -> bytearray:
    """At most `wanted` bytes, fewer where the stream ends.

    In pieces: a header that lies must not allocate what it claims.
    """
    data = bytearray()
    while len(data) < wanted and (piece := stream.read(min(_PIECE_BYTES, wanted - len(data)))):
        data += piece
    return data
