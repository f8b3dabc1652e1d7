"""Views of a result: a table in Markdown that also reads well in a terminal, and a plot. Nothing is measured here."""

from __future__ import annotations

import importlib.util
import io
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_rt.bench.peers import PEERS
from aigc_rt.bench.store import check_target
from aigc_rt.bench.summary import replaced
from aigc_rt.errors import InputError, MissingDependency
from aigc_rt.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Document = dict[str, Any]
Row = dict[str, Any]
PEER_COLUMN = 1
PLOT_SUFFIXES = (".png", ".svg", ".pdf")
RATE = "images over the total time of all calls: slow calls count, unlike in the median"
TITLES = {"images": "Images: noise, engine, post-processing to uint8", "engine": "Engine alone: floats in, floats out"}


def table(document: Document) -> str:
    """The whole result as Markdown: rows, A/A control, what was not measured and why, preparation, doubts."""
    parts = [_head(document)]
    for what, title in TITLES.items():
        rows = [row for row in document["rows"] if row["what"] == what and row["status"] == "ok"]
        if rows:
            parts.append(f"{title}\n\n{_grid(rows)}")
    if len(parts) > 1:
        parts.append(f"images/s is {RATE}; x compares medians.")
    parts += [_replaced(document), _controls(document), _preparation(document), _absent(document), _doubts(document)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(document: Document) -> str:
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


def _grid(rows: Sequence[Row]) -> str:
    """Rows by batch, then in the peers' order; x is how many times faster than the baseline, with its interval."""
    against = sorted({row["speedup"]["against"] for row in rows if row["speedup"]})
    head = ["batch", "peer", "median ms", "p90 ms", "p99 ms", "images/s", f"x {' or '.join(against)} (95%)"]
    lines = [
        [
            str(row["batch"]),
            row["peer"],
            f"{row['median_ms']:.3f}",
            f"{row['p90_ms']:.3f}",
            f"{row['p99_ms']:.3f}",
            f"{row['images_per_s']:,.0f}",
            _ratio(row["speedup"]),
        ]
        for row in sorted(rows, key=lambda row: int(row["batch"]))
    ]
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    rule = ["-" * width if column == PEER_COLUMN else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join(_line(line, widths) for line in [head, rule, *lines])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.ljust(width) if column == PEER_COLUMN else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def _ratio(speedup: Row | None) -> str:
    if speedup is None:
        return "-"
    if speedup["low"] is None:
        return f"{speedup['median']:.2f}"
    return f"{speedup['median']:.2f} ({speedup['low']:.2f} to {speedup['high']:.2f})"


def _replaced(document: Document) -> str:
    """Whom ratios are to, where it is not the first choice and no doubt says it already."""
    return " ".join(line for line in replaced(document["baselines"]) if line not in document["doubts"])


def _controls(document: Document) -> str:
    found = [f"batch {c['batch']} {_ratio(c)}" for c in document["controls"]]
    names = dict.fromkeys(control["peer"] for control in document["controls"])
    if not found:
        return ""
    return f"A/A control, {' and '.join(names)} against itself in a second process: {', '.join(found)}."


def _preparation(document: Document) -> str:
    """Seconds to be ready for every batch size: loading, compiling, first calls."""
    parts = [
        f"{peer['peer']} {' + '.join(f'{seconds:.1f}' for seconds in peer['prepare_s'].values())}"
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


# The plot


def check_plot(path: str | os.PathLike[str]) -> None:
    """Refuse a plot that could not be drawn there, before minutes are spent on measuring.

    Raises:
        InputError: the suffix is no format, or there is no such folder.
        MissingDependency: matplotlib is not installed.
        WriteError: the folder does not let this user write.
    """
    if Path(path).suffix.lower() not in PLOT_SUFFIXES:
        raise InputError(
            f"draw {path}", f"plots are {', '.join(PLOT_SUFFIXES)}", "Give a file name that ends in one of them"
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependency("draw a plot", "matplotlib is not installed", "pip install 'aigc-rt[bench]'")
    check_target(path)


def plot(document: Document, path: str | os.PathLike[str]) -> None:
    """Draw images/s of every peer, a panel for each device and batch size; the format is the path's suffix.

    Dark bars are whole images, pale ones the engine alone; what was not measured is named below.

    Raises:
        InputError, MissingDependency: as `check_plot`.
        WriteError: the place cannot be written to.
    """
    check_plot(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in document["rows"] if row["status"] == "ok"]
    devices = sorted({row["device"] for row in rows}) or ["cpu"]
    batches = document["options"]["batches"]
    tallest = max((len(_peers(rows, device)) for device in devices), default=1)
    notes = _notes(document)
    figure = Figure(figsize=(3.9 * len(batches) + 1.6, (0.55 * tallest + 1.0) * len(devices) + 0.17 * len(notes) + 1.3))
    FigureCanvasAgg(figure)
    margin = 0.01  # keeps the peers' names off the figure's edge
    figure.set_layout_engine("constrained", rect=(margin, 0, 1 - 2 * margin, 1))
    panels = figure.subplots(len(devices), len(batches), squeeze=False)
    for device, line in zip(devices, panels, strict=True):
        for batch, axes in zip(batches, line, strict=True):
            _panel(axes, [r for r in rows if (r["device"], r["batch"]) == (device, batch)], _peers(rows, device))
            axes.set_title(f"batch {batch}" if device == "cpu" else f"batch {batch}, {device}", fontsize=11)
        for axes in line[1:]:
            axes.set_yticklabels([])
    figure.suptitle(_title(document), fontsize=11, x=0.01, ha="left")
    figure.supxlabel("\n".join(notes), fontsize=8, x=0.01, ha="left", color="#444444")
    drawn = io.BytesIO()
    figure.savefig(drawn, format=Path(path).suffix.lower().lstrip("."), dpi=150)
    write_whole(Path(path), drawn.getvalue())


def _title(document: Document) -> str:
    machine = document["machine"]
    where = ", ".join([machine["cpu"] or machine["architecture"], *(gpu["name"] for gpu in machine["gpus"])])
    return (
        f"{document['bundle']['name']}: images per second, longer is better\n"
        f"{where}, {document['threads']} CPU threads for every peer"
    )


def _peers(rows: Sequence[Row], device: str) -> list[str]:
    """The peers of a device, in the table's order."""
    return list(dict.fromkeys(row["peer"] for row in rows if row["device"] == device))


def _panel(axes: Axes, rows: Sequence[Row], peers: Sequence[str]) -> None:
    """Two bars a peer: images above, the engine alone below; both say their throughput, images their median too."""
    largest = max((row["images_per_s"] for row in rows), default=1.0)
    for row in rows:
        whole = row["what"] == "images"
        place = peers.index(row["peer"]) + (-0.16 if whole else 0.22)
        speed = row["images_per_s"]
        colour = _colour(row["peer"])
        axes.barh(place, speed, height=0.42 if whole else 0.22, color=colour, alpha=1 if whole else 0.4, zorder=2)
        axes.text(
            speed + 0.015 * largest,
            place,
            f"{speed:,.0f}/s, {row['median_ms']:.3g} ms" if whole else f"{speed:,.0f}/s",
            va="center",
            fontsize=8.5 if whole else 7,
            color="black" if whole else "#666666",
            zorder=4,
        )
    axes.set_yticks(range(len(peers)), list(peers), fontsize=9.5)
    axes.set_ylim(max(len(peers), 1) - 0.5, -0.5)
    axes.set_xlim(0, largest * 1.42)  # room for the words behind the longest bar
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e4e4e4", zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _colour(peer: str) -> str:
    """One colour a family, whatever else is in the plot."""
    families = list(dict.fromkeys(entry.family for entry in PEERS.values()))
    return f"C{families.index(PEERS[peer].family)}" if peer in PEERS else "C9"


def _notes(document: Document) -> list[str]:
    """The lines below the panels."""
    notes = ["Dark bars: from noise to uint8 images, with the median call. Pale bars: the engine alone."]
    notes.append(f"Bars are {RATE}.")
    notes += [_controls(document)] if document["controls"] else []
    notes += [f"Not measured: {', '.join(names)} ({reason})" for reason, names in absent(document).items()]
    notes += [f"Doubt: {doubt}" for doubt in document["doubts"]]
    width = 52 * len(document["options"]["batches"]) + 10
    return [line for note in notes for line in textwrap.wrap(note, width, subsequent_indent="    ")]
