"""Importing an inference engine without its telemetry: nobody is contacted, nothing is left in the home folder.

Left alone, `import onnxruntime` (1.32) writes a device id and a queue of events into the user's cache and sends them
later; `import openvino` with `openvino_telemetry` beside it writes a client id and sends too. An engine that the
application imported first is left as it is.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from typing import Any

_TELEMETRY = "openvino_telemetry"
_IMPORTING = threading.Lock()


def import_onnxruntime() -> Any:
    """`onnxruntime`, its telemetry off.

    Sets the environment variable ORT_DISABLE_TELEMETRY to 1 where it is not set, for the whole process and its
    children: it only opts out, and `disable_telemetry_events()` after the import comes too late.
    """
    if "onnxruntime" not in sys.modules:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")


def import_openvino() -> Any:
    """`openvino`, which takes its own stub because `openvino_telemetry` cannot be imported meanwhile."""
    with _IMPORTING:
        if "openvino" in sys.modules:
            return importlib.import_module("openvino")
        hidden = {name: sys.modules[name] for name in (_TELEMETRY,) if name in sys.modules}
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # how Python is told that there is no such module
        try:
            return importlib.import_module("openvino")
        finally:
            del sys.modules[_TELEMETRY]
            sys.modules.update(hidden)
