"""What executes a variant: one backend a module, behind one contract (base.py). Listed here, imported when asked."""

from __future__ import annotations

import importlib

from aigc_rt.backends.base import Backend

_HOME = {
    "tensorrt-rtx": ("aigc_rt.backends.trt", "TensorRTForRTX"),
    "tensorrt": ("aigc_rt.backends.trt", "TensorRT"),
    "onnxruntime": ("aigc_rt.backends.ort", "OnnxRuntime"),
    "openvino": ("aigc_rt.backends.openvino", "OpenVino"),
}

NAMES = tuple(_HOME)
"""Every backend, in the order an untuned plan prefers them on one device."""


def get(name: str) -> Backend:
    """The backend of that name, one of NAMES."""
    module, cls = _HOME[name]
    backend: Backend = getattr(importlib.import_module(module), cls)()
    return backend
