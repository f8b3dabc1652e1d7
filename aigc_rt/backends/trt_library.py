"""The two TensorRT libraries: which is installed, what its version offers, and what it says while it works.

Builder and executor both start here. Nothing is imported before `load` is called.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import platform
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from aigc_rt.backends.driver import cuda_devices
from aigc_rt.errors import InputError, MissingDependency


@dataclass(frozen=True)
class Flavour:
    """What differs between the two libraries and no version of either tells by itself.

    `portable`: its engines run on Windows and Linux and on every GPU from Ampere on, and are built without a GPU
    (https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html); else an engine
    belongs to the kind of GPU and the platform it was built on.
    """

    name: str  # as the manifest calls it
    module: str
    extra: str  # of aigc-rt
    portable: bool


FLAVOURS = {
    f.name: f
    for f in (
        Flavour("tensorrt-rtx", module="tensorrt_rtx", extra="rtx", portable=True),
        Flavour("tensorrt", module="tensorrt", extra="tensorrt", portable=False),
    )
}


class Log:
    """The latest lines a library said, kept and never printed."""

    def __init__(self) -> None:
        self._lines: deque[tuple[int, str, str]] = deque(maxlen=2000)
        self._count = itertools.count()

    def add(self, severity: str, text: str) -> None:
        """Keep one line; VERBOSE ones are thousands and dropped."""
        if severity != "VERBOSE":
            self._lines.append((next(self._count), severity, text.strip()))

    def mark(self) -> int:
        """A place in the log, for `since`."""
        return next(self._count)

    def since(self, mark: int, severities: Iterable[str] = ("ERROR", "INTERNAL_ERROR")) -> list[str]:
        """The lines of those severities after a mark, each one once."""
        wanted = tuple(severities)
        lines = [text for number, severity, text in tuple(self._lines) if number > mark and severity in wanted]
        return list(dict.fromkeys(lines))

    def words(self, mark: int, otherwise: str) -> str:
        """The library's own words for what went wrong after a mark, for an error message."""
        lines = self.since(mark)
        if len(lines) > 1:  # the driver's complaint about itself follows many errors of another cause
            lines = [line for line in lines if "catchCudaError" not in line] or lines
        return " | ".join(line[:900] for line in lines[:3]) or otherwise


class Library:
    """One imported TensorRT module, with its one logger: a process has one per library, the first that registers."""

    def __init__(self, flavour: Flavour, module: ModuleType) -> None:
        self.flavour = flavour
        self.trt: Any = module
        self.version = str(module.__version__)
        self.log = Log()
        self.logger = _logger(self.trt, self.log)

    def __str__(self) -> str:
        return f"{self.flavour.name} {self.version}"

    @property
    def network_flags(self) -> int:
        """Flags of `create_network`: strongly typed; on 11 that is all there is, and the flag may go."""
        flags = self.trt.NetworkDefinitionCreationFlag
        return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0

    def targets(self) -> tuple[str, ...]:
        """The compute capabilities that engines can be built for without that GPU: "sm86", ...; none in `tensorrt`."""
        known = getattr(getattr(self.trt, "ComputeCapability", None), "__members__", {})
        return tuple(name.lower() for name in known if name.startswith("SM")) if self.flavour.portable else ()


def _logger(trt: Any, log: Log) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # the base is known only now
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            log.add(severity.name, msg)

    return Logger()


def flavour(name: str) -> Flavour:
    """The flavour of that name.

    Raises:
        InputError: there is none.
    """
    if name not in FLAVOURS:
        raise InputError(f"TensorRT flavour {name!r}", f"there are {', '.join(FLAVOURS)}", "Give one of them")
    return FLAVOURS[name]


@functools.cache
def load(name: str) -> Library:
    """Import a flavour's library.

    Raises:
        InputError: no such flavour.
        MissingDependency: it is not installed, or its own libraries are not found.
    """
    chosen = flavour(name)
    try:
        module = importlib.import_module(chosen.module)
        return Library(chosen, module)
    except Exception as error:  # a broken native library raises anything; whoever asks is told
        raise MissingDependency(
            f"use {name}",
            f"its library cannot be imported: {error}",
            f"pip install 'aigc-rt[{chosen.extra}]'",
        ) from error


def unusable(name: str) -> str | None:
    """Why engines of a flavour cannot run here, or None: the package, the driver and its devices, the library."""
    chosen = flavour(name)
    if importlib.util.find_spec(chosen.module) is None:
        return f"{chosen.module} is not installed; pip install 'aigc-rt[{chosen.extra}]'"
    if reason := cuda_devices()[1]:  # asked before the import, which takes 0.15 s and cannot help
        return reason
    try:
        load(name)
    except MissingDependency as error:
        return f"{error.found}; {error.mend}"
    return None


def here() -> str:
    """This machine as a manifest names it: "linux-x86_64", "linux-aarch64", "windows-x86_64"."""
    machine = platform.machine().lower()
    return f"{platform.system().lower()}-{ {'amd64': 'x86_64', 'arm64': 'aarch64'}.get(machine, machine) }"
