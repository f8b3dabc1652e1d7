"""ONNX Runtime by itself: one InferenceSession, `run` with numpy arrays."""

from __future__ import annotations

from typing import Any

from aigc_rt.backends.quiet import import_onnxruntime
from aigc_rt.bench.peers.base import Array, Arrays, Job, Peer
from aigc_rt.errors import BackendUnavailable


class OnnxRuntime(Peer):
    """Defaults, and the threads asked for.

    Its pool spins for about 0.1 s after a call. `session.force_spinning_stop` would end that, but makes a small graph
    two to three times slower (workers sleep between two calls), so it stays off and the bench waits until it is quiet.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.ort = ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = job.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        provider: Any = "CPUExecutionProvider"
        if job.device != "cpu":
            if "CUDAExecutionProvider" not in ort.get_available_providers():
                raise BackendUnavailable(
                    "ONNX Runtime with CUDA",
                    f"onnxruntime {ort.__version__} has no CUDA provider",
                    "Run pip uninstall onnxruntime, then pip install 'aigc-rt[gpu]'",
                )
            ort.preload_dlls()  # CUDA's libraries where pip put them
            # TF32 off: the same arithmetic as every other fp32 peer.
            provider = ("CUDAExecutionProvider", {"device_id": job.device.split(":")[1], "use_tf32": "0"})
        self.session = ort.InferenceSession(self.onnx_file(), options, providers=[provider], enable_fallback=0)
        wanted = provider if isinstance(provider, str) else provider[0]
        if (got := self.session.get_providers()[0]) != wanted:
            raise BackendUnavailable(
                f"ONNX Runtime with {wanted}", f"it took {got} instead", "Run aigc-rt plan for the reasons"
            )

    def run(self, inputs: Arrays) -> Array:
        """One `session.run`."""
        values: Array = self.session.run([self.output], inputs)[0]
        return values

    def facts(self) -> dict[str, Any]:
        """Version and the provider it got."""
        return {
            "onnxruntime": self.ort.__version__,
            "provider": self.session.get_providers()[0],
            # Its CPU provider computes an fp16 graph in fp32.
            "executes": "fp32" if self.job.device == "cpu" else self.job.precision,
        }
