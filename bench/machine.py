"""What a number was measured on: processor, limits, memory, GPU, system, versions."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Any

from aigc_rt.plan import available_threads

FLAGS = (
    "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16",
    "amx_int8", "amx_fp16", "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "hypervisor",
)  # fmt: skip
"""Processor flags that decide which kernels an engine picks; `hypervisor` marks a virtual machine."""

LIBRARIES = (
    "aigc-rt", "numpy", "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx-cu13",
    "cuda-core",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """The machine as JSON types; what a system does not tell is None."""
    return {
        "cpu": _cpu_model(),
        "flags": _cpu_flags(),
        "cores": os.cpu_count(),
        "usable_cores": available_threads(),
        "memory_bytes": _memory_bytes(),
        "gpus": _gpus(),
        "system": _system(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "load_average_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def libraries() -> dict[str, str]:
    """Version of every installed package whose numbers are in the table."""
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def busy_s() -> float | None:
    """Seconds that the cores this process may use have been busy since boot, whoever used them; Linux only."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    try:
        stat = Path("/proc/stat").read_text()
    except OSError:
        return None
    ticks = busy_ticks(stat, os.sched_getaffinity(0))
    return ticks / os.sysconf("SC_CLK_TCK") if ticks else None


def busy_ticks(stat: str, cores: Collection[int]) -> int:
    """Clock ticks that those cores were not idle, from the text of /proc/stat."""
    allowed = {f"cpu{core}" for core in cores}
    ticks = 0
    for line in stat.splitlines():
        name, *fields = line.split()
        if name in allowed:  # user nice system idle iowait irq softirq steal
            ticks += sum(int(fields[i]) for i in (0, 1, 2, 5, 6, 7))
    return ticks


def _cpuinfo() -> dict[str, str]:
    pairs: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            pairs.setdefault(key.strip(), value.strip())  # the first core speaks for all
    return pairs


def _cpu_model() -> str | None:
    known = _cpuinfo()
    return known.get("model name") or known.get("Model") or platform.processor() or None


def _cpu_flags() -> list[str]:
    known = _cpuinfo()
    there = set(known.get("flags", known.get("Features", "")).split())
    return [flag for flag in FLAGS if flag in there]


def _memory_bytes() -> int | None:
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _gpus() -> list[dict[str, str]]:
    fields = ("name", "driver_version", "memory.total", "compute_cap")
    listed = _output("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader") or ""
    rows = [line.split(", ") for line in listed.splitlines()]
    return [dict(zip(fields, row, strict=True)) for row in rows if len(row) == len(fields)]


def _system() -> str:
    with contextlib.suppress(OSError, KeyError):
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    return platform.platform()


def _output(*command: str) -> str | None:
    """What a command prints, None when it is not there, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
