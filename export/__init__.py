"""torch module -> ONNX -> precision variants -> TensorRT engine -> bundle.

`export` is resolved when it is first used: the engine builder in this room must import without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aigc_rt.export.pipeline import export

__all__ = ["export"]


def __getattr__(name: str) -> Any:
    if name == "export":
        return importlib.import_module("aigc_rt.export.pipeline").export
    raise AttributeError(f"module 'aigc_rt.export' has no attribute {name!r}")
