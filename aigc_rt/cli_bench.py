"""The subcommand of `aigc-rt` that measures, and shows what was measured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aigc_rt.command import AsJson, Threads, needs, progress, rejected, show

VIEWS = ("from_file", "plot", "as_json")
"""What may stand beside --from."""


def bench(
    context: typer.Context,
    bundle: Annotated[
        Path | None,
        typer.Argument(metavar="BUNDLE", help="A folder that `aigc-rt export` wrote, of an image generator."),
    ] = None,
    from_file: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Measure nothing: show, and --plot, a result that --out wrote."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the result here as JSON, with every raw sample.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the result here: .png, .svg or .pdf.")] = None,
    batches: Annotated[str, typer.Option(help="How many samples a call makes: numbers with commas.")] = "1,8,64",
    peers: Annotated[
        str,
        typer.Option(
            help="Whom to measure: names with commas, onnxruntime,aigc-rt say, or package.module:Class. Default: all."
        ),
    ] = "",
    torch: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|PACKAGE.MODULE:FACTORY",
            help="What the bundle was exported from, for the PyTorch peers. Default: they are not measured.",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="The peer that ratios are against. Default: torch-eager where it runs, else onnxruntime."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="Seconds that a block of calls takes at least.")] = 0.25,
    blocks: Annotated[int, typer.Option(min=1, help="Blocks of every peer and batch; 5 or more make an interval.")] = 5,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Measure latency: aigc-rt, PyTorch and the plain engines.

    Each runs in a process of its own, in blocks of shuffled order. What cannot run here is named with the reason.
    """
    drawing = needs("aigc_rt.bench.plot", "bench")
    if plot is not None:
        with rejected():
            drawing.check_plot(plot)
    if from_file is not None:
        _only_views(context)
        document = needs("aigc_rt.bench.store", "bench").read(from_file)
    elif bundle is None:
        raise typer.BadParameter("give a BUNDLE to measure, or --from FILE.")
    else:
        given: dict[str, Any] = {"baseline": baseline, "seconds": seconds, "blocks": blocks, "threads": threads}
        given |= {"torch": torch, "batches": _whole_numbers("--batches", batches)}
        given |= {"peers": tuple(part.strip() for part in peers.split(","))} if peers else {}
        document = _measured(bundle, given, out)
    _show(document, as_json)
    if plot is not None:
        drawing.plot(document, plot)


def _only_views(context: typer.Context) -> None:
    """Refuse what would be ignored."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if wrong := [name for name in given if name not in VIEWS]:
        raise typer.BadParameter(f"--from measures nothing: leave out {', '.join(wrong)}.")


def _measured(bundle: Path, given: dict[str, Any], out: Path | None) -> dict[str, Any]:
    from aigc_rt.files import check_target

    room, store = needs("aigc_rt.bench.measure", "bench"), needs("aigc_rt.bench.store", "bench")
    with rejected():
        options = room.BenchOptions(**given)
        if out is not None:
            check_target(out)
    try:
        with progress() as step:
            document: dict[str, Any] = room.bench(bundle, options, progress=step)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was written, no process is left") from None
    if out is not None:
        store.write(document, out)
    return document


def _show(document: dict[str, Any], as_json: bool) -> None:
    if as_json or not sys.stdout.isatty():
        show(needs("aigc_rt.bench.report", "bench").table(document), document, as_json)
    else:
        needs("aigc_rt.bench.terminal", "bench").show(document)


def _whole_numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{option} {text}: write whole numbers with commas.") from None


COMMANDS = (bench,)
"""In the order of the help."""
