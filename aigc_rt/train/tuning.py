"""Fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

from aigc_rt.train.settings import between


@dataclass(frozen=True)
class Tuning:
    """Where the weights come from, and which of them are trained.

    Attributes:
        start: the run or the checkpoint whose averaged weights are the first ones; None is fresh weights.
        sha256: hash of that checkpoint's tensors.
        freeze: patterns of weights that stay as they are, "discriminator.*" say, as `fnmatch` reads them.
        rank: of low-rank adapters on the layers that `targets` names, which are trained in their place; None is none.
        alpha: the adapters' strength is `alpha / rank`.
        targets: patterns of layers.
    """

    start: str | None = None
    sha256: str | None = None
    freeze: tuple[str, ...] = ()
    rank: int | None = between(1, 4096, None)
    alpha: float = between(1e-6, 1e6, 8.0)
    targets: tuple[str, ...] = ("*",)
