"""The `aigc-rt` command, from start to exit. Subcommands live in cli_*.py; one that runs imports its heavy parts."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


def main() -> None:
    """Run the command and exit with its code."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a path may hold letters that the terminal cannot show
        application()(prog_name="aigc-rt")
    except KeyboardInterrupt:  # before a subcommand began, or after it ended
        sys.stderr.write("interrupted\n")
        raise SystemExit(130) from None


def application() -> typer.Typer:
    """The command with every subcommand, in the order of the help."""
    try:
        import typer
    except ImportError:
        sys.stderr.write("aigc-rt: the command needs typer: pip install 'aigc-rt[cli]'\n")
        raise SystemExit(1) from None
    from aigc_rt import cli_bench, cli_bundle, cli_evaluate, cli_export, cli_train
    from aigc_rt.command import ends_well, options

    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # rich would read ":factory" as an emoji and "[cli]" as a style
        context_settings={"max_content_width": 100},
        help="Take a trained PyTorch generator to production.",
    )
    app.callback(invoke_without_command=True)(options)
    for room in (cli_train, cli_evaluate, cli_export, cli_bundle, cli_bench):
        for function in room.COMMANDS:
            app.command()(ends_well(function))
    return app
