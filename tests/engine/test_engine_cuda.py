"""The glue to cuda-core, against a stand-in of the same calls: what cuda-core itself does needs a device."""

from __future__ import annotations

import ctypes
import sys
from types import ModuleType
from typing import Any

import pytest

from aigc_rt.backends import cuda, driver


class Made:
    """A buffer, a stream or a pool: notes its calls, with a handle that int() understands as cuda-core's do."""

    def __init__(self, notes: list[tuple[Any, ...]], name: str, handle: int = 0) -> None:
        self.notes, self.name, self.handle = notes, name, handle

    def copy_to(self, target: Made, *, stream: Made) -> None:
        self.notes.append(("copy", self.name, target.name, stream.name))

    def sync(self) -> None:
        self.notes.append(("sync", self.name))

    def close(self, stream: Made | None = None) -> None:
        self.notes.append(("close", self.name, stream.name if stream else None))


@pytest.fixture(params=[True, False])
def pools(request: pytest.FixtureRequest) -> bool:
    """Whether the device has memory pools."""
    return bool(request.param)


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch, pools: bool) -> list[tuple[Any, ...]]:
    """Every call of a stand-in for cuda.core."""
    notes: list[tuple[Any, ...]] = []

    class Memory(Made):
        def allocate(self, size: int, *, stream: Made | None = None) -> Made:
            notes.append(("allocate", self.name, size, stream.name if stream else None))
            return Made(notes, f"{self.name} memory", 4096)

    class Device:
        def __init__(self, index: int) -> None:
            self.index = index
            self.properties = type("Properties", (), {"memory_pools_supported": pools})
            self.memory_resource = Memory(notes, "default")

        def set_current(self) -> None:
            notes.append(("current", self.index))

        def create_stream(self) -> Made:
            return Made(notes, "stream", 7)

    class Buffer:
        @staticmethod
        def from_handle(pointer: int, size: int, *, owner: Made) -> Made:
            notes.append(("part", pointer, size, owner.name))
            return Made(notes, "part", pointer)

    core: Any = ModuleType("cuda.core")
    core.Device, core.Buffer = Device, Buffer
    core.LegacyPinnedMemoryResource = lambda: Memory(notes, "pinned")
    core.DeviceMemoryResource = lambda _device, _options: Memory(notes, "own")
    core.DeviceMemoryResourceOptions = object
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.core", core)
    return notes


def test_every_call_reaches_cuda_core(notes: list[tuple[Any, ...]], pools: bool) -> None:
    assert cuda.missing() is None
    gpu: cuda.Gpu = cuda.CudaCore(3)
    stream = gpu.stream()
    device, pinned = gpu.device_memory(100, stream), gpu.pinned_memory(50)
    assert (gpu.address(device), gpu.address(stream)) == (4096, 7)
    gpu.copy(gpu.part(pinned, 10), gpu.part(device, 10), stream)
    gpu.wait(stream)
    gpu.free(device, stream)
    gpu.free(stream)
    gpu.close()
    memory = "own" if pools else "default"
    assert notes == [
        ("current", 3),
        ("allocate", memory, 100, "stream"),
        ("allocate", "pinned", 50, None),
        ("part", 4096, 10, "pinned memory"),
        ("part", 4096, 10, f"{memory} memory"),
        ("copy", "part", "part", "stream"),
        ("sync", "stream"),
        ("close", f"{memory} memory", "stream"),
        ("close", "stream", None),
        *([("close", "own", None)] if pools else []),
    ]


def test_cuda_core_that_does_not_import_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    assert str(cuda.missing()).startswith("cuda-core cannot be imported: ")


def test_what_is_asked_of_cuda_core_is_there() -> None:
    core = pytest.importorskip("cuda.core", exc_type=ImportError)
    assert {"set_current", "create_stream", "properties", "memory_resource"} <= set(dir(core.Device))
    assert {"from_handle", "copy_to", "close", "handle"} <= set(dir(core.Buffer))
    assert {"sync", "close", "handle"} <= set(dir(core.Stream))
    assert {"allocate", "close"} <= set(dir(core.DeviceMemoryResource))
    assert core.DeviceMemoryResourceOptions()
    assert hasattr(core.LegacyPinnedMemoryResource(), "allocate")


def test_host_memory_is_seen_as_it_is_and_can_be_written() -> None:
    memory = (ctypes.c_uint8 * 4)(1, 2, 3, 4)
    array = cuda.host_array(ctypes.addressof(memory), 3)
    assert array.tolist() == [1, 2, 3]
    array[:] = 9
    assert bytes(memory) == b"\x09\x09\x09\x04"


def test_the_devices_compute_capability_comes_from_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        @staticmethod
        def cuDeviceGet(device: Any, index: int) -> int:  # noqa: N802 - the driver's name
            device._obj.value = index + 10
            return 0

        @staticmethod
        def cuDeviceGetAttribute(value: Any, attribute: int, device: ctypes.c_int) -> int:  # noqa: N802
            assert device.value == 11
            value._obj.value = {75: 12, 76: 1}[attribute]
            return 0

    monkeypatch.setattr(driver, "cuda_devices", lambda: (2, None))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Fake)
    driver.compute_capability.cache_clear()
    try:
        assert driver.compute_capability(1) == "sm121"
        assert driver.compute_capability(2) is None
    finally:
        driver.compute_capability.cache_clear()
