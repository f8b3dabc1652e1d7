"""The TensorRT executor, held to the contract of backends on a fake engine and a fake device."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_fakes import DataType, FakeEngine, FakeGpu, TensorIOMode, TensorLocation, fake_library
from numpy.typing import NDArray

from aigc_rt.backends import cuda, trt, trt_library
from aigc_rt.backends.base import Executor, Job, Place
from aigc_rt.backends.trt_library import Library
from aigc_rt.bundle import Bundle, hash_files, write_manifest
from aigc_rt.errors import (
    BackendUnavailable,
    Closed,
    ExecutionError,
    InputError,
    IntegrityError,
    MissingDependency,
    PlanError,
)
from aigc_rt.manifest import Axis, Engine, Graph, Manifest, Tensor, TensorSpec, Variant

PLACE = Place("tensorrt-rtx", "cuda:0")


def make_job(folder: Path, data: bytes = b"an engine", largest: int = 64) -> Job:
    folder.mkdir(exist_ok=True)
    (folder / "it.engine").write_bytes(data)
    spec = Engine("tensorrt-rtx 9.9", ("portable",), "any", ())
    graph = Graph(
        (TensorSpec("z", "float32", ("batch", 3)), TensorSpec("label", "int64", ("batch",))),
        (TensorSpec("y", "float32", ("batch", 3)),),
        {"batch": Axis(1, largest)},
        parameters=0,
        variants={"rtx": Variant("fp16", "tensorrt-rtx", "it.engine", engine=spec)},
    )
    write_manifest(folder, Manifest("it", Tensor("main"), {"main": graph}, hash_files(folder)))
    return Job(Bundle(folder), "main", "rtx", PLACE, None)


class Bench:
    """One fake device with one fake engine, and the backend over them."""

    def __init__(self, folder: Path) -> None:
        self.job = make_job(folder)
        self.gpu = FakeGpu()
        self.engine = FakeEngine(self.gpu, [(1, 8, 64)])

    def open(self, **library: Any) -> Executor:
        made = fake_library(self.engine, **library)
        return trt.TensorRTForRTX(lambda: made, lambda _: self.gpu).open(self.job)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "bundle")


def feed(batch: int, start: float = 0) -> dict[str, NDArray[Any]]:
    z = np.arange(batch * 3, dtype=np.float32).reshape(batch, 3) + np.float32(start)
    return {"z": z, "label": np.arange(batch, dtype=np.int64)}


def expected(inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
    return np.asarray(2 * inputs["z"] + inputs["label"][:, None], np.float32)


def test_it_computes_for_every_batch_of_its_profile(bench: Bench) -> None:
    executor = bench.open()
    for batch in (1, 64, 7, 7, 1, 32):
        outputs = executor.run(feed(batch, batch))
        assert outputs.keys() == {"y"}
        np.testing.assert_array_equal(outputs["y"], expected(feed(batch, batch)))
        assert outputs["y"].dtype == np.float32
    executor.close()


def test_inputs_need_not_be_contiguous(bench: Bench) -> None:
    inputs = feed(5)
    inputs["z"] = np.asfortranarray(np.tile(inputs["z"], (1, 2)))[:, ::2]
    np.testing.assert_array_equal(bench.open().run(inputs)["y"], expected(inputs))


def test_results_belong_to_the_caller(bench: Bench) -> None:
    executor = bench.open()
    first = executor.run(feed(4))["y"]
    kept = first.copy()
    first_address = first.ctypes.data
    second = executor.run(feed(4, 100))["y"]
    assert second.ctypes.data != first_address
    np.testing.assert_array_equal(first, kept)
    first[:] = -1  # writable, and nobody else's
    executor.close()
    np.testing.assert_array_equal(second, expected(feed(4, 100)))
    np.testing.assert_array_equal(first, np.full((4, 3), -1, np.float32))


def test_inputs_are_left_alone_and_may_change_afterwards(bench: Bench) -> None:
    executor, inputs = bench.open(), feed(4)
    result = executor.run(inputs)["y"]
    wanted = expected(feed(4))
    np.testing.assert_array_equal(inputs["z"], feed(4)["z"])
    inputs["z"][:] = 0
    np.testing.assert_array_equal(result, wanted)


def test_the_nearest_profile_is_used_and_buffers_are_made_once_each(bench: Bench) -> None:
    bench.engine.profiles = [(1, 1, 4), (1, 32, 64)]
    executor = bench.open()
    for batch in (1, 2, 30, 64, 1, 40, 4):
        np.testing.assert_array_equal(executor.run(feed(batch))["y"], expected(feed(batch)))
    (context,) = bench.engine.contexts
    assert context.profiles_used == [0, 0, 1, 1, 0, 1, 0]
    assert len(bench.gpu.blocks) == 2 * 3 * 2  # profiles, tensors, device and pinned
    assert len(bench.gpu.streams) == 1


def test_of_two_profiles_that_allow_a_shape_the_nearer_is_used(bench: Bench) -> None:
    bench.engine.profiles = [(1, 32, 64), (1, 2, 64), (1, 1, 64)]
    executor = bench.open()
    for batch in (1, 2, 3, 60, 30):
        executor.run(feed(batch))
    assert bench.engine.contexts[0].profiles_used == [2, 1, 1, 0, 0]


def test_shapes_that_no_profile_allows_are_an_input_error(bench: Bench) -> None:
    bench.engine.profiles = [(1, 1, 4), (8, 16, 16)]
    executor = bench.open()
    with pytest.raises(InputError, match=r"built for z \(1, 3\) to \(4, 3\), label .* or z \(8, 3\)"):
        executor.run(feed(5))
    np.testing.assert_array_equal(executor.run(feed(4))["y"], expected(feed(4)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"z": np.zeros((2, 3), np.float32)},
        {"z": np.zeros((2, 3), np.float64), "label": np.zeros(2, np.int64)},
        {"z": np.zeros((2, 4), np.float32), "label": np.zeros(2, np.int64)},
        {"z": np.zeros((2, 3), np.float32), "label": np.zeros(3, np.int64)},
        {"z": np.zeros((65, 3), np.float32), "label": np.zeros(65, np.int64)},
    ],
)
def test_names_types_and_shapes_are_checked(bench: Bench, wrong: dict[str, NDArray[Any]]) -> None:
    with pytest.raises(InputError):
        bench.open().run(wrong)
    assert bench.engine.contexts[0].runs == 0


def test_threads_share_it(bench: Bench) -> None:
    executor = bench.open()

    def work(seed: int) -> bool:
        inputs = feed(1 + seed % 9, seed)
        return all(np.array_equal(executor.run(inputs)["y"], expected(inputs)) for _ in range(10))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(16)))
    assert 1 < len(bench.engine.contexts) <= trt.LANES
    assert sum(context.runs for context in bench.engine.contexts) == 160
    executor.close()
    assert not bench.gpu.leaks()


def test_a_device_too_full_for_a_second_context_shares_the_first(bench: Bench) -> None:
    bench.engine.contexts_limit = 1
    executor = bench.open()
    with ThreadPoolExecutor(6) as pool:
        for result in pool.map(lambda i: executor.run(feed(3, i))["y"], range(40)):
            assert result.shape == (3, 3)
    assert bench.engine.contexts[0].runs == 40
    assert bench.engine.contexts_asked == 2  # not again at every call
    executor.close()
    assert not bench.gpu.leaks()


def test_close_gives_everything_back_and_is_final(bench: Bench) -> None:
    executor = bench.open()
    executor.run(feed(2))
    assert bench.gpu.leaks()
    executor.close()
    executor.close()
    assert not bench.gpu.leaks()
    assert bench.gpu.closed
    with pytest.raises(Closed):
        executor.run(feed(2))


def test_close_waits_for_the_calls_that_run(bench: Bench) -> None:
    executor, results = bench.open(), list[Any]()
    began = threading.Event()

    def work() -> None:
        while True:
            inputs = feed(3, len(results))
            try:
                results.append(np.array_equal(executor.run(inputs)["y"], expected(inputs)))
            except Closed:
                return
            began.set()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert began.wait(5)
    time.sleep(0.02)
    executor.close()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert all(results)
    assert not bench.gpu.leaks()


@pytest.mark.parametrize(
    ("refuses", "words"),
    [
        ("execute", "the kernel failed"),
        ("raise", "CUDA_ERROR_ILLEGAL_ADDRESS"),
        ("profile", "refuses profile 0"),
        ("shape", r"refuses z of shape \(64, 3\)"),
        ("address", "refuses the memory of z"),
        ("values", "the shape of y depends on values"),
    ],
)
def test_what_fails_is_an_execution_error_and_the_next_call_works(bench: Bench, refuses: str, words: str) -> None:
    executor = bench.open()
    bench.engine.refuses = refuses
    with pytest.raises(ExecutionError, match=words):
        executor.run(feed(2))
    bench.engine.refuses = ""
    np.testing.assert_array_equal(executor.run(feed(2))["y"], expected(feed(2)))
    executor.close()
    assert not bench.gpu.leaks()


def test_a_full_device_is_an_error_that_says_so(bench: Bench) -> None:
    bench.gpu.limit = 64 * 3 * 4 + 10  # z fits, the rest does not
    executor = bench.open()
    with pytest.raises(ExecutionError, match=r"OUT_OF_MEMORY.*smaller batches"):
        executor.run(feed(2))
    bench.gpu.limit = 1 << 20
    np.testing.assert_array_equal(executor.run(feed(2))["y"], expected(feed(2)))
    executor.close()
    assert not bench.gpu.leaks()


@pytest.mark.parametrize("cause", ["contexts_limit", "streams_limit"])
def test_no_memory_for_the_first_context_is_a_plan_error(bench: Bench, cause: str) -> None:
    setattr(bench.engine if cause == "contexts_limit" else bench.gpu, cause, 0)
    with pytest.raises(PlanError, match=r"(?i)out.of.memory"):
        bench.open()
    assert not bench.gpu.leaks()
    assert bench.gpu.closed


@pytest.mark.parametrize("at", ["create_execution_context", "get_tensor_shape", "get_tensor_profile_shape"])
def test_whatever_is_raised_while_opening_leaves_nothing_on_the_device(
    bench: Bench, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA_ERROR_LAUNCH_FAILED")

    monkeypatch.setattr(bench.engine, at, fail)
    with pytest.raises(RuntimeError, match="CUDA_ERROR_LAUNCH_FAILED"):
        bench.open()
    assert not bench.gpu.leaks()
    assert bench.gpu.closed


def test_an_interrupt_while_opening_leaves_nothing_on_the_device(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.engine, "create_execution_context", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.open()
    assert not bench.gpu.leaks()
    assert bench.gpu.closed


def spoil(change: Callable[[FakeEngine], Any]) -> Callable[[FakeEngine], Any]:
    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (spoil(lambda e: e.modes.update(extra=TensorIOMode.INPUT)), "inputs are .*extra"),
        (spoil(lambda e: e.modes.pop("label")), r"inputs are \['z'\], the manifest says \['label', 'z'\]"),
        (spoil(lambda e: e.types.update(y=DataType.INT64)), "y is int64, the manifest says float32"),
        (spoil(lambda e: e.types.update(y=DataType.BF16)), "y is BF16"),
        (spoil(lambda e: e.locations.update(label=TensorLocation.HOST)), "label is read from host memory"),
    ],
)
def test_an_engine_of_another_graph_is_a_plan_error(
    bench: Bench, change: Callable[[FakeEngine], Any], words: str
) -> None:
    change(bench.engine)
    with pytest.raises(PlanError, match=words):
        bench.open()
    assert bench.gpu.closed


def test_the_library_is_asked_whether_the_engine_is_valid(bench: Bench) -> None:
    with pytest.raises(PlanError, match=r"invalid \(unsupported_cc\)"):
        bench.open(validity="INVALID")


@pytest.mark.parametrize("validity", ["VALID", "SUBOPTIMAL", None])
def test_a_valid_engine_opens(tmp_path: Path, validity: str | None) -> None:
    executor = Bench(tmp_path / "bundle").open(validity=validity)
    np.testing.assert_array_equal(executor.run(feed(1))["y"], expected(feed(1)))


@pytest.mark.parametrize("data", [b"", b"x", b"vtrt" * 100, b"ftrt" + bytes(5000), bytes(range(256)) * 40])
def test_the_real_library_refuses_a_foreign_engine_without_a_crash(tmp_path: Path, data: bytes) -> None:
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(PlanError, match=r"erializ|invalid"):
        trt.TensorRTForRTX(gpu=FakeGpu).open(make_job(tmp_path, data))


def test_a_changed_file_is_not_opened(bench: Bench) -> None:
    (bench.job.bundle.path / "it.engine").write_bytes(b"An engine")
    with pytest.raises(IntegrityError):
        bench.open()


def test_a_device_that_does_not_start_is_an_unavailable_backend(bench: Bench) -> None:
    def gpu(index: int) -> FakeGpu:
        raise RuntimeError("CUDA_ERROR_NO_DEVICE")

    library = fake_library(bench.engine)
    with pytest.raises(BackendUnavailable, match="CUDA_ERROR_NO_DEVICE"):
        trt.TensorRTForRTX(lambda: library, gpu).open(bench.job)


# Places and refusals


def missing() -> Library:
    raise MissingDependency("use it", "no module", "pip install it")


def test_places_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(backend: trt.TensorRT) -> str | None:
        (place,) = backend.places()
        assert (place.backend, place.device) == (backend.name, "cuda:0")
        return place.reason

    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    assert "pip install 'aigc-rt[tensorrt]'" in str(reason(trt.TensorRT()))
    monkeypatch.setattr(trt_library, "load", lambda _: None)
    monkeypatch.setattr(trt_library, "cuda_devices", lambda: (0, "no NVIDIA driver: libcuda.so.1"))
    assert reason(trt.TensorRTForRTX()) == "no NVIDIA driver: libcuda.so.1"
    monkeypatch.setattr(trt_library, "cuda_devices", lambda: (2, None))
    monkeypatch.setattr(trt, "cuda_devices", lambda: (2, None))
    monkeypatch.setattr(cuda, "missing", lambda: "cuda-core cannot be imported: no")
    assert reason(trt.TensorRTForRTX()) == "cuda-core cannot be imported: no; pip install 'aigc-rt[rtx]'"
    monkeypatch.setattr(cuda, "missing", lambda: None)
    assert trt.TensorRTForRTX().places() == [Place("tensorrt-rtx", "cuda:0"), Place("tensorrt-rtx", "cuda:1")]


@pytest.mark.parametrize(
    ("engine", "gpu", "words"),
    [
        (Engine("tensorrt-rtx 9.9", ("portable",), "any", ()), "sm86", None),
        (Engine("tensorrt-rtx 9.9", ("portable",), "any", ()), "sm120", None),
        (Engine("tensorrt-rtx 9.9", ("portable",), "any", ()), "sm75", "from sm80 on, cuda:0 is sm75"),
        (Engine("tensorrt-rtx 9.9", ("sm86", "sm89"), "any", ()), "sm89", None),
        (Engine("tensorrt-rtx 9.9", ("sm86", "sm89"), "any", ()), "sm120", "built for sm86, sm89, cuda:0 is sm120"),
        (Engine("tensorrt-rtx 9.8", ("portable",), "any", ()), "sm86", "built with tensorrt-rtx 9.8, here is"),
        (Engine("tensorrt 9.9", ("portable",), "any", ()), "sm86", "built with tensorrt 9.9"),
        (Engine("tensorrt-rtx 9.9", ("sm86",), "plan9-vax", ()), "sm86", "built for plan9-vax"),
        (None, "sm86", "does not say"),
    ],
)
def test_what_an_engine_was_built_for_decides(
    monkeypatch: pytest.MonkeyPatch, engine: Engine | None, gpu: str, words: str | None
) -> None:
    monkeypatch.setattr(trt, "compute_capability", lambda _: gpu)
    library = fake_library(None)
    stored = Variant("fp16", "tensorrt-rtx", "it.engine", engine=engine)
    reason = trt.TensorRTForRTX(lambda: library).refuses(stored, PLACE)
    assert reason is None if words is None else words in str(reason)
    if engine is not None:
        assert trt.TensorRTForRTX(missing).refuses(stored, PLACE) == "no module; pip install it"
