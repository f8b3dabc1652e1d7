"""The NVIDIA driver, asked through ctypes: no package, no CUDA context."""

from __future__ import annotations

import ctypes
import functools
import sys


@functools.cache
def cuda_devices() -> tuple[int, str | None]:
    """How many CUDA devices the driver offers; with 0, the reason in the driver's or the loader's words."""
    try:
        driver = _driver()
    except OSError as error:
        return 0, f"no NVIDIA driver here ({error})"
    if status := driver.cuInit(0):
        return 0, f"the NVIDIA driver refuses: {_words(driver, status)}"
    count = ctypes.c_int()
    if status := driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0, f"the NVIDIA driver refuses: {_words(driver, status)}"
    return count.value, None if count.value else "the NVIDIA driver finds no device"


@functools.cache
def compute_capability(index: int) -> str | None:
    """The compute capability of a device, such as "sm86"; None where there is no such device."""
    if index >= cuda_devices()[0]:
        return None
    driver = _driver()
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h
    failed = driver.cuDeviceGet(ctypes.byref(device), index)
    failed = failed or driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
    failed = failed or driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    return None if failed else f"sm{major.value}{minor.value}"


def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


def _words(driver: ctypes.CDLL, status: int) -> str:
    text = ctypes.c_char_p()
    driver.cuGetErrorString(status, ctypes.byref(text))
    return f"{text.value.decode() if text.value else 'unknown error'} (CUDA error {status})"
