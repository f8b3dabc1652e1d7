"""OpenVINO by itself: one compiled model a batch size, fixed shapes, latency hint."""

from __future__ import annotations

from collections import Counter
from typing import Any

from aigc_rt.backends.quiet import import_openvino
from aigc_rt.bench.peers.base import Array, Arrays, Job, Peer

PRECISIONS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}


class OpenVino(Peer):
    """Fixed shapes and the latency hint as its guide advises; f32 is asked for, because by itself it may take bf16."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        ov = import_openvino()
        self.version = ov.__version__
        self.core = ov.Core()
        self.file = self.onnx_file()
        self.settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": job.threads,
        }
        self.requests: dict[int, Any] = {}
        self.operations: Counter[str] = Counter()

    def prepare(self, batch: int) -> None:
        """Compile the model for this batch size."""
        model = self.core.read_model(self.file)
        axis = self.graph.inputs[0].shape[0]
        model.reshape(
            {
                spec.name: [batch if size == axis else -1 if isinstance(size, str) else size for size in spec.shape]
                for spec in self.graph.inputs
            }
        )
        compiled = self.core.compile_model(model, "CPU", self.settings)
        for operation in compiled.get_runtime_model().get_ops():
            self.operations[operation.get_rt_info()["runtimePrecision"].astype(str)] += 1
        self.requests[batch] = compiled.create_infer_request()

    def run(self, inputs: Arrays) -> Array:
        """The request of that batch size; its output is shared, not copied."""
        request = self.requests[len(next(iter(inputs.values())))]
        values: Array = request.infer(inputs, share_inputs=True, share_outputs=True)[self.output]
        return values

    def facts(self) -> dict[str, Any]:
        """The settings, and the precisions of its operations as the engine reports them; `executes` is most floats'."""
        found = self.operations.most_common()
        return {
            "openvino": self.version,
            **self.settings,
            "executes": next((PRECISIONS[kind] for kind, _ in found if kind in PRECISIONS), None),
            "operations": ", ".join(f"{kind} x {count}" for kind, count in found),
        }
