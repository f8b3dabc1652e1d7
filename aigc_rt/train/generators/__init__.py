"""One file per family: its networks, its objectives, its program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aigc_rt.errors import RunError
from aigc_rt.train.generators.cgan import Cgan
from aigc_rt.train.generators.cvae import Cvae
from aigc_rt.train.generators.dcgan import Dcgan
from aigc_rt.train.generators.family import DataSpec, Family
from aigc_rt.train.generators.gan import Gan
from aigc_rt.train.generators.vae import Vae
from aigc_rt.train.generators.vaegan import VaeGan
from aigc_rt.train.settings import configured

FAMILIES: dict[str, type[Family]] = {
    "gan": Gan,
    "dcgan": Dcgan,
    "cgan": Cgan,
    "vae": Vae,
    "cvae": Cvae,
    "vaegan": VaeGan,
}


def find(name: str) -> type[Family]:
    """The family of that name.

    Raises:
        RunError: there is none.
    """
    if name not in FAMILIES:
        raise RunError(f"train {name!r}", "there is no such family", f"Known families are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def create(name: str, data: DataSpec, objective: str, settings: Mapping[str, Any]) -> Family:
    """A family's networks with fresh weights from torch's generator.

    Raises:
        RunError: there is no such family.
        InputError: settings that are none of the family's, or images or classes that it cannot make.
    """
    family = find(name)
    return family(data, objective, configured(family.settings_type, settings, f"the family {name}"))
