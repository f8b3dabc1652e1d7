"""`load` and the Generator: a bundle's program over the executors its plan chose."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
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

    def __init__(self, bundle: Bundle, decided: Plan, executor: Executor) -> None:
        self.bundle = bundle
        self.plan = decided
        self._executor = executor
        self._program = bundle.manifest.program
        self._open = True

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
            values = feedforward.sample(self._executor.run, program, part, seed=seed, start=start + first, count=count)
            finished.append(media.finish(values, program.media))
            if raw:
                floats.append(values)
        return Samples(program.media, seed, start, _join(finished), _join(floats) if raw else None)

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """One raw call of the main graph.

        Args:
            inputs: every input by name, of the manifest's dtype and shape.

        Returns:
            Every output by name, in arrays the caller owns.

        Raises:
            InputError: a name, dtype or shape is not the graph's.
            ExecutionError: the engine failed.
            Closed: after close().
        """
        return self._executor.run(inputs)

    def close(self) -> None:
        """Release the engine; closing twice is fine."""
        self._open = False
        self._executor.close()

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
        if not self._open:
            raise Closed(f"generate with {self.bundle.manifest.name!r}", "it was closed", "Load the bundle again")

    def _chunks(self, program: Feedforward, n: int) -> Iterator[tuple[int, int]]:
        graph = self.bundle.manifest.graphs[program.graph]
        axis = graph.axes[str(graph.inputs[0].shape[0])]
        for first in range(0, n, axis.max):
            yield first, min(axis.max, n - first)


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
        path: the bundle's folder.
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
    bundle = Bundle(path)
    role = bundle.manifest.program.graph
    jobs, skips = plan.survey(bundle, role, request)
    for rank, job in enumerate(jobs):
        try:
            executor = backends.get(job.place.backend).open(job)
        except PlanError as error:  # said in the plan; raised below when nothing else is left
            skips.append(Skip(role, job.variant, job.place.backend, job.place.device, error.found))
            continue
        chosen = plan.choice(job, plan.reason(job, request))
        others = tuple(plan.choice(other) for other in jobs[rank + 1 :])
        return Generator(bundle, Plan(str(bundle.path), str(request), (chosen,), others, tuple(skips)), executor)
    raise plan.no_way(role, request, [job.place for job in jobs], skips)
