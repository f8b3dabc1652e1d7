"""Bundles that are shipped with the package, by name: `zoo:NAME`, wherever a bundle is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import toy

import aigc_rt
from aigc_rt import bundle
from aigc_rt.cli import main
from aigc_rt.errors import BundleNotFound, InputError
from aigc_rt.verify import verify


@pytest.fixture(autouse=True)
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo of one bundle, in half precision only, as the shipped ones are."""
    folder = tmp_path / "zoo"
    toy.bundle(folder / "toy", precisions=("fp16",), encoder=("fp16",))
    (folder / "no-bundle").mkdir()
    monkeypatch.setattr(bundle, "ZOO", folder)
    return folder


def test_a_name_is_a_bundle(zoo: Path) -> None:
    for path in ("zoo:toy", Path("zoo:toy")):
        assert aigc_rt.Bundle(path).path == zoo / "toy"
    with aigc_rt.load("zoo:toy", device="cpu") as generator:
        assert generator.generate(3, seed=1).array.shape == (3, 4, 5, 3)


def test_half_precision_alone_is_what_runs_on_a_cpu() -> None:
    with aigc_rt.load("zoo:toy") as generator:
        (chosen,) = generator.plan.chosen
        assert (chosen.variant, chosen.backend, chosen.computes) == ("fp16", "onnxruntime", "fp32")
    report = verify("zoo:toy", device="cpu")
    assert report.passed
    assert {c.what.partition(" ")[0] for c in report.checks if c.result == "ok"} >= {"generator/fp16", "encoder/fp16"}


@pytest.mark.parametrize("name", ["zoo:other", "zoo:", "zoo:../toy", "zoo:no-bundle", "zoo:.", "zoo:TOY"])
def test_an_unknown_name_lists_those_that_are_there(name: str) -> None:
    with pytest.raises(BundleNotFound, match="shipped are zoo:toy"):
        aigc_rt.load(name)


def test_an_empty_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "ZOO", tmp_path / "nowhere")
    with pytest.raises(BundleNotFound, match="shipped are none"):
        aigc_rt.Bundle("zoo:toy")


def test_the_shipped_ones_are_named_like_their_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for manifest in bundle.ZOO.glob("*/manifest.json"):
        shipped = aigc_rt.Bundle(f"zoo:{manifest.parent.name}")
        shipped.verify()
        assert shipped.manifest.name == manifest.parent.name


@pytest.mark.parametrize("words", [["inspect"], ["verify"], ["plan"], ["generate", "-n", "4", "--out", "grid.png"]])
def test_every_command_takes_a_name(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, code, said in (("zoo:toy", 0, ""), ("zoo:other", 1, "shipped are zoo:toy")):
        monkeypatch.setattr(sys, "argv", ["aigc-rt", words[0], name, *words[1:]])
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code or 0, said in capsys.readouterr().err) == (code, True)


def test_nothing_is_exported_to_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from aigc_rt.export import export

    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="Give a folder"):
        export(torch.nn.Linear(4, 4), (torch.ones(1, 4),), "zoo:mine")
