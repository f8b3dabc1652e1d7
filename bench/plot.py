"""A result as a picture: the median call of every peer with its interval. Nothing is measured here."""

from __future__ import annotations

import importlib.util
import io
import math
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aigc_rt.bench.peers import PEERS
from aigc_rt.bench.report import Document, Row, absent, controls, precisions, within
from aigc_rt.errors import InputError, MissingDependency
from aigc_rt.files import check_target, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDEST_LINEAR = 30.0
"""Above this ratio of the longest to the shortest bar of a panel, all axes are logarithmic: short bars stay visible."""
PLOT_SUFFIXES = (".png", ".svg", ".pdf")


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
    """Draw the median call of every peer, a panel for each device and batch size; the format is the path's suffix.

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
    notes, log = _notes(document), _is_wide(rows)
    figure = Figure(figsize=(3.9 * len(batches) + 1.6, (0.55 * tallest + 1.0) * len(devices) + 0.17 * len(notes) + 1.3))
    FigureCanvasAgg(figure)
    margin = 0.01  # keeps the peers' names off the figure's edge
    figure.set_layout_engine("constrained", rect=(margin, 0, 1 - 2 * margin, 1))
    panels = figure.subplots(len(devices), len(batches), squeeze=False)
    for device, line in zip(devices, panels, strict=True):
        for batch, axes in zip(batches, line, strict=True):
            _panel(axes, [r for r in rows if (r["device"], r["batch"]) == (device, batch)], _peers(rows, device), log)
            axes.set_title(f"batch {batch}" if device == "cpu" else f"batch {batch}, {device}", fontsize=11)
        for axes in line[1:]:
            axes.set_yticklabels([])
    figure.suptitle(_title(document, log), fontsize=11, x=0.01, ha="left")
    figure.supxlabel("\n".join(notes), fontsize=8, x=0.01, ha="left", color="#444444")
    drawn = io.BytesIO()
    figure.savefig(drawn, format=Path(path).suffix.lower().lstrip("."), dpi=150)
    write_whole(Path(path), drawn.getvalue())


def _is_wide(rows: Sequence[Row]) -> bool:
    panels: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        panels.setdefault((row["device"], row["batch"]), []).append(row["median_ms"])
    return any(max(medians) > WIDEST_LINEAR * min(medians) for medians in panels.values())


def _title(document: Document, log: bool) -> str:
    machine = document["machine"]
    where = ", ".join([machine["cpu"] or machine["architecture"], *(gpu["name"] for gpu in machine["gpus"])])
    return (
        f"{document['bundle']['name']}: milliseconds a call, shorter is better{', logarithmic axes' if log else ''}\n"
        f"{where}, {document['threads']} CPU threads for every peer"
    )


def _peers(rows: Sequence[Row], device: str) -> list[str]:
    """The peers of a device, in the table's order."""
    return list(dict.fromkeys(row["peer"] for row in rows if row["device"] == device))


def _panel(axes: Axes, rows: Sequence[Row], peers: Sequence[str], log: bool) -> None:
    """Two bars a peer, images above and the engine alone below: length, whisker and words say the same numbers."""
    from matplotlib.transforms import offset_copy

    longest = max((row["median_ms"] for row in rows), default=1.0)
    least = min((row["median_ms"] for row in rows), default=1.0) / 3 if log else 0.0

    def along(share: float) -> float:
        """The value where that share of the longest bar's length ends."""
        return float(least * (longest / least) ** share) if log else longest * share

    furthest, behind = along(1.15), offset_copy(axes.transData, axes.get_figure(root=True), x=3, units="points")
    if log:
        axes.set_xscale("log")
        axes.set_xticks(_log_ticks(least, furthest))
        axes.minorticks_off()
    for row in rows:
        whole = row["what"] == "images"
        place = peers.index(row["peer"]) + (-0.16 if whole else 0.22)
        median, low, high = row["median_ms"], row["low_ms"], row["high_ms"]
        height = 0.42 if whole else 0.22
        axes.barh(place, median, height, color=_colour(row["peer"]), alpha=1 if whole else 0.4, zorder=2)
        end = min(high or median, furthest)
        if low is not None:
            axes.errorbar(median, place, xerr=[[median - low], [end - median]], color="#333333", capsize=2, lw=0.9)
        if high is not None and high > furthest:  # it goes on: the words say how far
            axes.plot(end, place, marker=">", color="#333333", markersize=4)
        axes.text(
            max(median, end),
            place,
            within(median, low, high) + (" unstable" if row["unstable"] else ""),
            va="center",
            transform=behind,
            fontsize=8 if whole else 7,
            color="#b00020" if row["unstable"] else "black" if whole else "#666666",
            zorder=4,
        )
    axes.set_yticks(range(len(peers)), list(peers), fontsize=9.5)
    axes.set_ylim(max(len(peers), 1) - 0.5, -0.5)
    axes.set_xlim(least, along(2.2))  # room for words behind the longest bar and whisker
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e4e4e4", zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two: powers of ten, and their 2 and 5 where those are few."""
    steps = (1,) if high > 1000 * low else (1, 2, 5)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**exponent for exponent in exponents for step in steps if low <= step * 10.0**exponent <= high]


def _colour(peer: str) -> str:
    """One colour a family, whatever else is in the plot."""
    families = list(dict.fromkeys(entry.family for entry in PEERS.values()))
    return f"C{families.index(PEERS[peer].family)}" if peer in PEERS else "C9"


def _notes(document: Document) -> list[str]:
    """The lines below the panels."""
    notes = [
        "Dark bars: from noise to uint8 images. Pale bars: the engine alone. "
        "Medians over the blocks in ms, whiskers and brackets their 95% interval."
    ]
    notes += [line] if (line := precisions(document)) else []
    notes += [controls(document)] if document["controls"] else []
    notes += [f"Not measured: {', '.join(names)} ({reason})" for reason, names in absent(document).items()]
    notes += [f"Doubt: {doubt}" for doubt in document["doubts"]]
    width = 52 * len(document["options"]["batches"]) + 10
    return [line for note in notes for line in textwrap.wrap(note, width, subsequent_indent="    ")]
