"""What every subcommand of `aigc-rt` stands on: shared options, one line for an error, the exit codes.

Exit codes: 0 done, 2 arguments rejected before anything was opened, 130 Ctrl-C, 1 everything else.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from aigc_rt.errors import AigcRtError, MissingDependency

Bundled = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that `aigc-rt export` wrote.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON, the last on stdout.")]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, max=1024, help="Threads on the CPU. Default: as many as this process may use.", show_default=False
    ),
]


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
        except OSError as error:  # stdout or stderr that takes no more; every other file has an error of ours
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
    """A line of progress, on a terminal only."""
    if sys.stderr.isatty():
        say(f"  {text} ...")


def needs(module: str, extra: str) -> Any:
    """A module of this project whose packages an extra installs."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if isinstance(error, MissingDependency):
            raise
        raise MissingDependency(f"use {module}", str(error), f"pip install 'aigc-rt[{extra}]'") from None
