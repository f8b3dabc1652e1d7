"""`evaluate`: the same numbers for anything that draws samples, beside what real images get."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from train_help import load_digits, make_gan, one_thread  # noqa: F401

from aigc_rt.errors import DataError, InputError
from aigc_rt.manifest import Condition
from aigc_rt.train import classifier, data, generators, metrics
from aigc_rt.train.evaluate import PRIVACY_NOTE, evaluate, lines, quick
from aigc_rt.train.features import Images
from aigc_rt.train.generators.family import DataSpec
from aigc_rt.train.generators.vae import similarity
from aigc_rt.train.loop import Trainer, fit
from aigc_rt.train.quality import Judge, nhwc
from aigc_rt.train.quality_curve import QualityCurve, watching
from aigc_rt.train.reconstruction import reconstruction
from aigc_rt.train.samplers import Reconstruction, RunSampler
from aigc_rt.train.watch import Curves

KEYS = {
    "data", "features", "seed", "samples", "reference", "frechet", "kernel", "kernel_std", "neighbours_of", "precision",
    "recall", "density", "coverage", "frechet_ratio", "sure", "sure_from", "shares", "covered", "covered_from",
    "classes", "classifier", "yardsticks", "conditional", "reconstruction", "memorisation", "privacy_note",
}  # fmt: skip


class Drawn:
    """A sampler of given images: of those of a class, where it is asked for one."""

    def __init__(self, images: Images, labels: NDArray[np.int64] | None = None, wrong: float = 0.0) -> None:
        self.images, self.labels, self.wrong = images, labels, wrong
        condition = Condition("label", "int64", 0, 9)
        self.conditions = {} if labels is None else {"label": condition}
        self.shape = (images.shape[3], *images.shape[1:3])

    def draw(self, count: int, seed: int, start: int = 0, **conditions: Any) -> Images:
        if self.labels is None:
            return np.resize(np.roll(self.images, -start, 0), (count, *self.images.shape[1:]))
        asked = np.array(conditions["label"])
        asked[: int(self.wrong * count)] = (asked[: int(self.wrong * count)] + 1) % 10
        return np.stack([self.images[self.labels == one][k % 100] for k, one in enumerate(asked)])

    def reconstruct(self, images: Images, labels: NDArray[np.int64] | None) -> Reconstruction | None:
        return None

    def measures(self, images: Images, labels: NDArray[np.int64] | None) -> dict[str, float]:
        return {}


@pytest.fixture(scope="module")
def judge(digits: data.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(classifier, "STEPS", 150)
        yield Judge.of(digits, tmp_path_factory.mktemp("judges"), quiet=True)


@pytest.fixture(scope="module")
def real(digits: data.Dataset) -> Images:
    return nhwc(digits.images)


def test_held_out_images_are_as_good_as_it_gets(judge: Judge, real: Images, digits: data.Dataset) -> None:
    found = evaluate(Drawn(nhwc(digits.images[digits.held_out])), judge, samples=180)
    assert found.keys() == KEYS
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["samples"], found["reference"], found["neighbours_of"]) == (180, 1617, 180)
    assert found["data"] == {"name": "digits", "sha256": digits.sha256, "training": 1617, "held_out": 180}
    same, held_out = found["yardsticks"]["samples"], found["yardsticks"]["held_out"]
    assert found["frechet"] == same["frechet"] == pytest.approx(held_out["frechet"], rel=1e-3)
    assert found["precision"] > 0.8
    assert found["recall"] > 0.8
    assert (found["covered"], found["classes"]) == (10, 10)
    assert found["memorisation"]["verdict"].startswith("no sign")
    untold = ("conditional", "reconstruction", "frechet_ratio", "privacy_note")
    assert [found[name] for name in untold] == [None] * 4


def test_training_images_are_copies(judge: Judge, digits: data.Dataset) -> None:
    found = evaluate(Drawn(nhwc(digits.images[digits.train])), judge, samples=300)
    assert found["memorisation"]["pixels"]["copies"]["samples"] == 300
    assert "signs of copying" in found["memorisation"]["verdict"]


def test_noise_is_worse_than_digits_and_one_digit_than_ten(judge: Judge, real: Images, digits: data.Dataset) -> None:
    noise = evaluate(Drawn(np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1), np.uint8)), judge, samples=200)
    threes = evaluate(Drawn(real[digits.labels == 3]), judge, samples=183)
    every = evaluate(Drawn(nhwc(digits.images[digits.held_out])), judge, samples=180)
    assert noise["frechet"] > 10 * every["frechet"]
    assert min(noise["kernel"], threes["kernel"]) > 10 * every["kernel_std"] > abs(every["kernel"])
    assert noise["precision"] < 0.1 < 0.8 < threes["precision"]
    assert threes["recall"] < 0.3
    assert threes["coverage"] < 0.3 < every["coverage"]
    assert (threes["covered"], every["covered"]) == (1, 10)


def test_an_untrained_network_is_a_yardstick(judge: Judge) -> None:
    gan = make_gan((1, 8, 8), "r3gan")
    sampler = RunSampler(gan, gan.networks)
    found = evaluate(sampler, judge, samples=50, untrained=sampler)
    assert found["yardsticks"]["untrained"]["frechet"] == found["frechet"]
    assert found["frechet_ratio"] == 1
    assert found["yardsticks"]["samples"]["count"] == found["yardsticks"]["held_out"]["count"] == 50


def test_the_same_seed_gives_the_same_numbers(judge: Judge) -> None:
    gan = make_gan((1, 8, 8), "r3gan")
    first, again, other = (evaluate(RunSampler(gan, gan.networks), judge, samples=40, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first["frechet"] != other["frechet"]


@pytest.mark.parametrize("wrong", [0.0, 0.25])
def test_classes_that_are_asked_for(judge: Judge, real: Images, digits: data.Dataset, wrong: float) -> None:
    assert digits.labels is not None
    found = evaluate(Drawn(real, digits.labels, wrong), judge, samples=200)["conditional"]
    assert found["agreement"] == pytest.approx(1 - wrong, abs=0.04)
    assert list(found["per_class"]) == [str(k) for k in range(10)]
    assert found["frechet"] == {}  # 20 samples of a class fill no covariance of 128 features


def test_distances_of_classes(
    judge: Judge, real: Images, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert digits.labels is not None
    narrow = judge.features.__class__(
        "classifier", 4, judge.features.sha256, None, lambda planes: planes[:, 0, 2:4, 2:4].flatten(1)
    )
    other = Judge(digits, narrow, judge._network, judge._cache)
    found = evaluate(Drawn(real, digits.labels), other, samples=200)["conditional"]
    assert list(found["frechet"]) == list(found["per_class"])
    reference = other.reference_labels()
    samples = Drawn(real, digits.labels).draw(200, 0, label=np.resize(reference, 200))  # type: ignore[arg-type]
    threes = narrow.of(samples)[np.resize(reference, 200) == 3]  # type: ignore[arg-type]
    assert found["frechet"]["3"] == pytest.approx(metrics.frechet(threes, other.reference[reference == 3]))


def test_an_autoencoder_is_measured_on_held_out_images(judge: Judge, digits: data.Dataset) -> None:
    torch.manual_seed(0)
    vae = generators.create("vae", DataSpec((1, 8, 8)), "sigma", {"width": 8, "latent": 4})
    sampler = RunSampler(vae, vae.networks)
    found = evaluate(sampler, judge, samples=150)["reconstruction"]
    images, labels = judge.held_out_images(150)
    own = sampler.measures(images, labels)
    assert found.keys() == own.keys() | {"count"} == {
        "count", "mse", "psnr_db", "ssim", "kl_nats", "elbo_bits_per_dim",
    }  # fmt: skip
    assert found["count"] == 150
    assert {name: found[name] for name in own} == pytest.approx(own, rel=1e-2)  # in whole pixels and in floats
    made = sampler.reconstruct(images, labels)
    assert made is not None
    assert (made.images.shape, made.images.dtype) == (images.shape, np.dtype("uint8"))
    assert made.mean.shape == (150, 4)


def test_reconstruction_by_hand(judge: Judge) -> None:
    class Grey(Drawn):
        """Makes every image brighter by 51, a fifth."""

        def reconstruct(self, images: Images, labels: NDArray[np.int64] | None) -> Reconstruction:
            ones = np.ones((len(images), 2), np.float32)
            return Reconstruction(images // 2 + 51, ones, 0 * ones)

    class Half(Judge):
        def held_out_images(self, most: int) -> tuple[Images, NDArray[np.int64] | None]:
            images, labels = super().held_out_images(most)
            return images // 2, labels

    half = Half(judge.data, judge.features, judge._network, judge._cache)
    doubled = Grey(np.zeros((9, 8, 8, 1), np.uint8))
    doubled.reconstruct = lambda images, labels: Grey.reconstruct(doubled, 2 * images, labels)  # type: ignore[method-assign]
    found = reconstruction(doubled, half, 100)
    assert found is not None
    assert found["mse"] == pytest.approx(0.04)
    assert found["psnr_db"] == pytest.approx(13.979, abs=1e-3)
    assert found["kl_nats"] == pytest.approx(1.0)  # half of 1 in each of two dimensions


def test_similarity_of_an_image_and_its_negative(real: Images) -> None:
    one, two = (torch.from_numpy(images.transpose(0, 3, 1, 2) / 127.5 - 1) for images in (real[:9], 255 - real[:9]))
    assert similarity(one, one).tolist() == pytest.approx([1] * 9)
    assert similarity(one, two).max() < 0.1


def test_a_private_run_says_what_is_not_covered(judge: Judge, real: Images, tmp_path: Path) -> None:
    found = evaluate(Drawn(real), judge, samples=20, private=True, figure=tmp_path / "nearest.png")
    assert found["privacy_note"] == PRIVACY_NOTE
    assert not (tmp_path / "nearest.png").exists()
    assert PRIVACY_NOTE in lines(found)[-1]
    evaluate(Drawn(real), judge, samples=20, figure=tmp_path / "nearest.png")
    assert (tmp_path / "nearest.png").exists()


def test_what_cannot_be_compared(judge: Judge, real: Images) -> None:
    with pytest.raises(InputError, match=r"images of 3 x 8 x 8 on digits: its images are 1 x 8 x 8"):
        evaluate(Drawn(real.repeat(3, 3)), judge, samples=20)
    with pytest.raises(InputError, match="6 are needed"):
        evaluate(Drawn(real), judge, samples=5)


def test_a_distance_that_is_no_number(judge: Judge, real: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "frechet", lambda *_: float("nan"))
    with pytest.raises(DataError, match="the distance of the samples is nan"):
        evaluate(Drawn(real), judge, samples=20)


def test_lines_for_a_person(judge: Judge, real: Images, digits: data.Dataset) -> None:
    text = lines(evaluate(Drawn(real, digits.labels), judge, samples=300))
    assert text[0].startswith("300 samples of seed 0 against digits, classifier features ")
    assert [line.split()[0] for line in text[2:5]] == ["samples", "held-out", "as"]
    assert "10 of 10 classes have 3.0% of the samples or more" in text[5]
    assert "of the class asked for" in text[6]
    assert len(text) == 8


def test_curves_while_training(judge: Judge, digits: data.Dataset, tmp_path: Path) -> None:
    gan = make_gan((1, 8, 8), "r3gan")
    trainer = Trainer(gan, digits, gan.objectives["r3gan"], 0)
    curves = Curves(tmp_path, 0, 100, 100, lambda: np.zeros((1, 8, 8, 1), np.uint8))
    watchers = watching(curves, 2, RunSampler(gan, trainer.averages), lambda: judge)
    assert isinstance(watchers[0], QualityCurve)
    written: list[tuple[str, int]] = []
    curves.writer.add_scalar = lambda name, _value, step: written.append((name, step))  # type: ignore[assignment, misc]
    fit(trainer, 3, watchers)
    names = [f"quality/{name}" for name in ("frechet", "kernel", "covered")]
    assert written == [(name, step) for step in (2, 3) for name in names]


def test_no_curves_where_nothing_can_be_judged_quickly(judge: Judge, tmp_path: Path) -> None:
    def refuse() -> Judge:
        raise DataError("judge", "too few", "Give more")

    curves = Curves(tmp_path, 0, 1, 1, lambda: np.zeros((1, 8, 8, 1), np.uint8))
    gan = make_gan((1, 8, 8), "r3gan")
    sampler = RunSampler(gan, gan.networks)
    assert watching(curves, 1, sampler, refuse) == []
    slow = Judge.of(judge.data, judge._cache, features="efficientnet")
    assert watching(curves, 1, sampler, lambda: slow) == []


def test_the_quick_numbers_are_those_of_the_whole(judge: Judge, real: Images) -> None:
    found, short = evaluate(Drawn(real), judge, samples=300), quick(Drawn(real), judge, samples=300)
    assert (short["frechet"], short["covered"]) == (found["frechet"], found["covered"])
    assert short["kernel"] == pytest.approx(found["kernel"], abs=3 * found["kernel_std"])
