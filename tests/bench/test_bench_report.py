"""Rows from samples by hand-made numbers; the document on disk; its views."""

import copy
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from aigc_rt.bench import report, store, summary
from aigc_rt.bench.options import BenchOptions
from aigc_rt.errors import AigcRtError, BenchError, InputError, MissingDependency, WriteError

MS = 1_000_000


def peer(name: str, **changes: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "peer": name, "family": name, "device": "cpu", "precision": "fp32", "control_of": None, "status": "ok",
        "reason": None, "facts": {}, "prepare_s": {"2": 0.25}, "agreement": {}, "broken": {},
    }  # fmt: skip
    return {**known, **changes}


def block(name: str, number: int, *ns: int, what: str = "images", others: float | None = 0.0) -> dict[str, Any]:
    return {"peer": name, "what": what, "batch": 2, "round": number, "ns": list(ns), "others": others}


OPTIONS = BenchOptions(peers=("torch-eager", "onnxruntime"), batches=(2,), engine_blocks=0)
BASELINES = {"cpu": {"peer": "torch-eager", "reason": None}}
PEERS = [
    peer("torch-eager"),
    peer("onnxruntime"),
    peer("openvino", status="failed", reason="its process was killed by SIGSEGV"),
    peer("onnxruntime-cuda", device="cuda:0", status="missing", reason="no NVIDIA driver"),
    peer("torch-compile", broken={"2": {"status": "wrong", "reason": "its images differ"}}),
    peer("torch-eager (A/A)", control_of="torch-eager"),
]
SAMPLES = [
    block("torch-eager", 0, 4 * MS, 4 * MS, 10 * MS),
    block("torch-eager", 1, 8 * MS, 8 * MS),
    block("onnxruntime", 0, 2 * MS, 2 * MS),
    block("onnxruntime", 1, 2 * MS),
    block("torch-eager (A/A)", 0, 4 * MS),
    block("torch-eager (A/A)", 1, 8 * MS),
]


def made(samples: list[dict[str, Any]], options: BenchOptions = OPTIONS) -> dict[str, Any]:
    return summary.summarise(PEERS, samples, BASELINES, options)


@pytest.fixture
def document() -> dict[str, Any]:
    machine = {
        "cpu": "Test CPU", "flags": [], "cores": 4, "usable_cores": 2, "memory_bytes": 1,
        "gpus": [], "system": "Test OS", "kernel": "1", "architecture": "x", "python": "3.11", "load_average_1min": 0.0,
    }  # fmt: skip
    return {
        "schema": "aigc-rt-bench", "version": 1, "made_utc": "2026-01-01T00:00:00+00:00",
        "bundle": {"name": "tiny", "digest": "0", "parameters": 1234}, "machine": machine,
        "libraries": {"numpy": "2"}, "source": {"commit": "0123456789abcdef", "dirty": True},
        "options": {"batches": [2]}, "threads": 2, "baselines": BASELINES, "peers": PEERS, **made(SAMPLES),
        "samples": SAMPLES,
    }  # fmt: skip


def test_rows_by_hand() -> None:
    eager, ort, *_ = made(SAMPLES)["rows"]
    assert eager["median_ms"] == 8.0  # of 4 4 8 8 10
    assert eager["p90_ms"] == pytest.approx(9.2)
    assert eager["images_per_s"] == pytest.approx(2 * 5 / 0.034)
    assert (eager["blocks"], eager["calls"]) == (2, 5)
    assert eager["spread"] == pytest.approx(4 / 6)
    assert eager["speedup"] == {"against": "torch-eager", "median": 1.0, "low": 1.0, "high": 1.0, "rounds": 2}
    assert ort["speedup"] == {"against": "torch-eager", "median": 3.0, "low": 2.0, "high": 4.0, "rounds": 2}


def test_each_peer_that_was_not_measured_is_a_row() -> None:
    rows = {row["peer"]: row for row in made(SAMPLES)["rows"]}
    assert (rows["openvino"]["status"], rows["openvino"]["batch"]) == ("failed", None)
    assert rows["onnxruntime-cuda"]["reason"] == "no NVIDIA driver"
    assert (rows["torch-compile"]["status"], rows["torch-compile"]["batch"]) == ("wrong", 2)
    assert rows["torch-compile"]["median_ms"] is None


def test_ratios_use_the_rounds_that_both_have() -> None:
    rows = made([sample for sample in SAMPLES if (sample["peer"], sample["round"]) != ("onnxruntime", 1)])["rows"]
    assert rows[1]["speedup"] == {"against": "torch-eager", "median": 2.0, "low": None, "high": None, "rounds": 1}


def test_the_control_is_the_same_peer_twice() -> None:
    found = made(SAMPLES)
    assert found["controls"] == [
        {"peer": "torch-eager", "device": "cpu", "batch": 2, "median": 1.0, "low": 1.0, "high": 1.0, "rounds": 2}
    ]
    assert not any("against itself" in doubt for doubt in found["doubts"])


def test_doubts() -> None:
    quiet = [block(name, r, *[MS] * 100) for name in ("torch-eager", "onnxruntime") for r in range(2)]
    control = [block("torch-eager (A/A)", r, *[MS] * 100) for r in range(2)]
    assert made(quiet + control)["doubts"] == []
    apart = [block("torch-eager (A/A)", r, *[MS * 5 // 4] * 100) for r in range(2)]
    (doubt,) = made(quiet + apart)["doubts"]
    assert "torch-eager against itself at batch 2 came out as 0.800x (0.800 to 0.800)" in doubt
    (doubt,) = made(quiet)["doubts"]
    assert "no A/A control" in doubt
    (doubt,) = made([{**s, "others": 0.4} for s in quiet + control])["doubts"]
    assert "40% of the cores" in doubt
    assert made([{**s, "others": None} for s in quiet + control])["doubts"] == []
    wide = [block("onnxruntime", 2, *[2 * MS] * 100), *quiet, *control]
    (doubt,) = made(wide)["doubts"]
    assert "1 of 2 rows" in doubt
    assert "onnxruntime, batch 2, images: 100%" in doubt
    short = BenchOptions(peers=OPTIONS.peers, batches=(2,), engine_blocks=0, seconds=0.1)
    assert "too short" in made(quiet + control, short)["doubts"][0]
    few = [block(name, r, MS) for name in ("torch-eager", "onnxruntime", "torch-eager (A/A)") for r in range(2)]
    assert "fewer than 100 calls in 2 of 2 rows" in made(few)["doubts"][0]


def test_round_trip(document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    store.write(document, path)
    assert store.read(path) == document
    text = path.read_text()
    assert '{"peer":"torch-eager","what":"images","batch":2,"round":0,"ns":[4000000,4000000,10000000]' in text
    again = summary.summarise(document["peers"], document["samples"], document["baselines"], OPTIONS)
    assert {key: document[key] for key in again} == again  # the rows can be made again from what was kept
    assert [entry.name for entry in tmp_path.iterdir()] == ["bench.json"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "No such file"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b"[]", 'no "schema"'),
        (b'{"schema": "pytest-benchmark"}', 'no "schema"'),
        (b'{"schema": "aigc-rt-bench", "version": 2}', "its version is 2, this version of aigc-rt reads 1"),
        (b'{"schema": "aigc-rt-bench", "version": 1, "rows": []}', "the keys baselines, bundle"),
    ],
)
def test_a_file_that_is_no_result(data: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(BenchError, match=words):
        store.read(path)


def test_a_failed_write_leaves_what_was_there(document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    store.write(document, path)
    broken = copy.deepcopy(document)
    broken["rows"][0]["median_ms"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write(broken, path)
    with pytest.raises(WriteError):
        store.write(document, tmp_path / "no" / "such" / "folder.json")
    assert json.loads(path.read_text()) == document
    assert [entry.name for entry in tmp_path.iterdir()] == ["bench.json"]


def test_the_table_says_everything(document: dict[str, Any]) -> None:
    text = report.table(document)
    for entry in PEERS:
        assert entry["peer"].removesuffix(" (A/A)") in text
    for words in (
        "1,234 parameters, 2 threads on 2 of 4 cores of Test CPU", "commit 0123456789 with local changes",
        "- openvino (failed: its process was killed by SIGSEGV)", "- onnxruntime-cuda (missing: no NVIDIA driver)",
        "- torch-compile at batch 2 (wrong: its images differ)", "3.00 (2.00 to 4.00)", "batch 2 1.00 (1.00 to 1.00)",
        "images/s is images over the total time of all calls", *document["doubts"],
    ):  # fmt: skip
        assert words in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1  # aligned, so that it reads in a terminal too


def test_the_plot_is_an_image(document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "bench.png"
    report.plot(document, path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    report.plot(document, tmp_path / "bench.svg")
    drawn = (tmp_path / "bench.svg").read_text()
    assert drawn.rstrip().endswith("</svg>")
    assert "images over the total time of all calls" in drawn
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["bench.png", "bench.svg"]


def test_a_plot_that_cannot_be_drawn_is_refused_before_anything_is_measured(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report.check_plot(tmp_path / "bench.PNG")
    for name in ("bench.nonsense", "bench", "no/such/folder.png"):
        with pytest.raises(InputError):
            report.check_plot(tmp_path / name)
        with pytest.raises(InputError):
            report.plot(document, tmp_path / name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependency, match=r"pip install 'aigc-rt\[bench\]'"):
        report.check_plot(tmp_path / "bench.png")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_could_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.check_target(tmp_path / "bench.json")
    store.check_target("bench.json")
    for path, words in ((tmp_path, "it is a folder"), (tmp_path / "no" / "x.json", f"no folder {tmp_path / 'no'}")):
        with pytest.raises(InputError, match=re.escape(words)):
            store.check_target(path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(WriteError, match="does not let you write"):
        store.check_target(tmp_path / "bench.json")


def test_the_plot_is_written_whole(document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bench.png"
    path.write_bytes(b"before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    for write in (report.plot, store.write):
        with pytest.raises(AigcRtError, match="No space left on device"):
            write(document, path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_whom_ratios_are_to_is_said_once(document: dict[str, Any]) -> None:
    reason = "torch-eager was not measured on cpu"
    sentence = f"Ratios on cpu are to onnxruntime: {reason}."
    document["baselines"] = {"cpu": {"peer": "onnxruntime", "reason": reason}}
    assert report.table(document).count(sentence) == 1
    asked = BenchOptions(peers=OPTIONS.peers, batches=(2,), engine_blocks=0, baseline="torch-eager")
    for options, doubted in ((OPTIONS, False), (asked, True)):
        found = summary.summarise(PEERS, SAMPLES, document["baselines"], options)
        assert (sentence in found["doubts"]) == doubted
        assert report.table({**document, **found}).count(sentence) == 1


def test_rows_without_a_ratio_are_a_doubt() -> None:
    samples = [sample for sample in SAMPLES if sample["peer"] == "onnxruntime"]
    found = summary.summarise([peer("onnxruntime")], samples, BASELINES, OPTIONS)
    assert "There is no ratio in 1 of 1 rows: their baseline was not measured." in found["doubts"]


def test_a_result_without_a_single_row_has_views(document: dict[str, Any], tmp_path: Path) -> None:
    document["rows"] = [row for row in document["rows"] if row["status"] != "ok"]
    document["controls"], document["samples"], document["baselines"] = [], [], {}
    assert "onnxruntime-cuda" in report.table(document)
    report.plot(document, tmp_path / "bench.png")
    store.write(document, tmp_path / "bench.json")
    assert store.read(tmp_path / "bench.json") == document
