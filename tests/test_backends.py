"""What backends owe beyond right answers: silence, a close while others run, files they may read, the CUDA branch."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import toy
from onnx import TensorProto, external_data_helper, helper

import aigc_rt
from aigc_rt import backends
from aigc_rt.backends import onnx_file, openvino, ort, quiet
from aigc_rt.backends.base import Array, Executor, Job, Place
from aigc_rt.bundle import Bundle, hash_files, write_manifest
from aigc_rt.errors import BackendUnavailable, Closed, InputError, IntegrityError, PlanError
from aigc_rt.manifest import Variant

NAMES = ("onnxruntime", "openvino")
Z = np.linspace(-1, 1, 3 * toy.LATENT, dtype=np.float32).reshape(3, toy.LATENT)


def job(path: Path, backend: str = "onnxruntime", variant: str = "fp32") -> Job:
    provider = ort.CPU if backend == "onnxruntime" else None
    return Job(Bundle(path), "generator", variant, Place(backend, "cpu", provider), 1)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def executor(name: str, images: Path) -> Iterator[Executor]:
    opened = backends.get(name).open(job(images, name))
    yield opened
    opened.close()


# Telemetry

HEARD = """
import sys
def heard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen"):
        print(event, arguments)
sys.addaudithook(heard)
import aigc_rt
with aigc_rt.load(sys.argv[1], backend=sys.argv[2], precision="fp32") as generator:
    generator.generate(2)
assert "openvino_telemetry" not in sys.modules
"""


def test_an_engine_leaves_nothing_in_the_home_folder_and_calls_nobody(name: str, images: Path, tmp_path: Path) -> None:
    ours = ("CI", "ORT_DISABLE_TELEMETRY")
    env = {key: value for key, value in os.environ.items() if key not in ours and not key.startswith("XDG_")}
    env |= {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    line = [sys.executable, "-c", HEARD, str(images), name]
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.rglob("*")) == []


def test_what_the_application_decided_about_telemetry_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    assert quiet.import_onnxruntime() is sys.modules["onnxruntime"]
    assert "ORT_DISABLE_TELEMETRY" not in os.environ


@pytest.mark.parametrize("there", [True, False])
def test_the_telemetry_module_is_only_hidden_while_openvino_is_imported(
    monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    telemetry, during = ModuleType("openvino_telemetry"), list[Any]()
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    if there:
        monkeypatch.setitem(sys.modules, "openvino_telemetry", telemetry)

    def broken(module: str) -> None:
        during.append(sys.modules["openvino_telemetry"])
        raise ImportError(module)

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(ImportError, match="openvino"):
        quiet.import_openvino()
    assert during == [None]
    assert sys.modules.get("openvino_telemetry") is (telemetry if there else None)
    assert ("openvino_telemetry" in sys.modules) is there


# Closing while others run


def test_a_call_that_meets_a_close_is_told_so(executor: Executor) -> None:
    class Closing(dict[str, Array]):
        def __getitem__(self, key: str) -> Array:
            executor.close()  # after `run` looked whether it is closed
            return super().__getitem__(key)

    with pytest.raises(Closed):
        executor.run(Closing(z=Z))


def test_threads_that_run_while_another_closes_get_right_answers_or_closed(name: str, images: Path) -> None:
    wanted, wrong = toy.answer(Z), list[object]()
    for _ in range(10):
        executor, running = backends.get(name).open(job(images, name)), threading.Barrier(5)

        def work(executor: Executor = executor, running: threading.Barrier = running) -> None:
            try:
                executor.run({"z": Z})
                running.wait(10)
                while True:
                    off = np.abs(executor.run({"z": Z})["image"] - wanted).max()
                    if not off < 2e-6:
                        wrong.append(off)
            except Closed:
                return
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        running.wait(10)
        executor.close()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
    assert wrong == []


# Inputs


def test_a_memory_mapped_array_is_read_as_what_it_is(executor: Executor, tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", Z)
    mapped = np.load(tmp_path / "z.npy", mmap_mode="r")
    assert type(mapped) is np.memmap
    assert np.abs(executor.run({"z": mapped})["image"] - toy.answer(Z)).max() < 2e-6


@pytest.mark.parametrize(
    ("z", "found"),
    [
        (Z.astype(">f4" if sys.byteorder == "little" else "<f4"), "bytes are in the other order"),
        (Z.astype(object), r"got object \(3, 6\)"),
        (np.ma.masked_less(Z, 0), "got a MaskedArray"),
    ],
)
def test_arrays_that_would_be_read_wrong_are_refused(executor: Executor, z: Any, found: str) -> None:
    with pytest.raises(InputError, match=found):
        executor.run({"z": z})


def test_inputs_that_disagree_are_both_named(name: str, labelled: Path) -> None:
    executor = backends.get(name).open(job(labelled, name))
    with pytest.raises(InputError, match=r"'label' with batch 2: batch is 3 in input 'z'"):
        executor.run({"z": Z, "label": np.zeros(2, np.int64)})
    executor.close()


# What runs


def test_a_precision_that_this_cpu_lacks_is_an_unavailable_backend(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Core:
        def get_property(self, *_: str) -> list[str]:
            return ["FP32", "INT8"]

    monkeypatch.setattr(openvino, "_core", Core)
    with pytest.raises(BackendUnavailable, match="offers FP32, INT8 on this CPU"):
        openvino.OpenVino().open(job(images, "openvino", "fp16"))


def test_an_openvino_that_does_not_import_is_an_unavailable_backend(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendUnavailable, match="cannot be imported"):
        openvino.OpenVino().open(job(images, "openvino"))


def test_a_backend_says_what_it_computes_in() -> None:
    half = Variant("fp16", "onnx", "it.onnx")
    asked = {
        (name, provider): backends.get(name).computes(half, Place(name, "cpu", provider))
        for name, provider in [
            ("onnxruntime", ort.CPU),
            ("onnxruntime", ort.CUDA),
            ("openvino", None),
            ("tensorrt", None),
        ]
    }
    assert asked.pop(("onnxruntime", ort.CPU)) == "fp32"
    assert set(asked.values()) == {"fp16"}
    full = replace(half, precision="int8")
    assert backends.get("onnxruntime").computes(full, Place("onnxruntime", "cpu", ort.CPU)) == "int8"


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="others may have fp16 kernels")
def test_fp16_on_the_cpu_is_computed_in_fp32_by_onnxruntime() -> None:
    nodes = [helper.make_node("Add", ["x", "one"], ["sum"]), helper.make_node("Sub", ["sum", "x"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [1]) for name in "xy"]
    one = helper.make_tensor("one", TensorProto.FLOAT16, [1], [1.0])
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    session = quiet.import_onnxruntime().InferenceSession(model, providers=[ort.CPU])
    (y,) = session.run(None, {"x": np.array([4096], np.float16)})
    assert y.tolist() == [1.0]  # fp16 has no 4097: it would be 0


# Files beside the graph


def outside(path: Path, location: str, *, listed: str | None = None) -> Path:
    """A bundle of fp32 whose first weights lie at `location`; the file is listed under the name of `listed`."""
    model = toy.model(labelled=False)
    weights = next(t for t in model.graph.initializer if t.name == "first")
    data = weights.raw_data
    external_data_helper.set_external_data(weights, location)
    weights.ClearField("raw_data")
    toy.bundle(path, precisions=("fp32",), graph=model)
    if listed is not None:
        (path / listed).write_bytes(data)
        read = Bundle(path).manifest
        graph = read.graphs["generator"]
        graph = replace(graph, variants={"fp32": replace(graph.variants["fp32"], data=(listed,))})
        write_manifest(path, replace(read, graphs={"generator": graph}, files=describe_all(path)))
    return path


def describe_all(path: Path) -> Any:
    return {name: file for name, file in hash_files(path).items() if name != "manifest.json"}


def test_weights_beside_the_graph_are_read_when_the_manifest_lists_them(name: str, tmp_path: Path) -> None:
    path = outside(tmp_path / "it", "weights.bin", listed="weights.bin")
    executor = backends.get(name).open(job(path, name))
    assert np.abs(executor.run({"z": Z})["image"] - toy.answer(Z)).max() < 2e-6
    executor.close()
    (path / "weights.bin").write_bytes(bytes((path / "weights.bin").stat().st_size))
    with pytest.raises(IntegrityError, match="SHA-256"):
        backends.get(name).open(job(path, name))


@pytest.mark.parametrize("kind", ["cwd", "parent", "absolute", "beside", "another"])
def test_a_graph_that_reads_what_the_manifest_does_not_list_is_refused(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    data = toy.weights()[0].tobytes()
    for folder in (here, tmp_path):
        (folder / "secret.bin").write_bytes(data)
    location = {"parent": "../secret.bin", "absolute": str(tmp_path / "secret.bin")}.get(kind, "secret.bin")
    path = outside(tmp_path / "it", location, listed="weights.bin" if kind == "another" else None)
    if kind == "beside":
        (path / "secret.bin").write_bytes(data)
    with pytest.raises(IntegrityError, match=r"secret\.bin'.* does not list"):
        aigc_rt.load(path, backend=name)


def tensor(location: str) -> TensorProto:
    made = TensorProto(name=location, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    made.external_data.add(key="offset", value="0")
    made.external_data.add(key="location", value=location)
    return made


def test_every_place_that_holds_a_tensor_is_looked_into() -> None:
    def graph(name: str) -> onnx.GraphProto:
        made = helper.make_graph([], "g", [], [], [tensor(f"{name}/initializer")])
        sparse = made.sparse_initializer.add()
        sparse.values.CopyFrom(tensor(f"{name}/values"))
        sparse.indices.CopyFrom(tensor(f"{name}/indices"))
        return made

    node = helper.make_node("If", ["x"], ["y"], "n")
    for attribute in (
        helper.make_attribute("value", tensor("attribute")),
        helper.make_attribute("values", [tensor("attributes/0"), tensor("attributes/1")]),
        helper.make_attribute("then_branch", graph("then")),
        helper.make_attribute("branches", [graph("branch")]),
    ):
        node.attribute.append(attribute)
    model = helper.make_model(graph("main"))
    model.graph.node.append(node)
    function = helper.make_function("d", "f", ["x"], ["y"], [], [], [], [])
    function.node.append(helper.make_node("Constant", [], ["y"], value=tensor("function")))
    model.functions.append(function)
    training = model.training_info.add()
    training.initialization.CopyFrom(graph("initialization"))
    training.algorithm.CopyFrom(graph("algorithm"))
    inside = ("main", "then", "branch", "initialization", "algorithm")
    every = {f"{name}/{part}" for name in inside for part in ("initializer", "values", "indices")}
    every |= {"attribute", "attributes/0", "attributes/1", "function"}
    assert onnx_file.external(model.SerializeToString()) == every


def test_the_walk_knows_every_field_of_onnx_that_leads_to_a_tensor() -> None:
    kinds = {
        "model": "ModelProto", "training": "TrainingInfoProto", "function": "FunctionProto", "graph": "GraphProto",
        "node": "NodeProto", "attribute": "AttributeProto", "sparse": "SparseTensorProto", "tensor": "TensorProto",
        "entry": "StringStringEntryProto",
    }  # fmt: skip
    named = {proto: kind for kind, proto in kinds.items()}
    for kind, proto in kinds.items():
        fields = getattr(onnx, proto).DESCRIPTOR.fields
        leads = {
            f.number: named[f.message_type.name] for f in fields if f.message_type and f.message_type.name in named
        }
        leads = {n: k for n, k in leads.items() if k != "entry" or (kind, n) == ("tensor", 13)}
        assert onnx_file._INTO[kind] == leads


def test_what_is_no_onnx_holds_no_location() -> None:
    model = toy.model(labelled=False).SerializeToString() + tensor("location").SerializeToString()
    rng = np.random.default_rng(0)
    for size in range(0, len(model), 97):
        onnx_file.external(b"location" + model[:size])
        spoiled = np.frombuffer(model, np.uint8).copy()
        spoiled[rng.integers(0, len(model), 20)] = rng.integers(0, 256, 20)
        onnx_file.external(spoiled.tobytes())
    for garbage in (b"", b"location", b"location" + b"\xff" * 1_000_000, b"\x3a" * 1_000_000 + b"location"):
        assert onnx_file.external(garbage) == set()


def test_a_file_that_is_no_onnx_is_refused_by_the_engine(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = toy.bundle(tmp_path / "it", precisions=("fp32",))
    read = Bundle(path).manifest
    (path / read.graphs["generator"].variants["fp32"].file).write_bytes(b"location" * 100)
    write_manifest(path, replace(read, files=describe_all(path)))
    with pytest.raises(PlanError):
        backends.get(name).open(job(path, name))
    assert capfd.readouterr().out == "", "an engine printed"


# CUDA, against a stand-in of onnxruntime-gpu


class FakeSession:
    asked: dict[str, Any]
    gives = ort.CUDA

    def __init__(
        self, model: bytes, options: Any, providers: list[tuple[str, dict[str, str]]], enable_fallback: int
    ) -> None:
        assert enable_fallback == 0
        type(self).asked = dict(providers)

    def get_providers(self) -> list[str]:
        return [self.gives, ort.CPU]

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="z", type="tensor(float)", shape=["batch", toy.LATENT])]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="image", type="tensor(float)", shape=["batch", *toy.SHAPE])]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    module: Any = ModuleType("onnxruntime")
    module.__version__, module.__file__ = "9.9", str(tmp_path / "onnxruntime" / "__init__.py")
    (tmp_path / "onnxruntime" / "capi").mkdir(parents=True)
    module.get_available_providers = lambda: [ort.CUDA, ort.CPU]
    module.SessionOptions = type("SessionOptions", (), {})
    module.InferenceSession = type("Session", (FakeSession,), {})
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    monkeypatch.setattr(ort, "cuda_devices", lambda: (2, None))
    return module


def cuda_places() -> list[tuple[str, str | None]]:
    cpu, *places = ort.OnnxRuntime().places()
    assert cpu == Place("onnxruntime", "cpu", ort.CPU)
    assert {place.provider for place in places} == {ort.CUDA}
    return [(place.device, place.reason) for place in places]


def test_every_cuda_device_is_a_place(fake: Any) -> None:
    assert cuda_places() == [("cuda:0", None), ("cuda:1", None)]


def test_without_a_driver_its_reason_is_told_and_nothing_is_loaded(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.preload_dlls = pytest.fail
    monkeypatch.setattr(ort, "cuda_devices", lambda: (0, "no NVIDIA driver: libcuda.so.1"))
    assert cuda_places() == [("cuda:0", "no NVIDIA driver: libcuda.so.1")]


def test_another_package_is_advised_only_where_there_is_a_driver(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.get_available_providers = lambda: [ort.CPU]
    ((_, reason),) = cuda_places()
    assert "pip install 'aigc-rt[gpu]'" in str(reason)
    monkeypatch.setattr(ort, "cuda_devices", lambda: (0, "no NVIDIA driver here"))
    assert cuda_places() == [("cuda:0", "no NVIDIA driver here")]


def provider(fake: Any) -> Path:
    return Path(fake.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"


def test_a_library_that_does_not_load_is_told_in_the_loaders_words(fake: Any) -> None:
    provider(fake).write_bytes(b"no library")
    ((device, reason),) = cuda_places()
    assert device == "cuda:0"
    assert str(reason).startswith("the CUDA provider cannot load: ")
    assert "libonnxruntime_providers_cuda.so" in str(reason)


@pytest.mark.parametrize("fails", [False, True])
def test_libraries_that_pip_installed_are_loaded_first_and_in_silence(
    fake: Any, fails: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    provider(fake).write_bytes(b"no library")

    def preload() -> None:
        print("Failed to load libcublas.so.12")  # noqa: T201 - as the real one does
        provider(fake).unlink()  # as if it had been what was missing
        if fails:
            raise RuntimeError("no such folder")

    fake.preload_dlls = preload
    assert cuda_places() == [("cuda:0", None), ("cuda:1", None)]
    assert capfd.readouterr() == ("", "")


def on_cuda(images: Path) -> Job:
    return replace(job(images), place=Place("onnxruntime", "cuda:1", ort.CUDA), threads=None)


def test_cuda_is_asked_for_the_device_and_without_tf32(fake: Any, images: Path) -> None:
    ort.OnnxRuntime().open(on_cuda(images))
    assert fake.InferenceSession.asked == {ort.CUDA: {"device_id": "1", "use_tf32": "0"}}


def test_another_provider_than_asked_is_an_error(fake: Any, images: Path) -> None:
    fake.InferenceSession.gives = ort.CPU
    with pytest.raises(BackendUnavailable, match="took CPUExecutionProvider instead"):
        ort.OnnxRuntime().open(on_cuda(images))
