"""Rows from samples by hand-made numbers; the document on disk; its views."""

import copy
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from rich.console import Console

from aigc_rt.bench import plot, report, store, summary, terminal
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


OPTIONS = BenchOptions(peers=("torch-eager", "onnxruntime"), batches=(2,), engine=False)
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
        "schema": "aigc-rt-bench", "version": 2, "made_utc": "2026-01-01T00:00:00+00:00",
        "bundle": {"name": "tiny", "digest": "0", "parameters": 1234}, "machine": machine,
        "libraries": {"numpy": "2"}, "source": {"commit": "0123456789abcdef", "dirty": True},
        "options": {"batches": [2]}, "threads": 2, "baselines": BASELINES, "peers": PEERS, **made(SAMPLES),
        "samples": SAMPLES,
    }  # fmt: skip


def test_rows_by_hand() -> None:
    eager, ort, *_ = made(SAMPLES)["rows"]
    assert (eager["median_ms"], eager["low_ms"], eager["high_ms"]) == (6.0, 4.0, 8.0)  # blocks of 4 and 8
    assert eager["p90_ms"] == 10.0  # 4 4 and 10 weigh a sixth each, 8 and 8 a quarter: 10 is the last sixth
    assert eager["images_per_s"] == pytest.approx(2 / 0.006)
    assert (eager["blocks"], eager["calls"]) == (2, 5)
    assert eager["spread"] == pytest.approx(4 / 6)
    assert eager["speedup"] == {
        "against": "torch-eager",
        "equal_precision": True,
        "median": 1.0,
        "low": 1.0,
        "high": 1.0,
        "rounds": 2,
    }
    assert ort["speedup"] == {
        "against": "torch-eager",
        "equal_precision": True,
        "median": 3.0,
        "low": 2.0,
        "high": 4.0,
        "rounds": 2,
    }


def test_each_peer_that_was_not_measured_is_a_row() -> None:
    rows = {row["peer"]: row for row in made(SAMPLES)["rows"]}
    assert (rows["openvino"]["status"], rows["openvino"]["batch"]) == ("failed", None)
    assert rows["onnxruntime-cuda"]["reason"] == "no NVIDIA driver"
    assert (rows["torch-compile"]["status"], rows["torch-compile"]["batch"]) == ("wrong", 2)
    assert rows["torch-compile"]["median_ms"] is None


def test_ratios_use_the_rounds_that_both_have() -> None:
    rows = made([sample for sample in SAMPLES if (sample["peer"], sample["round"]) != ("onnxruntime", 1)])["rows"]
    assert rows[1]["speedup"] == {
        "against": "torch-eager", "equal_precision": True, "median": 2.0, "low": None, "high": None, "rounds": 1
    }  # fmt: skip


def test_the_control_is_the_same_peer_twice() -> None:
    found = made(SAMPLES)
    assert found["controls"] == [
        {"peer": "torch-eager", "device": "cpu", "batch": 2, "median": 1.0, "low": 1.0, "high": 1.0, "rounds": 2}
    ]
    assert not any("against itself" in doubt for doubt in found["doubts"])


def five(name: str, *medians_ms: float, what: str = "images") -> list[dict[str, Any]]:
    return [block(name, r, *[round(ms * MS)] * 100, what=what) for r, ms in enumerate(medians_ms)]


QUIET = [*five("torch-eager", 1, 1, 1, 1, 1), *five("onnxruntime", 1, 1, 1, 1, 1)]
CONTROL = five("torch-eager (A/A)", 1, 1, 1, 1, 1)


def test_doubts() -> None:
    assert made(QUIET + CONTROL)["doubts"] == []
    near = five("torch-eager (A/A)", 1.02, 1.02, 1.02, 1.02, 1.02)
    (doubt,) = made(QUIET + near)["doubts"]
    assert "torch-eager against itself at batch 2 came out as 0.980x (0.980 to 0.980)" in doubt
    (doubt,) = made(QUIET)["doubts"]
    assert "no A/A control" in doubt
    (doubt,) = made([{**s, "others": 0.4} for s in QUIET + CONTROL])["doubts"]
    assert "40% of the cores" in doubt
    assert made([{**s, "others": None} for s in QUIET + CONTROL])["doubts"] == []
    (doubt,) = made([*five("torch-eager", 1, 1, 1, 1, 1), *five("onnxruntime", 1, 1, 1, 1, 2), *CONTROL])["doubts"]
    assert "1 of 2 rows" in doubt
    assert "onnxruntime, batch 2, images: 100%" in doubt
    (doubt,) = made([*five("torch-eager", 1, 1, 1, 1, 1), *five("onnxruntime", 1, 1, 1, 1, 259.9), *CONTROL])["doubts"][
        1:
    ]
    assert doubt.endswith("onnxruntime, batch 2, images: x 260.")
    for changed, words in (({"seconds": 0.1}, "too short"), ({"blocks": 4}, "Intervals rest on 4 blocks")):
        (doubt,) = made(QUIET + CONTROL, BenchOptions(peers=OPTIONS.peers, batches=(2,), engine=False, **changed))[
            "doubts"
        ]
        assert words in doubt
    few = [{**sample, "ns": sample["ns"][:1]} for sample in QUIET + CONTROL]
    assert "fewer than 100 calls in 2 of 2 rows" in made(few)["doubts"][0]


def test_one_wild_block_does_not_move_a_ratio_and_is_called_unstable(document: dict[str, Any]) -> None:
    """What a mean of two blocks made of it: 223 (3.05 to 443)."""
    wild = [*five("torch-eager", 3, 3, 1300, 3, 3), *five("onnxruntime", 1, 1, 1, 1, 1), *CONTROL]
    found = made(wild)
    eager, ort = found["rows"][:2]
    assert ort["speedup"]["median"] == pytest.approx(3.0)
    assert ort["median_ms"] == pytest.approx(1.0)
    assert eager["median_ms"] == pytest.approx(3.0)
    assert ort["unstable"] == "its ratio's interval spans 433.3x"
    assert any(doubt.startswith("Unstable, not to be quoted: 2 of 2 rows") for doubt in found["doubts"])
    text = report.table({**document, **found})
    assert "|       3.00 to 1,300 |" in next(line for line in text.splitlines() if " onnxruntime " in line)
    assert [line.count("unstable") for line in text.splitlines() if line.startswith("| ")] == [0, 0, 1, 1]


def test_rows_beside_a_control_far_from_one_are_unstable() -> None:
    apart = five("torch-eager (A/A)", 0.8, 0.8, 0.8, 0.8, 0.8)
    assert {row["unstable"] for row in made(QUIET + apart)["rows"] if row["status"] == "ok"} == {
        "torch-eager against itself came out as 1.25x"
    }
    near = five("torch-eager (A/A)", 0.98, 0.98, 0.98, 0.98, 0.98)
    assert {row["unstable"] for row in made(QUIET + near)["rows"]} == {None}
    wide = five("torch-eager (A/A)", 0.8, 0.8, 1, 1, 1)
    assert {row["unstable"] for row in made(QUIET + wide)["rows"]} == {None}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.034567, "0.0346"), (0.34567, "0.346"), (3.4567, "3.46"), (34.567, "34.6"), (345.67, "346"),
        (3456.7, "3,460"), (34567.0, "34,600"), (1.0, "1.00"), (9.999, "10.0"), (99.96, "100"), (0.09996, "0.100"),
        (0.0, "0"), (-2.5, "-2.50"),
    ],
)  # fmt: skip
def test_three_digits_that_count(value: float, words: str) -> None:
    assert report.three(value) == words


def test_the_terminal_shows_what_the_markdown_says(document: dict[str, Any]) -> None:
    written = io.StringIO()
    terminal.show(document, Console(file=written, width=200))
    shown = written.getvalue()
    assert "|" not in shown
    for words in ("6.00 (4.00 to 8.00)", "3.00 (2.00 to 4.00)", "openvino (failed", *document["doubts"]):
        assert words in " ".join(shown.split())


def test_without_a_baseline_there_is_no_column_of_ratios(document: dict[str, Any]) -> None:
    samples = [sample for sample in SAMPLES if sample["peer"] == "onnxruntime"]
    found = summary.summarise([peer("onnxruntime")], samples, BASELINES, OPTIONS)
    text = report.table({**document, **found})
    assert "x torch-eager" not in text
    assert "There is no ratio in 1 of 1 rows: their baseline was not measured." in text


def test_bars_and_words_of_the_plot_say_the_same(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[float] = []
    words: list[str] = []
    barh, text = Axes.barh, Axes.text

    def note_bar(self: Axes, place: float, length: float, *more: Any, **options: Any) -> Any:
        bars.append(length)
        return barh(self, place, length, *more, **options)

    def note_words(self: Axes, x: float, y: float, said: str, **options: Any) -> Any:
        words.append(said)
        return text(self, x, y, said, **options)

    monkeypatch.setattr(Axes, "barh", note_bar)
    monkeypatch.setattr(Axes, "text", note_words)
    plot.plot(document, tmp_path / "bench.svg")
    assert bars == [6.0, 2.0]
    assert words == ["6.00 (4.00 to 8.00)", "2.00 (2.00 to 2.00)"]


def drawn(document: dict[str, Any], path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, float]]:
    """The title, and the share of the panel's width that each peer's bar takes."""
    from matplotlib.figure import Figure

    titles: list[str] = []
    found: dict[str, float] = {}
    save = Figure.savefig

    def note(self: Figure, *given: Any, **options: Any) -> None:
        save(self, *given, **options)
        titles.append(self.get_suptitle())
        (axes,) = self.axes
        for peer, bar in zip(axes.get_yticklabels(), axes.patches, strict=True):
            edge = axes.transAxes.inverted().transform(axes.transData.transform((bar.get_width(), 0)))  # type: ignore[attr-defined]
            found[peer.get_text()] = float(edge[0])

    monkeypatch.setattr(Figure, "savefig", note)
    plot.plot(document, path)
    return titles[-1], found


def test_a_fast_bar_is_visible_beside_one_far_slower(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    title, near = drawn(document, tmp_path / "near.svg", monkeypatch)
    assert near["torch-eager"] == pytest.approx(3 * near["onnxruntime"])  # in proportion while that can be seen
    far = {**document, **made([*five("torch-eager", *[2600] * 5), *five("onnxruntime", *[1] * 5), *CONTROL])}
    logarithmic, shares = drawn(far, tmp_path / "far.svg", monkeypatch)
    assert 0.05 < shares["onnxruntime"] < shares["torch-eager"] < 0.5
    assert ("logarithmic axes" in title, "logarithmic axes" in logarithmic) == (False, True)


def test_precisions_are_named_unless_all_is_fp32(document: dict[str, Any]) -> None:
    assert "precision" not in report.table(document)
    peers = [peer("torch-eager"), peer("onnxruntime", precision="fp16", facts={"executes": "fp32"})]
    found = summary.summarise(peers, SAMPLES[:4], BASELINES, OPTIONS)
    mixed = {**document, **found}
    text = report.table(mixed)
    assert "3.00 (2.00 to 4.00), precisions differ |" in text
    assert "| onnxruntime | fp16, computed in fp32 |" in text
    assert "| torch-eager |                   fp32 |" in text
    assert report.precisions(mixed) == "Precision: torch-eager fp32; onnxruntime fp16, computed in fp32."
    for row in mixed["rows"]:  # what an earlier version wrote
        del row["executes"], row["speedup"]["equal_precision"]
    assert "| onnxruntime |      fp16 |" in report.table(mixed)


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
        (b'{"schema": "aigc-rt-bench", "version": 1}', "its version is 1, this version of aigc-rt reads 2"),
        (b'{"schema": "aigc-rt-bench", "version": 2, "rows": []}', "the keys baselines, bundle"),
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
        report.READING, "6.00 (4.00 to 8.00)", *document["doubts"],
    ):  # fmt: skip
        assert words in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1  # aligned, so that it reads in a terminal too


def test_the_plot_is_an_image(document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "bench.png"
    plot.plot(document, path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    plot.plot(document, tmp_path / "bench.svg")
    drawn = (tmp_path / "bench.svg").read_text()
    assert drawn.rstrip().endswith("</svg>")
    assert "whiskers" in drawn
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["bench.png", "bench.svg"]


def test_a_plot_that_cannot_be_drawn_is_refused_before_anything_is_measured(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plot.check_plot(tmp_path / "bench.PNG")
    for name in ("bench.nonsense", "bench", "no/such/folder.png"):
        with pytest.raises(InputError):
            plot.check_plot(tmp_path / name)
        with pytest.raises(InputError):
            plot.plot(document, tmp_path / name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependency, match=r"pip install 'aigc-rt\[bench\]'"):
        plot.check_plot(tmp_path / "bench.png")
    assert list(tmp_path.iterdir()) == []


def test_the_plot_is_written_whole(document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bench.png"
    path.write_bytes(b"before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    for write in (plot.plot, store.write):
        with pytest.raises(AigcRtError, match="No space left on device"):
            write(document, path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_whom_ratios_are_to_is_said_once(document: dict[str, Any]) -> None:
    reason = "torch-eager was not measured on cpu"
    sentence = f"Ratios on cpu are to onnxruntime: {reason}."
    document["baselines"] = {"cpu": {"peer": "onnxruntime", "reason": reason}}
    assert report.table(document).count(sentence) == 1
    asked = BenchOptions(peers=OPTIONS.peers, batches=(2,), engine=False, baseline="torch-eager")
    for options, doubted in ((OPTIONS, False), (asked, True)):
        found = summary.summarise(PEERS, SAMPLES, document["baselines"], options)
        assert (sentence in found["doubts"]) == doubted
        assert report.table({**document, **found}).count(sentence) == 1


def test_a_result_without_a_single_row_has_views(document: dict[str, Any], tmp_path: Path) -> None:
    document["rows"] = [row for row in document["rows"] if row["status"] != "ok"]
    document["controls"], document["samples"], document["baselines"] = [], [], {}
    assert "onnxruntime-cuda" in report.table(document)
    plot.plot(document, tmp_path / "bench.png")
    store.write(document, tmp_path / "bench.json")
    assert store.read(tmp_path / "bench.json") == document
