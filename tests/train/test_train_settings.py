"""Settings from JSON and from the command line: what fits is typed, what does not is named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from aigc_rt.errors import InputError
from aigc_rt.train.settings import assignments, between, configured, described, typed


@dataclass(frozen=True)
class Inner:
    size: int = between(1, 9, 2)


@dataclass(frozen=True)
class Outer:
    widths: tuple[int, ...] = between(1, 1 << 20, (256, 512))
    kind: Literal["a", "b"] = "a"
    rate: float = between(0, 1, 0.5)
    on: bool = False
    only: tuple[int | str, ...] | None = None
    inner: Inner | None = None


def test_what_fits_is_typed() -> None:
    given = {"widths": [3], "kind": "b", "rate": 1, "on": True, "only": [3, "cat"], "inner": {"size": 9}}
    assert configured(Outer, given, "it") == Outer((3,), "b", 1.0, True, (3, "cat"), Inner(9))
    assert configured(Outer, {}, "it") == Outer()
    assert type(configured(Outer, {"rate": 1}, "it").rate) is float


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"width": 3}, "width in the thing missing or unknown"),
        ({"widths": [3, "4"]}, "widths is '4', not a whole number"),
        ({"widths": [0]}, r"widths is \(0,\), not from 1 to 1,048,576"),
        ({"widths": [1] * 65}, "has 65 items"),
        ({"kind": "c"}, "kind is 'c', not one of a, b"),
        ({"rate": float("nan")}, "rate is nan, not a number"),
        ({"rate": 10**400}, "not a number"),
        ({"rate": 1.01}, "not from 0 to 1"),
        ({"on": 1}, "on is 1, not true or false"),
        ({"inner": {"size": 10}}, "size is 10"),
        ({"inner": 5}, "not an object"),
        ({"only": [1.5]}, "only is 1.5"),
    ],
)
def test_what_does_not_is_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        configured(Outer, given, "the thing")
    assert 'kind="a"' in str(caught.value), "it lists what there is"


def test_needed_fields() -> None:
    @dataclass(frozen=True)
    class Needs:
        it: int

    with pytest.raises(ValueError, match="it in the thing missing"):
        typed(Needs, {}, "the thing")


def test_assignments() -> None:
    texts = ["a=3", "b=1,2.5", "c=hinge", "d=true", "e=[4]", "f=x=y", "g=null"]
    expected = {"a": 3, "b": [1, 2.5], "c": "hinge", "d": True, "e": [4], "f": "x=y", "g": None}
    assert assignments(texts) == expected
    deep = "[" * 100_000  # deeper than Python reads
    assert assignments([f"a={deep}"]) == {"a": deep}
    for wrong in (["a"], ["=3"], ["a="], ["a=1", "a=2"]):
        with pytest.raises(InputError, match="NAME=VALUE"):
            assignments(wrong)


def test_description() -> None:
    assert described(Inner) == "size=2"
    assert described(Outer).startswith('widths=[256, 512], kind="a", rate=0.5, on=false')
