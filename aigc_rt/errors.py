"""Every error the project raises on purpose.

    AigcRtError
    ├── BundleError
    │   ├── BundleNotFound        (FileNotFoundError)  no bundle at that path
    │   ├── BundleExists          (FileExistsError)    something is already at the output path
    │   ├── ManifestError         (ValueError)         manifest.json is not a manifest
    │   │   ├── SchemaVersionError                     a schema this version does not read
    │   │   └── UnsafePath                             a path that leaves the bundle's folder
    │   ├── IntegrityError        (ValueError)         a file is missing, added, or not what was hashed
    │   └── WriteError            (OSError)            a full disk, a place that cannot be written to
    ├── InputError                (ValueError)         an argument to load, generate, run or export
    ├── PlanError                 (RuntimeError)       nothing here can do what was asked
    │   ├── BackendUnavailable                         the asked backend does not work here
    │   └── DeviceUnavailable                          the asked device is not there
    ├── ExecutionError            (RuntimeError)       an engine failed while it ran
    ├── Closed                    (RuntimeError)       the Generator was closed
    ├── MissingDependency         (ImportError)        a package that an extra installs
    ├── DataError                 (ValueError)         training data that cannot be read
    │   └── AccessDenied          (PermissionError)    data whose policy does not name the project
    ├── RunError                  (ValueError)         a training run's folder that cannot be used
    ├── ExportError               (RuntimeError)       a module that could not become a bundle
    │   ├── GateFailed                                 a variant is further from PyTorch than allowed
    │   └── EngineError                                the engine builder refused
    │       └── PrecisionLost                          the engine is not of the precision asked for
    └── BenchError                (RuntimeError)       a measurement that could not be made or read

Each says three things: what was asked, what is there, how to mend it. Each also is the builtin
in brackets, so that callers may catch what they already catch.
"""

from __future__ import annotations

import re
from typing import ClassVar


class AigcRtError(Exception):
    """Base of every error raised on purpose.

    Attributes:
        code: a stable word for programs to branch on.
        asked: what the caller wanted.
        found: what stood in the way.
        mend: what to do about it.
    """

    code: ClassVar[str] = "error"

    def __init__(self, asked: str, found: str, mend: str) -> None:
        self.asked, self.found, self.mend = map(_one_line, (asked, found, mend))
        super().__init__(f"{self.asked}: {self.found}. {self.mend}.")

    def __reduce__(self) -> tuple[type[AigcRtError], tuple[str, str, str]]:
        return type(self), (self.asked, self.found, self.mend)  # errors cross process boundaries


def _one_line(words: str) -> str:
    """Engines say things on several lines, with rules and indents between; an error is one line in a log."""
    return re.sub(r"\s*[\r\n]\s*", " ", words.strip())


class BundleError(AigcRtError):
    """A bundle that cannot be read or written."""

    code = "bundle"


class BundleNotFound(BundleError, FileNotFoundError):
    """There is no bundle at that path."""

    code = "bundle_not_found"


class BundleExists(BundleError, FileExistsError):
    """Something is already at the path a bundle was to be written to."""

    code = "bundle_exists"


class ManifestError(BundleError, ValueError):
    """manifest.json is not a manifest of a schema this version reads."""

    code = "manifest"


class SchemaVersionError(ManifestError):
    """The manifest's schema is not one this version reads."""

    code = "schema_version"


class UnsafePath(ManifestError):
    """The manifest names a path that leaves the bundle's folder, or that is not a plain file in it."""

    code = "unsafe_path"


class IntegrityError(BundleError, ValueError):
    """A file of the bundle is missing, was added, or is not the one that was hashed."""

    code = "integrity"


class WriteError(BundleError, OSError):
    """A file or folder that could not be written; what was there before is untouched."""

    code = "write"


class InputError(AigcRtError, ValueError):
    """An argument that cannot be right."""

    code = "input"


class PlanError(AigcRtError, RuntimeError):
    """Nothing on this machine can do what was asked."""

    code = "plan"


class BackendUnavailable(PlanError):
    """The backend asked for does not work here."""

    code = "backend_unavailable"


class DeviceUnavailable(PlanError):
    """The device asked for is not there."""

    code = "device_unavailable"


class ExecutionError(AigcRtError, RuntimeError):
    """The engine failed while it ran."""

    code = "execution"


class Closed(AigcRtError, RuntimeError):
    """The Generator was used after close()."""

    code = "closed"


class MissingDependency(AigcRtError, ImportError):
    """A package that one of the extras installs is not there."""

    code = "missing_dependency"


class DataError(AigcRtError, ValueError):
    """Training data that cannot be found or read."""

    code = "data"


class AccessDenied(DataError, PermissionError):
    """Training data that its `aigc-rt.data.json` keeps from this project, or whose use could not be recorded."""

    code = "access_denied"


class RunError(AigcRtError, ValueError):
    """A training run's folder that cannot be written, resumed or exported."""

    code = "run"


class ExportError(AigcRtError, RuntimeError):
    """A module that could not be turned into a bundle."""

    code = "export"


class GateFailed(ExportError):
    """A variant is further from PyTorch than its tolerance."""

    code = "gate_failed"


class EngineError(ExportError):
    """The engine builder refused the graph."""

    code = "engine"


class PrecisionLost(EngineError):
    """The engine did not come out in the precision asked for."""

    code = "precision_lost"


class BenchError(AigcRtError, RuntimeError):
    """A measurement that could not be made, or a result that cannot be read."""

    code = "bench"
