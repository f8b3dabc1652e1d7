"""Fine-tuning: where a run's weights come from, and which of them are trained."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Self

from aigc_rt.errors import InputError
from aigc_rt.train import adapters
from aigc_rt.train.generators.family import Family
from aigc_rt.train.settings import between

SHOWN = 6
"""Names that an error lists."""


@dataclass(frozen=True)
class Tuning:
    """Where the weights come from, and which of them are trained.

    Attributes:
        start: the run or the checkpoint whose averaged weights are the first ones; None is fresh weights.
        sha256: hash of that checkpoint's tensors, found when the run is started.
        lineage: what the run of that checkpoint says of itself, its own lineage included; found likewise.
        freeze: patterns of weights that stay as they are, as `fnmatch` reads them: "discriminator.*", say.
        rank: of low-rank adapters, which are trained in place of the exported graphs' weights; None is none.
        alpha: the adapters are `alpha / rank` times as strong as their weights say.
        targets: patterns of the layers that get adapters, of "generator.layers.0", say.
    """

    start: str | None = None
    sha256: str | None = None
    lineage: dict[str, Any] | None = None
    freeze: tuple[str, ...] = ()
    rank: int | None = between(1, 4096, None)
    alpha: float = between(1e-6, 1e6, 8.0)
    targets: tuple[str, ...] = ("*",)

    def __post_init__(self) -> None:
        if self.start is not None:
            object.__setattr__(self, "start", os.fspath(self.start))  # a Path is no JSON
        if self.rank is not None and not (type(self.rank) is int and 1 <= self.rank <= 4096):
            raise InputError(f"adapters of rank {self.rank!r}", "it is out of range", "Give 1 to 4,096; 8 is usual")
        if not 1e-6 <= self.alpha <= 1e6:
            raise InputError(f"adapters of alpha {self.alpha!r}", "it is out of range", "Give the rank, or twice it")
        if self.rank is None and (self.alpha, self.targets) != (Tuning.alpha, Tuning.targets):
            raise InputError(
                f"adapters of alpha {self.alpha} on {', '.join(map(str, self.targets)) or 'nothing'}",
                "without a rank there are no adapters",
                "Give their rank too, 8 say",
            )
        if not self.targets:
            raise InputError("adapters on no layers", "the targets are none", 'Give ("*",) for all layers')
        for what, patterns in (("freeze", self.freeze), ("adapter targets", self.targets)):
            if not (isinstance(patterns, tuple) and all(isinstance(p, str) and p for p in patterns)):
                raise InputError(f"{what} {patterns!r}", "they are no list of patterns", 'Give ("generator.*",), say')

    def asked(self) -> Self:
        """Without what was found when the run was started."""
        return replace(self, sha256=None, lineage=None)


def apply(family: Family, tuning: Tuning) -> None:
    """Freeze what is to be frozen of a family's networks, and give adapters to the exported graphs.

    With adapters nothing else of an exported graph is trained; what is not exported, a discriminator say, is trained
    as ever. A layer that a pattern freezes gets none. Whatever is frozen is in eval mode: statistics, batch norm's say,
    stay as well.

    Raises:
        InputError: a pattern matches nothing, or nothing is left to train.
    """
    parameters = {f"{role}.{n}": p for role, module in family.networks.items() for n, p in module.named_parameters()}
    for pattern in tuning.freeze:
        for name in _matched("freeze", pattern, parameters):
            parameters[name].requires_grad_(False)
    if tuning.rank is not None:
        _adapt(family, tuning, tuning.rank)
    left = [p for network in family.networks.values() for p in network.parameters() if p.requires_grad]
    if not left:
        raise InputError(f"freeze {', '.join(tuning.freeze)}", "nothing is left to train", "Freeze less")
    for network in family.networks.values():
        for module in network.modules():
            own = list(module.parameters())
            if own and not any(p.requires_grad for p in own):
                module.eval()


def _adapt(family: Family, tuning: Tuning, rank: int) -> None:
    exported = {id(m) for graph in family.graphs(family.networks).values() for m in graph.modules()}
    found = {
        f"{role}.{name}": (role, name)
        for role, network in family.networks.items()
        for name, layer in adapters.adaptable(network).items()
        if id(layer) in exported
    }
    chosen = {found[name] for target in tuning.targets for name in _matched("put adapters on", target, found)}
    for role, network in family.networks.items():
        adapters.adapt(network, rank, tuning.alpha, [name for of, name in chosen if of == role])
    for graph in family.graphs(family.networks).values():
        graph.requires_grad_(False).eval()
        for layer in adapters.adapted(graph).values():
            layer.down.requires_grad_(True)
            layer.up.requires_grad_(True)


def _matched(what: str, pattern: str, names: Collection[str]) -> list[str]:
    matched = [name for name in names if fnmatchcase(name, pattern)]
    if not matched:
        shown = ", ".join(list(names)[:SHOWN]) or "none"
        more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
        raise InputError(f"{what} {pattern!r}", "it matches nothing", f"There are {shown}{more}")
    return matched
