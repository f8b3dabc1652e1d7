"""What every subcommand of `aigc-rt` stands on: shared options, one line for an error, the exit codes.

Exit codes: 0 done, 2 arguments rejected before anything was opened, 130 Ctrl-C, 1 everything else.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from aigc_rt.errors import AigcRtError, InputError, MissingDependency

Bundled = Annotated[
    Path,
    typer.Argument(
        metavar="BUNDLE",
        help="A folder that `aigc-rt export` wrote, or zoo:mnist-gan, zoo:mnist-cgan, zoo:fashion-vae.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON, the last on stdout.")]
Device = Annotated[str, typer.Option(help="Where to run: auto (a GPU that works, else the CPU), cpu, cuda or cuda:N.")]
Backend = Annotated[
    str | None,
    typer.Option(help="What runs it: onnxruntime, openvino, tensorrt or tensorrt-rtx. Default: the best that works."),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="Which of the bundle's variants runs: fp32, fp16, bf16, int8 or int4, if it holds it (`aigc-rt inspect`"
        " tells). Default: fp32 on the CPU, fp16 on a GPU."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=1024, help="Threads on the CPU. Default: as many as the cores this process may use."),
]


def options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and end.", is_eager=True)] = False,
) -> None:
    """What `aigc-rt` takes without a subcommand."""
    if version:
        show(importlib.metadata.version("aigc-rt"), None, False)
        raise typer.Exit


def ends_well(function: Callable[..., None]) -> Callable[..., None]:
    """A subcommand whose errors end the process with one line and the right code; typer answers wrong arguments.

    `KeyboardInterrupt("words")` says its words after "interrupted": how to go on, when the command knows.
    """

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            function(*arguments, **options)
        except AigcRtError as error:
            say(f"error: {error}")
            raise typer.Exit(1) from None
        except KeyboardInterrupt as stop:
            say(": ".join(["interrupted", *map(str, stop.args)]))
            raise typer.Exit(130) from None
        except OSError as error:
            if error.filename is not None:  # a name too long, say: no path of ours can be looked up by it
                say(f"error: open {error.filename}: {error.strerror}. Give another path.")
                raise typer.Exit(1) from None
            # stdout or stderr that takes no more: of every other file there is an error of ours
            with contextlib.suppress(OSError):
                say(f"error: write the result: {error.strerror or error}. Free space, or read the whole output.")
            os._exit(1)  # Python would complain again when it flushes the same stream

    return run


def say(text: str) -> None:
    """A line for the person at the terminal, on stderr."""
    print(text, file=sys.stderr)  # noqa: T201


def show(text: str, document: Any, as_json: bool) -> None:
    """The result on stdout: for a person, or as one line of JSON with nothing else."""
    print(json.dumps(document, ensure_ascii=False) if as_json else text, flush=True)  # noqa: T201


def step(text: str) -> None:
    """A line of progress that stays, on a terminal only."""
    if sys.stderr.isatty():
        say(f"  {text} ...")


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """On a terminal a line that says what is being done, each step in the place of the last; nothing in a pipe."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return

    def step(text: str) -> None:
        width = max(20, shutil.get_terminal_size().columns)
        print(f"\r\x1b[2K  {text[: width - 7]} ...", end="", file=sys.stderr, flush=True)  # noqa: T201

    try:
        yield step
    finally:
        print("\r\x1b[2K", end="", file=sys.stderr, flush=True)  # noqa: T201


def needs(module: str, extra: str) -> Any:
    """A module of this project whose packages an extra installs."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingDependency(f"use {module}", str(error), f"pip install 'aigc-rt[{extra}]'") from None


def plan_request(device: str, backend: str | None, precision: str | None, threads: int | None) -> dict[str, Any]:
    """Arguments of `load`; what cannot be one is an argument rejected before anything was opened."""
    from aigc_rt.plan import Request

    asked: dict[str, Any] = {"device": device, "backend": backend, "precision": precision, "threads": threads}
    with rejected():
        Request(**asked)
    return asked


@contextlib.contextmanager
def rejected() -> Iterator[None]:
    """An InputError in here is an argument rejected: exit code 2."""
    try:
        yield
    except InputError as error:
        raise typer.BadParameter(str(error)) from None
