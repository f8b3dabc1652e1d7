"""torch module -> ONNX -> precision variants -> TensorRT engine -> bundle.

Names are resolved when they are first used: the engine builder in this room must import without torch.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from aigc_rt.errors import MissingDependency

if TYPE_CHECKING:
    from aigc_rt.export.part import Part
    from aigc_rt.export.pipeline import export

__all__ = ["Part", "export"]

NEEDED = ("torch", "onnx", "onnxscript", "onnxruntime")
"""Modules that exporting cannot do without; the engine builder can, so they are asked for when `export` is."""


_HOMES = {"Part": "part", "export": "pipeline"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        if missing := [module for module in NEEDED if importlib.util.find_spec(module) is None]:
            raise MissingDependency(
                "export", f"{', '.join(missing)} not installed", "Run: pip install 'aigc-rt[export,cpu]'"
            )
        return getattr(importlib.import_module(f"aigc_rt.export.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'aigc_rt.export' has no attribute {name!r}")
