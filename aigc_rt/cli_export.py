"""The subcommand of `aigc-rt` that exports; PyTorch is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aigc_rt.command import AsJson, needs, progress, show

ENGINES = ("tensorrt-rtx", "tensorrt")
PRECISIONS = ("fp32", "fp16")
ADAPTERS = ("merged", "live")


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|PACKAGE.MODULE:FACTORY",
            help="What to export: a folder that `aigc-rt train` wrote, or a function of yours by its import path.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The bundle's folder, which is made.")],
    precision: Annotated[
        str, typer.Option(help="Which ONNX variants to make: fp32, fp16 or both, with a comma.")
    ] = "fp32,fp16",
    engine: Annotated[
        str,
        typer.Option(help="Which TensorRT engines to build too: tensorrt-rtx, tensorrt or both. Default: none."),
    ] = "",
    name: Annotated[str | None, typer.Option(help="What the bundle is called. Default: as its folder.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there.")] = False,
    quality: Annotated[
        bool, typer.Option(help="Where the run's samples were judged, judge those of every variant too.")
    ] = True,
    adapter: Annotated[
        str,
        typer.Option(help="A fine-tuned run's adapters: merged into the weights, or live, their strength an input."),
    ] = "merged",
    as_json: AsJson = False,
) -> None:
    """Write a bundle from a training run or a function of yours.

    FACTORY returns keyword arguments of aigc_rt.export.export: module, example_inputs, and program, dynamic, ...
    """
    from aigc_rt import describe

    precisions, engines = _split(precision, "precision", PRECISIONS), _split(engine, "engine", ENGINES)
    if not precisions:
        raise typer.BadParameter("--precision: give fp32, fp16 or both.")
    if adapter not in ADAPTERS:
        raise typer.BadParameter(f"--adapter {adapter}: there are {', '.join(ADAPTERS)}.")
    with progress() as step:
        common: dict[str, Any] = {"precisions": precisions, "engines": engines, "force": force, "progress": step}
        if ":" in source and not Path(source).exists():
            if adapter != "merged":
                raise typer.BadParameter("--adapter: only a training run has adapters.")
            call = needs("aigc_rt.export.factory", "export").call
            given = call(source) | common | ({} if name is None else {"name": name})
            made = needs("aigc_rt.export", "export").export(out=out, **given)
        else:
            runs = needs("aigc_rt.export.run", "train,export")
            made = runs.export_run(Path(source), out, name=name, quality=quality, adapter=adapter, **common)
    show(describe.text(made), describe.document(made), as_json)


def _split(text: str, word: str, known: tuple[str, ...]) -> tuple[str, ...]:
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if unknown := [part for part in parts if part not in known]:
        raise typer.BadParameter(f"{word} {', '.join(unknown)}: there are {', '.join(known)}.")
    return parts


COMMANDS = (export,)
"""In the order of the help."""
