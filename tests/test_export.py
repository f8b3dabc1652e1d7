from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import aigc_rt
from aigc_rt import verify
from aigc_rt.bundle import Bundle
from aigc_rt.errors import BundleExists, ExportError, GateFailed, InputError, WriteError
from aigc_rt.export import evidence, export, graph, precision
from aigc_rt.export.rounding import Rounded
from aigc_rt.manifest import Axis, Condition, Feedforward, Media, Noise

LATENT = 12


class Decoder(nn.Module):
    """Normalisation, ConvTranspose, attention, resizing and a label: what generators are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.label = nn.Embedding(10, LATENT)
        self.project = nn.Linear(LATENT, 16 * 9)
        self.norm = nn.BatchNorm2d(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.up = nn.ConvTranspose2d(16, 8, 4, 2, 1)
        self.out = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:  # (B, LATENT), (B,)
        x = self.project(z + self.label(label)).view(-1, 16, 3, 3)
        x = torch.relu(self.norm(x))
        tokens = x.flatten(2).transpose(1, 2)  # (B, 9, 16)
        tokens = tokens + self.attention(tokens, tokens, tokens)[0]
        x = self.up(tokens.transpose(1, 2).reshape(-1, 16, 3, 3))
        x = nn.functional.interpolate(x, scale_factor=2.0)
        image: Tensor = torch.tanh(self.out(x))
        return image  # (B, 3, 12, 12)


PROGRAM = Feedforward(
    "generator",
    {"z": Noise(0, "normal", (LATENT,))},
    Media("image", "image", "NCHW"),
    {"label": Condition("label", "int64", 0, 9)},
)
DYNAMIC = {"z": {0: ("batch", 1, 16)}, "label": {0: ("batch", 1, 16)}}
EXAMPLES = {"z": torch.zeros(1, LATENT), "label": torch.zeros(1, dtype=torch.int64)}


def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A module of many kinds of layers in every form there is."""
    out = tmp_path_factory.mktemp("made") / "decoder"
    export(decoder(), EXAMPLES, out, program=PROGRAM, dynamic=DYNAMIC, engines=("tensorrt-rtx",), made={"who": "test"})
    return out


def test_every_variant_is_there_with_its_evidence(made: Path) -> None:
    bundle = Bundle(made)
    bundle.verify()
    main = bundle.manifest.main_graph
    assert list(main.variants) == ["fp16", "fp16-tensorrt-rtx", "fp32"]
    assert main.axes == {"batch": Axis(1, 16)}
    assert main.parameters == sum(p.numel() for p in decoder().parameters())
    rmse = {}
    for name, allowed, arithmetics in (("fp32", 1e-4, ["as the CPU"]), ("fp16", 2e-2, ["as the CPU", "every value"])):
        claims = bundle.manifest.claims("parity", "generator", name)
        assert [claim.details["arithmetic"][:10] for claim in claims] == [a[:10] for a in arithmetics]
        for claim in claims:
            assert (claim.level, claim.passed) == ("device", True)
            assert claim.details["samples"] == 256
            assert claim.details["outputs"]["image"]["max_abs_relative"] <= allowed == claim.details["tolerance"]
        rmse[name] = claims[-1].details["outputs"]["image"]["rmse"]
    assert 0 < rmse["fp32"] < rmse["fp16"] / 10, "fp16 really rounds"
    assert bundle.manifest.made["who"] == "test"
    assert bundle.manifest.made["with"]["torch"] == torch.__version__


def test_the_engine_is_half_precision_and_says_how_it_was_shown(made: Path) -> None:
    manifest = Bundle(made).manifest
    stored = manifest.main_graph.variants["fp16-tensorrt-rtx"]
    assert (stored.precision, stored.format, stored.source) == ("fp16", "tensorrt-rtx", "fp16")
    assert stored.engine is not None
    assert stored.engine.profiles[0]["z"].min == (1, LATENT)
    assert stored.engine.profiles[0]["z"].max == (16, LATENT)
    (claim,) = manifest.claims("precision", "generator", "fp16-tensorrt-rtx")
    assert (claim.level, claim.passed) == ("typed", True)
    assert claim.details["precision"] == "fp16"
    assert claim.details["layers"]["fp16"] > claim.details["layers"].get("fp32", 0)
    assert claim.details["bytes_per_parameter"] > 0


def test_the_runtime_gives_what_pytorch_gives(made: Path) -> None:
    module = decoder().eval()
    with aigc_rt.load(made, device="cpu") as generator:
        samples = generator.generate(20, seed=3, raw=True, label=7).raw
    z = torch.from_numpy(aigc_rt.noise.normal(3, 0, 0, 20, (LATENT,)))
    with torch.no_grad():
        truth = module(z, torch.full((20,), 7)).numpy()
    assert samples is not None
    assert np.abs(samples - truth).max() < 1e-5


def test_nothing_of_this_machine_is_in_the_files(made: Path) -> None:
    here = str(Path(__file__).parent.parent).encode()
    for path in made.iterdir():
        assert here not in path.read_bytes(), path.name


def test_fp16_weights_are_stored_once_and_inputs_and_outputs_stay_fp32(made: Path) -> None:
    main = Bundle(made).manifest.main_graph
    sizes = {name: (made / main.variants[name].file).stat().st_size for name in ("fp32", "fp16")}
    model = onnx.load(str(made / main.variants["fp16"].file))
    counted: dict[int, int] = {}
    for tensor in model.graph.initializer:
        counted[tensor.data_type] = counted.get(tensor.data_type, 0) + int(np.prod(tensor.dims))
    assert counted[TensorProto.FLOAT16] > 100 * counted.get(TensorProto.FLOAT, 1)
    assert sizes["fp16"] < 0.75 * sizes["fp32"]  # a small graph: its nodes weigh as much in both
    for value in (model.graph.input[0], model.graph.output[0]):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT


def test_the_module_is_left_as_it_was(tmp_path: Path) -> None:
    module = decoder().train().double()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    examples = {"z": torch.zeros(2, LATENT), "label": torch.zeros(2, dtype=torch.int64)}
    export(module, examples, tmp_path / "x", program=PROGRAM, dynamic=DYNAMIC, precisions=("fp32",))
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_module_without_a_program_is_a_tensor_bundle(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return a + b, {"double": 2 * a, "sign": b > 0}

    bundle = export(Two(), (torch.ones(2, 3), torch.full((2, 3), -1.0)), tmp_path / "two", precisions=("fp32",))
    with aigc_rt.load(bundle.path, device="cpu") as generator:
        outputs = generator.run({"a": np.ones((2, 3), np.float32), "b": np.full((2, 3), 4.0, np.float32)})
    assert {name: value.tolist()[0] for name, value in outputs.items()} == {
        "output_0": [5.0] * 3,
        "output_1": [2.0] * 3,
        "output_2": [True] * 3,
    }
    assert verify.verify(bundle.path).passed


def test_a_judge_measures_every_onnx_variant(tmp_path: Path) -> None:
    seen: list[str] = []

    def judge(generator: aigc_rt.Generator) -> Mapping[str, object]:
        seen.append(generator.plan.chosen[0].variant)
        return {"mean": float(generator.generate(20, label=4).array.mean())}

    bundle = export(decoder(), EXAMPLES, tmp_path / "x", program=PROGRAM, dynamic=DYNAMIC, judge=judge)
    assert seen == ["fp32", "fp16"]
    for name in ("fp32", "fp16"):
        (claim,) = bundle.manifest.claims("quality", "generator", name)
        assert 0 < claim.details["mean"] < 255


def test_modules_whose_answer_to_the_probe_is_not_finite_still_export(tmp_path: Path) -> None:
    class Log(nn.Module):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return torch.log(x) * scale

    bundle = export(Log(), (torch.ones(2, 3), torch.tensor(2.0)), tmp_path / "log")
    assert not [e for e in bundle.manifest.evidence if e.claim == "answer"]
    assert verify.verify(bundle.path).passed


def test_a_constant_output_survives_fp16(tmp_path: Path) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.arange(3.0))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            assert isinstance(self.table, Tensor)
            return x * 2, self.table

    bundle = export(Constant(), (torch.ones(2, 3),), tmp_path / "constant")
    with aigc_rt.load(bundle.path, device="cpu", precision="fp16") as generator:
        assert generator.run({"x": np.ones((2, 3), np.float32)})["output_1"].tolist() == [0, 1, 2]


def test_what_fp16_could_not_keep_is_in_the_evidence(tmp_path: Path) -> None:
    class Large(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return torch.clamp(z, -1e6, 1e6)

    bundle = export(Large(), (torch.ones(1, 4),), tmp_path / "large", **small())
    for claim in bundle.manifest.claims("parity", "generator", "fp16"):
        assert len(claim.details["clamped_constants"]) == 2
        assert claim.details["fp32_nodes"] == []


def test_a_machine_with_a_gpu_adds_the_inspectors_word_and_the_devices_error(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is a stand-in: ONNX Runtime on the CPU behind the words a GPU would be asked with."""
    asked: dict[str, Any] = {}

    def load(folder: Path, **words: Any) -> aigc_rt.Generator:
        asked.update(words)
        return aigc_rt.load(folder, device="cpu", precision="fp16")

    monkeypatch.setattr("aigc_rt.export.engine.inspect", lambda data, _: {"layers": {"fp16": 7}, "size": len(data)})
    monkeypatch.setattr("aigc_rt.export.evidence.load", load)
    manifest = Bundle(made).manifest
    truth = evidence.reference(decoder().eval(), manifest, "generator", EXAMPLES)
    subject = evidence.Subject(made, manifest, "generator", "fp16-tensorrt-rtx")
    inspected, measured = evidence.on_device(subject, truth)
    assert asked == {"device": "cuda", "backend": "tensorrt-rtx", "precision": "fp16"}
    assert (inspected.claim, inspected.level, inspected.details["layers"]) == ("precision", "inspected", {"fp16": 7})
    assert (measured.claim, measured.level, measured.passed) == ("parity", "device", True)
    assert measured.variant == "fp16-tensorrt-rtx"


def test_one_tensor_given_twice_is_two_inputs(tmp_path: Path) -> None:
    class Minus(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a - 0.5 * b

    z = torch.ones(2, 3)
    bundle = export(Minus(), (z, z), tmp_path / "minus", precisions=("fp32",))
    with aigc_rt.load(bundle.path, device="cpu") as generator:
        a, b = np.full((2, 3), 1, np.float32), np.full((2, 3), 10, np.float32)
        assert generator.run({"a": a, "b": b})["output"].tolist() == [[-4] * 3] * 2


def test_an_input_may_be_called_output(tmp_path: Path) -> None:
    class Echo(nn.Module):
        def forward(self, output: Tensor) -> Tensor:
            return output * 2

    bundle = export(Echo(), (torch.ones(2),), tmp_path / "echo", precisions=("fp32",))
    assert [spec.name for spec in bundle.manifest.main_graph.outputs] == ["output_"]
    program = Feedforward("generator", {"output": Noise(0, "normal", (2,))}, Media("array", "output"))
    more: dict[str, Any] = {"program": program, "dynamic": {"output": {0: "batch"}}}
    with pytest.raises(InputError, match="another name"):
        export(Echo(), (torch.ones(2, 2),), tmp_path / "other", **more)


def test_a_module_that_answers_otherwise_each_time_is_not_handed_over(tmp_path: Path) -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, z: Tensor) -> Tensor:
            self.calls += 1
            return z + self.calls

    with pytest.raises(ExportError):
        export(Counter(), (torch.ones(1, 4),), tmp_path / "x", **small(), precisions=("fp32",))
    assert list(tmp_path.iterdir()) == []


def test_exporting_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("a", torch.zeros(2000))
            self.register_buffer("b", torch.zeros(2000))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            assert isinstance(self.a, Tensor)
            assert isinstance(self.b, Tensor)
            return x + self.a, self.a, self.b

    export(Twins(), (torch.ones(2, 2000),), tmp_path / "x", precisions=("fp32",))
    assert capfd.readouterr() == ("", "")


# What cannot be exported


def test_an_error_that_quotes_others_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Chatty(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            raise RuntimeError("first line\n\n    *** second ***\r\n  third\n")

    with pytest.raises(ExportError) as caught:
        export(Chatty(), (torch.ones(1, 4),), tmp_path / "x")
    assert str(caught.value).endswith(
        "RuntimeError: first line *** second *** third. Give examples that forward takes."
    )
    import onnxruntime

    def refuse(*_: Any, **options: Any) -> None:
        assert options == {"enable_fallback": 0}, "onnxruntime prints when it falls back"
        raise ValueError("EP Error\nno such provider")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(ExportError, match="run Identity '' with its values rounded: EP Error no such provider"):
        Rounded(build([helper.make_node("Identity", ["x"], ["y"])], {}))


class Overflow(nn.Module):
    """Sums that fp32 holds and fp16 does not."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh((z * 300.0) ** 2 * 300.0 / 1e7)


class Random(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        if z.sum() > 0:
            return z
        return z * 2


class Twice(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([z, z])


def noisy(name: str, latent: int) -> Feedforward:
    return Feedforward("generator", {name: Noise(0, "normal", (latent,))}, Media("array", "out"))


def small(latent: int = 4) -> dict[str, Any]:
    return {"program": noisy("z", latent), "dynamic": {"z": {0: ("batch", 1, 8)}}}


def test_a_variant_that_is_too_far_off_fails_the_export(tmp_path: Path) -> None:
    with pytest.raises(GateFailed, match=r"generator/fp16: out has \d+ values that are NaN or infinite|out is off by"):
        export(Overflow(), (torch.ones(1, 4),), tmp_path / "x", **small())
    export(Overflow(), (torch.ones(1, 4),), tmp_path / "x", **small(), precisions=("fp32",))
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def nan() -> nn.Module:
    module = nn.Linear(4, 4)
    nn.init.constant_(module.weight, float("nan"))
    return module


@pytest.mark.parametrize(
    ("module", "examples", "more", "error", "found"),
    [
        (nn.Linear(4, 4), (torch.ones(1, 4),), {"precisions": ("fp8",)}, InputError, "fp32, fp16"),
        (nn.Linear(4, 4), (torch.ones(1, 4),), {"precisions": "fp32"}, InputError, "one string"),
        (nn.Linear(4, 4), (torch.ones(1, 4),), {"precisions": ()}, InputError, "Choose one or more"),
        (nn.Linear(4, 4), (torch.ones(1, 4),), {"engines": ("onnx",)}, InputError, "tensorrt-rtx"),
        (nn.Linear(4, 4), (torch.ones(1, 4),) * 2, {}, InputError, "forward of Linear takes"),
        (nn.Linear(4, 4), {"z": torch.ones(1, 4)}, {}, InputError, r"takes \(input\)"),
        (nn.Linear(4, 4), {}, {}, InputError, "forward of Linear takes"),
        (nn.Linear(4, 4), (3,), {}, InputError, "it is a int"),
        (nn.Linear(4, 4), (torch.ones(1, 4),), {"dynamic": {"z": {0: "batch"}}}, InputError, r"inputs are \['input'\]"),
        (nn.Linear(4, 4), (torch.ones(1, 4),), {"dynamic": {"input": {2: "batch"}}}, InputError, "it has 2 axes"),
        (nn.Linear(4, 4), (torch.ones(1, 4),), {"dynamic": {"input": {0: ("b", 4, 2)}}}, InputError, "begins at 1"),
        (nn.Linear(4, 4), (torch.ones(1, 4),), {"dynamic": {"input": {0: 5}}}, InputError, "no name and no range"),
        (nn.Linear(4, 4), (torch.ones(1, 4),), {"dynamic": {"input": {0: "a b"}}}, InputError, "no name and no range"),
        (nn.Linear(4, 4), (torch.ones(1, 4),), {"dynamic": {"input": [0]}}, InputError, "is no dict"),
        (nn.Linear(4, 4), (torch.ones(1, 5),), {}, ExportError, "mat1 and mat2|shapes cannot"),
        (nn.Linear(4, 4), (torch.ones(1, 4),), small(), InputError, "forward is given"),
        (
            nn.Linear(4, 4),
            (torch.ones(1, 4),),
            small(5) | {"program": noisy("input", 5)},
            InputError,
            "its example has",
        ),
        (nn.Linear(4, 4), (torch.ones(1, 4),), {"program": noisy("input", 4)}, InputError, "dynamic says nothing"),
        (Twice(), (torch.ones(1, 4),), small(), InputError, "the shape of out has an axis"),
        (Random(), (torch.ones(1, 4),), {}, ExportError, "."),
        (nan(), (torch.ones(1, 4),), {}, ExportError, "the weight weight holds NaN"),
        ("module", (torch.ones(1, 4),), {}, InputError, "it is a str"),
    ],
)
def test_what_cannot_be_exported_is_a_clear_error_and_leaves_nothing(
    module: Any, examples: Any, more: dict[str, Any], error: type[Exception], found: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=found):
        export(module, examples, tmp_path / "x", **more)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_path_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(BundleExists, match="--force"):
        export(Random(), (torch.ones(1, 4),), tmp_path / "x")


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError):
        export(nn.Linear(4, 4), (torch.ones(1, 4),), tmp_path / "file" / "x", precisions=("fp32",))


# fp16, node by node


def build(nodes: list[onnx.NodeProto], constants: Mapping[str, np.ndarray[Any, Any]], **types: Any) -> onnx.ModelProto:
    """A graph x (2, 4) float32 -> y."""
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("y", types.get("y", TensorProto.FLOAT), types.get("shape", [2, 4]))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return Rounded(model)({"x": x})["y"]


X = np.array([[0.1, -0.2, 0.3, 1.4], [2.5, -3.5, 0.7, 0.01]], np.float32)


def test_a_node_kept_in_fp32_computes_in_fp32() -> None:
    big = np.float32(1e5)
    nodes = [
        helper.make_node("Mul", ["x", "big"], ["scaled"], "up"),
        helper.make_node("Div", ["scaled", "big"], ["y"], "down"),
    ]
    model = build(nodes, {"big": np.array(big)})
    all_half = precision.to_fp16(model)
    assert all_half.clamped == ("big",)
    assert not np.isfinite(run(all_half.model, X)).all()
    kept = precision.to_fp16(model, keep_fp32=["up", "down"])
    assert kept.fp32_nodes == ("up", "down")
    assert kept.clamped == ()
    assert np.abs(run(kept.model, X) - X).max() < 1e-6
    mixed = precision.to_fp16(model, keep_fp32=["up"])
    assert mixed.fp32_nodes == ("up",)
    assert {t.name: t.data_type for t in mixed.model.graph.initializer} == {"big": 1, "big_fp16": 10}


@pytest.mark.parametrize(
    ("nodes", "constants", "types"),
    [
        (
            [
                helper.make_node("Constant", [], ["c"], value_float=5.0),
                helper.make_node("Add", ["x", "c"], ["y"]),
            ],
            {},
            {},
        ),
        (
            [
                helper.make_node("Shape", ["x"], ["s"]),
                helper.make_node("ConstantOfShape", ["s"], ["z"]),
                helper.make_node("Add", ["x", "z"], ["y"]),
            ],
            {},
            {},
        ),
        ([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT64)], {}, {"y": TensorProto.INT64}),
        (
            [
                helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
                helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
                helper.make_node("Add", ["x", "f"], ["y"]),
            ],
            {},
            {},
        ),
        ([helper.make_node("Identity", ["x"], ["y"])], {}, {}),
        (
            [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Add", ["y", "y"], ["unused"])],
            {},
            {},
        ),
        (
            [
                helper.make_node("Reshape", ["x", "to"], ["r"]),
                helper.make_node("Resize", ["r", "", "scales"], ["y"], mode="nearest"),
            ],
            {"to": np.array([1, 1, 2, 4]), "scales": np.array([1, 1, 2, 2], np.float32)},
            {"shape": [1, 1, 4, 8]},
        ),
        ([helper.make_node("Range", ["a", "b", "d"], ["g"]), helper.make_node("Add", ["x", "g"], ["y"])],
         {"a": np.float32(0).reshape(()), "b": np.float32(4).reshape(()), "d": np.float32(1).reshape(())}, {}),
    ],
    ids=["constant", "filled", "to-int", "from-int", "identity", "output-read-again", "resize", "range"],
)  # fmt: skip
def test_the_conversion_keeps_what_a_graph_means(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray[Any, Any]], types: dict[str, Any]
) -> None:
    model = build(nodes, constants, **types)
    half = precision.to_fp16(model).model
    assert np.allclose(run(half, X), run(model, X), atol=5e-3)
    assert all(o.type == i.type for o, i in zip(half.graph.output, model.graph.output, strict=True))


def test_rounding_is_what_numpy_rounds() -> None:
    third = np.array(1 / 3, np.float32)
    nodes = [
        helper.make_node("Mul", ["x", "third"], ["a"]),
        helper.make_node("Exp", ["a"], ["b"]),
        helper.make_node("Add", ["b", "x"], ["y"]),
    ]
    half = precision.to_fp16(build(nodes, {"third": third})).model
    x = X.astype(np.float16)
    a = (x.astype(np.float32) * third.astype(np.float16)).astype(np.float16)
    b = np.exp(a.astype(np.float32)).astype(np.float16)
    expected = (b.astype(np.float32) + x).astype(np.float16)
    assert np.array_equal(run(half, X), expected.astype(np.float32))


def test_a_graph_that_cannot_be_retyped_is_refused() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["t"])], "b", [], [helper.make_tensor_value_info("t", 1, [2, 4])]
    )
    nodes = [helper.make_node("If", ["yes"], ["y"], "choose", then_branch=branch, else_branch=branch)]
    with pytest.raises(ExportError, match="subgraph"):
        precision.to_fp16(build(nodes, {"yes": np.array(True)}))


def test_examples_are_named_after_forward() -> None:
    class Named(nn.Module):
        def forward(self, z: Tensor, label: Tensor, strength: float = 1.0) -> Tensor:
            return z + label * strength

    tensors = (torch.ones(1), torch.ones(1))
    assert list(graph.examples_by_name(Named(), tensors)) == ["z", "label"]
    assert list(graph.examples_by_name(Named(), dict(zip(("label", "z"), tensors, strict=True)))) == ["label", "z"]


def test_error_measures_are_right() -> None:
    truth, value = np.array([0.0, 1.0, 2.0, 4.0]), np.array([0.0, 1.0, 2.0, 3.0])
    measured = evidence._error(truth, value)
    assert (measured["max_abs"], measured["max_abs_relative"], measured["rmse"], measured["range"]) == (1, 0.25, 0.5, 4)
    assert measured["psnr_db"] == pytest.approx(20 * np.log10(8))
    assert evidence._error(truth, np.array([0.0, np.nan, np.inf, 1]))["bad_values"] == 2


# Interrupted


CHILD = """
import sys, torch
from aigc_rt.export import export
def tell(step):
    print(step, flush=True)
if __name__ == "__main__":
    more = {"engines": ("tensorrt-rtx",), "force": True, "progress": tell}
    export(torch.nn.Linear(4, 4), (torch.ones(1, 4),), sys.argv[1], **more)
"""


@contextlib.contextmanager
def exporting(folder: Path) -> Iterator[subprocess.Popen[str]]:
    script = folder / "child.py"
    script.write_text(CHILD)
    child = subprocess.Popen(
        [sys.executable, str(script), str(folder / "out")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_export_that_is_stopped_leaves_the_old_bundle(how: signal.Signals, made: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(made, tmp_path / "out")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    with exporting(tmp_path) as child:
        assert child.stdout is not None
        while "engine" not in child.stdout.readline():
            assert child.poll() is None
        deadline = time.monotonic() + 20
        while not (builders := _builders(child.pid)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert builders, "the engine is built in a child"
        os.kill(child.pid, how)
        child.wait(30)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    left = [p.name for p in tmp_path.iterdir() if p.name not in ("out", "child.py")]
    assert left == [] if how == signal.SIGINT else [n.startswith(f".out.{child.pid}.") for n in left] == [True]
    deadline = time.monotonic() + 10
    while (alive := builders & _processes().keys()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive, "the engine builder ends with its parent"


def _processes() -> dict[int, tuple[int, str]]:
    """Parent and command of every process that is no zombie."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,stat,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 3) for line in listed.splitlines()[1:]]
    return {int(row[0]): (int(row[1]), row[3]) for row in rows if len(row) == 4 and not row[2].startswith("Z")}


def _builders(parent: int) -> set[int]:
    return {pid for pid, (of, words) in _processes().items() if of == parent and "aigc_rt.export.engine" in words}


# From a run, by the command


def test_from_a_run_to_a_bundle_by_the_command(tmp_path: Path) -> None:
    def command(*words: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", "from aigc_rt.cli import main; main()", *map(str, words)]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)

    trained = command("train", "gan", "--data", "digits", "--out", "run", "--max-steps", 3, "--no-evaluate", "--json")
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout.splitlines()[-1])["step"] == 3
    done = command("export", "run", "--out", "bundle", "--precision", "fp32,fp16", "--engine", "tensorrt-rtx", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert [v["variant"] for v in document["variants"]] == ["fp16", "fp16-tensorrt-rtx", "fp32"]
    assert document["manifest"]["made"]["training"]["data"]["name"] == "digits"
    engine = next(v for v in document["variants"] if v["variant"] == "fp16-tensorrt-rtx")
    (claim,) = engine["evidence"]
    assert (claim["level"], claim["details"]["precision"]) == ("typed", "fp16")
    assert command("verify", "bundle").returncode == 0
    assert command("generate", "bundle", "-n", 4, "--out", "grid.png").returncode == 0
    again = command("export", "run", "--out", "bundle")
    assert (again.returncode, "--force" in again.stderr) == (1, True)
