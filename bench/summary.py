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
NOTHING: Json = dict.fromkeys(("blocks", "calls", "median_ms", "p90_ms", "p99_ms", "images_per_s", "spread", "speedup"))

SHORTEST_BLOCK_S = 0.25
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
    controls: list[Json] = []
    for peer in peers:
        if peer["control_of"] is None:
            rows += _rows(peer, measured, baselines, options)
        else:
            controls += _controls(peer, measured, options)
    doubts = _doubts(rows, controls, samples, options)
    if options.baseline is not None:
        doubts += replaced(baselines)
    if samples and not controls:
        doubts.append("There is no A/A control: how far two equal peers lie apart here is not known.")
    return {"rows": rows, "controls": controls, "doubts": doubts}


def replaced(baselines: Mapping[str, Json]) -> list[str]:
    """A sentence for every device whose ratios are not to the first choice."""
    return [f"Ratios on {d} are to {b['peer']}: {b['reason']}." for d, b in baselines.items() if b["reason"]]


def _rows(
    peer: Json, measured: Mapping[Any, Blocks], baselines: Mapping[str, Json], options: BenchOptions
) -> list[Json]:
    """One row for a peer that could not be measured, else one for each batch and thing measured."""
    head = {key: peer[key] for key in ("peer", "device", "precision")}
    if peer["status"] != "ok":
        return [{**head, "what": None, "batch": None, "status": peer["status"], "reason": peer["reason"], **NOTHING}]
    rows = []
    baseline = baselines[peer["device"]]["peer"]
    for what in ("images", "engine") if options.engine_blocks else ("images",):
        for batch in options.batches:
            row = {**head, "what": what, "batch": batch}
            if broken := peer["broken"].get(str(batch)):
                rows.append({**row, **broken, **NOTHING})
                continue
            blocks = measured[peer["peer"], what, batch]
            against = measured.get((baseline, what, batch))
            speedup = {"against": baseline, **_speedup(against, blocks, options.seed)} if against else None
            rows.append({**row, "status": "ok", "reason": None, **_numbers(blocks, batch), "speedup": speedup})
    return rows


def _numbers(blocks: Blocks, batch: int) -> Json:
    """Percentiles over all calls; images/s is images over the time of all calls, the slow ones included."""
    calls = np.concatenate([np.asarray(block) for block in blocks.values()])
    median, p90, p99 = (ns / 1e6 for ns in timing.percentiles(calls))
    return {
        "blocks": len(blocks),
        "calls": len(calls),
        "median_ms": median,
        "p90_ms": p90,
        "p99_ms": p99,
        "images_per_s": float(batch * len(calls) / (calls.sum() / 1e9)),
        "spread": timing.spread(list(blocks.values())),
    }


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


def _doubts(
    rows: Sequence[Json], controls: Sequence[Json], samples: Sequence[Json], options: BenchOptions
) -> list[str]:
    """Why a reader should not trust these numbers, in sentences; empty when nothing speaks against them."""
    doubts = []
    if options.seconds < SHORTEST_BLOCK_S:
        doubts.append(f"Blocks of {options.seconds:g} s are too short; {SHORTEST_BLOCK_S:g} s is the least to trust.")
    shares = [sample["others"] for sample in samples if sample["others"] is not None]
    if shares and (share := float(np.mean(shares))) > LARGEST_OTHERS:
        doubts.append(f"Other programs took {share:.0%} of the cores' time while this was measured.")
    for control in controls:
        interval = timing.Interval(control["median"], control["low"], control["high"])
        if interval.excludes(1.0):
            doubts.append(
                f"{control['peer']} against itself at batch {control['batch']} came out as {interval.median:.3f}x "
                f"({interval.low:.3f} to {interval.high:.3f}): a difference of that size means nothing here."
            )
    measured = [row for row in rows if row["status"] == "ok"]
    if alone := [row for row in measured if row["speedup"] is None]:
        doubts.append(f"There is no ratio in {len(alone)} of {len(measured)} rows: their baseline was not measured.")
    if wide := [row for row in measured if row["spread"] > LARGEST_SPREAD]:
        worst = max(wide, key=lambda row: row["spread"])
        doubts.append(
            f"In {len(wide)} of {len(measured)} rows the blocks lie more than {LARGEST_SPREAD:.0%} apart; the widest "
            f"is {worst['peer']}, batch {worst['batch']}, {worst['what']}: {worst['spread']:.0%}."
        )
    if few := [row for row in measured if row["calls"] < FEWEST_CALLS_FOR_P99]:
        doubts.append(f"p99 rests on fewer than {FEWEST_CALLS_FOR_P99} calls in {len(few)} of {len(measured)} rows.")
    return doubts
