"""TensorRT of both flavours: deserialise once, one execution context a stream, buffers once a profile.

Untested on a device: this executor is held to its contract by tests against a fake engine and a fake device, and its
opening of damaged engines against the real library; it has run on no GPU yet.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from aigc_rt.backends import cuda, trt_library
from aigc_rt.backends.base import Array, Arrays, Executor, Job, Place
from aigc_rt.backends.cuda import CudaCore, Gpu
from aigc_rt.backends.driver import compute_capability, cuda_devices
from aigc_rt.backends.trt_lane import Lane, Loaded
from aigc_rt.backends.trt_library import Library
from aigc_rt.errors import AigcRtError, BackendUnavailable, ExecutionError, MissingDependency, PlanError
from aigc_rt.manifest import Format, Precision, TensorSpec, Variant

LANES = 2
"""Calls of one executor that may run at the same time; more wait. Each costs activations and buffers."""
_PORTABLE_FROM = 80
"""Portable engines of TensorRT for RTX start with Ampere; Turing needs engines of its own."""


class TensorRT:
    """NVIDIA TensorRT 10.3 and later: an engine belongs to the GPU model, platform and version it was built with."""

    name: ClassVar[str] = "tensorrt"
    formats: ClassVar[tuple[Format, ...]] = ("tensorrt",)

    def __init__(self, library: Callable[[], Library] | None = None, gpu: Callable[[int], Gpu] | None = None) -> None:
        self._library = library or (lambda: trt_library.load(self.name))
        self._gpu: Callable[[int], Gpu] = gpu or CudaCore

    def places(self) -> list[Place]:
        """Each CUDA device, or one place with the reason: library, driver, device or cuda-core."""
        extra = trt_library.FLAVOURS[self.name].extra
        reason = trt_library.unusable(self.name)
        if reason is None and (no_core := cuda.missing()):
            reason = f"{no_core}; pip install 'aigc-rt[{extra}]'"
        if reason is not None:
            return [Place(self.name, "cuda:0", reason=reason)]
        return [Place(self.name, f"cuda:{i}") for i in range(cuda_devices()[0])]

    def refuses(self, stored: Variant, place: Place) -> str | None:
        """Whether the engine was built for this version, platform and GPU."""
        engine = stored.engine
        if engine is None:
            return "the manifest does not say what the engine was built for"
        try:
            installed = str(self._library())
        except MissingDependency as error:
            return f"{error.found}; {error.mend}"
        if engine.library != installed:
            return f"the engine was built with {engine.library}, here is {installed}: build it again"
        if engine.platform not in ("any", trt_library.here()):
            return f"the engine was built for {engine.platform}, this is {trt_library.here()}"
        gpu = compute_capability(_index(place))
        if gpu is None:
            return None
        if engine.targets == ("portable",):
            early = int(gpu.removeprefix("sm")) < _PORTABLE_FROM
            return f"portable engines run from sm{_PORTABLE_FROM} on, {place.device} is {gpu}" if early else None
        known = ", ".join(engine.targets)
        return None if gpu in engine.targets else f"the engine was built for {known}, {place.device} is {gpu}"

    def computes(self, stored: Variant, place: Place) -> Precision:
        """As stored: an engine's precision was settled when it was built."""
        return stored.precision

    def open(self, job: Job) -> Executor:
        """Deserialise the engine and make its first execution context, which compiles kernels in tensorrt-rtx.

        Raises:
            IntegrityError: the file is not what was hashed.
            BackendUnavailable: the library or cuda-core is not there, or CUDA does not start.
            PlanError: the library refuses the engine, in its own words, or the engine is not of the manifest's graph.
        """
        try:
            library = self._library()
            data = job.bundle.read(job.stored.file)
            gpu = self._gpu(_index(job.place))
        except AigcRtError as error:
            if not isinstance(error, MissingDependency):
                raise
            raise BackendUnavailable(f"open {job}", error.found, error.mend) from error
        except Exception as error:  # cuda-core's errors share no base class
            raise BackendUnavailable(f"open {job}", f"CUDA does not start: {error}", "Run `nvidia-smi`") from error
        try:
            return TensorRTExecutor(job, _load(job, library, gpu, data))
        except BaseException:
            with contextlib.suppress(Exception):  # the failure itself is what the caller hears of
                gpu.close()
            raise


class TensorRTForRTX(TensorRT):
    """NVIDIA TensorRT for RTX: an engine runs on Windows and Linux, on every GPU it was built for."""

    name: ClassVar[str] = "tensorrt-rtx"
    formats: ClassVar[tuple[Format, ...]] = ("tensorrt-rtx",)


def _index(place: Place) -> int:
    return int(place.device.partition(":")[2] or 0)


def _load(job: Job, library: Library, gpu: Gpu, data: bytes) -> Loaded:
    """Deserialise and hold what came out against the manifest."""
    trt, mark = library.trt, library.log.mark()

    def refused(found: str, mend: str = "Build the engine again for this machine, or run another variant") -> PlanError:
        return PlanError(f"open {job} with {library}", found, mend)

    runtime = trt.Runtime(library.logger)
    if hasattr(runtime, "get_engine_validity"):
        validity, diagnostics = runtime.get_engine_validity(data)
        if validity.name == "INVALID":
            known = getattr(trt.EngineInvalidityDiagnostics, "__members__", {})
            why = [name.lower() for name, flag in known.items() if int(diagnostics) & int(flag)]
            words = library.log.words(mark, "it gives no reason")
            raise refused(f"the library calls the engine invalid ({', '.join(why) or 'no diagnosis'}): {words}")
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise refused(f"the engine does not load: {library.log.words(mark, 'the library gives no reason')}")
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    inputs = {n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT}
    for kind, has, specs in (
        ("inputs", inputs, job.graph.inputs),
        ("outputs", set(names) - inputs, job.graph.outputs),
    ):
        if has != {s.name for s in specs}:
            raise refused(f"the engine's {kind} are {sorted(has)}, the manifest says {sorted(s.name for s in specs)}")
        for spec in specs:
            if wrong := _differs(trt, engine, spec):
                raise refused(f"the engine's {spec.name} is {wrong}, the manifest says {spec.dtype}")
    return Loaded(str(job), library, gpu, runtime, engine, job.graph)


def _differs(trt: Any, engine: Any, spec: TensorSpec) -> str | None:
    """How a tensor of the engine is not what the manifest says, or None."""
    if engine.get_tensor_location(spec.name) != trt.TensorLocation.DEVICE:
        return "read from host memory"
    try:
        dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(spec.name)))
    except TypeError:  # a type that numpy does not have
        return str(engine.get_tensor_dtype(spec.name).name)
    return None if dtype == np.dtype(spec.dtype) else str(dtype)


class TensorRTExecutor(Executor):
    """One engine and up to `LANES` execution contexts, each with its own stream and buffers."""

    def __init__(self, job: Job, loaded: Loaded) -> None:
        super().__init__(job)
        self._loaded = loaded
        self._limit = LANES
        self._changed = threading.Condition()
        try:
            first = Lane(loaded)
        except ExecutionError as error:
            raise PlanError(error.asked, error.found, error.mend) from error
        self._made = 1
        self._free = [first]

    def _run(self, inputs: Mapping[str, Array]) -> Arrays:
        lane = self._take()
        try:
            return lane.run(inputs)
        finally:
            with self._changed:
                self._free.append(lane)
                self._changed.notify_all()

    def _take(self) -> Lane:
        """A lane that no other call uses: a free one, a new one, or the next that becomes free."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._free or self._made < self._limit)
                if self._closed:
                    raise self._was_closed()
                if self._free:
                    return self._free.pop()
                self._made += 1
            try:
                return Lane(self._loaded)  # takes long: other calls may end meanwhile
            except BaseException as error:
                with self._changed:
                    self._made -= 1
                    self._limit = self._made
                    self._changed.notify_all()
                if not isinstance(error, ExecutionError):
                    raise
                # no memory for another lane: share those that are there

    def _close(self) -> None:
        with self._changed:
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._free) == self._made)
            for lane in self._free:
                lane.close()
            self._free.clear()
            self._made = 0
        self._loaded.close()
