"""What a result says, in words: numbers of three digits, grids, sentences; and all of it as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aigc_rt.bench.summary import replaced

Document = dict[str, Any]
Row = dict[str, Any]
PEER_COLUMN = 1
READING = (
    "A call's median over the blocks, with its 95% interval; p90 and p99 show the slow calls. images/s is the batch "
    "over the median."
)
TITLES = {"images": "Images: noise, engine, post-processing to uint8", "engine": "Engine alone: floats in, floats out"}


@dataclass(frozen=True)
class Grid:
    """Rows of cells below a head; the peers' names stand left, numbers right."""

    title: str
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def table(document: Document) -> str:
    """The whole result as Markdown: rows, A/A control, what was not measured and why, preparation, doubts."""
    return "\n\n".join([heading(document), *map(_markdown, grids(document)), *paragraphs(document)]) + "\n"


def three(value: float) -> str:
    """A number with three digits that count: 0.0346, 3.46, 34.6, 346, 34,600."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    decimals = 2 - math.floor(math.log10(abs(value)))
    value = round(value, decimals)
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"  # 9.996 has become 10.0


def within(value: float, low: float | None, high: float | None) -> str:
    """A number with its interval, where it has one."""
    if low is None or high is None:
        return three(value)
    return f"{three(value)} ({three(low)} to {three(high)})"


def grids(document: Document) -> list[Grid]:
    """What was measured: whole images, then the engine alone."""
    measured = [row for row in document["rows"] if row["status"] == "ok"]
    found = []
    for what, title in TITLES.items():
        if rows := [row for row in measured if row["what"] == what]:
            found.append(_grid(title, rows))
    return found


def _grid(title: str, rows: Sequence[Row]) -> Grid:
    """Rows by batch, then in the peers' order; x is how many times faster than the baseline. Empty columns go."""
    against = sorted({row["speedup"]["against"] for row in rows if row["speedup"]})
    named = {precision(row) for row in rows} != {"fp32"}
    head = [
        "batch",
        "peer",
        "precision",
        "median ms (95%)",
        "p90 ms",
        "p99 ms",
        "images/s",
        f"x {' or '.join(against)} (95%)",
        "",
    ]
    lines = [
        [
            str(row["batch"]),
            row["peer"],
            precision(row) if named else "",
            within(row["median_ms"], row["low_ms"], row["high_ms"]),
            three(row["p90_ms"]),
            three(row["p99_ms"]),
            three(row["images_per_s"]),
            _ratio(row),
            "unstable" if row["unstable"] else "",
        ]
        for row in sorted(rows, key=lambda row: int(row["batch"]))
    ]
    kept = [column for column in range(len(head)) if any(line[column] for line in lines)]
    return Grid(title, _keep(head, kept), tuple(_keep(line, kept) for line in lines))


def _keep(cells: Sequence[str], kept: Sequence[int]) -> tuple[str, ...]:
    return tuple(cells[column] for column in kept)


def precision(row: Row) -> str:
    """What its graph is stored in, and what it is computed in where that is another."""
    stored, executes = row["precision"], row.get("executes") or row["precision"]
    return str(stored) if stored == executes else f"{stored}, computed in {executes}"


def precisions(document: Document) -> str:
    """Who computes in what, by precision; empty where all is fp32."""
    peers: dict[str, dict[str, None]] = {}
    for row in document["rows"]:
        if row["status"] == "ok":
            peers.setdefault(precision(row), {})[row["peer"]] = None
    if peers.keys() <= {"fp32"}:
        return ""
    return f"Precision: {'; '.join(', '.join(names) + ' ' + words for words, names in peers.items())}."


def _ratio(row: Row) -> str:
    """Empty without a baseline; of an unstable row the interval alone, so that nobody quotes what lies in it.

    A ratio between two precisions says so: it is no win of one engine over another.
    """
    ratio = row["speedup"]
    if ratio is None:
        return ""
    if ratio["against"] == row["peer"]:
        return "1"
    words = within(ratio["median"], ratio["low"], ratio["high"])
    if row["unstable"] and ratio["low"] is not None:
        words = f"{three(ratio['low'])} to {three(ratio['high'])}"
    return words if ratio.get("equal_precision", True) else f"{words}, precisions differ"


def _markdown(grid: Grid) -> str:
    widths = [max(len(line[column]) for line in (grid.head, *grid.lines)) for column in range(len(grid.head))]
    widths = [max(width, 3) for width in widths]
    rule = ["-" * width if column == PEER_COLUMN else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join([grid.title, "", *(_line(line, widths) for line in (grid.head, rule, *grid.lines))])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.ljust(width) if column == PEER_COLUMN else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def paragraphs(document: Document) -> list[str]:
    """What stands below the grids; lists are Markdown's, one item a line."""
    parts = [READING if grids(document) else "", _replaced(document), controls(document), _preparation(document)]
    parts += [_absent(document), _doubts(document)]
    return [part for part in parts if part]


def heading(document: Document) -> str:
    """What was measured, and on what."""
    machine, source = document["machine"], document["source"]
    gpus = ", ".join(f"{gpu['name']} (driver {gpu['driver_version']})" for gpu in machine["gpus"])
    commit = f"commit {source['commit'][:10]}{' with local changes' if source['dirty'] else ''}" if source else ""
    lines = [
        f"{document['bundle']['name']}: {document['bundle']['parameters']:,} parameters, {document['threads']} threads "
        f"on {machine['usable_cores']} of {machine['cores']} cores of {machine['cpu']}{', ' + gpus if gpus else ''}",
        ", ".join(
            part for part in (machine["system"], f"Python {machine['python']}", _versions(document), commit) if part
        ),
    ]
    return "  \n".join(lines)


def _versions(document: Document) -> str:
    return ", ".join(f"{name} {version}" for name, version in document["libraries"].items())


def _replaced(document: Document) -> str:
    """Whom ratios are to, where it is not the first choice and no doubt says it already."""
    return " ".join(line for line in replaced(document["baselines"]) if line not in document["doubts"])


def controls(document: Document) -> str:
    """By how much equal peers differ; empty without a control."""
    found = [f"batch {c['batch']} {within(c['median'], c['low'], c['high'])}" for c in document["controls"]]
    names = dict.fromkeys(control["peer"] for control in document["controls"])
    if not found:
        return ""
    return f"A/A control, {' and '.join(names)} against itself in a second process: {', '.join(found)}."


def _preparation(document: Document) -> str:
    """Seconds to be ready for every batch size: loading, compiling, first calls."""
    parts = [
        f"{peer['peer']} {' + '.join(f'{three(seconds)}' for seconds in peer['prepare_s'].values())}"
        for peer in document["peers"]
        if peer["prepare_s"] and peer["control_of"] is None
    ]
    return f"Getting ready for each batch size, in seconds: {', '.join(parts)}." if parts else ""


def absent(document: Document) -> dict[str, list[str]]:
    """What was not measured: by reason, the peers (and batches) it holds for."""
    reasons: dict[str, list[str]] = {}
    for row in document["rows"]:
        if row["status"] != "ok":
            name = row["peer"] if row["batch"] is None else f"{row['peer']} at batch {row['batch']}"
            names = reasons.setdefault(f"{row['status']}: {row['reason']}", [])
            if name not in names:
                names.append(name)
    return reasons


def _absent(document: Document) -> str:
    lines = [f"- {', '.join(names)} ({reason})" for reason, names in absent(document).items()]
    return "Not measured:\n\n" + "\n".join(lines) if lines else ""


def _doubts(document: Document) -> str:
    return "Doubts:\n\n" + "\n".join(f"- {doubt}" for doubt in document["doubts"]) if document["doubts"] else ""
