"""The training core: generators, data, the loop, checkpoints, quality. PyTorch lives here and in aigc_rt.export."""

from __future__ import annotations

import importlib.util

from aigc_rt.errors import MissingDependency

NEEDED = ("torch", "safetensors", "PIL", "rich", "tensorboard", "torchmetrics")
"""Modules that the extra `train` brings and that training cannot do without; asked for once, here, and not loaded."""

if _missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
    raise MissingDependency(
        "use the training core", f"{', '.join(_missing)} not installed", "Run: pip install 'aigc-rt[train]'"
    )
