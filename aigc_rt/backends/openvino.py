"""OpenVINO on the CPU, always with an explicit precision: left alone it picks bfloat16 on CPUs that have it."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from aigc_rt.backends.base import Array, Arrays, Executor, Job, Place, Shape, check_interface
from aigc_rt.backends.onnx_file import source
from aigc_rt.backends.quiet import import_openvino
from aigc_rt.errors import BackendUnavailable, ExecutionError, PlanError
from aigc_rt.manifest import Format, Precision, TensorSpec, Variant

_INSTALL = "openvino is not installed: pip install 'aigc-rt[openvino]'"
_HINT = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32", "int4": "f32"}


class OpenVino:
    """`openvino`, its CPU plugin."""

    name: ClassVar[str] = "openvino"
    formats: ClassVar[tuple[Format, ...]] = ("onnx",)

    def places(self) -> list[Place]:
        """The CPU, or the reason why not; the package is only looked for, importing it takes a third of a second."""
        missing = importlib.util.find_spec("openvino") is None
        return [Place(self.name, "cpu", reason=_INSTALL if missing else None)]

    def refuses(self, stored: Variant, place: Place) -> str | None:
        """Never: what this CPU's plugin lacks is found in `open`."""
        return None

    def computes(self, stored: Variant, place: Place) -> Precision:
        """As stored: the hint says so."""
        return stored.precision

    def open(self, job: Job) -> Executor:
        """A compiled model with the variant's precision as hint."""
        return OpenVinoExecutor(job)


class OpenVinoExecutor(Executor):
    """One infer request, one call at a time: with the latency hint OpenVINO has one stream, so more would only queue.

    Never entering OpenVINO twice at once also keeps its threads and Python's lock from waiting for each other.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        stored = job.stored
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _HINT[stored.precision]}
        if job.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = str(job.threads)
        model = source(job)
        core = _core()
        offered = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if (wanted := {"fp16": "FP16", "bf16": "BF16"}.get(stored.precision)) and wanted not in offered:
            found = f"OpenVINO offers {', '.join(offered)} on this CPU and would run another precision instead"
            raise BackendUnavailable(f"open {job}", found, "Ask for fp32, or for the backend onnxruntime")
        try:
            compiled = core.compile_model(core.read_model(model), "CPU", settings)
        except RuntimeError as error:
            raise PlanError(f"open {job}", str(error).strip(), "See OpenVINO's message") from error
        self._outputs = [spec.name for spec in job.graph.outputs]
        check_interface(job, "input", job.graph.inputs, _interface(compiled.inputs, job.graph.inputs))
        check_interface(job, "output", job.graph.outputs, _interface(compiled.outputs, job.graph.outputs))
        self._request: Any = compiled.create_infer_request()
        self._calling = threading.Lock()

    def _run(self, inputs: Mapping[str, Array]) -> Arrays:
        with self._calling:
            if self._request is None:
                raise self._was_closed()
            try:
                values = self._request.infer(inputs, share_inputs=True, share_outputs=True)
            except RuntimeError as error:
                raise ExecutionError(f"run {self.label}", str(error).strip(), "See OpenVINO's message") from error
            return {name: np.array(values[name]) for name in self._outputs}  # the next call reuses OpenVINO's memory

    def _close(self) -> None:
        with self._calling:
            self._request = None


def _interface(ports: Any, specs: tuple[TensorSpec, ...]) -> dict[str, tuple[str, Shape]]:
    """Name to dtype and shape of a compiled model's inputs or outputs; a port has more names than the graph's."""
    wanted = {spec.name for spec in specs}
    found: dict[str, tuple[str, Shape]] = {}
    for port in ports:
        shape = tuple(d.get_length() if d.is_static else None for d in port.get_partial_shape())
        for name in sorted(port.get_names() & wanted or port.get_names())[: len(wanted)]:
            found[name] = (np.dtype(port.get_element_type().to_dtype()).name, shape)
    return found


def _core() -> Any:
    try:
        return import_openvino().Core()
    except Exception as error:  # a broken native library raises anything; the plan quotes it
        raise BackendUnavailable("use openvino", f"it cannot be imported ({error})", _INSTALL) from error
