"""How far two sets of images are apart, given their features: (N, D) and (M, D) float32, made ones first.

`frechet` is the distance of Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
Equilibrium", 2017; `kernel` that of Binkowski et al., "Demystifying MMD GANs", 2018, with its cubic kernel. Both papers
use Inception's features: in others the numbers are others. `neighbours` holds the two precisions and the two recalls.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

SUBSETS, SUBSET = 50, 500
"""Of the kernel distance; a subset is never more than half of the smaller set."""
K_PRECISION, K_COVERAGE = 3, 5
"""Neighbours, as in the two papers."""
FEWEST = K_COVERAGE + 1
"""Images that a set needs to be compared at all."""
_ROWS = 1024


@dataclass(frozen=True)
class Neighbours:
    """Answers from the nearest neighbours, each 0 to 1 but `density`, which may exceed 1.

    Attributes:
        count: images taken of each of the two sets; the radii depend on it.
        precision: share of the made images within the reach of a real one, its third nearest real neighbour
            (Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", 2019).
        recall: share of the real images within the reach of a made one.
        density: within how many real images' reach a made one is, as a share of the 5 that are expected (Naeem et
            al., "Reliable Fidelity and Diversity Metrics for Generative Models", 2020).
        coverage: share of the real images with a made one within their reach.
    """

    count: int
    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True)
class Distances:
    """Of `count` images from `reference` ones.

    Attributes:
        frechet: the Fréchet distance; it falls with `count`, so that only equal counts compare.
        kernel, kernel_std: mean and standard deviation of the kernel distance over subsets.
        neighbours: see there.
    """

    count: int
    reference: int
    frechet: float
    kernel: float
    kernel_std: float
    neighbours: Neighbours

    def to_dict(self) -> dict[str, float]:
        """All numbers side by side; the neighbours' count is `neighbours_of`."""
        found = asdict(self)
        found |= {("neighbours_of" if k == "count" else k): v for k, v in found.pop("neighbours").items()}
        return found


def distances(made: Tensor, real: Tensor) -> Distances:
    """All of them; `real` is in no order that matters, the neighbours are sought among the first `len(made)`."""
    kernel, deviation = kernel_distance(made, real)
    return Distances(len(made), len(real), frechet(made, real), kernel, deviation, neighbours(made, real))


def frechet(made: Tensor, real: Tensor) -> float:
    """Fréchet distance between the Gaussians of two sets' means and covariances."""
    from torchmetrics.image.fid import FrechetInceptionDistance  # 2 s to import

    metric = FrechetInceptionDistance(feature=_Given(real.shape[1]))
    metric.update(real, real=True)
    metric.update(made, real=False)
    return float(metric.set_dtype(torch.float64).compute())


def kernel_distance(made: Tensor, real: Tensor, subsets: int = SUBSETS) -> tuple[float, float]:
    """Kernel distance over `subsets` subsets, mean and standard deviation; the subsets are always the same."""
    from torchmetrics.image.kid import KernelInceptionDistance

    size = max(2, min(SUBSET, min(len(made), len(real)) // 2))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)  # that the features are kept: they are there anyway
        torch.manual_seed(0)
        metric = KernelInceptionDistance(feature=_Given(real.shape[1]), subsets=subsets, subset_size=size)
        metric.update(real, real=True)
        metric.update(made, real=False)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def neighbours(made: Tensor, real: Tensor) -> Neighbours:
    """Precision and recall, density and coverage, of as many images of the one as of the other."""
    count = min(len(made), len(real))
    made, real = made[:count], real[:count]
    of_real = nearest_own(real, (K_PRECISION, K_COVERAGE))  # (2, N)
    (of_made,) = nearest_own(made, (K_PRECISION,))  # (N,)
    precise = recalled = covered = within = 0
    for first in range(0, count, _ROWS):
        rows = slice(first, first + _ROWS)
        far = _distances(made[rows], real)  # (B, N)
        precise += int((far <= of_real[0]).any(1).sum())
        within += int((far <= of_real[1]).sum())
        back = _distances(real[rows], made)  # (B, N)
        recalled += int((back <= of_made).any(1).sum())
        covered += int((back <= of_real[1, rows, None]).any(1).sum())
    return Neighbours(count, precise / count, recalled / count, within / (K_COVERAGE * count), covered / count)


def nearest_own(points: Tensor, ks: tuple[int, ...]) -> Tensor:
    """Distance of each of (N, D) points to its k-th nearest other one, of several k: (len(ks), N)."""
    assert len(points) > max(ks)
    found = []
    for first in range(0, len(points), _ROWS):
        near = _distances(points[first : first + _ROWS], points).topk(max(ks) + 1, largest=False).values
        found.append(near[:, list(ks)].T)  # the nearest is the point itself
    return torch.cat(found, 1)


def nearest(points: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of each of (N, D) points to the nearest of (M, D) others, and which it is: (N,) float64, (N,) int64.

    Either may be uint8, and larger as floats than the memory.
    """
    best = torch.full((len(points),), torch.inf)
    which = torch.zeros(len(points), dtype=torch.int64)
    for start in range(0, len(others), _ROWS):
        block = others[start : start + _ROWS].float()
        squares = block.square().sum(1)
        for first in range(0, len(points), _ROWS):
            rows = slice(first, first + _ROWS)
            least, place = (squares - 2 * points[rows].float() @ block.T).min(1)  # less the point's own square
            nearer = least < best[rows]
            best[rows] = torch.where(nearer, least, best[rows])
            which[rows] = torch.where(nearer, place + start, which[rows])
    exact = [(points[k].double() - others[int(which[k])].double()).norm() for k in range(len(points))]
    return torch.stack(exact), which


def _distances(rows: Tensor, points: Tensor) -> Tensor:
    """(B, D), (N, D) to (B, N); without the matrix product, which would take equal points for different ones."""
    return torch.cdist(rows, points, compute_mode="donot_use_mm_for_euclid_dist")


class _Given(nn.Module):
    """What torchmetrics takes for a network: the features are there already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        """(B, num_features), in and out."""
        return features
