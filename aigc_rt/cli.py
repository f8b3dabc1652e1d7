"""The `aigc-rt` command. Heavy parts are imported by the subcommand that needs them.

Exit codes: 0 done, 2 arguments rejected before anything was opened, 130 Ctrl-C, 1 everything else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from aigc_rt.errors import AigcRtError, InputError, MissingDependency

if TYPE_CHECKING:
    from aigc_rt.plan import Request

try:
    import typer
except ImportError:
    sys.stderr.write("aigc-rt: the command needs typer: pip install 'aigc-rt[cli]'\n")
    raise SystemExit(1) from None

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Take a trained PyTorch generator to production.",
)

Bundled = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that `aigc-rt export` wrote.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document as the last line on stdout.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Backend = Annotated[str | None, typer.Option(help="onnxruntime, openvino, tensorrt or tensorrt-rtx.")]
Precision = Annotated[str | None, typer.Option(help="fp32, fp16, bf16, int8 or int4.")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="Threads on the CPU; all it may use.")]


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and end.", is_eager=True)] = False,
) -> None:
    if version:
        _show(importlib.metadata.version("aigc-rt"), None, False)
        raise typer.Exit


def main() -> None:
    """Run the command and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path may hold letters that the terminal cannot show
    app()


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """A subcommand whose errors end the process with one line and the right code; typer answers wrong arguments."""

    @app.command()
    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            function(*arguments, **options)
        except AigcRtError as error:
            _say(f"error: {error}")
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            _say("interrupted")
            raise typer.Exit(130) from None
        except OSError as error:  # stdout or stderr that takes no more; every other file has an error of ours
            with contextlib.suppress(OSError):
                _say(f"error: write the result: {error.strerror or error}. Free space, or read the whole output.")
            os._exit(1)  # Python would complain again when it flushes the same stream

    return run


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201


def _show(text: str, document: Any, as_json: bool) -> None:
    """The result on stdout: for a person, or as one line of JSON with nothing else."""
    print(json.dumps(document, ensure_ascii=False) if as_json else text, flush=True)  # noqa: T201


def _step(text: str) -> None:
    if sys.stderr.isatty():
        _say(f"  {text} ...")


def _needs(module: str, extra: str) -> Any:
    """A module of this project whose packages an extra installs."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if isinstance(error, MissingDependency):
            raise
        raise MissingDependency(f"use {module}", str(error), f"pip install 'aigc-rt[{extra}]'") from None


def _request(
    device: str, backend: str | None = None, precision: str | None = None, threads: int | None = None
) -> Request:
    """The plan's request; what cannot be one is an argument rejected before anything was opened."""
    from aigc_rt.plan import Request

    try:
        return Request(device, backend, precision, threads)
    except InputError as error:
        raise typer.BadParameter(str(error)) from None


def _split(text: str, word: str, known: tuple[str, ...]) -> tuple[str, ...]:
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if unknown := [part for part in parts if part not in known]:
        raise typer.BadParameter(f"{word} {', '.join(unknown)}: there are {', '.join(known)}.")
    return parts


@_command
def inspect(bundle: Bundled, as_json: AsJson = False) -> None:
    """Show what is in a bundle, with its evidence."""
    from aigc_rt import describe
    from aigc_rt.bundle import Bundle

    opened = Bundle(bundle)
    _show(describe.text(opened), describe.document(opened), as_json)


@_command
def verify(bundle: Bundled, device: Device = "auto", as_json: AsJson = False) -> None:
    """Check hashes, schema, and that every variant usable here gives the recorded answer."""
    from aigc_rt.verify import verify as check

    _request(device)
    report = check(bundle, device=device)
    lines = [f"{c.result:8}{c.what}: {c.detail}" for c in report.checks]
    verdict = "verified" if report.passed else "NOT VERIFIED"
    _show("\n".join([*lines, f"{verdict}: {bundle}"]), report.to_dict(), as_json)
    raise typer.Exit(0 if report.passed else 1)


@_command
def plan(
    bundle: Bundled,
    device: Device = "auto",
    backend: Backend = None,
    precision: Precision = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Show what would run here, what was skipped, and why."""
    from aigc_rt.generator import load

    _request(device, backend, precision, threads)
    with load(bundle, device=device, backend=backend, precision=precision, threads=threads) as generator:
        _show(str(generator.plan), generator.plan.to_dict(), as_json)


@_command
def generate(
    bundle: Bundled,
    out: Annotated[Path, typer.Option(help=".png, .wav or .npy.")],
    n: Annotated[int, typer.Option("-n", min=1, help="How many samples.")] = 16,
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Which noise.")] = 0,
    start: Annotated[int, typer.Option(min=0, help="Index of the first sample.")] = 0,
    condition: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A condition.")] = None,
    device: Device = "auto",
    backend: Backend = None,
    precision: Precision = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Generate samples into a file."""
    from aigc_rt.generator import load

    _request(device, backend, precision, threads)
    conditions = dict(_condition(text) for text in condition or [])
    with load(bundle, device=device, backend=backend, precision=precision, threads=threads) as generator:
        samples = generator.generate(n, seed=seed, start=start, raw=False, **conditions)
        samples.save(out)
        document = {"out": str(out), "n": n, "seed": seed, "start": start, "plan": generator.plan.to_dict()}
        _show(f"{out}: {n} samples of seed {seed} by {generator!r}", document, as_json)


def _condition(text: str) -> tuple[str, float | str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise typer.BadParameter(f"--set {text}: write NAME=VALUE.")
    if name in ("self", "n", "seed", "start", "raw"):
        raise typer.BadParameter(f"--set {text}: {name} is no condition.")
    try:
        return name, float(value)
    except ValueError:
        return name, value


@_command
def train(
    family: Annotated[str, typer.Argument(metavar="FAMILY", help="What to train: gan.")],
    data: Annotated[str, typer.Option(help="mnist5k, digits, a folder of images or a folder of IDX files.")],
    out: Annotated[Path, typer.Option(help="The run's folder.")],
    objective: Annotated[str | None, typer.Option(help="r3gan, the default, or bce, the textbook's.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop after this many steps.")] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Images a step.")] = None,
    size: Annotated[int | None, typer.Option(min=4, help="Resize images from files to SIZE x SIZE.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**64 - 1, help="Reproduces the run on a CPU.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")] = False,
    evaluate: Annotated[bool, typer.Option(help="Have the samples judged, where the data has labels.")] = True,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Train a generator, and have its samples judged."""
    run = _needs("aigc_rt.train.run", "train")
    check = _needs("aigc_rt.export.run", "train,export").check_exportable
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
    _show("\n".join(words), dataclasses.asdict(record), as_json)


@_command
def export(
    source: Annotated[str, typer.Argument(metavar="RUN|PACKAGE.MODULE:FACTORY", help="What to export.")],
    out: Annotated[Path, typer.Option(help="The bundle's folder.")],
    precision: Annotated[str, typer.Option(help="Of fp32 and fp16, with commas.")] = "fp32,fp16",
    engine: Annotated[str, typer.Option(help="Of tensorrt-rtx and tensorrt, with commas.")] = "",
    name: Annotated[str | None, typer.Option(help="The bundle's name; the folder's.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there.")] = False,
    quality: Annotated[bool, typer.Option(help="Have the run's judge measure every variant too.")] = True,
    as_json: AsJson = False,
) -> None:
    """Write a bundle from a training run, or from what a function of yours returns.

    FACTORY returns keyword arguments of aigc_rt.export.export: module, example_inputs, and program, dynamic, ...
    """
    from aigc_rt import describe

    precisions = _split(precision, "precision", ("fp32", "fp16"))
    engines = _split(engine, "engine", ("tensorrt-rtx", "tensorrt"))
    if not precisions:
        raise typer.BadParameter("--precision: give fp32, fp16 or both.")
    common: dict[str, Any] = {"precisions": precisions, "engines": engines, "force": force, "progress": _step}
    if ":" in source and not Path(source).exists():
        call = _needs("aigc_rt.export.factory", "export").call
        given = call(source) | common | ({} if name is None else {"name": name})
        made = _needs("aigc_rt.export.pipeline", "export").export(out=out, **given)
    else:
        runs = _needs("aigc_rt.export.run", "train,export")
        made = runs.export_run(Path(source), out, name=name, quality=quality, **common)
    _show(describe.text(made), describe.document(made), as_json)


@_command
def bench(
    bundle: Bundled,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here, with every raw sample.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a plot here, .png.")] = None,
    batches: Annotated[str, typer.Option(help="Samples a call, with commas.")] = "1,8,64",
    peers: Annotated[str, typer.Option(help="Whom to measure, with commas; all that are known.")] = "",
    torch: Annotated[str | None, typer.Option(help="RUN or package.module:factory: the module in PyTorch.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="The peer that ratios are against: torch-eager, else onnxruntime.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="Shortest block.")] = 0.25,
    blocks: Annotated[int, typer.Option(min=1, help="Blocks of every peer and batch.")] = 5,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Measure latency: this runtime, PyTorch, and the plain engines, each in a process of its own."""
    room, report = _needs("aigc_rt.bench.measure", "bench"), _needs("aigc_rt.bench.report", "bench")
    store = _needs("aigc_rt.bench.store", "bench")
    given: dict[str, Any] = {"baseline": baseline, "seconds": seconds, "blocks": blocks}
    given |= {"threads": threads, "torch": torch, "batches": _whole_numbers("--batches", batches)}
    given |= {"engine_blocks": min(blocks, room.BenchOptions.engine_blocks)}
    if peers:
        given["peers"] = tuple(part.strip() for part in peers.split(","))
    try:
        options = room.BenchOptions(**given)
        if plot is not None:
            report.check_plot(plot)
        if out is not None:
            store.check_target(out)
    except InputError as error:
        raise typer.BadParameter(str(error)) from None
    document = room.bench(bundle, options, progress=_step)
    if out is not None:
        store.write(document, out)
    _show(report.table(document), document, as_json)
    if plot is not None:
        report.plot(document, plot)


def _whole_numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{option} {text}: write whole numbers with commas.") from None
