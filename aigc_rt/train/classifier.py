"""A small convolutional classifier: the network that judges generators."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc_rt.train.task import Batch, Loss, Recipe

FEATURES = 128
SHIFT = 1 / 14
"""Training images are moved by up to this share of their side each way: 2 pixels of 28, none of 8."""
STEPS = 320
BATCH = 128


class Classifier(nn.Module):
    """Images, (B, C, H, W) in [-1, 1], to class logits, (B, K); halved until no side is over 7 pixels."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        blocks: list[nn.Module] = []
        wide = 16
        while len(blocks) < 6 or max(height, width) > 7:  # two blocks of three layers at least
            pool = 2 if max(height, width) > 7 else 1
            blocks += [nn.Conv2d(channels, wide, 3, padding=1), nn.ReLU(), nn.MaxPool2d(pool, ceil_mode=True)]
            height, width = math.ceil(height / pool), math.ceil(width / pool)
            channels, wide = wide, min(64, 2 * wide)
        self.body = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(channels * height * width, FEATURES), nn.ReLU())
        self.head = nn.Linear(FEATURES, classes)

    def features(self, image: Tensor) -> Tensor:
        """The layer before the last: (B, FEATURES)."""
        found: Tensor = self.body(image)
        return found

    def forward(self, image: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.head(self.features(image))
        return logits


class Judging:
    """The task of telling the classes apart."""

    averaged = ("judge",)

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        self.judge = Classifier(shape, classes)
        self.networks = {"judge": self.judge}

    def losses(self, batch: Batch) -> Iterator[Loss]:
        """Cross-entropy on shifted images."""
        assert batch.labels is not None
        reach = int(min(batch.images.shape[2:]) * SHIFT)
        moves = batch.uniform((2,)).mul_(2 * reach + 1).long()  # (B, 2), 0 to 2 * reach
        yield Loss("judge", F.cross_entropy(self.judge(shifted(batch.images, moves, reach)), batch.labels))


def recipe(images: int) -> Recipe:
    """STEPS steps, in whole epochs of `images` images."""
    epochs = math.ceil(STEPS * BATCH / images)
    return Recipe(
        epochs, BATCH, lr=3e-3, betas=(0.9, 0.99), ema=0.02, schedule="cosine", final_lr=0.02, warmup_steps=20
    )


def shifted(images: Tensor, moves: Tensor, reach: int) -> Tensor:
    """Each image, (B, C, H, W), moved by its (B, 2) `moves` minus `reach`, down and right; edges are repeated."""
    count, channels, height, width = images.shape
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    rows = torch.arange(height) + (2 * reach - moves[:, :1])  # (B, H)
    columns = torch.arange(width) + (2 * reach - moves[:, 1:])  # (B, W)
    which, channel = torch.arange(count)[:, None, None, None], torch.arange(channels)[:, None, None]
    return padded[which, channel, rows[:, None, :, None], columns[:, None, None, :]]
