"""The NVIDIA driver, asked through ctypes: no package, no CUDA context."""

from __future__ import annotations

import ctypes
import functools
import sys


@functools.cache
def cuda_devices() -> tuple[int, str | None]:
    """How many CUDA devices the driver offers; with 0, the reason in the driver's or the loader's words."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        return 0, f"no NVIDIA driver: {error}"
    if status := driver.cuInit(0):
        return 0, f"the NVIDIA driver refuses: {_words(driver, status)}"
    count = ctypes.c_int()
    if status := driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0, f"the NVIDIA driver refuses: {_words(driver, status)}"
    return count.value, None if count.value else "the NVIDIA driver finds no device"


def _words(driver: ctypes.CDLL, status: int) -> str:
    text = ctypes.c_char_p()
    driver.cuGetErrorString(status, ctypes.byref(text))
    return f"{text.value.decode() if text.value else 'unknown error'} (CUDA error {status})"
