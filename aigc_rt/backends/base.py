"""The contract between a plan and what executes its variants."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from aigc_rt.bundle import Bundle
from aigc_rt.errors import Closed, InputError, IntegrityError
from aigc_rt.manifest import Format, Graph, Precision, TensorSpec, Variant

Array = NDArray[Any]
Arrays = dict[str, Array]
Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Place:
    """Somewhere a backend could execute here; `reason` says why it cannot, None that it can."""

    backend: str
    device: str  # "cpu", "cuda:0"
    provider: str | None = None  # ONNX Runtime's execution provider
    reason: str | None = None

    def __str__(self) -> str:
        return (
            f"{self.backend} ({self.provider}) on {self.device}"
            if self.provider
            else f"{self.backend} on {self.device}"
        )


@dataclass(frozen=True)
class Job:
    """One variant to open at one place; `threads` is None for a GPU."""

    bundle: Bundle
    role: str
    variant: str
    place: Place
    threads: int | None

    @property
    def graph(self) -> Graph:
        """The manifest's graph."""
        return self.bundle.manifest.graphs[self.role]

    @property
    def stored(self) -> Variant:
        """The manifest's variant."""
        return self.graph.variants[self.variant]

    def __str__(self) -> str:
        return f"{self.role}/{self.variant} with {self.place}"


class Backend(Protocol):
    """One inference engine. Construction imports nothing; `places` imports the engine and never raises."""

    name: ClassVar[str]
    formats: ClassVar[tuple[Format, ...]]

    def places(self) -> list[Place]:
        """Everywhere this engine could execute, what does not work with the reason in the engine's own words."""
        ...

    def refuses(self, stored: Variant, place: Place) -> str | None:
        """Why this variant cannot run at a working place, or None: a look at the manifest, nothing is loaded."""
        ...

    def computes(self, stored: Variant, place: Place) -> Precision:
        """The precision the engine computes in there, which need not be the one the variant is stored in."""
        ...

    def open(self, job: Job) -> Executor:
        """Load the variant.

        Raises:
            IntegrityError: its files are not what was hashed, or it reads others.
            BackendUnavailable: this machine cannot run it, or the engine gives another provider than asked.
            PlanError: the engine refuses it, in its own words.
        """
        ...


class Executor(ABC):
    """A loaded variant. `run` checks; a backend writes `_run` and `_close`. Safe to call from several threads."""

    def __init__(self, job: Job) -> None:
        self.label = str(job)
        self.graph = job.graph
        self._inputs = {spec.name: (np.dtype(spec.dtype), spec) for spec in job.graph.inputs}
        self._closing = threading.Lock()
        self._closed = False

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """One call of the graph.

        Args:
            inputs: every input by name, of the manifest's dtype and shape; subclasses such as np.memmap are read as
                the arrays they are.

        Returns:
            Every output by name, in arrays the caller owns.

        Raises:
            InputError: a name, dtype or shape is not the graph's.
            ExecutionError: the engine failed.
            Closed: after close().
        """
        if self._closed:
            raise self._was_closed()
        if not isinstance(inputs, Mapping) or inputs.keys() != self._inputs.keys():
            raise InputError(
                f"run with inputs {_names(inputs)}", f"the graph takes {sorted(self._inputs)}", "Give each of them once"
            )
        given: Arrays = {}
        axes: dict[str, tuple[int, str]] = {}
        for name, (dtype, spec) in self._inputs.items():
            value = given[name] = _plain(spec, inputs[name])
            if value.dtype != dtype or len(value.shape) != len(spec.shape):
                raise _mismatch(spec, value)
            for want, have in zip(spec.shape, value.shape, strict=True):
                if isinstance(want, str):
                    length, first = axes.setdefault(want, (have, name))
                    if have != length:
                        raise InputError(
                            f"input {name!r} with {want} {have}",
                            f"{want} is {length} in input {first!r}",
                            f"Give every input the same {want}",
                        )
                elif have != want:
                    raise _mismatch(spec, value)
        for axis, (length, _) in axes.items():
            allowed = self.graph.axes[axis]
            if not allowed.min <= length <= allowed.max:
                raise InputError(
                    f"run with {axis} {length}",
                    f"the bundle was exported for {axis} {allowed.min} to {allowed.max}",
                    "Split the call, or export with a wider range",
                )
        return self._run(given)

    def close(self) -> None:
        """Release the engine's memory; later calls of `run` raise Closed."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._close()

    def _was_closed(self) -> Closed:
        return Closed(f"run {self.label}", "it was closed", "Load the bundle again")

    @abstractmethod
    def _run(self, inputs: Mapping[str, Array]) -> Arrays:
        """One call with checked inputs. Should another thread close meanwhile, it ends well or raises Closed."""

    @abstractmethod
    def _close(self) -> None: ...


def check_interface(job: Job, kind: str, specs: tuple[TensorSpec, ...], found: Mapping[str, tuple[str, Shape]]) -> None:
    """Hold what an engine says of its inputs or outputs against the manifest.

    Args:
        job: what was opened.
        kind: "input" or "output".
        specs: the manifest's.
        found: the engine's: name to dtype and shape, None for a length that it leaves open.

    Raises:
        IntegrityError: names, dtypes or fixed lengths differ.
    """
    for spec in specs:
        dtype, shape = found.get(spec.name, ("", ()))
        fixed = [d if isinstance(d, int) else None for d in spec.shape]
        fits = len(fixed) == len(shape) and all(None in (a, b) or a == b for a, b in zip(fixed, shape, strict=True))
        if dtype != spec.dtype or not fits or found.keys() != {s.name for s in specs}:
            said = f"the manifest says {kind} {spec.name}: {spec.dtype} {list(spec.shape)}"
            has = ", ".join(f"{name}: {of} {list(lengths)}" for name, (of, lengths) in found.items())
            raise IntegrityError(f"open {job}", f"{said}, the graph has {has}", "Export the bundle again")


def _names(inputs: object) -> str:
    return str(sorted(map(str, inputs))) if isinstance(inputs, Mapping) else f"of {type(inputs).__name__}"


def _plain(spec: TensorSpec, value: object) -> Array:
    """A numpy array without its subclass; a mask would be lost, so a masked array is none."""
    if type(value) is np.ndarray:
        return value
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        raise _mismatch(spec, value)
    return np.asarray(value)


def _mismatch(spec: TensorSpec, value: object) -> InputError:
    got = f"{value.dtype} {value.shape}" if type(value) is np.ndarray else f"a {type(value).__name__}"
    if type(value) is np.ndarray and value.dtype != value.dtype.newbyteorder("="):
        got += ", whose bytes are in the other order than this machine's"
    shape = ", ".join(map(str, spec.shape))
    return InputError(f"input {spec.name!r}", f"the graph takes {spec.dtype} ({shape}), got {got}", "Convert it first")
