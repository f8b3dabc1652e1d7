"""One file per family: its networks, its objectives, its program."""

from __future__ import annotations

from aigc_rt.train.generators.family import Family
from aigc_rt.train.generators.gan import Gan

FAMILIES: dict[str, type[Family]] = {"gan": Gan}
