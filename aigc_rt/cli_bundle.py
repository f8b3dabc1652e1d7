"""Subcommands of `aigc-rt` that look at a bundle and run it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from aigc_rt.command import AsJson, Backend, Bundled, Device, Precision, Threads, plan_request, rejected, show


def inspect(bundle: Bundled, as_json: AsJson = False) -> None:
    """Show what is in a bundle, with its evidence."""
    from aigc_rt import describe
    from aigc_rt.bundle import Bundle

    opened = Bundle(bundle)
    show(describe.text(opened), describe.document(opened), as_json)


def verify(bundle: Bundled, device: Device = "auto", as_json: AsJson = False) -> None:
    """Check a bundle's files, and the answer of every variant.

    Files: schema and hashes. Answers: every variant that can run here must give the recorded one. Exit code 0 or 1.
    """
    from aigc_rt.verify import verify as check

    plan_request(device, None, None, None)
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

    with load(bundle, **plan_request(device, backend, precision, threads)) as generator:
        show(str(generator.plan), generator.plan.to_dict(), as_json)


def generate(
    bundle: Bundled,
    out: Annotated[
        Path, typer.Option(help="The file to write: .png (several images as a grid), .wav or .npy. Replaced if there.")
    ],
    n: Annotated[int, typer.Option("-n", min=1, help="How many samples.")] = 16,
    seed: Annotated[
        int, typer.Option(min=0, max=2**64 - 1, help="Of the noise: the same seed gives the same samples.")
    ] = 0,
    start: Annotated[int, typer.Option(min=0, help="Number of the first sample: a seed has endlessly many.")] = 0,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A condition of the bundle, such as label=3; once for each condition."
        ),
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            help="Draw each pixel of a .png SCALE x SCALE. Default: as needed for a grid 500 pixels wide; a single "
            "image keeps its size.",
        ),
    ] = None,
    device: Device = "auto",
    backend: Backend = None,
    precision: Precision = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Generate samples into a file."""
    from aigc_rt import media
    from aigc_rt.files import check_target
    from aigc_rt.generator import load

    asked = plan_request(device, backend, precision, threads)
    given = [_condition(text) for text in condition or []]
    conditions = dict(given)
    if len(conditions) < len(given):
        raise typer.BadParameter("--set: a condition is given twice. Give each once.")
    with rejected():
        check_target(out)
    _check_samples(bundle)
    with load(bundle, **asked) as generator:
        samples = generator.generate(n, seed=seed, start=start, raw=False, **conditions)
        chosen = generator.plan.chosen[0]
        if scale is None:
            scale = media.grid_scale(samples.array) if samples.media.kind == "image" else 1
        media.save(out, samples.array, samples.media, scale=scale)
        words = f"{n} samples" if n > 1 else "1 sample"
        words += f" of seed {seed}{f' from number {start}' if start else ''}"
        words += f", made by {chosen.backend} with {chosen.variant} on {chosen.device}"
        words += f"; each pixel is drawn {scale} x {scale}" if out.suffix.lower() == ".png" and scale > 1 else ""
        document = {"out": str(out), "n": n, "seed": seed, "start": start, "scale": scale}
        show(f"{out}: {words}", {**document, "plan": generator.plan.to_dict()}, as_json)


def _check_samples(path: Path) -> None:
    from aigc_rt.bundle import Bundle
    from aigc_rt.errors import InputError
    from aigc_rt.manifest import Tensor

    if isinstance(Bundle(path).manifest.program, Tensor):
        raise InputError(
            f"generate from {path}",
            "it holds a graph without a program that makes samples",
            "Call it from Python: aigc_rt.load(...).run(inputs); or export it with program=Feedforward(...)",
        )


def _condition(text: str) -> tuple[str, float | str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise typer.BadParameter(f"--set {text}: write NAME=VALUE.")
    if name in ("self", "n", "seed", "start", "raw"):
        raise typer.BadParameter(f"--set {text}: {name} is no condition.")
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return name, kind(value)
    return name, value


COMMANDS = (inspect, verify, plan, generate)
"""In the order of the help."""
