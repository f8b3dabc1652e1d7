"""A result on a terminal: the same words as the Markdown, in rich's tables."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aigc_rt.bench import report


def show(document: dict[str, Any], console: Console | None = None) -> None:
    """Print the result."""
    console = console or Console()
    console.print(report.heading(document).replace("  \n", "\n"), markup=False, emoji=False, highlight=False)
    for grid in report.grids(document):
        drawn = Table(title=grid.title, title_justify="left", title_style="bold", box=None, header_style="dim")
        for column, name in enumerate(grid.head):
            drawn.add_column(name, justify="left" if column == report.PEER_COLUMN else "right")
        before = grid.lines[0][0]
        for line in grid.lines:
            if line[0] != before:
                drawn.add_section()
            before = line[0]
            drawn.add_row(*map(Text, line), style="yellow" if "unstable" in line else None)
        console.print()
        console.print(drawn, markup=False, emoji=False, highlight=False)
    for paragraph in report.paragraphs(document):
        console.print()
        console.print(paragraph, markup=False, emoji=False, highlight=False)
