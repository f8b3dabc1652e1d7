"""A CUDA device of plain bytes and a TensorRT that doubles numbers: loud where the real ones break quietly.

Work is done only when its stream is waited for, as late as a real device may do it. Memory is checked for kind, size
and life, a context for being in one call at a time, and every call for a current device.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import math
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from aigc_rt.backends.trt_library import FLAVOURS, Library


class Block:
    def __init__(self, kind: str, size: int) -> None:
        self.kind, self.size, self.live = kind, size, True
        self.bytes = (ctypes.c_uint8 * size)(*([0xAB] * min(size, 64)))
        self.address = ctypes.addressof(self.bytes)


class Part:
    def __init__(self, whole: Block, size: int) -> None:
        assert size <= whole.size
        self.whole, self.size, self.address, self.kind = whole, size, whole.address, whole.kind


class Stream:
    def __init__(self, address: int) -> None:
        self.address, self.live = address, True
        self.waiting: list[Callable[[], None]] = []


class FakeGpu:
    """`aigc_rt.backends.cuda.Gpu`. `limit` is the device's memory in bytes."""

    def __init__(self, index: int = 0, limit: int = 1 << 30, streams_limit: int = 100) -> None:
        self.index, self.limit, self.streams_limit = index, limit, streams_limit
        self.blocks: list[Block] = []
        self.streams: list[Stream] = []
        self.closed = False
        self._current = threading.local()

    def _checked(self) -> None:
        assert getattr(self._current, "set", False), "the device is not current in this thread"
        assert not self.closed

    def use(self) -> None:
        assert not self.closed
        self._current.set = True

    def stream(self) -> Stream:
        self._checked()
        if len(self.streams) >= self.streams_limit:
            raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")
        self.streams.append(Stream(1000 + len(self.streams)))
        return self.streams[-1]

    def device_memory(self, size: int, stream: Stream) -> Block:
        assert stream.live
        return self._allocate("device", size)

    def pinned_memory(self, size: int) -> Block:
        return self._allocate("pinned", size)

    def _allocate(self, kind: str, size: int) -> Block:
        self._checked()
        assert size > 0
        if kind == "device" and sum(b.size for b in self.blocks if b.live and b.kind == kind) + size > self.limit:
            raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")
        self.blocks.append(Block(kind, size))
        return self.blocks[-1]

    def part(self, buffer: Block, size: int) -> Part:
        return Part(buffer, size)

    def address(self, handle: Any) -> int:
        return int(handle.address)

    def copy(self, source: Part, target: Part, stream: Stream) -> None:
        self._checked()
        assert source.size == target.size
        assert {source.kind, target.kind} == {"device", "pinned"}

        def move() -> None:
            assert source.whole.live
            assert target.whole.live
            ctypes.memmove(target.address, source.address, source.size)

        stream.waiting.append(move)

    def wait(self, stream: Stream) -> None:
        self._checked()
        assert stream.live
        while stream.waiting:
            stream.waiting.pop(0)()

    def free(self, handle: Block | Stream, stream: Stream | None = None) -> None:
        self._checked()
        assert handle.live
        assert not isinstance(handle, Stream) or not handle.waiting
        handle.live = False

    def close(self) -> None:
        assert not self.leaks()
        self.closed = True

    def leaks(self) -> list[Any]:
        return [b for b in self.blocks if b.live] + [s for s in self.streams if s.live]

    def block(self, address: int) -> Block:
        (found,) = [b for b in self.blocks if b.live and b.address == address]
        return found


class DataType(enum.Enum):
    FLOAT = "float32"
    INT64 = "int64"
    BF16 = "bf16"


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class TensorLocation(enum.Enum):
    DEVICE = 1
    HOST = 2


class Diagnostics(enum.IntFlag):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2


class FakeEngine:
    """z (batch, 3) float32 and label (batch) int64 in; twice z plus label, and its shape with a fixed axis, out.

    `profiles` are the (min, opt, max) batches.
    """

    def __init__(self, gpu: FakeGpu, profiles: list[tuple[int, int, int]]) -> None:
        self.gpu, self.profiles = gpu, profiles
        self.modes = dict.fromkeys(("z", "label"), TensorIOMode.INPUT) | dict.fromkeys(("y",), TensorIOMode.OUTPUT)
        self.types = {"z": DataType.FLOAT, "label": DataType.INT64, "y": DataType.FLOAT}
        self.locations = dict.fromkeys(self.modes, TensorLocation.DEVICE)
        self.shapes = {"z": (-1, 3), "label": (-1,), "y": (-1, 3)}
        self.contexts: list[FakeContext] = []
        self.refuses = ""
        self.contexts_limit, self.contexts_asked = 100, 0

    @property
    def num_io_tensors(self) -> int:
        return len(self.modes)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_name(self, i: int) -> str:
        return list(self.modes)[i]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self.modes[name]

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.types[name]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return self.locations[name]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [tuple(n if d == -1 else d for d in self.shapes[name]) for n in self.profiles[profile]]

    def create_execution_context(self) -> FakeContext | None:
        self.contexts_asked += 1
        if len(self.contexts) >= self.contexts_limit:
            self.log("ERROR", "out of memory for activations")
            return None
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]

    log: Callable[[str, str], None]


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.gpu = engine, engine.gpu
        self.profile: int | None = None
        self.profiles_used: list[int] = []
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.busy = threading.Lock()
        self.runs = 0

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        assert self.busy.acquire(blocking=False), "one context in two calls"
        try:
            yield
        finally:
            self.busy.release()

    def set_optimization_profile_async(self, number: int, stream: int) -> bool:
        with self._alone():
            assert self._stream(stream).live
            self.profile = number
            self.inputs.clear()  # as the real one does
            return self.engine.refuses != "profile"

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        with self._alone():
            assert self.profile is not None
            low, _, high = self.engine.get_tensor_profile_shape(name, self.profile)
            self.inputs[name] = tuple(shape)
            return self.engine.refuses != "shape" and low[0] <= shape[0] <= high[0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch = self.inputs["z"][0] if self.engine.refuses != "values" else -1
        return tuple(batch if d == -1 else d for d in self.engine.shapes[name])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return self.engine.refuses != "address"

    def _stream(self, handle: int) -> Stream:
        (found,) = [s for s in self.gpu.streams if s.address == handle and s.live]
        return found

    def execute_async_v3(self, handle: int) -> bool:
        if self.engine.refuses in ("raise", "execute"):  # and loses what it was told
            self.inputs.clear()
            self.addresses.clear()
        if self.engine.refuses == "raise":
            raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")
        if self.engine.refuses == "execute":
            self.engine.log("ERROR", "the kernel failed")
            return False
        assert self.profile is not None
        self.profiles_used.append(self.profile)
        shapes, addresses = dict(self.inputs), dict(self.addresses)
        assert shapes.keys() == {"z", "label"}
        batch = shapes["z"][0]

        def array(name: str, dtype: str, shape: tuple[int, ...]) -> Any:
            block = self.gpu.block(addresses[name])
            assert block.kind == "device"
            size = math.prod(shape) * np.dtype(dtype).itemsize
            assert size <= block.size
            return np.ctypeslib.as_array(block.bytes)[:size].view(dtype).reshape(shape)

        def compute() -> None:
            with self._alone():
                self.runs += 1
                time.sleep(0.001)
                z, label = array("z", "float32", (batch, 3)), array("label", "int64", (batch,))
                array("y", "float32", (batch, 3))[...] = 2 * z + label[:, None]

        self._stream(handle).waiting.append(compute)
        return True


def fake_library(engine: FakeEngine | None, flavour: str = "tensorrt-rtx", validity: str | None = None) -> Library:
    """A library that deserialises anything into `engine`; None refuses."""
    trt: Any = ModuleType("fake")
    trt.__version__ = "9.9"
    trt.TensorIOMode, trt.TensorLocation = TensorIOMode, TensorLocation
    trt.EngineInvalidityDiagnostics = Diagnostics
    trt.ILogger = type("ILogger", (), {})

    def nptype(dtype: DataType) -> Any:
        if dtype is DataType.BF16:
            raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
        return np.dtype(dtype.value).type

    class Runtime:
        def __init__(self, logger: Any) -> None:
            pass

        def deserialize_cuda_engine(self, data: bytes) -> FakeEngine | None:
            if engine is None:
                library.log.add("ERROR", "Serialization assertion failed")
            return engine

    if validity is not None:
        answer = SimpleNamespace(name=validity)
        Runtime.get_engine_validity = staticmethod(lambda _: (answer, 2))  # type: ignore[attr-defined]
    trt.nptype, trt.Runtime = nptype, Runtime
    library = Library(FLAVOURS[flavour], trt)
    if engine is not None:
        engine.log = library.log.add
    return library
