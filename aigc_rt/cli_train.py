"""Subcommands of `aigc-rt` that train. `aigc_rt.cli` registers them; PyTorch is imported when one runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from aigc_rt.command import AsJson, needs, show


def train(
    family: Annotated[str, typer.Argument(metavar="FAMILY", help="The kind of generator: gan.")],
    data: Annotated[str, typer.Option(help="mnist5k, digits, a folder of images, or a folder of IDX files.")],
    out: Annotated[Path, typer.Option(help="The folder of the run, which is made: checkpoints, pictures, run.json.")],
    objective: Annotated[
        str | None, typer.Option(help="The loss: r3gan or bce (the textbook's). Default: r3gan.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data. Default: the objective's recipe.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Stop after this many steps, short of the last epoch. Default: do not.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Images a step. Default: the objective's recipe.")] = None,
    size: Annotated[
        int | None, typer.Option(min=4, help="Resize images from files to SIZE x SIZE. Default: keep their size.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, max=2**64 - 1, help="Of everything random: the same seed gives the same run on a CPU. Default: 0."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")] = False,
    evaluate: Annotated[bool, typer.Option(help="Have the samples judged, where the data has labels.")] = True,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads on the CPU. Default: the objective's recipe.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a generator, and have its samples judged."""
    run = needs("aigc_rt.train.run", "train")
    check = needs("aigc_rt.export.run", "train,export").check_exportable
    options = run.TrainOptions(
        family, data, out, epochs, max_steps, seed, resume, objective, batch, size, evaluate, threads=threads
    )
    record = run.train(options, export_check=check)
    quality = record.quality or {}
    words = [f"{out}: {record.status} at step {record.step:,} of {record.steps:,}, {record.seconds:.0f} s"]
    if quality:
        words.append(
            f"{quality['covered']} of {quality['classes']} classes, sure of {quality['sure']:.0%} of the samples, "
            f"Fréchet distance {quality['frechet']:.4g} ({quality['frechet_ratio']:.3f} of an untrained generator's)"
        )
    elif record.quality_note:
        words.append(f"not judged: {record.quality_note}")
    show("\n".join(words), dataclasses.asdict(record), as_json)


COMMANDS = (train,)
"""In the order of the help."""
