"""One contract for every backend: the same calls, answers and errors. A new backend is one more parameter."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from numpy.typing import NDArray

import aigc_rt
from aigc_rt import Generator, Samples, backends, noise, plan
from aigc_rt.backends.base import Place
from aigc_rt.backends.openvino import OpenVino
from aigc_rt.backends.ort import OnnxRuntime
from aigc_rt.bundle import Bundle, write_manifest
from aigc_rt.errors import (
    BackendUnavailable,
    Closed,
    DeviceUnavailable,
    ExecutionError,
    InputError,
    IntegrityError,
    PlanError,
)
from aigc_rt.manifest import Evidence, Media, TensorSpec

WAYS = [("onnxruntime", "fp32", 2e-6), ("onnxruntime", "fp16", 2e-2), ("openvino", "fp32", 2e-6)]
"""Backend, precision, largest error against float64 numpy on values in [-1, 1]."""


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0]}-{way[1]}")
def way(request: pytest.FixtureRequest) -> tuple[str, str, float]:
    chosen: tuple[str, str, float] = request.param
    return chosen


@pytest.fixture
def generator(way: tuple[str, str, float], images: Path) -> Iterator[Generator]:
    with aigc_rt.load(images, device="cpu", backend=way[0], precision=way[1]) as loaded:
        yield loaded


def expected(seed: int, start: int, count: int, label: object = None) -> NDArray[np.float64]:
    labels = None if label is None else np.broadcast_to(np.asarray(label, np.int64), count)
    return toy.answer(noise.normal(seed, 0, start, count, (toy.LATENT,)), labels)


def raw(samples: Samples) -> NDArray[np.float32]:
    assert samples.raw is not None
    return samples.raw


def test_samples_are_the_networks(generator: Generator, way: tuple[str, str, float]) -> None:
    samples = generator.generate(20, seed=7, start=5, raw=True)  # three calls: the batch goes to 8
    truth = expected(7, 5, 20)
    assert raw(samples).shape == (20, *toy.SHAPE)
    assert np.abs(raw(samples) - truth).max() <= way[2]
    assert samples.array.dtype == np.uint8
    assert samples.array.shape == (20, 4, 5, 3)
    pixels = np.clip(np.rint((truth + 1) * 127.5), 0, 255).transpose(0, 2, 3, 1)
    assert np.abs(samples.array.astype(int) - pixels).max() <= (1 if way[1] == "fp32" else 3)
    assert len(samples) == 20


def test_a_sample_does_not_depend_on_its_batch(generator: Generator, way: tuple[str, str, float]) -> None:
    batch = raw(generator.generate(16, seed=7, raw=True))
    alone = np.concatenate([raw(generator.generate(1, seed=7, start=i, raw=True)) for i in range(16)])
    assert np.abs(batch - alone).max() <= (1e-5 if way[1] == "fp32" else 2e-2)


def test_what_was_asked_is_what_runs(generator: Generator, way: tuple[str, str, float]) -> None:
    (chosen,) = generator.plan.chosen
    assert (chosen.backend, chosen.precision, chosen.device) == (way[0], way[1], "cpu")
    assert chosen.threads == plan.available_threads()
    assert way[0] in repr(generator)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, np.uint64])
def test_numpys_integers_are_integers(generator: Generator, kind: type[np.integer[Any]]) -> None:
    limit = min(int(np.iinfo(kind).max), 2**20)
    first = limit - 3  # the last index is beyond what the type holds
    truth = generator.generate(9, seed=limit, start=first).array
    assert np.array_equal(generator.generate(kind(9), seed=kind(limit), start=kind(first)).array, truth)  # type: ignore[arg-type]


def test_run_is_one_raw_call_and_the_caller_owns_its_answer(generator: Generator, way: tuple[str, str, float]) -> None:
    z = noise.normal(1, 0, 0, 3, (toy.LATENT,))
    before = z.copy()
    first = generator.run({"z": z})["image"]
    kept = first.copy()
    second = generator.run({"z": z + 1})["image"]
    assert np.array_equal(z, before)
    assert np.array_equal(first, kept)
    assert not np.array_equal(first, second)
    assert first.flags.writeable
    assert np.abs(first - toy.answer(z)).max() <= way[2]


def test_many_threads_get_their_own_answers(generator: Generator) -> None:
    alone = [generator.generate(3, seed=i).array for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: generator.generate(3, seed=i).array, range(40)))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        ({}, r"the graph takes \['z'\]"),
        (None, r"of NoneType: the graph takes"),
        ({1: 2, "z": 3}, r"the graph takes \['z'\]"),
        ({"y": np.zeros((1, 6), np.float32)}, r"the graph takes \['z'\]"),
        ({"z": np.zeros((1, 6))}, "got float64"),
        ({"z": np.zeros((1, 7), np.float32)}, "got float32"),
        ({"z": np.zeros(6, np.float32)}, "got float32"),
        ({"z": [[0.0] * 6]}, "got a list"),
        ({"z": np.zeros((0, 6), np.float32)}, "batch 0"),
        ({"z": np.zeros((9, 6), np.float32)}, "exported for batch 1 to 8"),
    ],
)
def test_wrong_inputs_are_refused(generator: Generator, inputs: dict[str, object], found: str) -> None:
    with pytest.raises(InputError, match=found):
        generator.run(inputs)  # type: ignore[arg-type]


def test_any_memory_layout_is_read_right(generator: Generator, way: tuple[str, str, float]) -> None:
    z = np.asfortranarray(noise.normal(1, 0, 0, 6, (toy.LATENT,)))
    for view in (z, z[::2], z[:, ::-1]):
        assert np.abs(generator.run({"z": view})["image"] - toy.answer(view)).max() <= way[2]


def test_after_close_nothing_runs(generator: Generator) -> None:
    generator.close()
    generator.close()
    with pytest.raises(Closed):
        generator.generate(1)
    with pytest.raises(Closed):
        generator.run({"z": np.zeros((1, 6), np.float32)})


@pytest.mark.parametrize(("name", "value"), [("n", 0), ("n", -1), ("n", 1.5), ("n", True), ("seed", -1), ("start", -1)])
def test_numbers_that_name_no_samples_are_refused(generator: Generator, name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"{name}="):
        generator.generate(**{name: value})  # type: ignore[arg-type]


def test_an_unknown_condition_is_refused(generator: Generator) -> None:
    with pytest.raises(InputError, match="conditions are: none"):
        generator.generate(1, label=3)


# Conditions


def test_a_condition_is_one_value_or_one_each(labelled: Path) -> None:
    with aigc_rt.load(labelled, device="cpu") as generator:
        one = raw(generator.generate(12, seed=2, raw=True, label=3))
        assert np.abs(one - expected(2, 0, 12, 3)).max() < 2e-6
        each = np.arange(12) % 10
        many = raw(generator.generate(12, seed=2, raw=True, label=each))
        assert np.abs(many - expected(2, 0, 12, each)).max() < 2e-6
        named = generator.generate(12, seed=2, label="one").array
        assert np.array_equal(named, generator.generate(12, seed=2, label=1).array)


def test_a_raw_call_refuses_classes_that_are_none(labelled: Path) -> None:
    z = np.zeros((2, toy.LATENT), np.float32)
    with aigc_rt.load(labelled, device="cpu") as generator:
        inputs = {
            spec.name: z if spec.dtype == "float32" else np.array([0, 9])
            for spec in generator.bundle.manifest.main_graph.inputs
        }
        assert len(generator.run(inputs)) == 1
        name = next(name for name, value in inputs.items() if value.dtype == np.int64)
        for wrong in ([0, -1], [10, 0]):
            with pytest.raises(InputError, match=f"{name} from .* is 0 to 9"):
                generator.run(inputs | {name: np.array(wrong)})


@pytest.mark.parametrize("label", [None, 10, -1, 1.5, "two", [1, 2], float("nan"), [[1]]])
def test_a_condition_out_of_its_range_is_refused(labelled: Path, label: object) -> None:
    with aigc_rt.load(labelled, device="cpu") as generator, pytest.raises(InputError, match="label"):
        generator.generate(1, label=label)


# The plan


def test_with_nothing_asked_fp32_runs_on_the_cpu_and_the_plan_says_the_rest(images: Path) -> None:
    with aigc_rt.load(images) as generator:
        said = generator.plan
    assert (said.chosen[0].variant, said.chosen[0].backend) == ("fp32", "onnxruntime")
    assert [(a.variant, a.backend) for a in said.alternatives] == [
        ("fp32", "openvino"),
        ("fp16", "onnxruntime"),
        ("fp16", "openvino"),
    ]
    assert [a.computes for a in said.alternatives] == ["fp32", "fp32", "fp16"]
    assert "computes in fp32" in str(said)
    cuda = [s for s in said.skipped if s.device == "cuda:0"]
    assert {s.variant for s in cuda} == {"fp32", "fp16"}
    assert all("CUDA provider" in s.why or "NVIDIA driver" in s.why for s in cuda)
    text = str(said)
    assert all(word in text for word in ("run ", "could", "skip", "untuned", "CPUExecutionProvider"))
    assert said.to_dict()["chosen"][0]["variant"] == "fp32"
    assert said.chosen[0].why.endswith("untuned: fp32 first on the CPU, ONNX Runtime before OpenVINO")


def test_a_plan_says_no_order_that_did_not_decide(tmp_path: Path) -> None:
    path = toy.bundle(tmp_path / "half", precisions=("fp16",))
    with aigc_rt.load(path, device="cpu") as generator:
        why = generator.plan.chosen[0].why
    assert why.endswith("; the bundle holds it in fp16 only; untuned: ONNX Runtime before OpenVINO")
    with aigc_rt.load(path, device="cpu", backend="onnxruntime", precision="fp16") as generator:
        assert generator.plan.chosen[0].why == "asked: device=cpu backend=onnxruntime precision=fp16"


@pytest.mark.parametrize(
    ("asked", "error", "found"),
    [
        ({"device": "cuda"}, DeviceUnavailable, "CUDA provider|NVIDIA driver"),
        ({"device": "cuda:3"}, DeviceUnavailable, "CUDA provider|NVIDIA driver"),
        ({"backend": "openvino", "device": "cuda"}, PlanError, "does not run on cuda"),
        ({"backend": "tensorrt-rtx"}, PlanError, "NVIDIA driver|not installed|holds no variant"),
        ({"backend": "tensorrt"}, BackendUnavailable, "not installed|driver"),
        ({"precision": "int4"}, PlanError, "in int4: the bundle holds it in fp32 and fp16"),
        ({"device": "gpu"}, InputError, "cuda:N"),
        ({"device": "cuda:-1"}, InputError, "cuda:N"),
        ({"device": 0}, InputError, "cuda:N"),
        ({"backend": "torch"}, InputError, "onnxruntime"),
        ({"precision": "fp8"}, InputError, "fp16"),
        ({"threads": 0}, InputError, "1 to 1024"),
        ({"threads": 10**6}, InputError, "1 to 1024"),
    ],
)
def test_what_cannot_be_done_is_an_error_with_the_reason(
    images: Path, asked: dict[str, object], error: type[Exception], found: str
) -> None:
    with pytest.raises(error, match=found):
        aigc_rt.load(images, **asked)  # type: ignore[arg-type]


def test_a_reason_that_several_variants_share_is_said_once() -> None:
    skips = [plan.Skip("generator", v, b, "cuda:0", "no driver") for v in ("fp32", "fp16") for b in ("one", "two")]
    lines = str(plan.Plan("b", "all", (), (), (*skips, plan.Skip("generator", "fp16", "one", "cpu", "no"))))
    assert lines.splitlines()[1:] == [
        "  skip  generator/fp32 and generator/fp16 with one on cuda:0; generator/fp32 and generator/fp16 with two on "
        "cuda:0: no driver",
        "  skip  generator/fp16 with one on cpu: no",
    ]


def test_places_are_named_after_their_backend_and_devices_without_reason_work() -> None:
    for name in backends.NAMES:
        for place in backends.get(name).places():
            assert place.backend == name
            assert place.device == "cpu" or place.device.startswith("cuda:")


def test_a_device_index_is_that_device_and_no_other(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = [Place("onnxruntime", f"cuda:{i}", "CUDAExecutionProvider") for i in (1, 10, 11)]
    monkeypatch.setattr(OnnxRuntime, "places", lambda _: offered)
    bundle = Bundle(images)
    for asked in ("cuda:1", "cuda:01"):
        jobs, _ = plan.candidates(bundle, "generator", plan.Request(asked, "onnxruntime"))
        assert {job.place.device for job in jobs} == {"cuda:1"}
    jobs, _ = plan.candidates(bundle, "generator", plan.Request("cuda"))
    assert {job.place.device for job in jobs} == {"cuda:1", "cuda:10", "cuda:11"}
    with pytest.raises(PlanError, match="cuda:2"):
        plan.survey(bundle, "generator", plan.Request("cuda:2", "onnxruntime"))


def test_an_engine_that_refuses_is_passed_over_aloud_unless_it_was_asked_for(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, job: object) -> None:
        raise PlanError("open", "the engine says no", "Do without")

    monkeypatch.setattr(OnnxRuntime, "open", refuse)
    with aigc_rt.load(images) as generator:
        assert generator.plan.chosen[0].backend == "openvino"
        assert any(s.why == "the engine says no" for s in generator.plan.skipped)
    with pytest.raises(PlanError, match="the engine says no"):
        aigc_rt.load(images, backend="onnxruntime")


def test_a_backend_that_is_not_installed_says_how_to_install_it(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: OpenVino) -> list[Place]:
        return [Place("openvino", "cpu", reason="pip install 'aigc-rt[openvino]'")]

    monkeypatch.setattr(OpenVino, "places", missing)
    with pytest.raises(BackendUnavailable, match="pip install"):
        aigc_rt.load(images, backend="openvino")


def test_a_variant_that_failed_its_gate_runs_only_when_asked_for(tmp_path: Path) -> None:
    failed = Evidence("parity", "device", {}, "generator", "fp32", passed=False)
    path = toy.bundle(tmp_path / "failed", evidence=(failed,))
    with aigc_rt.load(path, device="cpu") as generator:
        assert generator.plan.chosen[0].precision == "fp16"
        assert any("failed the gate" in s.why for s in generator.plan.skipped)
    with aigc_rt.load(path, device="cpu", precision="fp32") as generator:
        assert generator.plan.chosen[0].precision == "fp32"


def test_a_damaged_variant_is_an_error_not_another_variant(tmp_path: Path) -> None:
    path = toy.bundle(tmp_path / "damaged")
    name = aigc_rt.Bundle(path).manifest.main_graph.variants["fp32"].file
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (path / name).write_bytes(data)
    with pytest.raises(IntegrityError, match="SHA-256"):
        aigc_rt.load(path)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("output", "inputs"),
    [
        (TensorSpec("image", "float32", ("batch", 3, 5, 4)), None),
        (TensorSpec("image", "float32", ("batch", 3, 20)), None),
        (TensorSpec("image", "int64", ("batch", 3, 4, 5)), None),
        (TensorSpec("picture", "float32", ("batch", 3, 4, 5)), None),
        (None, TensorSpec("z", "float32", ("batch", 7))),
    ],
    ids=["shape", "rank", "dtype", "name", "input"],
)
def test_a_manifest_that_describes_another_graph_is_refused(
    backend: str, output: TensorSpec | None, inputs: TensorSpec | None, tmp_path: Path
) -> None:
    path = toy.bundle(tmp_path / "other", precisions=("fp32",), made=toy.TENSOR)
    manifest = Bundle(path).manifest
    graph = manifest.main_graph
    wrong = replace(graph, outputs=(output,) if output else graph.outputs, inputs=(inputs,) if inputs else graph.inputs)
    write_manifest(path, replace(manifest, graphs={"generator": wrong}))
    with pytest.raises(IntegrityError, match="the manifest says"):
        aigc_rt.load(path, device="cpu", backend=backend)


# Other programs and media


def test_a_tensor_bundle_runs_and_does_not_generate(tmp_path: Path) -> None:
    path = toy.bundle(tmp_path / "tensor", made=toy.TENSOR)
    with aigc_rt.load(path, device="cpu") as generator:
        assert generator.run({"z": np.zeros((2, 6), np.float32)})["image"].shape == (2, *toy.SHAPE)
        with pytest.raises(InputError, match="Call run"):
            generator.generate(1)


def test_nan_is_an_error_and_run_shows_it(tmp_path: Path) -> None:
    model = toy.model(labelled=False)
    weights = next(t for t in model.graph.initializer if t.name == "first")
    values = np.frombuffer(weights.raw_data, np.float32).copy()
    values[:] = np.nan
    weights.raw_data = values.tobytes()
    model.graph.node[1].op_type = "Identity"  # Relu may hide NaN
    path = toy.bundle(tmp_path / "nan", precisions=("fp32",), graph=model)
    with aigc_rt.load(path, device="cpu") as generator:
        with pytest.raises(ExecutionError, match="holds NaN"):
            generator.generate(2)
        assert np.isnan(generator.run({"z": np.ones((1, toy.LATENT), np.float32)})["image"]).any()


def test_an_array_bundle_hands_the_floats_over(tmp_path: Path) -> None:
    made = toy.program(labelled=False, media=Media("array", "image"))
    path = toy.bundle(tmp_path / "array", made=made)
    with aigc_rt.load(path, device="cpu") as generator:
        assert np.abs(generator.generate(3, seed=1).array - expected(1, 0, 3)).max() < 2e-6
