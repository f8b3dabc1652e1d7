"""The distances: cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from train_help import one_thread  # noqa: F401

from aigc_rt.train import metrics


def normals(count: int, width: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_frechet_of_gaussians_apart_by_a_shift_and_a_scale() -> None:
    """|m1 - m2|^2 + sum of (s1 - s2)^2 where the covariances are diagonal: 9 + 4 * 1."""
    one = normals(4000)
    one = (one - one.mean(0)) / one.std(0)
    two = 2 * one + torch.tensor([3.0, 0, 0, 0])
    assert metrics.frechet(one + torch.tensor([3.0, 0, 0, 0]), one) == pytest.approx(9, rel=1e-4)
    assert metrics.frechet(two, one) == pytest.approx(13, rel=1e-3)
    assert metrics.frechet(one, one) == pytest.approx(0, abs=1e-3)


def test_frechet_with_the_root_taken_by_another_road() -> None:
    one, two = (normals(500, 6, seed) @ normals(6, 6, 9 + seed) for seed in (1, 2))
    a, b = one.double().numpy(), two.double().numpy()
    c1, c2 = np.cov(a.T), np.cov(b.T)
    values, vectors = np.linalg.eigh(c1)
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    mixed = np.sqrt(np.clip(np.linalg.eigvalsh(root @ c2 @ root), 0, None)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * mixed
    assert metrics.frechet(one, two) == pytest.approx(expected, rel=1e-4)


def test_kernel_distance_is_none_for_one_distribution_and_grows_with_the_shift() -> None:
    one, two = normals(2000), normals(2000, seed=1)
    same, deviation = metrics.kernel_distance(one, two)
    assert abs(same) < 3 * deviation < 0.1
    near, far = (metrics.kernel_distance(one + shift, two)[0] for shift in (0.5, 1.0))
    assert 0.1 < near < far


def test_kernel_distance_of_a_case_by_hand() -> None:
    """All of one set at a, all of the other at b: k(a, a) + k(b, b) - 2 k(a, b), with k = (x y / 1 + 1)^3."""
    assert metrics.kernel_distance(torch.full((8, 1), 1.0), torch.full((8, 1), 0.0))[0] == pytest.approx(8 + 1 - 2)


def test_kernel_distance_leaves_randomness_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = metrics.kernel_distance(normals(100), normals(90, seed=1))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(4)
    assert metrics.kernel_distance(normals(100), normals(90, seed=1)) == first


def test_neighbours_of_equal_and_of_disjoint_sets() -> None:
    one = normals(300)
    found = metrics.neighbours(one.clone(), one)
    assert (found.precision, found.recall, found.coverage, found.count) == (1, 1, 1, 300)
    assert found.density == pytest.approx(6 / 5)  # each lies within the reach of five others on average, and its own
    apart = metrics.neighbours(one + 1000, one)
    assert (apart.precision, apart.recall, apart.density, apart.coverage) == (0, 0, 0, 0)


def test_neighbours_by_hand() -> None:
    """Real at 0 to 5: the third nearest is 3, 2, 2, 2, 2, 3 away and the fifth 5, 4, 3, 3, 4, 5."""
    real = torch.arange(6.0)[:, None]
    made = torch.tensor([[-3.0], [7.5], [9.5], [30.0], [31.0], [32.0]])
    found = metrics.neighbours(made, real)
    assert found.precision == 2 / 6  # -3 reaches 0, 7.5 reaches 5
    assert found.recall == 1  # the third nearest of -3 is 33 away
    # within 5 of 0: -3; of 1 within 4: -3; of 4 within 4: 7.5; of 5 within 5: 7.5, 9.5
    assert found.density == pytest.approx(5 / (5 * 6))
    assert found.coverage == 4 / 6


def test_a_mode_that_is_missing_costs_recall_and_not_precision() -> None:
    both = torch.cat([normals(200), normals(200, seed=1) + 50])[torch.randperm(400)]
    found = metrics.neighbours(normals(400, seed=2), both)
    assert found.precision > 0.9
    assert found.recall == pytest.approx(0.5, abs=0.1)
    assert found.coverage == pytest.approx(0.5, abs=0.1)


def test_neighbours_over_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = normals(300), normals(300, seed=1)
    whole, near = metrics.neighbours(one, two), metrics.nearest(one, two)
    monkeypatch.setattr(metrics, "_ROWS", 64)
    assert metrics.neighbours(one, two) == whole
    assert all(torch.equal(a, b) for a, b in zip(metrics.nearest(one, two), near, strict=True))


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
def test_nearest(kind: torch.dtype) -> None:
    points = torch.randint(0, 256, (50, 30), generator=torch.Generator().manual_seed(0)).to(kind)
    others = torch.randint(0, 256, (80, 30), generator=torch.Generator().manual_seed(1)).to(kind)
    others[7] = points[3]
    distances, which = metrics.nearest(points, others)
    expected = torch.cdist(points.double(), others.double(), compute_mode="donot_use_mm_for_euclid_dist").min(1)
    assert torch.allclose(distances, expected.values)
    assert torch.equal(which, expected.indices)
    assert (float(distances[3]), int(which[3])) == (0, 7)


def test_all_of_them_side_by_side() -> None:
    found = metrics.distances(normals(50), normals(80, seed=1)).to_dict()
    assert list(found) == [
        "count", "reference", "frechet", "kernel", "kernel_std", "neighbours_of", "precision", "recall", "density",
        "coverage",
    ]  # fmt: skip
    assert (found["count"], found["reference"], found["neighbours_of"]) == (50, 80, 50)
