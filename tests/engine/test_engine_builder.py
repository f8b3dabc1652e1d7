"""The builder against the real TensorRT for RTX, which builds without a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from engine_graphs import attention, batches, convolutions, heavy_table, images, mlp, mlp_parameters

from aigc_rt.backends import trt_library
from aigc_rt.backends.driver import cuda_devices
from aigc_rt.errors import BackendUnavailable, EngineError, InputError, MissingDependency, PrecisionLost
from aigc_rt.export import engine_network
from aigc_rt.export.engine import BuildOptions, Built, build, inspect
from aigc_rt.export.engine_proof import Bytes, inspected
from aigc_rt.manifest import Engine, Precision, Profile

pytest.importorskip("tensorrt_rtx")
DEFAULT: Any = object()


def make(
    model: bytes | Path,
    precision: Precision = "fp16",
    profiles: Any = DEFAULT,
    flavour: str = "tensorrt-rtx",
    **options: Any,
) -> Built:
    shapes = [batches()] if profiles is DEFAULT else profiles
    return build(
        model, flavour=flavour, precision=precision, profiles=shapes, name="it", options=BuildOptions(**options)
    )


def test_fp16_engine_and_its_evidence(capfd: pytest.CaptureFixture[str]) -> None:
    built = make(mlp("fp16"))
    assert capfd.readouterr() == ("", "")
    evidence = built.evidence
    assert json.loads(json.dumps(evidence)) == evidence
    assert (evidence["asked"], evidence["precision"]) == ("fp16", "fp16")
    assert evidence["compute_layers"] == {"fp16": 3}
    assert evidence["share_of_compute_layers"] == evidence["share_of_compute_weights"] == 1.0
    assert evidence["layers"]["fp16"] > 10
    assert evidence["layers"]["fp32"] == 1
    assert evidence["stayed_fp32"] == {"cast at an output": {"count": 1, "names": ["cast_image"]}}
    assert evidence["inputs"] == {"z": "fp32"}
    assert evidence["outputs"] == {"image": "fp32"}
    assert evidence["parameters"] == mlp_parameters()
    assert evidence["weights_bytes"] == pytest.approx(2 * mlp_parameters(), rel=0.01)
    assert evidence["engine_bytes"] == len(built.engine)
    assert evidence["bytes_per_parameter"] == pytest.approx(len(built.engine) / mlp_parameters(), abs=1e-3)
    assert 2.0 < evidence["bytes_per_parameter"] < 2.6
    assert evidence["bytes_judged_by"] == "weights"
    assert evidence["healed"] == []
    assert 0 < evidence["build_s"] < 60
    assert built.spec == Engine(evidence["library"], ("portable",), "any", (batches(),))
    assert evidence["library"].startswith("tensorrt-rtx 1.")


@pytest.mark.parametrize(("precision", "each"), [("fp32", 4.0), ("bf16", 2.0)])
def test_other_precisions_are_reported_as_what_they_are(precision: Precision, each: float) -> None:
    evidence = make(mlp(precision), precision).evidence
    assert evidence["precision"] == precision
    assert evidence["compute_layers"] == {precision: 3}
    assert evidence["weights_bytes"] / mlp_parameters() == pytest.approx(each, rel=0.01)


@pytest.mark.parametrize(("graph", "asked"), [("fp32", "fp16"), ("fp32", "bf16"), ("fp16", "fp32"), ("bf16", "fp16")])
def test_another_precision_than_asked_is_an_error(graph: str, asked: Precision) -> None:
    with pytest.raises(PrecisionLost) as caught:
        make(mlp(graph), asked)
    assert f"came out {graph}" in caught.value.found
    assert all(f"linear_{i}" in caught.value.found for i in range(3))


def test_the_layer_that_holds_the_weights_counts_for_more_than_its_number() -> None:
    sizes = (100, 100, 100, 100, 100, 100, 4000)
    model = mlp("fp16", "fp16", "fp16", "fp16", "fp16", "fp32", sizes=sizes)
    with pytest.raises(PrecisionLost) as caught:
        make(model)
    assert "linear_5" in caught.value.found
    assert "linear_0" not in caught.value.found
    assert "came out fp32" in caught.value.found  # 400,000 of its 450,000 weights are
    with pytest.raises(PrecisionLost, match="bytes a parameter"):
        make(model, least_share=0.1)


def test_the_number_of_layers_counts_where_one_holds_the_weights() -> None:
    model = mlp("fp32", "fp32", "fp32", "fp16", sizes=(100, 10, 10, 10, 4000))
    with pytest.raises(
        PrecisionLost, match=r"came out mixed: 25% of its arithmetic is fp16.*linear_0, linear_1, linear_2"
    ):
        make(model)
    evidence = make(model, least_share=0.25).evidence
    assert evidence["share_of_compute_layers"] == 0.25
    assert evidence["share_of_compute_weights"] > 0.9
    assert evidence["stayed_fp32"]["compute"]["names"] == ["linear_0", "linear_1", "linear_2"]
    assert evidence["least_share"] == 0.25


@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_is_off_unless_asked_for(tf32: bool) -> None:
    library = trt_library.load("tensorrt-rtx")
    parsed = engine_network.parse(library, mlp("fp32"), "it")
    config = engine_network._config(parsed, [batches()], ("portable",), tf32)
    assert config.get_flag(library.trt.BuilderFlag.TF32) is tf32


def test_layers_that_the_builder_names_are_found_in_its_words() -> None:
    names = ["/conv", "/conv_1", "/conv/bias", "up", "mm.1"]
    network: Any = SimpleNamespace(num_layers=5, get_layer=lambda i: SimpleNamespace(name=names[i]))
    words = "Could not find any implementation for node /conv_1 + mm.1 and grouped up"
    assert engine_network._named(network, words) == ["/conv_1", "mm.1"]


def test_the_log_keeps_what_matters() -> None:
    log = trt_library.Log()
    log.add("ERROR", "before")
    mark = log.mark()
    log.add("VERBOSE", "chatter")
    log.add("WARNING", "odd")
    assert log.words(mark, "nothing said") == "nothing said"
    for text in ("catchCudaError: no driver", "the cause ", "the cause"):
        log.add("ERROR", text)
    assert log.words(mark, "nothing said") == "the cause"
    assert log.since(mark, ("VERBOSE", "WARNING")) == ["odd"]
    assert trt_library.here().count("-") == 1


def test_fp32_weights_outside_the_arithmetic_are_caught_by_their_bytes() -> None:
    with pytest.raises(PrecisionLost, match=r"take 3\.\d+ bytes a parameter.*table"):
        make(heavy_table(), profiles=[])


def test_a_tiny_network_is_judged_by_its_types_only() -> None:
    evidence = make(mlp("fp16", sizes=(100, 8, 8))).evidence
    assert evidence["bytes_judged_by"] is None
    assert evidence["bytes_per_parameter"] > 4  # kernels and padding: bytes say nothing here
    assert evidence["precision"] == "fp16"


def test_convolutions_and_their_weights_are_counted() -> None:
    evidence = make(convolutions(), profiles=[images()]).evidence
    assert evidence["compute_layers"] == {"fp16": 2}
    assert evidence["parameters"] == 32 * 16 * 9 + 64 * 64 * 9 + 64


def test_the_modules_count_is_reported_and_does_not_judge() -> None:
    fewer = make(mlp("fp16"), parameters=200_000).evidence  # the rest were buffers: 5.6 bytes for each parameter
    assert (fewer["parameters"], fewer["module_parameters"]) == (mlp_parameters(), 200_000)
    assert 2.0 < fewer["bytes_per_parameter"] < 2.6
    with pytest.raises(PrecisionLost, match=r"take 3\.\d+ bytes a parameter.*table"):
        make(heavy_table(), profiles=[], parameters=10_000_000)  # most of them unused: 0.4 bytes for each
    assert "module_parameters" not in make(mlp("fp16")).evidence


def test_a_path_builds_the_same_engine(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(mlp("fp16"))
    assert make(path).evidence["weights_bytes"] == make(mlp("fp16")).evidence["weights_bytes"]
    with pytest.raises(InputError, match="no such file"):
        make(tmp_path / "other.onnx")


@pytest.mark.parametrize("head", [8, 264])
def test_attention_without_a_kernel_heals(head: int) -> None:
    model, profile = attention(head)
    built = make(model, profiles=[profile])
    (step,) = built.evidence["healed"]
    assert step["layers"] == ["attention_AttentionInput"]
    assert "dedicated kernel" in step["because"]
    assert built.evidence["compute_layers"] == {"fp16": 1}
    assert any("dedicated kernel" in line for line in built.evidence["warnings"])


def test_attention_with_a_kernel_is_left_alone() -> None:
    model, profile = attention(64)
    assert make(model, profiles=[profile]).evidence["healed"] == []


def test_what_nothing_heals_is_an_error_in_the_builders_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_network, "_HEALERS", ())
    model, profile = attention(8)
    with pytest.raises(EngineError, match="dedicated kernel"):
        make(model, profiles=[profile])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (b"garbage" * 20, "Failed to parse the ONNX model"),
        (mlp("fp16")[:5000], "Failed to parse the ONNX model"),
        (b"", "no output"),
        (mlp("fp16").replace(b"MatMul", b"MatMol"), r"linear_0.*MatMol"),
    ],
)
def test_bad_onnx_is_an_error_in_the_parsers_words(model: bytes, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        make(model)


@pytest.mark.parametrize(
    ("profiles", "words"),
    [
        ([], "z has a dynamic axis"),
        ([{}], "lacks z"),
        ([batches(), batches() | {"label": Profile((1,), (1,), (1,))}], "profile 1 names label"),
        ([batches(2, 1, 64)], "z axis 0 at 2, 1, 64"),
        ([batches(1, 65, 64)], "z axis 0 at 1, 65, 64"),
        ([batches(width=99)], "the graph fixes 100"),
        ([{"z": Profile((1,), (8,), (64,))}], "another number of axes"),
    ],
)
def test_profiles_that_do_not_fit_are_named(profiles: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(mlp("fp16"), profiles=profiles)


def test_several_profiles_and_targets() -> None:
    built = make(mlp("fp16"), profiles=[batches(1, 1, 1), batches(1, 32, 64)], targets=("sm120", "sm86", "sm86"))
    assert built.spec.targets == ("sm120", "sm86")
    assert built.spec.profiles == (batches(1, 1, 1), batches(1, 32, 64))
    assert built.evidence["targets"] == ["sm120", "sm86"]
    assert built.evidence["bytes_judged_by"] is None  # the weights may be there twice


def test_bytes_judge_the_whole_engine_where_the_builder_reports_no_weights() -> None:
    whole = Bytes(engine=8_100_000, weights=None, parameters=2_000_000, profiles=1)
    assert (whole.judged_by, whole.judged) == ("engine", 4.05)
    assert Bytes(engine=8_100_000, weights=None, parameters=1_900_000, profiles=1).judged is None
    assert Bytes(engine=8_100_000, weights=8_000_000, parameters=2_000_000, profiles=1).judged == 4.0
    assert Bytes(engine=8_100_000, weights=8_000_000, parameters=2_000_000, profiles=2).judged is None


def test_unknown_words_are_errors_that_say_what_there_is() -> None:
    with pytest.raises(InputError, match=r"sm90.*offers portable, sm75, .*sm86"):
        make(mlp("fp16"), targets=("sm90",))
    with pytest.raises(InputError, match="fp32, fp16, bf16"):
        make(mlp("fp16"), "int8")
    with pytest.raises(InputError, match="tensorrt-rtx, tensorrt"):
        make(mlp("fp16"), flavour="tensorflow")
    with pytest.raises(InputError, match="share"):
        BuildOptions(least_share=1.5)


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(MissingDependency, match=r"pip install 'aigc-rt\[tensorrt\]'"):
        make(mlp("fp16"), flavour="tensorrt")


@pytest.mark.skipif(cuda_devices()[0] > 0, reason="there is a GPU here")
def test_inspecting_needs_a_driver_and_says_so() -> None:
    with pytest.raises(BackendUnavailable, match="NVIDIA driver"):
        inspect(b"engine", "tensorrt-rtx")


def test_the_inspectors_layers_are_counted_by_type() -> None:
    half = {"Name": "a", "Outputs": [{"Name": "x", "Format/Datatype": "Half"}]}
    assert inspected({"Layers": [half, half, "only a name"], "Bindings": ["z"]}) == {"Half": 2, "unknown": 1}
