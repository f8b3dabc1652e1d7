"""Bundles of a decoder and an encoder, with live conditions: torch -> export -> runtime -> samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import aigc_rt
from aigc_rt import noise
from aigc_rt.bundle import Bundle
from aigc_rt.errors import ExportError, GateFailed, InputError
from aigc_rt.export import export
from aigc_rt.export.part import Part
from aigc_rt.manifest import Condition, Feedforward, Media, Noise
from aigc_rt.verify import verify

LATENT, RANK = 6, 2


class Adapted(nn.Module):
    """A layer with a low-rank branch beside it; `scale` is (1,), or one a sample."""

    def __init__(self, base: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.base = base
        if isinstance(base, nn.Linear):
            self.down: nn.Module = nn.Linear(base.in_features, RANK, bias=False)
            self.up: nn.Module = nn.Linear(RANK, base.out_features, bias=False)
        else:
            kind: Any = type(base)
            self.down = kind(base.in_channels, RANK, base.kernel_size, base.stride, base.padding, bias=False)
            self.up = nn.Conv2d(RANK, base.out_channels, 1, bias=False)
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.scale, Tensor)
        scale = self.scale.reshape(-1, *[1] * (x.ndim - 1))  # (1 or B, 1, ...)
        found: Tensor = self.base(x) + self.up(self.down(x)) * scale
        return found


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.label = nn.Embedding(10, LATENT)
        self.project = Adapted(nn.Linear(LATENT, 8 * 9))
        self.norm = nn.BatchNorm2d(8)
        self.up = Adapted(nn.ConvTranspose2d(8, 6, 4, 2, 1))
        self.out = Adapted(nn.Conv2d(6, 3, 3, padding=1))

    def forward(self, z: Tensor, label: Tensor) -> Tensor:  # (B, LATENT), (B,)
        x = self.project(z + self.label(label)).reshape(-1, 8, 3, 3)
        x = F.relu(self.up(F.relu(self.norm(x))))
        image: Tensor = torch.tanh(self.out(x))
        return image  # (B, 3, 6, 6)


class Scaled(nn.Module):
    """The decoder with the scale of every adapted layer as an input."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.scales = [name for name, _ in module.named_buffers() if name.endswith(".scale")]

    def forward(self, z: Tensor, label: Tensor, adapter_scale: Tensor) -> Tensor:  # (B, LATENT), (B,), (B,)
        given = dict.fromkeys(self.scales, adapter_scale)
        image: Tensor = torch.func.functional_call(self.module, given, (), {"z": z, "label": label})
        return image


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.label = nn.Embedding(10, 3)
        self.conv = nn.Conv2d(6, 8, 3, 2, 1)
        self.mean, self.log_variance = nn.Linear(8 * 9, LATENT), nn.Linear(8 * 9, LATENT)

    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:  # (B, 3, 6, 6), (B,)
        plane = self.label(label)[:, :, None, None].expand(-1, -1, *image.shape[2:])
        x = F.relu(self.conv(torch.cat([image, plane], 1))).flatten(1)
        return self.mean(x), self.log_variance(x)  # (B, LATENT) each


def batched(*names: str) -> dict[str, dict[int, tuple[str, int, int]]]:
    return {name: {0: ("batch", 1, 8)} for name in names}


NAMES = ("zero", "one", "two", "three")
PROGRAM = Feedforward(
    "decoder",
    {"z": Noise(0, "normal", (LATENT,))},
    Media("image", "image", "NCHW"),
    {
        "label": Condition("label", "int64", 0, 9, names=NAMES),
        "adapter_scale": Condition("adapter_scale", "float32", 0, 2, 1),
    },
)
LABELS = torch.tensor([3, 1])
MAIN: dict[str, Any] = {
    "example_inputs": {"z": torch.randn(2, LATENT), "label": LABELS, "adapter_scale": torch.ones(2)},
    "program": PROGRAM,
    "dynamic": batched("z", "label", "adapter_scale"),
}
IMAGES = {"image": torch.linspace(-1, 1, 216).reshape(2, 3, 6, 6), "label": LABELS}


def modules() -> tuple[Scaled, Encoder]:
    torch.manual_seed(0)
    return Scaled(Decoder()).eval(), Encoder().eval()


def encoder(**changed: Any) -> Part:
    whole: dict[str, Any] = {
        "example_inputs": IMAGES,
        "dynamic": batched("image", "label"),
        "outputs": ("mean", "log_variance"),
    }
    return Part(**{"module": modules()[1]} | whole | changed)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both graphs in every form there is."""
    out = tmp_path_factory.mktemp("made") / "vae"
    export(modules()[0], **MAIN, out=out, also={"encoder": encoder()}, engines=("tensorrt-rtx",))
    return out


def test_every_graph_has_its_variants_its_evidence_and_its_answer(made: Path) -> None:
    manifest = Bundle(made).manifest
    assert {role: list(graph.variants) for role, graph in manifest.graphs.items()} == {
        "decoder": ["fp16", "fp16-tensorrt-rtx", "fp32"],
        "encoder": ["fp16", "fp32"],
    }
    for role, module in zip(("decoder", "encoder"), modules(), strict=True):
        assert manifest.graphs[role].parameters == sum(p.numel() for p in module.parameters())
    assert [spec.name for spec in manifest.graphs["encoder"].outputs] == ["mean", "log_variance"]
    for role, samples, outputs in (("decoder", 256, {"image"}), ("encoder", 2, {"mean", "log_variance"})):
        for variant, claims in (("fp32", 1), ("fp16", 2)):
            measured = manifest.claims("parity", role, variant)
            assert [c.passed for c in measured] == [True] * claims
            for claim in measured:
                assert claim.details["samples"] == samples
                assert claim.details["outputs"].keys() == outputs
                assert all(error["max_abs_relative"] > 0 for error in claim.details["outputs"].values())
        (answer,) = [e for e in manifest.evidence if (e.claim, e.graph) == ("answer", role)]
        assert answer.details["outputs"].keys() == outputs
    report = verify(made, device="cpu")
    assert report.passed
    ran = {c.what.partition(" ")[0] for c in report.checks if c.result == "ok"}
    assert {"decoder/fp16", "decoder/fp32", "encoder/fp16", "encoder/fp32"} <= ran


@pytest.mark.parametrize(("precision", "off"), [("fp32", 1e-5), ("fp16", 1e-2)])
def test_the_encoder_gives_what_pytorch_gives_at_any_batch(made: Path, precision: str, off: float) -> None:
    images, labels = noise.normal(5, 0, 0, 7, (3, 6, 6)), np.arange(7)
    with torch.no_grad():
        truth = modules()[1](torch.from_numpy(images), torch.from_numpy(labels))
    with aigc_rt.load(made, device="cpu", precision=precision) as generator:
        found = generator.run({"image": images, "label": labels}, graph="encoder")
    for name, value in zip(("mean", "log_variance"), truth, strict=True):
        assert np.abs(found[name] - value.numpy()).max() < off


# Live conditions


def truth(seed: int, labels: list[int], scales: list[float]) -> np.ndarray[Any, Any]:
    z = torch.from_numpy(noise.normal(seed, 0, 0, len(labels), (LATENT,)))
    with torch.no_grad():
        found = modules()[0](z, torch.tensor(labels), torch.tensor(scales))
    return np.asarray(found)


@pytest.mark.parametrize(("precision", "off"), [("fp32", 1e-5), ("fp16", 1e-2)])
def test_every_sample_has_a_label_and_a_scale_of_its_own(made: Path, precision: str, off: float) -> None:
    labels, scales = [0, 9, 3, 3, 5, 1, 2, 8, 4, 6], [0, 2, 0.5, 1.5, 1, 0, 0.25, 2, 1, 1]  # more than a batch
    with aigc_rt.load(made, device="cpu", precision=precision) as generator:
        raw = generator.generate(10, seed=4, raw=True, label=labels, adapter_scale=scales).raw
    assert raw is not None
    assert np.abs(raw - truth(4, labels, [float(s) for s in scales])).max() < off


def test_one_value_is_for_all_names_are_values_and_the_scale_has_a_default(made: Path) -> None:
    with aigc_rt.load(made, device="cpu") as generator:
        three = generator.generate(3, seed=4, raw=True, label=3)
        assert three.raw is not None
        assert np.abs(three.raw - truth(4, [3] * 3, [1.0] * 3)).max() < 1e-5
        named = generator.generate(3, seed=4, label="three", adapter_scale=1)
        assert np.array_equal(named.array, three.array)
        off = generator.generate(3, seed=4, label=3, adapter_scale=0)
        assert not np.array_equal(off.array, three.array)
        for wrong in ({}, {"label": 10}, {"label": 2.5}, {"label": 3, "adapter_scale": 2.1}, {"label": [1, 2]}):
            with pytest.raises(InputError, match=r"label|adapter_scale"):
                generator.generate(3, **wrong)


def test_without_its_scale_the_decoder_is_the_module_itself(made: Path) -> None:
    z = torch.from_numpy(noise.normal(4, 0, 0, 2, (LATENT,)))
    with torch.no_grad():
        assert np.abs(modules()[0].module(z, LABELS).numpy() - truth(4, [3, 1], [1, 1])).max() < 1e-6


def test_conditions_are_fp32_outside_and_half_inside(made: Path) -> None:
    main = Bundle(made).manifest.main_graph
    assert main.input("adapter_scale").dtype == "float32"
    model = onnx.load(str(made / main.variants["fp16"].file))
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    assert kinds == {"z": 1, "label": 7, "adapter_scale": 1}
    (reader,) = [node for node in model.graph.node if "adapter_scale" in node.input]
    assert (reader.op_type, onnx.helper.get_attribute_value(reader.attribute[0])) == ("Cast", onnx.TensorProto.FLOAT16)
    assert not [t.name for t in model.graph.initializer if t.name.endswith("scale")], "the scale is no constant"


def test_an_engine_is_built_for_every_condition(made: Path) -> None:
    manifest = Bundle(made).manifest
    stored = manifest.main_graph.variants["fp16-tensorrt-rtx"]
    assert stored.engine is not None
    (profile,) = stored.engine.profiles
    assert {name: p.max for name, p in profile.items()} == {"z": (8, LATENT), "label": (8,), "adapter_scale": (8,)}
    (claim,) = [e for e in manifest.claims("precision", "decoder", "fp16-tensorrt-rtx") if e.level == "typed"]
    assert (claim.passed, claim.details["precision"]) == (True, "fp16")
    assert claim.details["compute_layers"] == {"fp16": 9}  # each of three layers and its branch of two


# What cannot be exported


class Loud(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return torch.tanh((image * 300.0) ** 2 * 300.0 / 1e7)


@pytest.mark.parametrize(
    ("also", "error", "found"),
    [
        ({"decoder": encoder()}, InputError, "main graph's role"),
        ({"../encoder": encoder()}, InputError, "no role"),
        ({"encoder": modules()[1]}, InputError, "no dict of Parts"),
        ([encoder()], InputError, "no dict of Parts"),
        ({"encoder": encoder(module="module")}, InputError, "it is a str"),
        ({"encoder": encoder(outputs=("mean",))}, InputError, "gives 2"),
        ({"encoder": encoder(outputs="mean")}, InputError, "no list of names"),
        ({"encoder": encoder(outputs=("mean", "mean"))}, InputError, "another name"),
        ({"encoder": encoder(outputs=("mean", "image"))}, InputError, "another name"),
        ({"encoder": encoder(example_inputs=(IMAGES["image"],))}, InputError, r"takes \(image, label\)"),
        ({"encoder": encoder(example_inputs=(IMAGES["image"][:, :2], LABELS))}, ExportError, "Give examples"),
        ({"encoder": Part(Loud(), (IMAGES["image"],), batched("image"))}, GateFailed, "encoder/fp16"),
    ],
)
def test_a_part_that_cannot_be_exported_is_a_clear_error(
    also: Any, error: type[Exception], found: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=found):
        export(modules()[0], **MAIN, out=tmp_path / "x", also=also)
    assert list(tmp_path.iterdir()) == []


def test_outputs_without_names_are_numbered_and_a_graph_may_have_no_batch(tmp_path: Path) -> None:
    part = Part(modules()[1], IMAGES)
    bundle = export(modules()[0], **MAIN, out=tmp_path / "x", also={"encoder": part}, precisions=("fp16",))
    assert [spec.name for spec in bundle.manifest.graphs["encoder"].outputs] == ["output_0", "output_1"]
    assert bundle.manifest.graphs["encoder"].axes == {}
    with aigc_rt.load(bundle.path) as generator:
        assert generator.plan.chosen[0].variant == "fp16"
        given = {name: value.numpy() for name, value in IMAGES.items()}
        assert generator.run(given, graph="encoder")["output_0"].shape == (2, LATENT)
        with pytest.raises(InputError, match="image"):
            generator.run({name: value[:1] for name, value in given.items()}, graph="encoder")


def test_a_judge_may_use_every_graph(tmp_path: Path) -> None:
    def judge(generator: aigc_rt.Generator) -> dict[str, float]:
        images = generator.generate(5, seed=1, raw=True, label=[0, 1, 2, 3, 4]).raw
        assert images is not None
        mean = generator.run({"image": images, "label": np.arange(5)}, graph="encoder")["mean"]
        return {"mean": float(mean.mean()), "graphs": len(generator.plan.chosen)}

    bundle = export(modules()[0], **MAIN, out=tmp_path / "x", also={"encoder": encoder()}, judge=judge)
    judged = [e for e in bundle.manifest.evidence if e.claim == "quality"]
    assert sorted((e.graph, e.variant) for e in judged) == [("decoder", "fp16"), ("decoder", "fp32")]
    assert [e.details["graphs"] for e in judged] == [2, 2]
    assert judged[0].details["mean"] != judged[1].details["mean"]
