"""A module of the user's own: what `package.module:factory` returns."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from aigc_rt.errors import ExportError
from aigc_rt.export.pipeline import export


def call(source: str) -> dict[str, Any]:
    """Call package.module:factory; the current folder is searched first, as `python -m` does.

    Returns:
        Keyword arguments of `aigc_rt.export.export`: module and example_inputs, and what else the factory gave.

    Raises:
        ExportError: it cannot be imported, it raises, or it returns something else.
    """
    module, _, function = source.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    mend = "Name a function of an importable module that returns a dict of aigc_rt.export.export's arguments"
    try:
        given = getattr(importlib.import_module(module), function)()
    except (Exception, SystemExit) as error:  # it is the user's code: it raises anything
        raise ExportError(f"call {source}", f"{type(error).__name__}: {error}", mend) from error
    if not isinstance(given, dict) or not {"module", "example_inputs"} <= given.keys():
        raise ExportError(f"call {source}", "it returned no dict with module and example_inputs", mend)
    if unknown := given.keys() - (inspect.signature(export).parameters.keys() - {"out"}):
        raise ExportError(f"call {source}", f"it returned {sorted(unknown)}, which export does not take", mend)
    return given
