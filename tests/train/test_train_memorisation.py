"""Copies of training images are found; new images are not taken for copies."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from train_help import one_thread  # noqa: F401

from aigc_rt.train import data
from aigc_rt.train.features import Features, Images
from aigc_rt.train.memorisation import memorisation
from aigc_rt.train.quality import Judge

SIZE = 6


def images(count: int, seed: int) -> NDArray[np.uint8]:
    """Smooth ramps with noise, (N, 1, SIZE, SIZE)."""
    random = np.random.default_rng(seed)
    ramps = random.uniform(-20, 20, (count, 1, 1, 2)) @ np.indices((SIZE, SIZE)).reshape(1, 1, 2, -1)
    noisy = ramps.reshape(count, 1, SIZE, SIZE) + random.normal(128, 20, (count, 1, SIZE, SIZE))
    return noisy.clip(0, 255).astype(np.uint8)


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    """Its features are the pixels."""
    order = np.arange(800)
    found = data.Dataset("ramps", images(800, 0), None, (), "", "", order[:500], order[500:])
    pixels = Features("efficientnet", SIZE * SIZE, "0" * 64, None, lambda planes: planes.flatten(1))
    return Judge(found, pixels, None, tmp_path)


def nhwc(planes: NDArray[np.uint8]) -> Images:
    return planes.transpose(0, 2, 3, 1)


def test_new_images_are_no_copies(judge: Judge) -> None:
    samples = nhwc(images(300, 1))
    found = memorisation(samples, judge.features.of(samples), judge)
    for space in ("pixels", "features"):
        assert found[space]["closer"] == pytest.approx(0.01, abs=0.02)
        assert abs(found[space]["z"]) < 3
        assert found[space]["samples"]["median"] == pytest.approx(found[space]["held_out"]["median"], rel=0.1)
    assert found["pixels"]["copies"] == {"samples": 0, "held_out": 0}
    assert found["held_out"] == 300
    assert found["verdict"].startswith("no sign of copying")
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_images_near_training_images_are(judge: Judge) -> None:
    training = judge.data.images[judge.data.train][:300].astype(int)
    near = nhwc((training + np.random.default_rng(2).integers(-3, 4, training.shape)).clip(0, 255).astype(np.uint8))
    samples = np.concatenate([near[:30], nhwc(images(270, 1))])
    found = memorisation(samples, judge.features.of(samples), judge)
    assert found["pixels"]["closer"] == pytest.approx(0.11, abs=0.015)
    assert found["verdict"].startswith("signs of copying")
    assert found["pixels"]["samples"]["p05"] < 3 / 255
    everything = memorisation(near, judge.features.of(near), judge)
    assert everything["pixels"]["z"] < -15


def test_copies_are_counted_and_drawn(judge: Judge, tmp_path: Path) -> None:
    samples = nhwc(images(40, 1))
    samples[7] = nhwc(judge.data.images[judge.data.train][3:4])[0]
    found = memorisation(samples, judge.features.of(samples), judge, tmp_path / "nearest.png")
    assert found["pixels"]["copies"]["samples"] == 1
    assert "1 samples are training images, pixel for pixel" in found["verdict"]
    picture = np.asarray(Image.open(tmp_path / "nearest.png"))
    assert picture.shape == (4 * 50 + 2, 8 * 50 + 2)  # 6 pixels are drawn as 48
    first, second = picture[2:50:8, 2:50:8], picture[2:50:8, 52:100:8]
    assert np.array_equal(first, samples[7, :, :, 0])
    assert np.array_equal(first, second)


def test_data_that_repeats_itself_is_no_copying(judge: Judge) -> None:
    repeated = judge.data.images.copy()
    repeated[500:650] = repeated[:150]
    judge = Judge(dataclasses.replace(judge.data, images=repeated), judge.features, None, judge._cache)
    samples = nhwc(np.concatenate([repeated[:150], images(150, 1)]))
    found = memorisation(samples, judge.features.of(samples), judge)
    assert found["pixels"]["copies"] == {"samples": 150, "held_out": 150}
    assert found["verdict"].startswith("no sign")


@pytest.mark.parametrize("held_out", [0, 1, 49])
def test_too_few_held_out_images_to_tell(judge: Judge, held_out: int) -> None:
    few = dataclasses.replace(judge.data, held_out=judge.data.held_out[:held_out])
    judge = Judge(few, judge.features, None, judge._cache)
    samples = nhwc(images(20, 1))
    found = memorisation(samples, judge.features.of(samples), judge)
    assert f"too few held-out images ({held_out})" in found["verdict"]
    assert (found["pixels"]["closer"] is None) == (held_out == 0)
