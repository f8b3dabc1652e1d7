"""Fine-tuning: from another run's weights, some frozen, adapters in their place; what does not fit is said."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from train_help import one_thread  # noqa: F401

import aigc_rt
from aigc_rt.errors import InputError, RunError
from aigc_rt.export.run import export_run
from aigc_rt.train import checkpoint, data, metrics, record
from aigc_rt.train.data_options import DataOptions
from aigc_rt.train.generators.family import sample
from aigc_rt.train.options import TrainOptions
from aigc_rt.train.quality import Judge
from aigc_rt.train.restore import create, load_generator
from aigc_rt.train.run import train
from aigc_rt.train.samplers import BundleSampler
from aigc_rt.train.source import Source
from aigc_rt.train.task import to_floats
from aigc_rt.train.tuning import Tuning

SMALL = {"widths": (32, 64), "latent": 16}
QUICK = {"epochs": 1, "lr": 0.01, "ema": 0.5}


def options(out: Path, tuning: Tuning | None = None, **changes: Any) -> TrainOptions:
    base = TrainOptions("gan", "digits", out, recipe={"epochs": 1}, device="cpu", evaluate=False, quiet=True)
    return dataclasses.replace(base, tuning=tuning, **changes)


def saved(run: Path) -> Mapping[str, Tensor]:
    path = checkpoint.newest(run / record.CHECKPOINTS)
    assert path is not None
    return checkpoint.load(path).tensors


def first(run: Path, role: str = "generator") -> dict[str, Tensor]:
    """The weights that a run starts from which is started from `run`."""
    return Source.open(run).family.networks[role].state_dict()


def same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    assert one.keys() == two.keys()
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of small networks, with the objective that is not the default."""
    out = tmp_path_factory.mktemp("runs") / "source"
    train(options(out, objective="bce", settings=SMALL))
    return out


@pytest.fixture(scope="module")
def convolutions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dcgan with batch norm."""
    out = tmp_path_factory.mktemp("runs") / "dcgan"
    settings = {"width": 8, "latent": 8}
    train(options(out, family="dcgan", objective="bce", settings=settings, loading=DataOptions(size=32, limit=128)))
    return out


@pytest.fixture(scope="module")
def adapted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "adapted"
    train(options(out, Tuning(start=str(source), rank=4), recipe=QUICK))
    return out


def test_the_first_weights_are_the_averaged_ones(source: Path, tmp_path: Path) -> None:
    run = train(options(tmp_path / "run", Tuning(start=str(source)), max_steps=1))
    there = saved(source)
    family = create(run, Source.open(source))
    for role, kind in (("generator", "average"), ("discriminator", "network")):
        assert same(family.networks[role].state_dict(), checkpoint.strip(there, f"{kind}.{role}."))


def test_what_is_taken_over_and_recorded(source: Path, tmp_path: Path) -> None:
    run = train(options(tmp_path / "run", Tuning(start=str(source)), seed=3, loading=DataOptions(only=(3,))))
    assert (run.objective, run.settings["widths"], run.settings["latent"]) == ("bce", (32, 64), 16)
    newest = checkpoint.newest(source / "checkpoints")
    assert newest is not None
    assert run.tuning is not None
    assert run.tuning.sha256 == json.loads((newest / "state.json").read_text())["sha256"]
    assert run.tuning.lineage is not None
    assert run.tuning.lineage["step"] == 13
    assert run.tuning.lineage["data"]["sha256"] == data.load("digits").sha256
    made = record.read(tmp_path / "run").made()
    assert made["tuning"]["sha256"] == run.tuning.sha256
    assert (made["data"]["options"]["only"], "project" in made["data"]["options"]) == ((3,), False)
    assert "project" not in made["tuning"]["lineage"]["data"]["options"]
    assert made["tuning"]["start"] == source.name  # not where it lies
    other = train(options(tmp_path / "other", Tuning(start=str(source)), objective="r3gan", max_steps=1))
    assert other.objective == "r3gan"


def test_what_is_usual_for_the_sources_objective_is_taken_over(convolutions: Path, tmp_path: Path) -> None:
    tuning, loading = Tuning(start=str(convolutions)), DataOptions(size=32, limit=128)
    asked = options(tmp_path / "run", tuning, family="dcgan", objective="r3gan", loading=loading, max_steps=1)
    assert train(asked).settings["norm"] == "batch", "r3gan's is none, for which the weights do not fit"


def test_from_a_checkpoint(source: Path, tmp_path: Path) -> None:
    early = sorted((source / "checkpoints").iterdir())[0]
    run = train(options(tmp_path / "run", Tuning(start=str(early)), max_steps=1))
    assert run.tuning is not None
    assert run.tuning.lineage is not None
    assert run.tuning.lineage["step"] == int(early.name.removeprefix("step-")) < 13
    assert not same(first(early), first(source))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"family": "dcgan"}, "it is a gan"),
        ({"settings": {"widths": (32, 48)}}, r"generator\.layers\.2\.weight is \(64, 32\) there, \(48, 32\) here"),
        ({"settings": {"widths": (32,)}}, r"generator\.layers\.4\.weight is \(64, 64\) there, not here"),
        ({"loading": DataOptions(size=16)}, "with images of 1 x 16 x 16: it makes images of 1 x 8 x 8"),
    ],
)
def test_what_does_not_fit(changes: dict[str, Any], words: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=words):
        train(options(tmp_path / "run", Tuning(start=str(source)), **changes))
    assert not (tmp_path / "run").exists()


def test_other_classes_do_not_fit(tmp_path: Path) -> None:
    settings, loading = {"width": 4, "latent": 4}, DataOptions(size=32, limit=64)
    train(options(tmp_path / "ten", family="cgan", settings=settings, loading=loading, max_steps=1))
    for name in "ab":
        (tmp_path / "two" / name).mkdir(parents=True)
        for k in range(40):
            Image.new("L", (32, 32), k).save(tmp_path / "two" / name / f"{k}.png")
    asked = options(tmp_path / "run", Tuning(start=str(tmp_path / "ten")), family="cgan", data=str(tmp_path / "two"))
    with pytest.raises(RunError, match=r"generator\.embedding\.weight is \(10, 4\) there, \(2, 4\) here"):
        train(asked)


def test_nothing_to_start_from(source: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is nothing"):
        train(options(tmp_path / "run", Tuning(start=str(tmp_path / "no"))))
    shutil.copy(source / "run.json", tmp_path)
    with pytest.raises(RunError, match="there is no checkpoint in it"):
        train(options(tmp_path / "run", Tuning(start=str(tmp_path))))
    shutil.copytree(source / "checkpoints", tmp_path / "checkpoints")
    edited = json.loads((source / "run.json").read_text())
    edited["settings"]["latent"] = 7
    (tmp_path / "run.json").write_text(json.dumps(edited))
    with pytest.raises(RunError, match="its networks are others"):
        train(options(tmp_path / "run", Tuning(start=str(tmp_path))))


def test_frozen_weights_stay(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    frozen = ("generator.layers.0.*", "*.bias")
    train(options(out, Tuning(start=str(source), freeze=frozen)))
    before, after = saved(source), saved(out)
    for name, value in after.items():
        kind, role, weight = name.split(".", 2)
        if kind == "optimizer":
            continue
        origin = before[f"{'average' if role == 'generator' else 'network'}.{role}.{weight}"]
        stays = weight.startswith("layers.0.") if role == "generator" else False
        assert torch.equal(value, origin) == (stays or weight.endswith("bias")), name


def test_a_network_that_is_frozen_has_no_optimizer(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(options(out, Tuning(start=str(source), freeze=("discriminator.*",))))
    assert same(first(out, "discriminator"), first(source, "discriminator"))
    assert not same(first(out), first(source))
    assert not [name for name in saved(out) if name.startswith("optimizer.discriminator")]


def test_freezing_that_cannot_be(source: Path, tmp_path: Path) -> None:
    cases: list[tuple[Tuning, str]] = [
        (Tuning(freeze=("generator.laiers.*",)), r"matches nothing. There are generator\.layers\.0\.weight"),
        (Tuning(freeze=("*",)), "nothing is left to train"),
        (Tuning(rank=4), "only fresh weights"),
        (Tuning(start=str(source), rank=4, targets=("discriminator.*",)), r"There are generator\.layers\.0, gen"),
        (Tuning(start=str(source), rank=4, freeze=("generator.*",)), "put adapters on '\\*': it matches nothing"),
    ]
    for tuning, words in cases:
        with pytest.raises(InputError, match=words):
            train(options(tmp_path / "run", tuning))
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="without a rank there are no adapters"):
        Tuning(alpha=4.0)
    with pytest.raises(InputError, match="without a rank there are no adapters"):
        Tuning(targets=("generator.*",))
    for wrong in ({"rank": 0}, {"alpha": 0.0}, {"targets": ()}, {"freeze": "*"}, {"freeze": ("",)}):
        with pytest.raises(InputError):
            Tuning(**wrong)


def test_adapters_leave_the_source_as_it_is(adapted: Path, source: Path) -> None:
    before, after = saved(source), saved(adapted)
    bases = [name for name in after if ".base." in name]
    assert len(bases) == 2 * 2 * 3, "weight and bias of three layers, of the network and of its average"
    for name in bases:
        plain = name.replace(".base.", ".").replace("network.", "average.")
        assert torch.equal(after[name], before[plain])
    assert all(after[name].abs().max() > 0 for name in after if name.endswith("up.weight"))
    assert not same(first(adapted, "discriminator"), first(source, "discriminator")), "it is trained whole"
    assert not any("discriminator" in name and ".down." in name for name in after)


def test_an_adapted_generator_merged_and_live(adapted: Path, source: Path) -> None:
    merged, live, origin = load_generator(adapted), load_generator(adapted, "live"), load_generator(source)
    z = merged.example_inputs["z"]
    assert merged.module.state_dict().keys() == origin.module.state_dict().keys()
    assert "adapter_scale" not in merged.program.conditions
    torch.testing.assert_close(live.module(z, torch.ones(2)), merged.module(z), rtol=0, atol=1e-5)
    assert torch.equal(live.module(z, torch.zeros(2)), origin.module(z))
    assert (merged.module(z) - origin.module(z)).abs().max() > 0.1
    assert live.example_inputs["adapter_scale"].shape == (2,)
    with pytest.raises(RunError, match="it has none"):
        load_generator(source, "live")


def test_starting_from_an_adapted_run(adapted: Path, tmp_path: Path) -> None:
    assert same(first(adapted), load_generator(adapted).module.state_dict())
    run = train(options(tmp_path / "run", Tuning(start=str(adapted), rank=2), max_steps=2))
    assert run.tuning is not None
    assert run.tuning.lineage is not None
    assert run.tuning.lineage["tuning"]["rank"] == 4
    assert run.tuning.lineage["tuning"]["lineage"]["tuning"] is None
    assert load_generator(tmp_path / "run").made["tuning"]["rank"] == 2


def test_resuming_is_exact_and_needs_no_source(adapted: Path, source: Path, tmp_path: Path) -> None:
    gone, out = tmp_path / "gone", tmp_path / "run"
    shutil.copytree(source, gone)
    tuning = Tuning(start=str(gone), rank=4)
    train(options(out, tuning, recipe=QUICK, max_steps=11))
    shutil.rmtree(gone)
    with pytest.raises(RunError, match=r"resume .* with tuning"):
        train(options(out, dataclasses.replace(tuning, rank=5), recipe=QUICK, resume=True))
    run = train(options(out, tuning, recipe=QUICK, resume=True))
    assert (run.status, run.tuning and run.tuning.rank) == ("finished", 4)
    assert same(saved(out), saved(adapted))


def test_a_run_killed_before_its_first_step_still_starts_from_its_source(
    adapted: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception): ...

    def kill(*_: object) -> None:
        raise Killed

    gone, out = tmp_path / "gone", tmp_path / "run"
    shutil.copytree(source, gone)
    tuning = Tuning(start=str(gone), rank=4)
    with monkeypatch.context() as patched:
        patched.setattr("aigc_rt.train.run.fit", kill)
        with pytest.raises(Killed):
            train(options(out, tuning, recipe=QUICK))
    shutil.rmtree(gone)
    train(options(out, tuning, recipe=QUICK, resume=True))
    assert same(saved(out), saved(adapted))


def test_statistics_of_what_is_frozen_stay(convolutions: Path, tmp_path: Path) -> None:
    out, tuning = tmp_path / "run", Tuning(start=str(convolutions), rank=2)
    train(options(out, tuning, family="dcgan", loading=DataOptions(size=32, limit=128)))
    before, after = first(convolutions), first(out)
    held = [name for name in after if "running" in name or "batches" in name]
    assert held
    assert all(torch.equal(before[name], after[name]) for name in held)
    origin, live = load_generator(convolutions), load_generator(out, "live")
    z = origin.example_inputs["z"]
    assert torch.equal(live.module(z, torch.zeros(2)), origin.module(z))
    assert not torch.equal(live.module(z, torch.ones(2)), origin.module(z))


def test_a_strength_in_the_bundle(adapted: Path, source: Path, tmp_path: Path) -> None:
    bundle = export_run(adapted, tmp_path / "live", adapter="live")
    variants = bundle.manifest.graphs["generator"].variants
    assert all(bundle.manifest.gate("generator", name) for name in variants)
    assert bundle.manifest.made["training"]["tuning"]["rank"] == 4
    origin = sample(load_generator(source).module, load_generator(source).program, 7, 4)
    trained = sample(load_generator(adapted).module, load_generator(adapted).program, 7, 4)
    assert np.abs(origin.astype(int) - trained).max() > 10
    with aigc_rt.load(tmp_path / "live", device="cpu", precision="fp32") as gen:
        found = gen.generate(4, seed=7, adapter_scale=[0, 1, 0, 1]).array
    for k, expected in enumerate((origin, trained, origin, trained)):
        assert np.abs(found[k].astype(int) - expected[k]).max() <= 1


def test_every_graph_with_adapters_has_the_strength(tmp_path: Path) -> None:
    small = {"width": 8, "latent": 4, "blocks": 0}
    train(options(tmp_path / "source", family="vae", settings=small, max_steps=5))
    tuning = Tuning(start=str(tmp_path / "source"), rank=2)
    train(options(tmp_path / "both", tuning, family="vae", recipe=QUICK))
    origin, merged = load_generator(tmp_path / "source"), load_generator(tmp_path / "both")
    export_run(tmp_path / "both", tmp_path / "live", adapter="live", precisions=("fp32",))
    image = np.random.default_rng(0).uniform(-1, 1, (3, *data.load("digits").shape)).astype(np.float32)
    with torch.no_grad(), aigc_rt.load(tmp_path / "live", device="cpu") as gen:
        scale = np.array([0.0, 1.0, 0.0], np.float32)
        found = gen.run({"image": image, "adapter_scale": scale}, graph="encoder")["mean"]
        for k, one in enumerate((origin, merged, origin)):
            expected = one.also["encoder"].module(torch.from_numpy(image))[0].numpy()
            np.testing.assert_allclose(found[k], expected[k], atol=1e-4)
        assert gen.generate(2, seed=1, adapter_scale=0.5).array.shape == (2, 8, 8, 1)
        pixels = ((image.transpose(0, 2, 3, 1) + 1) * 127.5).round().astype(np.uint8)
        again = BundleSampler(gen).reconstruct(pixels, np.array([0, 5, 9]))  # of classes that the strength is not
    assert again is not None
    with torch.no_grad():
        expected = merged.also["encoder"].module(to_floats(torch.from_numpy(pixels.transpose(0, 3, 1, 2))))[0].numpy()
    np.testing.assert_allclose(again.mean, expected, atol=1e-4)

    half = dataclasses.replace(tuning, targets=("vae.decoder.layers.*",))
    train(options(tmp_path / "half", half, family="vae", recipe=QUICK, max_steps=5))
    live = load_generator(tmp_path / "half", "live")
    assert "adapter_scale" in live.program.conditions
    assert list(live.also["encoder"].example_inputs) == ["image"]


def test_what_is_not_exported_is_trained_as_ever(tmp_path: Path) -> None:
    small = {"width": 8, "latent": 4, "blocks": 0}
    train(options(tmp_path / "source", family="vae", settings=small, max_steps=2))
    train(options(tmp_path / "run", Tuning(start=str(tmp_path / "source"), rank=2), family="vae", recipe=QUICK))
    before, after = first(tmp_path / "source", "vae"), first(tmp_path / "run", "vae")
    likelihood = [name for name in before if "likelihood" in name]
    assert likelihood
    assert all(not torch.equal(before[name], after[name]) for name in likelihood)


def compared(source: Path, folder: Path, family: str, name: str, most: int, steps: int) -> dict[str, float]:
    """Distances of 1,000 threes from real threes not trained on: from scratch, fine-tuned whole, with adapters."""
    whole, loading = data.load(name), DataOptions(only=(3,), limit=most)
    trained_on = set(data.load(name, loading).train.tolist())
    assert whole.labels is not None
    left = [k for k in np.flatnonzero(whole.labels == 3).tolist() if k not in trained_on]
    features = Judge.of(whole, folder / "judges", quiet=True).features
    real = features.of(whole.images[left].transpose(0, 2, 3, 1))
    ways = {
        "scratch": None,
        "whole": Tuning(start=str(source)),
        "adapters": Tuning(start=str(source), rank=8),
    }
    found = {"source": metrics.frechet(features.of(_drawn(source)), real)}
    epochs = max(1, -(-steps * 64 // len(trained_on)))
    for way, tuning in ways.items():
        asked = options(folder / way, tuning, family=family, data=name, loading=loading, recipe={"epochs": epochs})
        train(asked if tuning else dataclasses.replace(asked, settings=record.read(source).settings))
        found[way] = metrics.frechet(features.of(_drawn(folder / way)), real)
    return found


def _drawn(run: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    trained = load_generator(run)
    return sample(trained.module, trained.program, seed=1, count=1000)


def test_a_source_is_worth_having(tmp_path: Path) -> None:
    train(options(tmp_path / "all", recipe={"epochs": 16}))
    found = compared(tmp_path / "all", tmp_path, "gan", "digits", most=60, steps=60)
    assert found["whole"] < 0.5 * found["scratch"], found
    assert found["adapters"] < 0.5 * found["scratch"], found


@pytest.mark.slow
def test_a_source_is_worth_having_of_mnist(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    train(options(tmp_path / "all", data="mnist5k", recipe={}))
    found = compared(tmp_path / "all", tmp_path, "gan", "mnist5k", most=200, steps=300)
    record_property("frechet", found)
    assert found["whole"] < 0.5 * found["scratch"], found
    assert found["adapters"] < 0.5 * found["scratch"], found
