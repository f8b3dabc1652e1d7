"""From samples to rows, ratios, controls and doubts: pure functions of a document's parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from aigc_rt import timing
from aigc_rt.bench.options import BenchOptions

Json = dict[str, Any]
Blocks = dict[int, list[int]]
"""Nanoseconds of every call, by round."""
NOTHING: Json = dict.fromkeys(
    ("blocks", "calls", "median_ms", "low_ms", "high_ms", "p90_ms", "p99_ms", "images_per_s", "spread", "speedup",
     "unstable")
)  # fmt: skip

SHORTEST_BLOCK_S = 0.25
FEWEST_BLOCKS = 5
LARGEST_SPAN = 3.0
LARGEST_CONTROL = 1.05
LARGEST_SPREAD = 0.25
LARGEST_OTHERS = 0.1
FEWEST_CALLS_FOR_P99 = 100


def summarise(
    peers: Sequence[Json], samples: Sequence[Json], baselines: Mapping[str, Json], options: BenchOptions
) -> dict[str, Any]:
    """`rows`, `controls` and `doubts` of a document."""
    measured: dict[tuple[str, str, int], Blocks] = {}
    for sample in samples:
        measured.setdefault((sample["peer"], sample["what"], sample["batch"]), {})[sample["round"]] = sample["ns"]
    rows: list[Json] = []
    precisions = {peer["peer"]: _precisions(peer) for peer in peers}
    controls = [c for p in peers if p["control_of"] is not None for c in _controls(p, measured, options)]
    for peer in peers:
        if peer["control_of"] is None:
            rows += _rows(peer, precisions, measured, baselines, options)
    for row in rows:
        row["unstable"] = _unstable(row, controls) if row["status"] == "ok" else None
    doubts = _doubts(rows, controls, samples, options)
    if options.baseline is not None:
        doubts += replaced(baselines)
    if samples and not controls:
        doubts.append("There is no A/A control: how far two equal peers lie apart here is not known.")
    return {"rows": rows, "controls": controls, "doubts": doubts}


def replaced(baselines: Mapping[str, Json]) -> list[str]:
    """A sentence for every device whose ratios are not to the first choice."""
    return [
        f"Ratios on {d} are to {b['peer']}: {b['reason'].rstrip('.')}." for d, b in baselines.items() if b["reason"]
    ]


def _precisions(peer: Json) -> tuple[str, str]:
    """What its graph is stored in, and what it is computed in: the same where the peer does not say."""
    return peer["precision"], peer["facts"].get("executes") or peer["precision"]


def _rows(
    peer: Json,
    precisions: Mapping[str, tuple[str, str]],
    measured: Mapping[Any, Blocks],
    baselines: Mapping[str, Json],
    options: BenchOptions,
) -> list[Json]:
    """One row for a peer that could not be measured, else one for each batch and thing measured."""
    head = {key: peer[key] for key in ("peer", "device", "precision")}
    if peer["status"] != "ok":
        return [
            {
                **head,
                "executes": None,
                "what": None,
                "batch": None,
                "status": peer["status"],
                "reason": peer["reason"],
                **NOTHING,
            }
        ]
    rows = []
    head["executes"] = precisions[peer["peer"]][1]
    baseline = baselines[peer["device"]]["peer"] if peer["device"] in baselines else None
    for what in ("images", "engine") if options.engine else ("images",):
        for batch in options.batches:
            row = {**head, "what": what, "batch": batch}
            if broken := peer["broken"].get(str(batch)):
                rows.append({**row, **broken, **NOTHING})
                continue
            blocks = measured[peer["peer"], what, batch]
            against = measured.get((baseline, what, batch))
            speedup = None
            if against and baseline is not None:
                equal = precisions[baseline] == precisions[peer["peer"]]
                speedup = {"against": baseline, "equal_precision": equal, **_speedup(against, blocks, options.seed)}
            rows.append(
                {**row, "status": "ok", "reason": None, **_numbers(blocks, batch, options.seed), "speedup": speedup}
            )
    return rows


def _numbers(blocks: Blocks, batch: int, seed: int) -> Json:
    """The median of the blocks' medians with its 95% interval; the slow calls are in p90 and p99."""
    calls = list(blocks.values())
    median = timing.bootstrap_median(timing.block_medians(calls) / 1e6, seed=seed)
    p90, p99 = (ns / 1e6 for ns in timing.block_percentiles(calls, (90, 99)))
    return {
        "blocks": len(blocks),
        "calls": sum(map(len, calls)),
        "median_ms": median.median,
        "low_ms": median.low,
        "high_ms": median.high,
        "p90_ms": p90,
        "p99_ms": p99,
        "images_per_s": batch / (median.median / 1e3),
        "spread": timing.spread(calls),
    }


def _unstable(row: Json, controls: Sequence[Json]) -> str | None:
    """Why a row's numbers are not to be quoted, in words; None when nothing speaks against it.

    The A/A control counts once its whole interval lies more than 5% from 1: two processes of one program often differ
    by less, with an interval that leaves 1 out.
    """
    intervals = {"median": timing.Interval(row["median_ms"], row["low_ms"], row["high_ms"])}
    if row["speedup"]:
        intervals["ratio"] = _interval(row["speedup"])
    for number, interval in intervals.items():
        if interval.span() > LARGEST_SPAN:
            return f"its {number}'s interval spans {interval.span():.1f}x"
    for control in controls:
        low, high = control["low"] or 1.0, control["high"] or 1.0
        here = (control["device"], control["batch"]) == (row["device"], row["batch"])
        if here and (low > LARGEST_CONTROL or high < 1 / LARGEST_CONTROL):
            return f"{control['peer']} against itself came out as {control['median']:.2f}x"
    return None


def _interval(ratio: Json) -> timing.Interval:
    return timing.Interval(ratio["median"], ratio["low"], ratio["high"])


def _speedup(baseline: Blocks, blocks: Blocks, seed: int) -> Json:
    """How many times faster than the baseline, with a 95% interval over the rounds that both have."""
    rounds = sorted(baseline.keys() & blocks.keys())
    ratios = timing.block_ratios([baseline[r] for r in rounds], [blocks[r] for r in rounds])
    return {**asdict(timing.bootstrap_median(ratios, seed=seed)), "rounds": len(rounds)}


def _controls(peer: Json, measured: Mapping[Any, Blocks], options: BenchOptions) -> list[Json]:
    """The same peer in two processes: by how much two numbers differ here that should not."""
    found = []
    for batch in options.batches:
        first = measured.get((peer["control_of"], "images", batch))
        second = measured.get((peer["peer"], "images", batch))
        if first and second and first.keys() & second.keys():
            speedup = _speedup(first, second, options.seed)
            found.append({"peer": peer["control_of"], "device": peer["device"], "batch": batch, **speedup})
    return found


def _times(share: float) -> str:
    """85%, but x 260 for what nobody reads as 25886%."""
    return f"{share:.0%}" if share < 2 else f"x {float(f'{share:.2g}'):,g}"


def _doubts(
    rows: Sequence[Json], controls: Sequence[Json], samples: Sequence[Json], options: BenchOptions
) -> list[str]:
    """Why a reader should not trust these numbers, in sentences; empty when nothing speaks against them."""
    doubts = []
    if options.seconds < SHORTEST_BLOCK_S:
        doubts.append(f"Blocks of {options.seconds:g} s are too short; {SHORTEST_BLOCK_S:g} s is the least to trust.")
    if options.blocks < FEWEST_BLOCKS:
        doubts.append(f"Intervals rest on {options.blocks} blocks; {FEWEST_BLOCKS} are the fewest to trust.")
    shares = [sample["others"] for sample in samples if sample["others"] is not None]
    if shares and (share := float(np.mean(shares))) > LARGEST_OTHERS:
        doubts.append(f"Other programs took {share:.0%} of the cores' time while this was measured.")
    for control in controls:
        interval = _interval(control)
        if interval.excludes(1.0):
            doubts.append(
                f"{control['peer']} against itself at batch {control['batch']} came out as {interval.median:.3f}x "
                f"({interval.low:.3f} to {interval.high:.3f}): a difference of that size means nothing here."
            )
    measured = [row for row in rows if row["status"] == "ok"]
    if shaky := [row for row in measured if row["unstable"]]:
        worst = max(shaky, key=lambda row: row["spread"])
        doubts.append(
            f"Unstable, not to be quoted: {len(shaky)} of {len(measured)} rows, {worst['peer']}, batch "
            f"{worst['batch']}, {worst['what']} among them ({worst['unstable']}). Measure again on a quiet machine."
        )
    if alone := [row for row in measured if row["speedup"] is None]:
        doubts.append(f"There is no ratio in {len(alone)} of {len(measured)} rows: their baseline was not measured.")
    if wide := [row for row in measured if row["spread"] > LARGEST_SPREAD]:
        worst = max(wide, key=lambda row: row["spread"])
        doubts.append(
            f"In {len(wide)} of {len(measured)} rows the blocks lie more than {LARGEST_SPREAD:.0%} apart; the widest "
            f"is {worst['peer']}, batch {worst['batch']}, {worst['what']}: {_times(worst['spread'])}."
        )
    if few := [row for row in measured if row["calls"] < FEWEST_CALLS_FOR_P99]:
        doubts.append(f"p99 rests on fewer than {FEWEST_CALLS_FOR_P99} calls in {len(few)} of {len(measured)} rows.")
    return doubts
