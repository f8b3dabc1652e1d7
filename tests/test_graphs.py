"""A bundle of two graphs: the program's main one, and an encoder that nobody needs to generate."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy

import aigc_rt
from aigc_rt import noise
from aigc_rt.backends.base import Executor, Job
from aigc_rt.backends.ort import OnnxRuntime
from aigc_rt.bundle import Bundle, hash_files, write_manifest
from aigc_rt.errors import Closed, InputError, IntegrityError, PlanError
from aigc_rt.verify import verify

IMAGE = noise.normal(3, 0, 0, 4, toy.SHAPE)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.bundle(tmp_path_factory.mktemp("bundles") / "two", encoder=("fp32", "fp16"))


@pytest.mark.parametrize(
    ("backend", "precision", "off"),
    [("onnxruntime", "fp32", 1e-5), ("onnxruntime", "fp16", 2e-2), ("openvino", "fp32", 1e-5)],
)
def test_every_graph_runs_as_the_bundle_was_asked_for(two: Path, backend: str, precision: str, off: float) -> None:
    with aigc_rt.load(two, device="cpu", backend=backend, precision=precision) as generator:
        assert [choice.graph for choice in generator.plan.chosen] == ["generator"]
        mean = generator.run({"image": IMAGE}, graph="encoder")["mean"]
        assert np.abs(mean - toy.encode(IMAGE)).max() <= off
        said = generator.plan.chosen
        assert [(c.graph, c.backend, c.precision) for c in said] == [
            ("generator", backend, precision),
            ("encoder", backend, precision),
        ]
        assert f"run   encoder/{precision} with {backend} on cpu" in str(generator.plan)
        z = noise.normal(0, 0, 0, 2, (toy.LATENT,))
        assert np.array_equal(generator.run({"z": z})["image"], generator.run({"z": z}, graph="generator")["image"])
        assert len(generator.plan.chosen) == 2


def test_a_graph_that_is_not_there_is_an_error_that_names_those_that_are(two: Path) -> None:
    with aigc_rt.load(two) as generator:
        for role in ("decoder", "", 3, ["encoder"]):
            with pytest.raises(InputError, match=r"encoder, generator"):
                generator.run({"image": IMAGE}, graph=role)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"takes \['image'\]"):
            generator.run({"z": IMAGE}, graph="encoder")


def test_a_graph_that_is_not_needed_is_not_opened(tmp_path: Path) -> None:
    path = toy.bundle(tmp_path / "damaged", encoder=("fp32",))
    file = path / Bundle(path).manifest.graphs["encoder"].variants["fp32"].file
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with aigc_rt.load(path) as generator:
        generator.generate(2)
        with pytest.raises(IntegrityError, match="SHA-256"):
            generator.run({"image": IMAGE}, graph="encoder")
        generator.generate(2)
        assert len(generator.plan.chosen) == 1


def test_what_was_asked_for_holds_for_every_graph(tmp_path: Path) -> None:
    path = toy.bundle(tmp_path / "half", encoder=("fp32",))
    with aigc_rt.load(path, precision="fp16", device="cpu") as generator:
        with pytest.raises(PlanError, match="the graph encoder in fp16: the bundle holds it in fp32"):
            generator.run({"image": IMAGE}, graph="encoder")
        generator.generate(1)
    with aigc_rt.load(path, device="cpu") as generator:
        generator.run({"image": IMAGE}, graph="encoder")


def slow_to_open(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], threading.Event]:
    """The roles that are opened from now on, 0.1 s each, and an event set when the first is begun."""
    opened, began, original = list[str](), threading.Event(), OnnxRuntime.open

    def slow(self: OnnxRuntime, job: Job) -> Executor:
        opened.append(job.role)
        began.set()
        time.sleep(0.1)
        return original(self, job)

    monkeypatch.setattr(OnnxRuntime, "open", slow)
    return opened, began


def test_threads_that_meet_open_a_graph_once(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, _ = slow_to_open(monkeypatch)
    together = threading.Barrier(8)
    with aigc_rt.load(two, device="cpu", backend="onnxruntime") as generator:

        def one(_: int) -> bool:
            together.wait()
            mean = generator.run({"image": IMAGE}, graph="encoder")["mean"]
            return bool(np.abs(mean - toy.encode(IMAGE)).max() < 1e-5)

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(one, range(8)))
        assert len(generator.plan.chosen) == 2
    assert opened == ["generator", "encoder"]


def test_close_closes_every_graph(two: Path) -> None:
    for used in (True, False):
        generator = aigc_rt.load(two)
        if used:
            generator.run({"image": IMAGE}, graph="encoder")
        generator.close()
        generator.close()
        for role in (None, "generator", "encoder"):
            with pytest.raises(Closed):
                generator.run({"image": IMAGE}, graph=role)
        assert len(generator.plan.chosen) == 1 + used


def test_a_close_while_a_graph_opens_leaves_nothing_open(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = aigc_rt.load(two, device="cpu", backend="onnxruntime")
    opened, began = slow_to_open(monkeypatch)

    def close() -> None:
        began.wait()
        generator.close()

    closing = threading.Thread(target=close)
    closing.start()
    with contextlib.suppress(Closed):  # the first call may still be served
        generator.run({"image": IMAGE}, graph="encoder")
    closing.join()
    with pytest.raises(Closed):
        generator.run({"image": IMAGE}, graph="encoder")
    assert opened == ["encoder"]


def test_verify_looks_at_every_graph(two: Path, tmp_path: Path) -> None:
    report = verify(two, device="cpu")
    assert report.passed
    ran = {check.what.partition(" ")[0] for check in report.checks if check.result == "ok"}
    assert ran == {"files", "generator/fp32", "generator/fp16", "encoder/fp32", "encoder/fp16"}
    path = toy.bundle(tmp_path / "wrong", encoder=("fp32",))
    manifest = Bundle(path).manifest
    file = manifest.graphs["encoder"].variants["fp32"].file
    model = toy.encoder_model()
    model.graph.initializer[0].raw_data = (toy.projection() * np.float32(1.01)).tobytes()
    (path / file).write_bytes(model.SerializeToString())
    files = {name: entry for name, entry in hash_files(path).items() if name in manifest.files}
    write_manifest(path, replace(manifest, files=files))
    failed = [check for check in verify(path, device="cpu").checks if check.result == "failed"]
    assert failed
    assert all(check.what.startswith("encoder/fp32") for check in failed)
    assert "from PyTorch's answer" in failed[0].detail
