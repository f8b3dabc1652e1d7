"""`load` and the Generator: a bundle's program over the executors its plan chose."""

from __future__ import annotations

import contextlib
import operator
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_rt import backends, media, noise, plan
from aigc_rt.backends.base import Arrays, Executor
from aigc_rt.bundle import Bundle
from aigc_rt.errors import Closed, InputError, PlanError
from aigc_rt.manifest import Feedforward, Media
from aigc_rt.plan import Plan, Request, Skip
from aigc_rt.programs import feedforward

Array = NDArray[Any]


@dataclass(frozen=True)
class Samples:
    """What `generate` made.

    Attributes:
        array: images uint8 (N, H, W, C); audio float32 (N, T, C) in [-1, 1]; else the graph's floats.
        raw: the graph's floats, with raw=True; else None.
        seed, start: sample k is number start + k of the seed.
    """

    media: Media = field(repr=False)
    seed: int
    start: int
    array: Array = field(repr=False)
    raw: Array | None = field(repr=False, default=None)

    def __len__(self) -> int:
        return len(self.array)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write .png (a grid when there are several images), .wav or .npy; errors as in `media.save`."""
        media.save(path, self.array, self.media)


class Generator:
    """A loaded bundle. `load` makes it. Calls from several threads are safe; each owns what it gets."""

    def __init__(self, bundle: Bundle, request: Request) -> None:
        self.bundle = bundle
        self._program = bundle.manifest.program
        self._graphs = _Graphs(bundle, request)
        self._main = self._graphs.opened(self._program.graph)

    @property
    def plan(self) -> Plan:
        """What was decided for the main graph, and for every other graph since its first use."""
        return self._graphs.plan

    def generate(
        self, n: int = 1, *, seed: int = 0, start: int = 0, raw: bool = False, **conditions: object
    ) -> Samples:
        """Samples `start` to `start + n - 1` of a seed.

        Sample i depends on the bundle, the seed, i and its conditions only, not on n, start or the thread; between
        batch sizes and backends the floats differ by rounding, as the evidence states.

        Args:
            n: how many, 1 or more; more than the graph's largest batch are made in several calls.
            seed: 0 to 2**64 - 1.
            start: index of the first sample.
            raw: also keep the graph's floats, as `Samples.raw`.
            conditions: by name, one value for all samples or a sequence of n.

        Raises:
            InputError: a number or condition out of its range, or a bundle without a sampling program.
            ExecutionError: the engine failed, or gave NaN.
            Closed: after close().
        """
        self._check_open()
        program = self._program
        if not isinstance(program, Feedforward):
            raise InputError(
                "generate", f"the bundle's program is {program.kind!r}", "Call run() with the graph's inputs"
            )
        if not isinstance(n, (int, np.integer)) or isinstance(n, bool) or n < 1:
            raise InputError(f"generate n={n!r}", "it is no count of samples", "Give an integer of 1 or more")
        noise.check(seed, 0, start, n)
        n, seed, start = map(operator.index, (n, seed, start))
        given = feedforward.spread(program, conditions, n)
        floats, finished = [], []
        for first, count in self._chunks(program, n):
            part = {name: values[first : first + count] for name, values in given.items()}
            values = feedforward.sample(self._main.run, program, part, seed=seed, start=start + first, count=count)
            finished.append(media.finish(values, program.media))
            if raw:
                floats.append(values)
        return Samples(program.media, seed, start, _join(finished), _join(floats) if raw else None)

    def run(self, inputs: Mapping[str, Array], graph: str | None = None) -> Arrays:
        """One raw call of a graph.

        A graph other than the main one is planned and opened at its first use, by what `load` was asked for.

        Args:
            inputs: every input by name, of the manifest's dtype and shape.
            graph: its role, "encoder", say; None is the program's main graph.

        Returns:
            Every output by name, in arrays the caller owns.

        Raises:
            InputError: the bundle has no such graph; a name, dtype, shape or class is not the graph's.
            ExecutionError: the engine failed.
            Closed: after close().
            IntegrityError, BackendUnavailable, DeviceUnavailable, PlanError: as `load`, at a graph's first use.
        """
        if isinstance(self._program, Feedforward) and isinstance(
            inputs, Mapping
        ):  # else the executor says what is wrong
            feedforward.check_classes(self._program, inputs)
        return (self._main if graph is None else self._graphs.opened(graph)).run(inputs)

    def close(self) -> None:
        """Release the engine of every graph; closing twice is fine."""
        self._graphs.close()

    def __enter__(self) -> Generator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        chosen = self.plan.chosen[0]
        return f"<Generator {self.bundle.manifest.name!r}: {chosen.variant} with {chosen.backend} on {chosen.device}>"

    def _check_open(self) -> None:
        if self._graphs.closed:
            raise Closed(f"generate with {self.bundle.manifest.name!r}", "it was closed", "Load the bundle again")

    def _chunks(self, program: Feedforward, n: int) -> Iterator[tuple[int, int]]:
        graph = self.bundle.manifest.graphs[program.graph]
        axis = graph.axes[str(graph.inputs[0].shape[0])]
        for first in range(0, n, axis.max):
            yield first, min(axis.max, n - first)


class _Graphs:
    """The graphs of a loaded bundle: each is planned and opened once, at its first use, as the request says."""

    def __init__(self, bundle: Bundle, request: Request) -> None:
        self.plan = Plan(str(bundle.path), str(request), (), (), ())
        self.closed = False
        self._bundle, self._request = bundle, request
        self._executors: dict[str, Executor] = {}
        self._changing = threading.Lock()

    def opened(self, role: str) -> Executor:
        """The graph's executor; errors as in `Generator.run`."""
        roles = self._bundle.manifest.graphs
        if not isinstance(role, str) or role not in roles:
            found = f"the graphs of {self._bundle.manifest.name!r} are {', '.join(roles)}"
            raise InputError(f"run the graph {role!r}", found, "Give one of them, or None for the main one")
        if (there := self._executors.get(role)) is not None:
            return there
        with self._changing:
            if self.closed:
                raise Closed(f"open the graph {role}", "the Generator was closed", "Load the bundle again")
            if role not in self._executors:
                self._executors[role] = self._open(role)
            return self._executors[role]

    def _open(self, role: str) -> Executor:
        jobs, skips = plan.survey(self._bundle, role, self._request)
        for rank, job in enumerate(jobs):
            try:
                executor = backends.get(job.place.backend).open(job)
            except PlanError as error:  # said in the plan; raised below when nothing else is left
                skips.append(Skip(role, job.variant, job.place.backend, job.place.device, error.found))
                continue
            so_far = self.plan
            self.plan = replace(
                so_far,
                chosen=(*so_far.chosen, plan.choice(job, plan.reason(job, self._request))),
                alternatives=(*so_far.alternatives, *(plan.choice(other) for other in jobs[rank + 1 :])),
                skipped=(*so_far.skipped, *skips),
            )
            return executor
        raise plan.no_way(role, self._request, [job.place for job in jobs], skips)

    def close(self) -> None:
        with self._changing, contextlib.ExitStack() as closing:  # one that fails to close does not keep the others open
            self.closed = True
            for executor in self._executors.values():
                closing.callback(executor.close)


def _join(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def load(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    backend: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
) -> Generator:
    """Open a bundle and make it ready to generate. What is asked for is done, or raises; the plan explains the rest.

    Args:
        path: the bundle's folder, or "zoo:NAME" for one that is shipped with the package.
        device: "auto", "cpu", "cuda" or "cuda:N".
        backend: "onnxruntime", "openvino", "tensorrt" or "tensorrt-rtx"; None takes the best that works here.
        precision: "fp32", "fp16", "bf16", "int8" or "int4"; None takes fp32 on the CPU and fp16 on a GPU first.
        threads: for a CPU; None takes the cores this process may use.

    Raises:
        BundleNotFound, ManifestError, IntegrityError: the bundle is not there, or not what was exported.
        InputError: an argument is none of the above.
        BackendUnavailable, DeviceUnavailable, PlanError: nothing here can do what was asked.
    """
    request = Request(device, backend, precision, threads)
    return Generator(Bundle(path), request)
