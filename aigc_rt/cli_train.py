"""Subcommands of `aigc-rt` that train. `aigc_rt.cli` registers them; PyTorch is imported when one runs."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aigc_rt.command import AsJson, needs, show, step
from aigc_rt.errors import InputError

Assignments = list[str] | None
SEEDS = {"min": 0, "max": 2**64 - 1}


def train(
    family: Annotated[
        str, typer.Argument(metavar="FAMILY", help="The kind of generator; see `aigc-rt families FAMILY`.")
    ],
    data: Annotated[
        str, typer.Option(help="mnist5k, digits, fashion, emoji, a folder of images or of IDX files, or a .npz file.")
    ],
    out: Annotated[Path, typer.Option(help="The folder of the run, which is made: checkpoints, pictures, run.json.")],
    objective: Annotated[str | None, typer.Option(help="The loss. Default: the family's first.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data. Default: the objective's.")] = None,
    batch: Annotated[
        int | None, typer.Option(min=2, help="Images a step, over all processes. Default: the objective's.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate. Default: the objective's.")] = None,
    recipe: Annotated[
        Assignments,
        typer.Option(
            metavar="NAME=VALUE",
            help="Anything else of how it is optimised: optimizer=adamw, weight_decay=0.01, betas=0.9,0.99, "
            "schedule=cosine, warmup_steps=100, clip=1, ema=0.001, accumulate=4, autocast=bf16, compile=true. "
            "Default: the objective's.",
        ),
    ] = None,
    settings: Annotated[
        Assignments,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the family; see `aigc-rt families FAMILY`."),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=4, help="Resize images to SIZE x SIZE. Default: keep their size.")
    ] = None,
    only: Annotated[str | None, typer.Option(help="Classes to train on, with commas. Default: all.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The most images to train on. Default: all.")] = None,
    held_out: Annotated[
        float | None, typer.Option(help="Share of the images that is kept for judging. Default: 0.1, or the test part.")
    ] = None,
    split_seed: Annotated[int | None, typer.Option(**SEEDS, help="Which images those are. Default: 0.")] = None,
    colour: Annotated[str | None, typer.Option(help="as-is, grey or rgb. Default: as-is.")] = None,
    project: Annotated[
        str | None, typer.Option(help="Who asks for the data, where its folder says who may. Default: nobody.")
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            help='Random changes to the images: "flip,rotate=10,shift=0.1,zoom=0.1,contrast=0.2". Default: no.'
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="RUN|CHECKPOINT", help="Start from its weights. Default: fresh ones."),
    ] = None,
    freeze: Annotated[
        Assignments, typer.Option(metavar="PATTERN", help='Weights that stay as they are: "discriminator.*", say.')
    ] = None,
    adapter_rank: Annotated[
        int | None, typer.Option(min=1, help="Train low-rank adapters of this rank in the generator's place.")
    ] = None,
    adapter_alpha: Annotated[
        float | None, typer.Option(help="Strength of the adapters, over their rank. Default: 8.")
    ] = None,
    adapter_targets: Annotated[
        Assignments, typer.Option(metavar="PATTERN", help="Layers that get adapters. Default: all of the generator's.")
    ] = None,
    dp_epsilon: Annotated[
        float | None, typer.Option(help="Train with differential privacy within this budget. Default: without.")
    ] = None,
    dp_delta: Annotated[float | None, typer.Option(help="The other half of the budget. Default: 1e-5.")] = None,
    max_grad_norm: Annotated[
        float | None, typer.Option(help="Largest norm of one image's gradient in private training. Default: 1.")
    ] = None,
    dp_noise_multiplier: Annotated[
        float | None, typer.Option(help="Noise over that norm. Default: the least that keeps all steps in the budget.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(**SEEDS, help="Of everything random: the same seed gives the same run. Default: 0.")
    ] = None,
    max_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Stop at this step of the run, short of the last; --resume goes on. Default: do not."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")] = False,
    device: Annotated[str, typer.Option(help="auto (a GPU where PyTorch finds one), cpu or cuda.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Threads on the CPU. Default: the objective's.")
    ] = None,
    evaluate: Annotated[bool, typer.Option(help="Have the samples judged.")] = True,
    as_json: AsJson = False,
) -> None:
    """Train a generator, and have its samples judged.

    Several processes: `accelerate launch --num_processes N -m aigc_rt train ...`.
    """
    room = needs("aigc_rt.train.options", "train")
    numbers = {"epochs": epochs, "batch": batch, "lr": lr, "threads": threads}
    loading: dict[str, Any] = {"size": size, "only": _classes(only), "limit": limit, "held_out": held_out}
    loading |= {"split_seed": split_seed, "colour": colour, "project": project}
    targets = None if adapter_targets is None else tuple(adapter_targets)
    tuning: dict[str, Any] = {"start": start, "freeze": tuple(freeze or ()) or None}
    tuning |= {"rank": adapter_rank, "alpha": adapter_alpha, "targets": targets}
    privacy: dict[str, Any] = {"epsilon": dp_epsilon, "delta": dp_delta, "max_grad_norm": max_grad_norm}
    privacy = _given({}, privacy | {"noise_multiplier": dp_noise_multiplier})
    if privacy and dp_epsilon is None:
        raise typer.BadParameter("--dp-delta, --max-grad-norm, --dp-noise-multiplier: they go with --dp-epsilon only.")
    try:
        options = room.TrainOptions(
            family=family,
            data=data,
            out=out,
            objective=objective,
            recipe=_recipe(room.assignments(recipe or ()), numbers),
            settings=room.assignments(settings or ()),
            loading=room.part(room.DataOptions, _given({}, loading)),
            augment=None if augment is None else room.Augment.of(augment),
            tuning=room.part(room.Tuning, _given({}, tuning)),
            privacy=room.part(room.Privacy, privacy),
            seed=seed,
            max_steps=max_steps,
            resume=resume,
            device=device,
            evaluate=evaluate,
        )
    except InputError as error:
        raise typer.BadParameter(str(error)) from None
    check = needs("aigc_rt.export.run", "train").check_exportable
    record = needs("aigc_rt.train.run", "train").train(options, export_check=check, progress=step)
    if needs("aigc_rt.train.workers", "train").Workers.launched(device).first:
        show("\n".join(_lines(out, record)), dataclasses.asdict(record), as_json)


def families(
    family: Annotated[
        str | None, typer.Argument(metavar="[FAMILY]", help="One of them, with what its settings mean. Default: all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the kinds of generators that can be trained."""
    room = needs("aigc_rt.train.generators", "train")
    chosen = room.FAMILIES if family is None else {family: room.find(family)}
    found = {
        name: {
            "objectives": {key: dataclasses.asdict(recipe) for key, recipe in kind.objectives.items()},
            "private": sorted(kind.private),
            "settings": {f.name: f.default for f in dataclasses.fields(kind.settings_type)},
        }
        for name, kind in chosen.items()
    }
    shown = [_described(name, kind, at_length=family is not None) for name, kind in chosen.items()]
    show("\n".join(shown), found, as_json)


def _described(name: str, family: Any, at_length: bool) -> str:
    """A family in a few lines, or with all that its docstrings say."""
    described = needs("aigc_rt.train.settings", "train").described
    about = inspect.cleandoc(sys.modules[family.__module__].__doc__ or "")
    objectives, settings = ", ".join(family.objectives), described(family.settings_type)
    if not at_length:
        words = re.split("[:.]", about)[0].replace("\n", " ")
        return f"{name}: {words}\n  objectives: {objectives}\n  settings: {settings}"
    parts = [f"{name}: {about}", inspect.getdoc(family) or "", inspect.getdoc(family.settings_type) or ""]
    recipes = "\n".join(f"  {key}: {described(recipe)}" for key, recipe in family.objectives.items())
    return "\n\n".join([*parts, f"Settings: {settings}", f"Objectives, the default first:\n{recipes}"])


def _lines(out: Path, record: Any) -> list[str]:
    """What came of a run, for a person."""
    lines = [f"{out}: {record.status} at step {record.step:,} of {record.steps:,}, trained in {record.seconds:.0f} s"]
    if record.spent:
        spent, most = record.spent, record.privacy.epsilon
        lines.append(f"private: epsilon {spent['epsilon']:.4g} of {most:g}, delta {spent['delta']:g}")
    quality = record.quality
    if quality:
        lines += needs("aigc_rt.train.evaluate", "train").lines(quality)
    elif record.quality_note:
        lines.append(f"not judged: {record.quality_note}")
    return lines


def _classes(text: str | None) -> tuple[int | str, ...] | None:
    """Class numbers and names, with commas between."""
    if text is None:
        return None
    parts = map(str.strip, text.split(","))
    return tuple(int(part) if part.isdecimal() and len(part) < 20 else part for part in parts)


def _recipe(assigned: dict[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
    """What --recipe and the options of the same names say."""
    if twice := [name for name in assigned if numbers.get(name) is not None]:
        raise InputError(
            f"train with --{twice[0]} and --recipe {twice[0]}=...", "that says the same twice", "Give one of them"
        )
    return _given(assigned, numbers)


def _given(values: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """`values`, and those of `others` that were given."""
    return values | {name: value for name, value in others.items() if value is not None}


COMMANDS = (train, families)
"""In the order of the help."""
