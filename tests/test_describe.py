"""What `aigc-rt inspect` says of numbers that need words."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import toy

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


def test_quality_compares_real_images_with_as_many_samples() -> None:
    few = {"count": 500, "frechet": 17.25}
    of = QUALITY | {"yardsticks": {"held_out": {"count": 500, "frechet": 3.353}, "samples": few}}
    words = "Fréchet distance 16 (of 500 samples 17.2, of as many real images 3.35, untrained 999); "
    assert words in describe._quality(of)
    equal = QUALITY | {"yardsticks": {"held_out": {"frechet": 3.353}, "samples": {"count": 1000, "frechet": 15.98}}}
    assert describe._quality(equal) == WORDS


def test_a_fine_tuned_private_run_says_its_source_and_its_promise(images: Path) -> None:
    source = {"family": "gan", "objective": "bce", "data": {"name": "mnist5k"}, "step": 6329}
    spent = {"epsilon": 7.98765, "delta": 1e-5, "adjacency": "add or remove one image"}
    run = source | {"data": {"name": "digits"}, "step": 300, "spent": spent}
    run["tuning"] = {"start": "/a/b", "sha256": "0123456789abcdef", "lineage": source}
    text = described(images, made={"training": run, "training_quality": None})
    assert "  trained: gan (bce) on digits, 300 steps\n" in text
    assert "  fine-tuned from 0123456789ab: gan (bce) on mnist5k, 6,329 steps\n" in text
    assert "  differential privacy: epsilon 7.988, delta 1e-05, add or remove one image\n" in text
    assert "quality in PyTorch" not in text
    plain = described(images, made={"training": source | {"tuning": None, "spent": None}})
    assert "fine-tuned" not in plain
    assert "privacy" not in plain


def test_what_the_program_feeds_is_said_of_its_own_graph_only(tmp_path: Path) -> None:
    path = toy.bundle(tmp_path / "it", labelled=True, encoder=("fp32",))
    manifest = Bundle(path).manifest
    encoder = dataclasses.replace(
        manifest.graphs["encoder"], inputs=manifest.main_graph.inputs, outputs=manifest.main_graph.outputs
    )
    main, further = described(path, graphs={"generator": manifest.main_graph, "encoder": encoder}).split("  graph ")[1:]
    assert "in  label: int64 (batch=1..8), the condition label: 0 to 9\n" in main
    assert ", image NCHW in [-1, 1]\n" in main
    assert "in  label: int64 (batch=1..8)\n" in further
    assert "NCHW" not in further


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
