"""What of a data set is loaded, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from aigc_rt import noise
from aigc_rt.errors import InputError
from aigc_rt.train.pixels import Colour

LARGEST = 4096
"""The largest side that can be asked for."""


@dataclass(frozen=True)
class DataOptions:
    """How a data set is loaded. The same options give the same images in the same order.

    `dataclasses.asdict` of it is JSON, and `aigc_rt.train.settings.typed` reads that back.

    Attributes:
        size: resize every image to `size` x `size`; None leaves them.
        only: class numbers or names to keep; None keeps all. Classes keep their numbers.
        limit: the most images to train on: the first of the order that `split_seed` fixes, so that a smaller limit
            is a part of a larger one.
        held_out: share of the images that nothing trains on, where the set has no test images of its own.
        split_seed: decides which images those are.
        colour: "grey" or "rgb" changes the channels.
        project: who asks; see `aigc_rt.train.access`.
    """

    size: int | None = None
    only: tuple[int | str, ...] | None = None
    limit: int | None = None
    held_out: float = 0.1
    split_seed: int = 0
    colour: Colour = "as-is"
    project: str | None = None

    def __post_init__(self) -> None:
        if self.size is not None and not (_whole(self.size) and 1 <= self.size <= LARGEST):
            raise _wrong("size", self.size, f"Give a whole number, 1 to {LARGEST:,}")
        if self.limit is not None and not (_whole(self.limit) and self.limit >= 1):
            raise _wrong("limit", self.limit, "Give a whole number of images, 1 or more")
        if type(self.held_out) not in (int, float) or not 0 < self.held_out < 1:
            raise _wrong("held_out", self.held_out, "Give a share between 0 and 1, 0.1 say")
        if self.only is not None and not (
            isinstance(self.only, tuple) and self.only and all(_whole(c) or isinstance(c, str) for c in self.only)
        ):
            raise _wrong("only", self.only, "Give a tuple of class numbers or names")
        if self.colour not in get_args(Colour):
            raise _wrong("colour", self.colour, f"Give {', '.join(get_args(Colour))}")
        if self.project is not None and not (isinstance(self.project, str) and self.project.strip()):
            raise _wrong("project", self.project, "Give the project's name")
        if not (_whole(self.split_seed) and 0 <= self.split_seed < noise.WORD_LIMIT):
            raise _wrong("split_seed", self.split_seed, "Give a whole number, 0 to 2**64 - 1")


def _whole(value: object) -> bool:
    return type(value) is int


def _wrong(name: str, value: object, mend: str) -> InputError:
    return InputError(f"load data with {name}={value!r}", "it cannot be right", mend)
