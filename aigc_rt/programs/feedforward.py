"""Feedforward generators: noise and conditions in, one call of one graph, media out. GANs and VAE decoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_rt import noise
from aigc_rt.errors import InputError
from aigc_rt.manifest import Condition, Feedforward

Array = NDArray[Any]


def sample(
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]],
    program: Feedforward,
    conditions: Mapping[str, Array],
    *,
    seed: int,
    start: int,
    count: int,
) -> Array:
    """The graph's floats for samples `start` to `start + count - 1` of a seed, in one call.

    Args:
        run: one call of the graph.
        program: the manifest's program.
        conditions: by name, (count,) each, as `spread` returns them.
        seed: which noise.
        start: index of the first sample.
        count: how many, within the graph's batch range.

    Returns:
        The output that the program's media names, (count, ...).
    """
    inputs: dict[str, Array] = {
        name: noise.DISTRIBUTIONS[spec.distribution](seed, spec.stream, start, count, spec.shape)
        for name, spec in program.noise.items()
    }
    for name, condition in program.conditions.items():
        inputs[condition.input] = conditions[name]
    return run(inputs)[program.media.output]


def spread(program: Feedforward, given: Mapping[str, object], count: int) -> dict[str, Array]:
    """Every condition of the program as (count,) of its dtype: one value for all samples, or one each.

    Raises:
        InputError: a condition is unknown, missing, of another length, or out of its range.
    """
    known = ", ".join(program.conditions) or "none"
    for name in given:
        if name not in program.conditions:
            raise InputError(f"the condition {name}=", f"this bundle's conditions are: {known}", "Leave it out")
    return {name: _values(name, c, given.get(name, c.default), count) for name, c in program.conditions.items()}


def check_classes(program: Feedforward, inputs: Mapping[str, object]) -> None:
    """Refuse classes that are none in a raw call's inputs: an engine may answer -1 as if it were the last one.

    Raises:
        InputError: it names the condition and its range.
    """
    for name, condition in program.conditions.items():
        given = inputs.get(condition.input)
        if not isinstance(given, np.ndarray) or given.dtype.kind not in "iu" or not given.size:
            continue
        low, high = given.min(), given.max()
        if low < condition.low or high > condition.high:
            found = f"the condition {name} is {condition.low:g} to {condition.high:g}"
            raise InputError(f"run with {condition.input} from {low} to {high}", found, "Give values in that range")


def _values(name: str, condition: Condition, given: object, count: int) -> Array:
    span = f"{condition.low:g} to {condition.high:g}"
    if given is None:
        raise InputError("generate", f"the condition {name} was not given and has no default", f"Give {name}=, {span}")
    if not isinstance(given, (list, tuple, np.ndarray)) or (isinstance(given, np.ndarray) and given.ndim == 0):
        given = given.item() if isinstance(given, np.ndarray) else given
        return np.full(count, _number(name, condition, given, span), condition.dtype)
    if len(given) != count:
        raise InputError(
            f"{name}= of {len(given)} values", f"{count} samples were asked", "Give one value, or one a sample"
        )
    return np.array([_number(name, condition, value, span) for value in given], condition.dtype)


def _number(name: str, condition: Condition, value: object, span: str) -> float:
    if isinstance(value, str) and value in condition.names:
        return condition.low + condition.names.index(value)
    if isinstance(value, (int, float, np.integer, np.floating)) and condition.low <= value <= condition.high:
        whole = np.issubdtype(np.dtype(condition.dtype), np.floating) or float(value).is_integer()
        if whole:
            return float(value)
    words = f", or one of {', '.join(condition.names)}" if condition.names else ""
    raise InputError(f"{name}={value!r}", f"it takes {condition.dtype} {span}{words}", "Give a value in that range")
