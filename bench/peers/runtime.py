"""aigc-rt itself, and through it TensorRT."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import aigc_rt
from aigc_rt.bench.peers.base import Array, Arrays, Job, Peer


class Runtime(Peer):
    """`aigc_rt.load` with the precision of the comparison, the backend left to it."""

    backend: str | None = None

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        threads = job.threads if job.device == "cpu" else None
        self.generator = aigc_rt.load(
            job.bundle, device=job.device, backend=self.backend, precision=job.precision, threads=threads
        )

    def images(self, n: int, start: int) -> NDArray[np.uint8]:
        """What its user calls."""
        given: dict[str, Any] = dict(self.conditions(n, start))
        images: NDArray[np.uint8] = self.generator.generate(n, seed=self.job.seed, start=start, **given).array
        return images

    def run(self, inputs: Arrays) -> Array:
        """Its raw call."""
        return self.generator.run(inputs)[self.output]

    def facts(self) -> dict[str, Any]:
        """What its plan chose."""
        chosen = self.generator.plan.to_dict()["chosen"][0]
        return {
            "aigc-rt": aigc_rt.__version__,
            "executes": chosen["computes"],
            **{key: chosen[key] for key in ("variant", "backend", "device", "provider", "threads")},
        }


class TensorRt(Runtime):
    """The bundle's TensorRT engine."""

    backend = "tensorrt"


class TensorRtRtx(Runtime):
    """The bundle's TensorRT for RTX engine."""

    backend = "tensorrt-rtx"
