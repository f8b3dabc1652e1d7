"""ONNX Runtime, with one execution provider a session: CPU or CUDA."""

from __future__ import annotations

import contextlib
import ctypes
import io
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from aigc_rt.backends.base import Array, Arrays, Executor, Job, Place, Shape, check_interface
from aigc_rt.backends.driver import cuda_devices
from aigc_rt.backends.onnx_file import source
from aigc_rt.backends.quiet import import_onnxruntime
from aigc_rt.errors import BackendUnavailable, ExecutionError, PlanError
from aigc_rt.manifest import Format, Precision, Variant

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
_PRELOADING = threading.Lock()


class OnnxRuntime:
    """`onnxruntime` or `onnxruntime-gpu`: two packages, one import name."""

    name: ClassVar[str] = "onnxruntime"
    formats: ClassVar[tuple[Format, ...]] = ("onnx",)

    def places(self) -> list[Place]:
        """The CPU, and each CUDA device or the reason there is none."""
        try:
            ort = import_onnxruntime()
            providers = ort.get_available_providers()
        except Exception as error:  # a broken native library raises anything; the plan quotes it
            reason = f"onnxruntime cannot be imported ({error}): pip install 'aigc-rt[cpu]', or 'aigc-rt[gpu]' for CUDA"
            return [Place(self.name, "cpu", CPU, reason), Place(self.name, "cuda:0", CUDA, reason)]
        cpu = Place(self.name, "cpu", CPU)
        devices, missing = cuda_devices()  # asked first: another package helps only where there is a driver
        if missing is None and CUDA not in providers:
            missing = (
                f"onnxruntime {ort.__version__} has no CUDA provider: pip uninstall onnxruntime, "
                "then pip install 'aigc-rt[gpu]'"
            )
        if missing is None:
            _preload(ort)
            missing = _missing_library(Path(str(ort.__file__)).parent / "capi")
        if missing is not None:
            return [cpu, Place(self.name, "cuda:0", CUDA, missing)]
        return [cpu, *(Place(self.name, f"cuda:{i}", CUDA) for i in range(devices))]

    def refuses(self, stored: Variant, place: Place) -> str | None:
        """The CPU provider has no bfloat16 kernels for most operators."""
        if stored.precision == "bf16" and place.provider == CPU:
            return "ONNX Runtime's CPU provider does not run bfloat16 graphs"
        return None

    def computes(self, stored: Variant, place: Place) -> Precision:
        """As stored, but fp16 on the CPU: there it is cast to fp32, and stays so from node to node."""
        return "fp32" if (stored.precision, place.provider) == ("fp16", CPU) else stored.precision

    def open(self, job: Job) -> Executor:
        """A session with the provider asked for, and no other."""
        return OrtExecutor(job)


class OrtExecutor(Executor):
    """One InferenceSession. `InferenceSession.run` may be called from several threads, and its outputs are fresh."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._session: Any = _session(job)
        self._outputs = [spec.name for spec in job.graph.outputs]
        check_interface(job, "input", job.graph.inputs, _interface(self._session.get_inputs()))
        check_interface(job, "output", job.graph.outputs, _interface(self._session.get_outputs()))

    def _run(self, inputs: Mapping[str, Array]) -> Arrays:
        session = self._session  # kept until the call ends, though another thread closes
        if session is None:
            raise self._was_closed()
        try:
            values = session.run(self._outputs, inputs)
        except Exception as error:  # onnxruntime's errors share no base class
            raise ExecutionError(f"run {self.label}", str(error), "See ONNX Runtime's message") from error
        return dict(zip(self._outputs, values, strict=True))

    def _close(self) -> None:
        self._session = None


_DTYPES = {"float": "float32", "double": "float64"}


def _interface(nodes: Any) -> dict[str, tuple[str, Shape]]:
    """Name to dtype and shape of a session's inputs or outputs; "tensor(float)" is float32."""
    found: dict[str, tuple[str, Shape]] = {}
    for node in nodes:
        word = node.type.removeprefix("tensor(").removesuffix(")")
        shape = tuple(d if isinstance(d, int) else None for d in node.shape)
        found[node.name] = (_DTYPES.get(word, word), shape)
    return found


def _session(job: Job) -> Any:
    model = source(job)
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3  # this session's own words; the process-wide logger is the application's
    options.inter_op_num_threads = 1
    if job.threads is not None:
        options.intra_op_num_threads = job.threads
    provider = job.place.provider
    settings: dict[str, str] = {}
    if provider == CUDA:
        # TF32 would make the same seed differ from the CPU by 1e-3.
        settings = {"device_id": job.place.device.removeprefix("cuda:"), "use_tf32": "0"}
    try:
        # By a keyword, as disable_fallback() comes too late for a session that cannot be made: that one prints.
        session = ort.InferenceSession(model, options, providers=[(provider, settings)], enable_fallback=0)
    except Exception as error:  # onnxruntime's errors share no base class
        raise PlanError(f"open {job}", str(error), "See ONNX Runtime's message") from error
    if (got := session.get_providers()[0]) != provider:
        raise BackendUnavailable(
            f"open {job}", f"ONNX Runtime took {got} instead", "Run `aigc-rt plan` for the reasons"
        )
    return session


def _preload(ort: Any) -> None:
    """Load the CUDA libraries that pip installed, where onnxruntime can; what it prints meanwhile is dropped."""
    preload = getattr(ort, "preload_dlls", None)
    if preload is not None:
        with _PRELOADING, contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
            preload()  # what is missing is told by `_missing_library`, in the loader's words


def _missing_library(folder: Path) -> str | None:
    """The dynamic loader's words on the CUDA provider's libraries; onnxruntime itself says them on stderr only."""
    for name in ("libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"):
        library = folder / name
        if library.exists():
            try:
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                if "undefined symbol" not in str(error):  # found and linked: the symbols come from onnxruntime
                    return f"the CUDA provider cannot load: {error}"
    return None
