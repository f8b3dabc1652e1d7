"""What every peer does alike, so that only the engine differs.

The rules: one process a peer, the same threads, the same noise for the same seed and sample, the same uint8 images
out. `images` is what a user waits for; `run` is the engine alone, numpy floats in and numpy floats out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_rt import noise
from aigc_rt.bundle import Bundle
from aigc_rt.errors import BackendUnavailable, BenchError
from aigc_rt.manifest import Feedforward

Array = NDArray[Any]
Arrays = dict[str, Array]


class WrongAnswer(Exception):
    """This peer does not compute what the bundle does; the text is what its row says."""


@dataclass(frozen=True)
class Job:
    """What a peer is started with; `torch` is as in BenchOptions."""

    bundle: str
    device: str
    precision: str
    threads: int
    seed: int
    torch: str | None = None


class Peer(ABC):
    """One engine with one bundle. An adapter raises PlanError or MissingDependency where it cannot run here."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.bundle = Bundle(job.bundle)
        manifest = self.bundle.manifest
        assert isinstance(manifest.program, Feedforward)
        self.program = manifest.program
        self.graph = manifest.main_graph
        self.output = self.program.media.output

    def prepare(self, batch: int) -> None:  # noqa: B027 - most engines have nothing to do
        """Get ready for one batch size, where an engine does better with a fixed one."""

    @abstractmethod
    def run(self, inputs: Arrays) -> Array:
        """The engine alone, from the graph's inputs to its media output, (N, ...); the next call may overwrite it."""

    def images(self, n: int, start: int) -> NDArray[np.uint8]:
        """Samples `start` to `start + n - 1` of the job's seed as images, (N, H, W, C)."""
        return self.pixels(self.run(self.inputs(n, start)))

    def facts(self) -> dict[str, Any]:
        """What was really used: versions, settings, and the precision read back where the engine chooses."""
        return {}

    def conditions(self, n: int, start: int) -> dict[str, float | Array]:
        """What those samples are given: the default; without one, classes in turn by the sample's index, or the lowest.

        A number holds for all samples, an array has one value for each.
        """
        given: dict[str, float | Array] = {}
        for name, condition in self.program.conditions.items():
            given[name] = condition.low if condition.default is None else condition.default
            if condition.default is None and np.issubdtype(np.dtype(condition.dtype), np.integer):
                classes = int(condition.high - condition.low) + 1
                given[name] = (int(condition.low) + np.arange(start, start + n) % classes).astype(condition.dtype)
        return given

    def inputs(self, n: int, start: int) -> Arrays:
        """The graph's inputs for those samples."""
        arrays: Arrays = {
            name: noise.DISTRIBUTIONS[drawn.distribution](self.job.seed, drawn.stream, start, n, drawn.shape)
            for name, drawn in self.program.noise.items()
        }
        for name, value in self.conditions(n, start).items():
            condition = self.program.conditions[name]
            arrays[condition.input] = np.full(n, value, condition.dtype)
        return arrays

    def pixels(self, values: Array) -> NDArray[np.uint8]:
        """The manifest's post-processing, as one would write it by hand: float32, in place."""
        scale, offset = levels(self.program)
        work = np.multiply(values, scale, dtype=np.float32)
        work += offset
        np.rint(work, out=work)
        np.clip(work, 0, 255, out=work)
        image = work.astype(np.uint8)
        if self.program.media.layout == "NCHW":
            image = np.ascontiguousarray(image.transpose(0, 2, 3, 1))
        return image

    def onnx_file(self) -> str:
        """The bundle's ONNX variant of the job's precision, its hash checked."""
        for variant in self.graph.variants.values():
            if variant.format == "onnx" and variant.precision == self.job.precision:
                for name in variant.data:
                    self.bundle.file(name)
                return str(self.bundle.file(variant.file))
        raise BackendUnavailable(
            f"an ONNX variant in {self.job.precision}",
            f"the bundle has no ONNX variant in {self.job.precision}",
            f"Export it with --precision fp32,{self.job.precision}",
        )


def levels(program: Feedforward) -> tuple[np.float32, np.float32]:
    """Scale and offset that take the media's floats to 0..255."""
    media = program.media
    scale = np.float32(255.0 / (media.high - media.low))
    return scale, np.float32(-media.low) * scale


def one_output(given: Any, names: list[str], wanted: str) -> Any:
    """The wanted output of a module that returns one tensor, a sequence in the graph's order, or a mapping by name."""
    if isinstance(given, Mapping):
        return given[wanted]
    if isinstance(given, (tuple, list)):
        if len(given) != len(names):
            raise BenchError(
                f"the output {wanted!r} of the PyTorch module",
                f"it returns {len(given)} values, the bundle's graph {len(names)}",
                "Give the module that the bundle was exported from",
            )
        return given[names.index(wanted)]
    return given
