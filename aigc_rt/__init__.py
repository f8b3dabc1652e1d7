"""aigc-rt: load a bundle, get samples. numpy and the standard library at import; an engine when a plan needs it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aigc_rt.bundle import Bundle
    from aigc_rt.errors import AigcRtError
    from aigc_rt.generator import Generator, Samples, load
    from aigc_rt.plan import Plan

__all__ = ["AigcRtError", "Bundle", "Generator", "Plan", "Samples", "errors", "load"]

_HOME = {
    "AigcRtError": "aigc_rt.errors",
    "Bundle": "aigc_rt.bundle",
    "Generator": "aigc_rt.generator",
    "Plan": "aigc_rt.plan",
    "Samples": "aigc_rt.generator",
    "load": "aigc_rt.generator",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("aigc_rt.errors")
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("aigc-rt")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'aigc_rt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
