"""Device memory, pinned host memory and streams through cuda-core: all that the TensorRT executor asks of CUDA.

`Gpu` is the seam: tests put a device of plain bytes behind it. `CudaCore` has run on no device yet.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Handle = Any
"""A buffer or a stream, opaque to the caller."""


class Gpu(Protocol):
    """One CUDA device. Sizes are bytes; whatever fails raises an exception that says so."""

    def use(self) -> None:
        """Make the device current in the calling thread."""
        ...

    def stream(self) -> Handle:
        """A new stream."""
        ...

    def device_memory(self, size: int, stream: Handle) -> Handle:
        """Device memory, ordered on the stream."""
        ...

    def pinned_memory(self, size: int) -> Handle:
        """Page-locked host memory."""
        ...

    def part(self, buffer: Handle, size: int) -> Handle:
        """The first bytes of a buffer, as a buffer of its own that keeps the whole alive."""
        ...

    def address(self, handle: Handle) -> int:
        """The pointer of a buffer, or the handle of a stream."""
        ...

    def copy(self, source: Handle, target: Handle, stream: Handle) -> None:
        """Copy one buffer into another of the same size; done only after the stream reaches it."""
        ...

    def wait(self, stream: Handle) -> None:
        """Wait until the stream has done all it was given."""
        ...

    def free(self, handle: Handle, stream: Handle | None = None) -> None:
        """Give a buffer back when the stream is done with it, or end a stream."""
        ...

    def close(self) -> None:
        """Return the device memory that was given back to the device, not only to this process's pool."""
        ...


def missing() -> str | None:
    """Why cuda-core cannot be used, or None; a device is not looked for."""
    try:
        importlib.import_module("cuda.core")
    except Exception as error:  # it imports compiled parts that may fail in any way
        return f"cuda-core cannot be imported: {error}"
    return None


def host_array(address: int, size: int) -> NDArray[np.uint8]:
    """Host memory as an array over the same bytes; the memory must outlive it."""
    array: NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
    return array


class CudaCore:
    """`Gpu` by cuda-core 1.0 or later. Raises what cuda-core raises."""

    def __init__(self, index: int) -> None:
        self._core = importlib.import_module("cuda.core")
        self._device = self._core.Device(index)
        self.use()
        self._pinned = self._core.LegacyPinnedMemoryResource()
        # A pool of our own: the driver's default one keeps freed memory for the life of the process.
        self._owns_pool = bool(self._device.properties.memory_pools_supported)
        self._pool = (
            self._core.DeviceMemoryResource(self._device, self._core.DeviceMemoryResourceOptions())
            if self._owns_pool
            else self._device.memory_resource
        )

    def use(self) -> None:
        """Make the device current in the calling thread."""
        self._device.set_current()

    def stream(self) -> Handle:
        """A new stream."""
        return self._device.create_stream()

    def device_memory(self, size: int, stream: Handle) -> Handle:
        """Device memory from this device's pool."""
        return self._pool.allocate(size, stream=stream)

    def pinned_memory(self, size: int) -> Handle:
        """Page-locked host memory."""
        return self._pinned.allocate(size)

    def part(self, buffer: Handle, size: int) -> Handle:
        """The first bytes of a buffer."""
        return self._core.Buffer.from_handle(self.address(buffer), size, owner=buffer)

    def address(self, handle: Handle) -> int:
        """The pointer of a buffer, or the handle of a stream."""
        return int(handle.handle)

    def copy(self, source: Handle, target: Handle, stream: Handle) -> None:
        """Copy asynchronously."""
        source.copy_to(target, stream=stream)

    def wait(self, stream: Handle) -> None:
        """Wait until the stream has done all it was given."""
        stream.sync()

    def free(self, handle: Handle, stream: Handle | None = None) -> None:
        """Close a buffer on the stream, or a stream."""
        if stream is None:
            handle.close()
        else:
            handle.close(stream)

    def close(self) -> None:
        """Close the pool, if it is ours."""
        if self._owns_pool:
            self._pool.close()
