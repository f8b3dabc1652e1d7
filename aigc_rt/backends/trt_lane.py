"""One TensorRT execution context with its stream and buffers: what one call at a time runs in."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aigc_rt.backends.base import Array, Arrays
from aigc_rt.backends.cuda import Gpu, Handle, host_array
from aigc_rt.backends.trt_library import Library
from aigc_rt.errors import ExecutionError, InputError
from aigc_rt.manifest import Graph, TensorSpec

Shape = tuple[int, ...]
Shapes = dict[str, Shape]


class Loaded:
    """A deserialised engine, where it lives, and the shapes each of its profiles allows."""

    def __init__(self, label: str, library: Library, gpu: Gpu, runtime: Any, engine: Any, graph: Graph) -> None:
        self.label, self.library, self.gpu, self.graph = label, library, gpu, graph
        self.runtime, self.engine = runtime, engine
        self.profiles = [
            {spec.name: _allowed(engine, spec.name, i) for spec in graph.inputs}
            for i in range(engine.num_optimization_profiles)
        ]

    def profile(self, shapes: Shapes) -> int:
        """The profile that allows the shapes and was tuned for the nearest ones.

        Raises:
            InputError: none allows them.
        """
        near = {
            i: sum(_distance(shapes[name], opt) for name, (_, opt, _) in profile.items())
            for i, profile in enumerate(self.profiles)
            if all(_within(shapes[name], low, high) for name, (low, _, high) in profile.items())
        }
        if near:
            return min(near, key=lambda i: (near[i], i))
        allowed = "; or ".join(
            ", ".join(f"{n} {low} to {high}" for n, (low, _, high) in profile.items()) for profile in self.profiles
        )
        asked = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise InputError(f"run {self.label} with {asked}", f"the engine was built for {allowed}", "Split the call")

    def failed(self, mark: int, otherwise: str) -> ExecutionError:
        """The error for a call that the library or CUDA refused, with the library's words since `mark`."""
        found = self.library.log.words(mark, otherwise)
        memory = "memory" in found.lower()
        mend = "Free device memory, or run smaller batches" if memory else "Run another variant, or build it again"
        return ExecutionError(f"run {self.label}", found, mend)

    def close(self) -> None:
        """Release the engine, then the pool its buffers came from."""
        self.engine = self.runtime = None
        with contextlib.suppress(Exception):  # as in Lane.close
            self.gpu.use()
            self.gpu.close()


def _allowed(engine: Any, name: str, profile: int) -> tuple[Shape, Shape, Shape]:
    """The smallest, usual and largest shape of an input in a profile."""
    fixed = tuple(engine.get_tensor_shape(name))
    if -1 not in fixed:
        return fixed, fixed, fixed
    low, usual, high = (tuple(shape) for shape in engine.get_tensor_profile_shape(name, profile))
    return low, usual, high


def _within(shape: Shape, low: Shape, high: Shape) -> bool:
    return all(a <= x <= b for a, x, b in zip(low, shape, high, strict=True))


def _distance(shape: Shape, opt: Shape) -> float:
    return sum(abs(math.log((a + 1) / (b + 1))) for a, b in zip(shape, opt, strict=True))


@dataclass(frozen=True)
class Buffers:
    """One tensor's memory under one profile: on the device, and pinned on the host."""

    device: Handle
    pinned: Handle
    size: int  # bytes


@dataclass(frozen=True)
class Bound:
    """One tensor as the next call uses it: the first bytes of its buffers, and the pinned ones as an array."""

    name: str
    device: Handle
    pinned: Handle
    array: Array


@dataclass(frozen=True)
class Ready:
    """The context's state for one set of input shapes."""

    shapes: Shapes
    inputs: tuple[Bound, ...]
    outputs: tuple[Bound, ...]


class Lane:
    """An execution context, its stream, and the buffers of each profile it has used. For one thread at a time."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded, self._gpu = loaded, loaded.gpu
        self._buffers: dict[int, dict[str, Buffers]] = {}
        self._profile: int | None = None
        self._ready: Ready | None = None
        mark = loaded.library.log.mark()
        with contextlib.ExitStack() as undo:
            try:
                self._gpu.use()
                self._stream = self._gpu.stream()
                undo.callback(self._gpu.free, self._stream)
                self._context = loaded.engine.create_execution_context()
            except Exception as error:  # cuda-core's errors share no base class
                raise loaded.failed(mark, str(error)) from error
            if self._context is None:
                raise loaded.failed(mark, "the library made no execution context and gave no reason")
            undo.pop_all()

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Copy in, execute, copy out; returns arrays of their own.

        Raises:
            InputError: no profile of the engine allows the shapes.
            ExecutionError: the library or CUDA failed.
        """
        mark = self._loaded.library.log.mark()
        try:
            self._gpu.use()
            return self._run(inputs, mark)
        except (InputError, ExecutionError):
            self._forget()
            raise
        except Exception as error:  # cuda-core's errors share no base class
            self._forget()
            raise self._loaded.failed(mark, str(error)) from error

    def _forget(self) -> None:
        """After a failure nothing is known of the context's state, nor whether the stream is done with the buffers."""
        self._ready = self._profile = None
        with contextlib.suppress(Exception):  # the failure itself is what the caller hears of
            self._gpu.wait(self._stream)

    def _run(self, inputs: Mapping[str, Array], mark: int) -> Arrays:
        shapes = {name: value.shape for name, value in inputs.items()}
        ready = self._ready
        if ready is None or ready.shapes != shapes:
            self._ready = None
            ready = self._ready = self._prepare(shapes, mark)
        for bound in ready.inputs:
            np.copyto(bound.array, inputs[bound.name])
            self._gpu.copy(bound.pinned, bound.device, self._stream)
        if not self._context.execute_async_v3(self._gpu.address(self._stream)):
            raise self._loaded.failed(mark, "the library did not say why")
        for bound in ready.outputs:
            self._gpu.copy(bound.device, bound.pinned, self._stream)
        self._gpu.wait(self._stream)
        return {bound.name: bound.array.copy() for bound in ready.outputs}

    def _prepare(self, shapes: Shapes, mark: int) -> Ready:
        """Choose the profile, tell the context the shapes, and point it at buffers large enough."""
        number = self._loaded.profile(shapes)
        if number != self._profile:
            self._profile = None
            if not self._context.set_optimization_profile_async(number, self._gpu.address(self._stream)):
                raise self._loaded.failed(mark, f"the library refuses profile {number}")
            self._profile = number
        graph = self._loaded.graph
        buffers = self._buffers.setdefault(number, {})
        largest = {name: high for name, (_, _, high) in self._loaded.profiles[number].items()}
        if len(buffers) < len(graph.inputs) + len(graph.outputs):
            outputs = self._shapes(largest, mark)
            for spec in (*graph.inputs, *graph.outputs):
                self._allocate(buffers, spec, {**largest, **outputs}[spec.name])
        outputs = self._shapes(shapes, mark)
        for spec in graph.outputs:
            self._allocate(buffers, spec, outputs[spec.name])  # where the largest input has not the largest output
        bound = {s.name: self._bind(buffers[s.name], s, {**shapes, **outputs}[s.name], mark) for s in graph.inputs}
        bound |= {s.name: self._bind(buffers[s.name], s, outputs[s.name], mark) for s in graph.outputs}
        return Ready(shapes, tuple(bound[s.name] for s in graph.inputs), tuple(bound[s.name] for s in graph.outputs))

    def _shapes(self, inputs: Shapes, mark: int) -> Shapes:
        """Set the inputs' shapes; what the outputs' shapes are then."""
        for name, shape in inputs.items():
            if not self._context.set_input_shape(name, shape):
                raise self._loaded.failed(mark, f"the library refuses {name} of shape {shape}")
        found = {s.name: tuple(self._context.get_tensor_shape(s.name)) for s in self._loaded.graph.outputs}
        if unknown := [name for name, shape in found.items() if -1 in shape]:
            raise self._loaded.failed(mark, f"the shape of {', '.join(unknown)} depends on values, not on shapes")
        return found

    def _allocate(self, buffers: dict[str, Buffers], spec: TensorSpec, shape: Shape) -> None:
        size = max(1, _bytes(spec, shape))
        have = buffers.get(spec.name)
        if have is None or have.size < size:
            if have is not None:
                self._release(buffers.pop(spec.name))
            pinned = self._gpu.pinned_memory(size)
            try:
                device = self._gpu.device_memory(size, self._stream)
            except BaseException:
                self._gpu.free(pinned)
                raise
            buffers[spec.name] = Buffers(device, pinned, size)

    def _bind(self, memory: Buffers, spec: TensorSpec, shape: Shape, mark: int) -> Bound:
        size = _bytes(spec, shape)
        if not self._context.set_tensor_address(spec.name, self._gpu.address(memory.device)):
            raise self._loaded.failed(mark, f"the library refuses the memory of {spec.name}")
        part = max(1, size)
        array = host_array(self._gpu.address(memory.pinned), part)[:size].view(spec.dtype).reshape(shape)
        return Bound(spec.name, self._gpu.part(memory.device, part), self._gpu.part(memory.pinned, part), array)

    def _release(self, memory: Buffers) -> None:
        self._gpu.free(memory.device, self._stream)
        self._gpu.free(memory.pinned)

    def close(self) -> None:
        """Release the context, its buffers and its stream."""
        self._ready = self._context = None
        with contextlib.suppress(Exception):  # a device that failed takes nothing back: its memory goes with it
            self._gpu.use()
            for buffers in self._buffers.values():
                for memory in buffers.values():
                    self._release(memory)
            self._gpu.wait(self._stream)
            self._gpu.free(self._stream)
        self._buffers.clear()


def _bytes(spec: TensorSpec, shape: Shape) -> int:
    return math.prod(shape) * np.dtype(spec.dtype).itemsize
