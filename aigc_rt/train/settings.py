"""Values from JSON files and command lines as typed dataclasses, or an error that names the place."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from aigc_rt.errors import InputError

T = TypeVar("T")
LONGEST = 64
"""Items in a list of settings."""


def between(low: float, high: float, default: Any) -> Any:
    """A dataclass field whose numbers, or whose items, lie from `low` to `high`, both included."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high})


def typed(kind: Any, value: Any, where: str) -> Any:
    """`value`, as JSON has it, as the type `kind`: a dataclass, a builtin, a tuple, a dict, a Literal, or one or None.

    Raises:
        ValueError: it is none, or out of the bounds of a field made by `between`; the message names the place.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is types.UnionType:
        return _one_of(args, value, where)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return _object(kind, value, where)
    if origin is dict and isinstance(value, dict):
        return {name: typed(args[1], item, f"{where}: {name}") for name, item in value.items()}
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = (args[0],) * len(value) if args[-1] is Ellipsis else args
        if len(value) == len(kinds):
            return tuple(typed(one, item, where) for one, item in zip(kinds, value, strict=True))
    if origin is Literal and value in args:
        return value
    if kind is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:  # not so of NaN
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    raise ValueError(f"{where} is {repr(value)[:60]}, not {_named(kind)}")


def _object(kind: Any, value: Mapping[str, Any], where: str) -> Any:
    hints, fields = typing.get_type_hints(kind), {f.name: f for f in dataclasses.fields(kind)}
    needed = {name for name, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    if wrong := (value.keys() - fields.keys()) | (needed - value.keys()):
        raise ValueError(f"{', '.join(sorted(map(str, wrong)))[:80]} in {where} missing or unknown")
    found = {name: typed(hints[name], v, name) for name, v in value.items()}
    for name, v in found.items():
        bounds = fields[name].metadata
        items = v if isinstance(v, tuple) else (v,) if v is not None else ()
        if "low" in bounds and not all(bounds["low"] <= item <= bounds["high"] for item in items):
            raise ValueError(f"{name} is {repr(v)[:60]}, not from {bounds['low']:,} to {bounds['high']:,}")
        if "low" in bounds and len(items) > LONGEST:
            raise ValueError(f"{name} has {len(items):,} items, not at most {LONGEST}")
    return kind(**found)


def _one_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """The value as the first of the types that it fits, None among them."""
    others = [kind for kind in kinds if kind is not types.NoneType]
    if value is None and len(others) < len(kinds):
        return None
    fitting = [kind for kind in others if type(value) is kind]
    return typed((fitting or others)[0], value, where)


def _named(kind: Any) -> str:
    """A type in words."""
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return f"a list of {_named(typing.get_args(kind)[0])}"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return words.get(kind, "an object")


def configured(kind: type[T], given: Mapping[str, Any], what: str) -> T:
    """A settings dataclass, all of whose fields have defaults, with those that are given.

    Raises:
        InputError: a setting is unknown, of another type or out of bounds.
    """
    try:
        found: T = typed(kind, given, what)
    except InputError:  # of the dataclass itself: it says all three
        raise
    except ValueError as error:
        raise InputError(f"set {what}", str(error), f"Known settings: {described(kind)}") from None
    return found


def described(kind: Any) -> str:
    """The settings of a dataclass, or of an instance, with their values: "latent=100, widths=[256, 512]"."""
    fields = dataclasses.fields(kind)
    values = ((f.name, f.default if isinstance(kind, type) else getattr(kind, f.name)) for f in fields)
    shown = ((name, list(value) if isinstance(value, tuple) else value) for name, value in values)
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in shown) or "none"


def assignments(texts: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE, each value as JSON where it is that, else as text; numbers with commas between are a list.

    Raises:
        InputError: a text without a name, or a name given twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value) or name in found:
            raise InputError(f"set {text!r}", "it is no NAME=VALUE, or given twice", "Write NAME=VALUE, each once")
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    for candidate in (text, f"[{text}]"):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(candidate)
    return text
