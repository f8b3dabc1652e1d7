"""What `aigc-rt inspect` says of numbers that need words."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from aigc_rt import describe
from aigc_rt.bundle import Bundle
from aigc_rt.manifest import Evidence

QUALITY = {
    "frechet": 15.98, "frechet_ratio": 0.016, "yardsticks": {"held_out": {"frechet": 3.353}}, "covered": 10,
    "classes": 10, "sure": 0.611, "samples": 1000, "seed": 1, "shares": {"0": 0.1},
}  # fmt: skip
WORDS = (
    "1,000 samples: Fréchet distance 16 (real images 3.35, untrained 999); 10 of 10 classes; "
    "a classifier is sure of 61%"
)


def described(path: Path, **changes: Any) -> str:
    bundle = Bundle(path)
    bundle.manifest = dataclasses.replace(bundle.manifest, **changes)
    return describe.text(bundle)


def test_quality_is_a_sentence(images: Path) -> None:
    claim = Evidence("quality", "device", QUALITY, "generator", "fp32")
    training = {"family": "gan", "objective": "r3gan", "data": {"name": "mnist5k"}, "step": 6329}
    text = described(images, evidence=(claim,), made={"training": training, "training_quality": QUALITY})
    assert f"quality [device]: {WORDS}" in text
    assert "  trained: gan (r3gan) on mnist5k, 6,329 steps\n" in text
    assert f"  quality in PyTorch: {WORDS}" in text
    assert "{" not in text


@pytest.mark.parametrize("made", [{"training": 3}, {"training": {"family": "gan"}}, {"training_quality": []}])
def test_what_another_writer_made_of_it_is_left_out(images: Path, made: dict[str, Any]) -> None:
    assert "quality in PyTorch" not in described(images, made=made)
    odd = Evidence("quality", "device", {"yardsticks": {"held_out": 3}, "frechet": 1.0}, "generator", "fp32")
    assert "2 details, see --json" in described(images, evidence=(odd,))


def test_a_small_graph_says_its_size_and_no_bytes_a_parameter(images: Path) -> None:
    text = described(images)
    assert "0.00 MB" not in text
    assert "bytes a parameter" not in text
    large = Bundle(images).manifest
    graph = dataclasses.replace(large.main_graph, parameters=10_000)
    assert "bytes a parameter" in described(images, graphs={**large.graphs, "generator": graph})


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (12, "12 bytes"), (1_234, "1.23 kB"), (45_678, "45.7 kB"), (456_789, "457 kB"), (4_770_000, "4.77 MB"),
        (3_400_000_000, "3.40 GB"),
    ],
)  # fmt: skip
def test_sizes(size: int, words: str) -> None:
    assert describe._bytes(size) == words
