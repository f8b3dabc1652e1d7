"""The `aigc-rt` command. Heavy parts are imported by the subcommand that needs them."""

from __future__ import annotations

import importlib.metadata
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

try:
    import typer
except ImportError:
    sys.stderr.write("aigc-rt: the command needs typer: pip install 'aigc-rt[cli]'\n")
    raise SystemExit(1) from None

from aigc_rt import cli_train
from aigc_rt.command import AsJson, Bundled, Threads, ends_well, needs, show, step
from aigc_rt.errors import InputError

if TYPE_CHECKING:
    from aigc_rt.plan import Request

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would read ":factory" as an emoji and [text] as a style
    help="Take a trained PyTorch generator to production.",
)

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Backend = Annotated[str | None, typer.Option(help="onnxruntime, openvino, tensorrt or tensorrt-rtx.")]
Precision = Annotated[str | None, typer.Option(help="fp32, fp16, bf16, int8 or int4.")]


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and end.", is_eager=True)] = False,
) -> None:
    if version:
        show(importlib.metadata.version("aigc-rt"), None, False)
        raise typer.Exit


def main() -> None:
    """Run the command and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path may hold letters that the terminal cannot show
    app()


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


def inspect(bundle: Bundled, as_json: AsJson = False) -> None:
    """Show what is in a bundle, with its evidence."""
    from aigc_rt import describe
    from aigc_rt.bundle import Bundle

    opened = Bundle(bundle)
    show(describe.text(opened), describe.document(opened), as_json)


def verify(bundle: Bundled, device: Device = "auto", as_json: AsJson = False) -> None:
    """Check hashes, schema, and that every variant usable here gives the recorded answer."""
    from aigc_rt.verify import verify as check

    _request(device)
    report = check(bundle, device=device)
    lines = [f"{c.result:8}{c.what}: {c.detail}" for c in report.checks]
    verdict = "verified" if report.passed else "NOT VERIFIED"
    show("\n".join([*lines, f"{verdict}: {bundle}"]), report.to_dict(), as_json)
    raise typer.Exit(0 if report.passed else 1)


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
        show(str(generator.plan), generator.plan.to_dict(), as_json)


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
        show(f"{out}: {n} samples of seed {seed} by {generator!r}", document, as_json)


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
    common: dict[str, Any] = {"precisions": precisions, "engines": engines, "force": force, "progress": step}
    if ":" in source and not Path(source).exists():
        call = needs("aigc_rt.export.factory", "export").call
        given = call(source) | common | ({} if name is None else {"name": name})
        made = needs("aigc_rt.export.pipeline", "export").export(out=out, **given)
    else:
        runs = needs("aigc_rt.export.run", "train,export")
        made = runs.export_run(Path(source), out, name=name, quality=quality, **common)
    show(describe.text(made), describe.document(made), as_json)


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
    room, report = needs("aigc_rt.bench.measure", "bench"), needs("aigc_rt.bench.report", "bench")
    store = needs("aigc_rt.bench.store", "bench")
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
    document = room.bench(bundle, options, progress=step)
    if out is not None:
        store.write(document, out)
    show(report.table(document), document, as_json)
    if plot is not None:
        report.plot(document, plot)


def _whole_numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{option} {text}: write whole numbers with commas.") from None


for _function in (*cli_train.COMMANDS, export, inspect, verify, plan, generate, bench):
    app.command()(ends_well(_function))
