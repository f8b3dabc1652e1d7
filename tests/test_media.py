from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aigc_rt import media
from aigc_rt.errors import ExecutionError, InputError, WriteError
from aigc_rt.manifest import Media

NCHW, NHWC = Media("image", "y", "NCHW"), Media("image", "y", "NHWC")


def test_floats_become_the_nearest_level() -> None:
    levels = np.arange(256)
    floats = (levels / 127.5 - 1).astype(np.float32).reshape(1, 1, 16, 16)
    assert np.array_equal(media.finish(floats, NCHW).reshape(-1), levels)
    assert media.finish(np.array([[[[-9.0, 9.0, 0.0039]]]], np.float32), NCHW).reshape(-1).tolist() == [0, 255, 128]
    unit = Media("image", "y", "NHWC", 0, 1)
    assert media.finish(np.array([[[[0.0], [0.5], [1.0]]]], np.float32), unit).reshape(-1).tolist() == [0, 128, 255]


def test_channels_come_last_in_their_order() -> None:
    floats = np.random.default_rng(0).uniform(-1, 1, (2, 3, 4, 5)).astype(np.float32)
    made = media.finish(floats, NCHW)
    assert made.shape == (2, 4, 5, 3)
    assert np.array_equal(made, media.finish(np.ascontiguousarray(floats.transpose(0, 2, 3, 1)), NHWC))
    assert made.flags.c_contiguous
    assert abs(int(made[1, 2, 3, 0]) - (floats[1, 0, 2, 3] + 1) * 127.5) <= 0.5


@pytest.mark.parametrize("place", [0, 7, 59])
def test_nan_is_found_wherever_it_is(place: int) -> None:
    floats = np.zeros((1, 3, 4, 5), np.float32)
    floats.reshape(-1)[place] = np.nan
    with pytest.raises(ExecutionError, match="NaN"):
        media.finish(floats, NCHW)


def test_the_floats_are_left_alone() -> None:
    floats = np.zeros((1, 1, 2, 2), np.float32)
    media.finish(floats, NCHW)
    assert not floats.any()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_a_png_is_read_back_by_another_program(channels: int, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    with Image.open(io.BytesIO(media.png(pixels))) as image:
        image.verify()
    with Image.open(io.BytesIO(media.png(pixels))) as image:
        assert image.mode == mode
        assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)


def test_a_grid_holds_every_image_once() -> None:
    images = np.arange(1, 6, dtype=np.uint8).reshape(5, 1, 1, 1) * np.ones((5, 2, 3, 1), np.uint8)
    sheet = media.grid(images)
    assert sheet.shape == (2 * (2 + 2) + 2, 3 * (3 + 2) + 2, 1)
    assert [int((sheet == i).sum()) for i in range(1, 6)] == [6] * 5
    assert sheet[2, 2 + 5, 0] == 2  # row by row
    assert sheet[2 + 4, 2, 0] == 4


def test_sound_is_mapped_clipped_and_written(tmp_path: Path) -> None:
    spec = Media("audio", "y", "NCT", 0, 2, 8000)
    sound = media.finish(np.array([[[0, 1, 2, 5], [2, 1, 0, -5]]], np.float32), spec)  # (1, 2, 4)
    assert sound.tolist() == [[[-1, 1], [0, 0], [1, -1], [1, -1]]]
    media.save(tmp_path / "a.wav", sound, spec)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (8000, 2, 4)
        assert np.frombuffer(file.readframes(4), "<i2").tolist() == [-32767, 32767, 0, 0, 32767, -32767, 32767, -32767]


def test_save_writes_what_the_ending_says(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), np.uint8)
    media.save(tmp_path / "a.npy", images, NCHW)
    assert np.array_equal(np.load(tmp_path / "a.npy"), images)
    media.save(tmp_path / "one.png", images[:1], NCHW)
    with Image.open(tmp_path / "one.png") as image:
        assert np.array_equal(np.asarray(image), images[0, :, :, 0])
    for name in ("a.jpg", "a", "a.wav"):
        with pytest.raises(InputError, match=r"\.png or \.npy"):
            media.save(tmp_path / name, images, NCHW)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npy", "one.png"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    images = np.zeros((1, 4, 4, 1), np.uint8)
    with pytest.raises(WriteError, match="there is no folder"):
        media.save(tmp_path / "none" / "a.png", images, NCHW)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(WriteError, match="directory"):
        media.save(tmp_path / "folder.png", images, NCHW)
    (tmp_path / "file").write_text("x")
    for odd in (tmp_path / "file" / "a.png", tmp_path / ("x" * 300 + ".png"), tmp_path / "nul\0.png"):
        with pytest.raises(WriteError):
            media.save(odd, images, NCHW)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.png"]


def test_enlarging_repeats_pixels(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), np.uint8)
    large = media.enlarge(images[0], 3)
    assert large.shape == (12, 15, 3)
    assert all(np.array_equal(large[i::3, j::3], images[0]) for i in range(3) for j in range(3))
    media.save(tmp_path / "x.png", images, NHWC, scale=2)
    with Image.open(tmp_path / "x.png") as read:
        assert np.array_equal(np.asarray(read), media.enlarge(media.grid(images), 2))


@pytest.mark.parametrize(("count", "side", "scale"), [(64, 28, 3), (16, 28, 5), (1, 28, 1), (64, 64, 1), (2, 249, 1)])
def test_a_small_grid_is_drawn_500_pixels_wide_or_more(count: int, side: int, scale: int) -> None:
    images = np.zeros((count, side, side, 1), np.uint8)
    assert media.grid_scale(images) == scale
    width = media.grid(images).shape[1]
    assert count == 1 or scale * width >= 500 > (scale - 1) * width
