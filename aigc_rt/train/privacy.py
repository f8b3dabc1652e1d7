"""Differential privacy: what a run promises about its training images, and what keeps the promise.

`docs/privacy.md` says it in prose. `private_update` holds the argument, `accounting` the sums, `poisson` the sampling.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from aigc_rt.errors import InputError, RunError
from aigc_rt.train.settings import between, configured

if TYPE_CHECKING:
    from aigc_rt.train.accounting import Mechanism
    from aigc_rt.train.data import Dataset
    from aigc_rt.train.generators.family import Family
    from aigc_rt.train.poisson import PoissonStream
    from aigc_rt.train.record import RunRecord
    from aigc_rt.train.update import Update
    from aigc_rt.train.workers import Workers

MOST_NOISE = 1e9
"""Far more than any budget needs; the accountant cannot compute with much more."""


@dataclass(frozen=True)
class Privacy:
    """What is promised about any one training image.

    Attributes:
        epsilon, delta: the budget: the run ends before it is spent.
        max_grad_norm: the gradient of every image is scaled down to this norm where it is longer.
        noise_multiplier: standard deviation of the noise as a share of `max_grad_norm`; None is the least that
            makes the whole recipe fit into the budget.
    """

    epsilon: float = between(1e-3, 1e3, 8.0)
    delta: float = between(1e-12, 0.5, 1e-5)
    max_grad_norm: float = between(1e-6, 1e6, 1.0)
    noise_multiplier: float | None = between(1e-3, 1e3, None)


@dataclass(frozen=True)
class Guard:
    """What makes a run private: its stream, its private network's update, and the step at which it ends.

    Attributes:
        privacy: the promise.
        role: of the private network.
        family, run, workers: what is trained, and where.
        mechanism: the noise, and the sampling rate.
        stream: Poisson samples of the images.
        last_step: the last one within the budget.
    """

    privacy: Privacy
    role: str
    family: Family
    run: RunRecord
    workers: Workers
    mechanism: Mechanism
    stream: PoissonStream
    last_step: int

    @classmethod
    def of(cls, run: RunRecord, family: Family, data: Dataset, workers: Workers, folder: Path | None) -> Guard | None:
        """The guard of a run with `privacy`, None of one without.

        Args:
            run: its record.
            family: its networks.
            data: its images.
            workers: who trains it.
            folder: where the run is resumed from; None is a new run.

        Raises:
            InputError: it cannot be trained with differential privacy, or not within the budget.
            RunError: a resumed run without its secret, or whose record contradicts itself.
            MissingDependency: Opacus is not installed.
        """
        if run.privacy is None:
            return None
        check(run, family, workers)
        from aigc_rt.train.poisson import PoissonStream, Secret

        if folder is not None and run.spent is None:
            raise RunError(f"resume {folder}", "what it has spent is not recorded", "Train into another folder")
        role = family.private[run.objective]
        fixed = run.recipe.batch if len(family.networks) > 1 else None
        secret = Secret.new() if folder is None else Secret.read(folder)
        stream = PoissonStream(data, run.recipe, secret, workers, run.augment, fixed)
        mechanism = _mechanism(run, run.privacy, stream)
        last = mechanism.last_step(stream.steps, run.privacy.epsilon, run.privacy.delta)
        if not last:
            first = mechanism.epsilon(1, run.privacy.delta)
            raise InputError(
                f"train within epsilon={run.privacy.epsilon}",
                f"with noise_multiplier={run.privacy.noise_multiplier} the first step spends {first:.4g}",
                "Give more noise, a smaller batch or a larger epsilon",
            )
        guard = cls(run.privacy, role, family, run, workers, mechanism, stream, last)
        if folder is not None:
            guard._agree(folder)
        return guard

    def _agree(self, folder: Path) -> None:
        """Raise RunError unless what the run recorded as spent is what its settings come to: an edit shows."""
        recorded = self.run.spent or {}
        now = self.spent(self.run.step)
        epsilon, said = now.pop("epsilon"), recorded.get("epsilon")
        wrong = [name for name, value in now.items() if name != "opacus" and recorded.get(name) != value]
        if not (isinstance(said, float) and math.isclose(epsilon, said, rel_tol=1e-3)):
            wrong.append("epsilon")
        if wrong:
            raise RunError(
                f"resume {folder}",
                f"what run.json says is spent is not what its settings come to: {', '.join(wrong)}",
                "Put run.json back as it was, or train into another folder",
            )

    def update(self, role: str, network: nn.Module) -> Update:
        """The optimizer of a role's network.

        Raises:
            InputError: the private network has layers, or its loss terms, that cannot be taken image by image.
        """
        from aigc_rt.train.private_update import PrivateUpdate
        from aigc_rt.train.rehearsal import rehearse
        from aigc_rt.train.update import Update

        if role != self.role:
            return Update(network, self.run.recipe, self.workers)
        check_layers(role, network)
        args = (network, self.run.recipe, self.workers, self.mechanism, self.privacy.max_grad_norm, self.stream)
        update = PrivateUpdate(*args)
        rehearse(self.family, role, self.run.data.spec, update)
        return update

    def keep(self, folder: Path) -> None:
        """Write the secret of a new run into its folder."""
        self.stream.secret.write(folder)

    def spent(self, step: int) -> dict[str, Any]:
        """What is recorded of the promise after so many steps."""
        from aigc_rt.train.with_opacus import VERSION

        return {
            "epsilon": self.mechanism.epsilon(step, self.privacy.delta),
            "delta": self.privacy.delta,
            "steps": step,
            "last_step": self.last_step,
            "accountant": "RDP",
            "opacus": VERSION,
            "noise_multiplier": self.mechanism.noise_multiplier,
            "max_grad_norm": self.privacy.max_grad_norm,
            "sample_rate": self.mechanism.sample_rate,
            "sampling": "Poisson",
            "adjacency": "add or remove one image",
            "private": self.role,
        }


def respent(spent: dict[str, Any] | None, step: int) -> dict[str, Any] | None:
    """What is recorded of the promise, as of a checkpoint's step: after a kill the record may be behind it."""
    if spent is None or spent.get("steps") == step:
        return spent
    return spent | {"epsilon": _recorded(spent).epsilon(step, spent["delta"]), "steps": step}


def _recorded(spent: dict[str, Any]) -> Mechanism:
    from aigc_rt.train.accounting import Mechanism

    try:
        noise, rate = float(spent["noise_multiplier"]), float(spent["sample_rate"])
        if not (0 < noise <= MOST_NOISE and 0 < rate <= 1):
            raise ValueError(f"noise_multiplier={noise}, sample_rate={rate}")
        return Mechanism(noise, rate)
    except (KeyError, TypeError, ValueError) as error:
        found = f"it is damaged ({type(error).__name__}: {error})"
        raise RunError("read what a private run has spent", found, "Put run.json back as it was") from None


def _mechanism(run: RunRecord, privacy: Privacy, stream: PoissonStream) -> Mechanism:
    """That of the run as it was started, else as much noise as is asked for, else the least that will do."""
    from aigc_rt.train.accounting import Mechanism, least_noise

    if run.spent is not None:
        return replace(_recorded(run.spent), sample_rate=stream.rate)
    if privacy.noise_multiplier is not None:
        return Mechanism(privacy.noise_multiplier, stream.rate)
    return least_noise(privacy.epsilon, privacy.delta, stream.rate, stream.steps)


def check(run: RunRecord, family: Family, workers: Workers) -> None:
    """Refuse what cannot be promised, or cannot be kept.

    Raises:
        InputError: it says what stands in the way.
    """
    assert run.privacy is not None
    privacy = configured(Privacy, asdict(run.privacy), "differential privacy")
    recipe, images = run.recipe, run.data.train
    asked = f"train {run.family} with differential privacy"
    if run.objective not in family.private:
        there = ", ".join(family.private)
        mend = f"Give --objective {there.replace(', ', ' or ')}" if there else "Train the family gan, dcgan or vae"
        raise InputError(asked, f"its objective {run.objective} does not allow it: terms that share images", mend)
    refusals = {
        f"{workers.count} processes share the run": (workers.count > 1, "Use one process"),
        f"the recipe has accumulate={recipe.accumulate}": (recipe.accumulate > 1, "Leave it out"),
        f"the recipe has autocast={recipe.autocast}": (recipe.autocast != "fp32", "Use fp32"),
        f"the recipe has clip={recipe.clip}": (recipe.clip is not None, "Give max_grad_norm alone"),
        "the recipe has compile=true": (recipe.compile, "Leave it out"),
        f"a batch of {recipe.batch:,} is more than the {images:,} images": (
            recipe.batch > images,
            f"Give --batch {images} or less",
        ),
        f"delta={privacy.delta} is not below 1 in {images:,} images: it would allow giving one of them away": (
            privacy.delta * images >= 1,
            f"Give a delta well below {1 / images:.1e}",
        ),
        f"all weights of the {family.private[run.objective]} are frozen": (
            not any(p.requires_grad for p in family.networks[family.private[run.objective]].parameters()),
            "Freeze fewer of them: nothing would be learned from the images",
        ),
    }
    for found, (stands, mend) in refusals.items():
        if stands:
            raise InputError(asked, found, mend)


def check_layers(role: str, network: nn.Module) -> None:
    """Refuse layers that mix the images of a batch, or that Opacus cannot take per-sample gradients of.

    Raises:
        InputError: in Opacus' words.
    """
    from aigc_rt.train.with_opacus import GradSampleHooks, ModuleValidator

    wrong = [*ModuleValidator.validate(network), *GradSampleHooks.validate(network)]
    if wrong:
        raise InputError(
            f"train the {role} with differential privacy",
            str(wrong[0]).split(". ")[0].strip(" ."),
            "Choose settings without batch norm and spectral norm: norm=group spectral_norm=false, say",
        )
