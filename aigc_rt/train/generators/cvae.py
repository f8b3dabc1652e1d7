"""The conditional variational autoencoder: Sohn, Lee, Yan, "Learning Structured Output Representation using Deep
Conditional Generative Models", 2015. It is told the class of what it makes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aigc_rt.errors import InputError
from aigc_rt.manifest import Condition
from aigc_rt.train.generators.autoencoder import Decoder, Encoder, Inference, Shape, Sizes
from aigc_rt.train.generators.family import DataSpec
from aigc_rt.train.generators.vae import Vae
from aigc_rt.train.task import Batch


class LabelledEncoder(Encoder):
    """An encoder that is told the label, (B,) int64: each class shifts the first features by its own vector."""

    def __init__(self, shape: Shape, sizes: Sizes, classes: int) -> None:
        super().__init__(shape, sizes)
        self.label = nn.Embedding(classes, sizes.width)

    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Mean and log variance."""
        return self.posterior(self.stem(image) + self.label(label)[..., None, None])


class LabelledDecoder(Decoder):
    """A decoder that is told the label, (B,) int64: each class shifts the first features by its own vector, as if the
    code came with a one-hot vector of the label, and has a prior of its own.
    """

    def __init__(self, shape: Shape, sizes: Sizes, classes: int) -> None:
        super().__init__(shape, sizes, classes)
        self.label = nn.Embedding(classes, self.first.out_features)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:  # type: ignore[override]
        """The images of z."""
        return self.image(self.prior.inverse(z, label), label)

    def image(self, code: Tensor, label: Tensor) -> Tensor:  # type: ignore[override]
        """The images of codes."""
        return torch.tanh(0.5 * self.logits(code, label))

    def logits(self, code: Tensor, label: Tensor) -> Tensor:  # type: ignore[override]
        """Their sigmoids are the images in [0, 1], (B, C, H, W)."""
        return self.pixels(self.first(code) + self.label(label))


class LabelledInference(Inference):
    """What is exported as the encoder."""

    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """The z of the posterior's mean and its log variance, as in Inference."""
        mean, log_variance = self.prior(*self.encoder(image, label), label)
        return mean, log_variance


class Cvae(Vae):
    """The family `cvae`: `vae`, its objectives and all, given the label."""

    inference = LabelledInference

    def halves(self, data: DataSpec) -> tuple[Encoder, Decoder]:
        """The encoder and the decoder."""
        if not data.classes:
            raise InputError(
                "train cvae",
                "the images have no labels",
                "Give labels (sub-folders named after the classes), or train the family vae",
            )
        sizes = (data.shape, self.sizes, data.classes)
        return LabelledEncoder(*sizes), LabelledDecoder(*sizes)

    def conditions(self, data: DataSpec) -> dict[str, Condition]:
        """The class, by number or by name."""
        return {"label": Condition(input="label", dtype="int64", low=0, high=data.classes - 1, names=data.class_names)}

    def given(self, batch: Batch) -> dict[str, Tensor]:
        """The labels."""
        assert batch.labels is not None
        return {"label": batch.labels}
