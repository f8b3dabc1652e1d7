"""A measurement from end to end with small peers, good and bad: each bad one is a row, and nothing stays behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_fake_peers import HERE, make_bundle, make_half_bundle

from aigc_rt.bench import crew, report
from aigc_rt.bench.crew import compare, shuffled
from aigc_rt.bench.measure import BenchOptions, bench
from aigc_rt.bench.peers import PEERS, Spec, precision_for, spec
from aigc_rt.bench.peers.base import Job
from aigc_rt.bench.peers.ort import OnnxRuntime
from aigc_rt.bundle import Bundle, hash_files, write_manifest
from aigc_rt.errors import BenchError, BundleNotFound, InputError
from aigc_rt.manifest import Manifest, Tensor

FINE = f"{HERE}:Fine"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bench") / "tiny")


def quick(*peers: str, **changes: Any) -> BenchOptions:
    known: dict[str, Any] = {
        "peers": peers, "batches": (1, 2), "seconds": 0.002, "rewarm_s": 0.0, "blocks": 3, "baseline": FINE,
        "threads": 1, "limit_s": 60.0,
    }  # fmt: skip
    return BenchOptions(**{**known, **changes})


def rows_of(document: dict[str, Any], peer: str) -> list[dict[str, Any]]:
    return [row for row in document["rows"] if row["peer"] == peer]


def entry_of(document: dict[str, Any], peer: str) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in document["peers"] if entry["peer"] == peer)
    return found


def test_every_peer_batch_and_round_is_measured(bundle: Path) -> None:
    other, chatty = f"{HERE}:AlsoFine", f"{HERE}:Chatty"
    document = bench(bundle, quick(FINE, other, chatty))
    assert document == json.loads(json.dumps(document, allow_nan=False))
    found = {(s["peer"], s["what"], s["batch"], s["round"]) for s in document["samples"]}
    peers = (FINE, other, chatty)
    images = {(p, "images", b, r) for p in (*peers, f"{FINE} (A/A)") for b in (1, 2) for r in range(3)}
    engine = {(p, "engine", b, r) for p in peers for b in (1, 2) for r in range(3)}
    assert found == images | engine
    assert len(document["samples"]) == len(found)
    for row in document["rows"]:
        assert row["status"] == "ok"
        assert row["p99_ms"] >= row["p90_ms"] >= row["median_ms"] > 0
        assert row["speedup"]["against"] == FINE
    assert [(c["peer"], c["batch"]) for c in document["controls"]] == [(FINE, 1), (FINE, 2)]
    assert entry_of(document, other)["agreement"]["2"]["max_levels"] == 0
    assert entry_of(document, FINE)["facts"] == {"omp": "1", "threads": 1}
    assert any("too short" in doubt for doubt in document["doubts"])


@pytest.mark.parametrize(
    ("peer", "status", "words"),
    [
        ("Absent", "missing", "the moon is in the wrong place"),
        ("NoSuchClass", "failed", "NoSuchClass"),
        ("CrashesAtStart", "failed", "killed by SIGSEGV; its last words: last words before the crash"),
    ],
)
def test_a_peer_that_does_not_start_is_one_row(bundle: Path, peer: str, status: str, words: str) -> None:
    document = bench(bundle, quick(FINE, f"{HERE}:{peer}"))
    (row,) = rows_of(document, f"{HERE}:{peer}")
    assert (row["status"], row["batch"], row["median_ms"]) == (status, None, None)
    assert words in row["reason"]
    assert all(row["status"] == "ok" for row in rows_of(document, FINE))


def test_a_peer_that_dies_while_it_is_measured_is_one_row(bundle: Path) -> None:
    dying = f"{HERE}:CrashesWhenMeasured"
    document = bench(bundle, quick(FINE, dying))
    (row,) = rows_of(document, dying)
    assert row["status"] == "failed"
    assert "ended with exit code 7" in row["reason"]
    assert len(rows_of(document, FINE)) == 4


def test_a_peer_that_hangs_is_killed_at_the_limit(bundle: Path) -> None:
    begin = time.perf_counter()
    document = bench(bundle, quick(FINE, f"{HERE}:Hangs", limit_s=5.0))
    assert time.perf_counter() - begin < 60
    (row,) = rows_of(document, f"{HERE}:Hangs")
    assert row["status"] == "failed"
    assert "no answer in 5 s (the time limit)" in row["reason"]


def test_one_batch_size_may_fail_alone(bundle: Path) -> None:
    document = bench(bundle, quick(FINE, f"{HERE}:RaisesAtTwo"))
    rows = {(row["what"], row["batch"]): row for row in rows_of(document, f"{HERE}:RaisesAtTwo")}
    assert rows["images", 1]["status"] == rows["engine", 1]["status"] == "ok"
    assert rows["images", 2]["status"] == "failed"
    assert rows["images", 2]["reason"] == "MemoryError: out of memory"


@pytest.mark.parametrize(("peer", "words"), [("Wrong", "4 levels of 255, 1 allowed"), ("WrongShape", "(0, 4, 5, 3)")])
def test_wrong_images_are_not_measured(bundle: Path, peer: str, words: str) -> None:
    document = bench(bundle, quick(f"{HERE}:{peer}", FINE, batches=(1,)))
    rows = rows_of(document, f"{HERE}:{peer}")
    assert {row["status"] for row in rows} == {"wrong"}
    assert words in rows[0]["reason"]
    assert f"reference: {FINE}" in rows[0]["reason"]  # the baseline, though it is named last
    assert not [sample for sample in document["samples"] if sample["peer"] == f"{HERE}:{peer}"]


def test_a_baseline_that_nobody_agrees_with_is_the_wrong_one(bundle: Path) -> None:
    wrong, other = f"{HERE}:Wrong", f"{HERE}:AlsoFine"
    document = bench(bundle, quick(wrong, FINE, other, batches=(1,), baseline=wrong, engine=False))
    assert [row["status"] for row in document["rows"]] == ["wrong", "ok", "ok"]
    assert [row["speedup"] and row["speedup"]["against"] for row in document["rows"]] == [None, FINE, FINE]
    assert [control["peer"] for control in document["controls"]] == [FINE]
    (said,) = [doubt for doubt in document["doubts"] if doubt.startswith("Ratios on cpu")]
    assert f"are to {FINE}: {wrong} is wrong: its images differ by up to 4 levels" in said


def test_a_baseline_that_dies_while_it_is_measured_gives_way(bundle: Path) -> None:
    dying = f"{HERE}:CrashesWhenMeasured"
    document = bench(bundle, quick(dying, FINE, batches=(1,), baseline=dying))
    assert document["baselines"]["cpu"]["peer"] == FINE
    assert f"{dying} failed: its process ended with exit code 7" in document["baselines"]["cpu"]["reason"]
    assert {row["speedup"]["against"] for row in rows_of(document, FINE)} == {FINE}


@pytest.mark.parametrize(("factory", "words"), [("other_weights", "of the range off"), ("other_inputs", "TypeError")])
def test_a_module_that_is_not_the_bundles_is_told_so_and_blames_nobody_else(
    tmp_path: Path, factory: str, words: str
) -> None:
    path = make_bundle(tmp_path / "told", answer=True)
    peers = ("torch-eager", "onnxruntime")  # two peers: a vote on images would be a draw
    document = bench(path, quick(*peers, baseline=None, torch=f"{HERE}:{factory}", batches=(1,)))
    assert [row["status"] for row in document["rows"]] == ["wrong", "ok", "ok"]
    assert "is not the one that the bundle was exported from" in document["rows"][0]["reason"]
    assert words in document["rows"][0]["reason"]
    assert document["baselines"]["cpu"]["peer"] == "onnxruntime"
    right = bench(path, quick(*peers, baseline=None, torch=f"{HERE}:tanh_module", batches=(1,)))
    assert {row["status"] for row in right["rows"]} == {"ok"}


def test_a_missing_package_and_a_missing_driver_are_rows(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "nowhere", Spec("x:Y", "nowhere", needs=("no_such_package_at_all",), extra="cpu"))
    monkeypatch.setitem(PEERS, "gpu", Spec(FINE, "gpu", "cuda:0"))
    monkeypatch.setattr(crew, "cuda_devices", lambda: (0, "no NVIDIA driver: not here"))
    document = bench(bundle, quick("nowhere", "gpu", FINE))
    (nowhere,), (gpu,) = rows_of(document, "nowhere"), rows_of(document, "gpu")
    assert (nowhere["status"], gpu["status"]) == ("missing", "missing")
    assert nowhere["reason"] == "no_such_package_at_all is not installed: pip install 'aigc-rt[cpu]'"
    assert gpu["reason"] == "no NVIDIA driver: not here"


def test_a_baseline_that_was_asked_for_and_cannot_run_is_an_error(bundle: Path) -> None:
    with pytest.raises(BenchError, match=r"measure against .*Absent is missing: the moon is in the wrong place"):
        bench(bundle, quick(f"{HERE}:Absent", FINE, baseline=f"{HERE}:Absent"))
    with pytest.raises(BenchError, match="torch-eager is missing: give --torch RUN"):
        bench(bundle, quick("torch-eager", FINE, baseline="torch-eager"))


def test_a_baseline_that_runs_on_another_device_only_is_a_doubt(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "gpu", Spec(f"{HERE}:AlsoFine", "gpu", "cuda:0"))
    monkeypatch.setattr(crew, "cuda_devices", lambda: (1, None))
    document = bench(bundle, quick("gpu", FINE, batches=(1,), engine=False))
    reason = f"{FINE} was not measured on cuda:0"
    assert document["baselines"] == {"cuda:0": {"peer": "gpu", "reason": reason}, "cpu": {"peer": FINE, "reason": None}}
    assert f"Ratios on cuda:0 are to gpu: {reason}." in document["doubts"]


def test_without_torch_the_ratios_are_to_onnxruntime_and_the_result_says_so(bundle: Path) -> None:
    peers = (FINE, "torch-eager", "onnxruntime")
    document = bench(bundle, quick(*peers, baseline=None, batches=(1,), engine=False))
    reason = "torch-eager is missing: give --torch RUN or package.module:factory"
    assert document["baselines"] == {"cpu": {"peer": "onnxruntime", "reason": reason}}
    assert [row["speedup"] and row["speedup"]["against"] for row in document["rows"]] == [
        "onnxruntime", None, "onnxruntime"
    ]  # fmt: skip
    assert [control["peer"] for control in document["controls"]] == ["onnxruntime"]
    assert not any("Ratios" in doubt for doubt in document["doubts"])


def test_with_torch_the_ratios_are_to_torch_eager(bundle: Path) -> None:
    torch = f"{HERE}:tanh_module"
    document = bench(bundle, quick("onnxruntime", "torch-eager", baseline=None, torch=torch, batches=(1,)))
    assert document["baselines"] == {"cpu": {"peer": "torch-eager", "reason": None}}
    assert {row["speedup"]["against"] for row in document["rows"]} == {"torch-eager"}


def test_without_either_the_ratios_are_to_the_first_peer(bundle: Path) -> None:
    document = bench(bundle, quick(FINE, batches=(1,), baseline=None, engine=False))
    assert document["baselines"]["cpu"]["peer"] == FINE


@pytest.mark.parametrize(
    ("peer", "words"),
    [("Absent", r"Absent \(missing: the moon is in the wrong place\)"), ("Raises", "ValueError: the kernel")],
)
def test_nothing_measured_is_an_error_with_every_reason(bundle: Path, peer: str, words: str) -> None:
    with pytest.raises(BenchError, match=f"nothing could be measured: .*{words}"):
        bench(bundle, quick(f"{HERE}:{peer}", baseline=None, batches=(1,)))


def test_a_bundle_in_fp16_only_is_measured_in_fp16_and_ratios_to_fp32_are_marked(tmp_path: Path) -> None:
    half = make_half_bundle(tmp_path / "half")
    real = ("torch-eager", "onnxruntime", "openvino", "aigc-rt")
    options = quick(*real, baseline=None, torch=f"{HERE}:half_module", engine=False, limit_s=120.0)
    document = bench(half, options)
    found = [(r["peer"], r["status"], r["precision"], r["executes"]) for r in document["rows"] if r["batch"] == 1]
    halves = [(peer, "ok", "fp16", "fp32") for peer in real[1:]]
    assert found == [("torch-eager", "ok", "fp32", "fp32"), *halves]
    equal = {row["peer"]: row["speedup"]["equal_precision"] for row in document["rows"]}
    assert equal == {"torch-eager": True, "onnxruntime": False, "openvino": False, "aigc-rt": False}
    text = report.table(document)
    assert text.count("precisions differ |") == 6
    assert "onnxruntime | fp16, computed in fp32" in text
    alone = bench(half, quick("onnxruntime", "aigc-rt", baseline=None, batches=(2,), engine=False))
    assert [row["speedup"]["equal_precision"] for row in alone["rows"]] == [True, True]
    assert "precisions differ" not in report.table(alone)


def test_fp32_is_taken_where_the_bundle_has_it_and_elsewhere_as_the_peer_is_named(bundle: Path, tmp_path: Path) -> None:
    full, half = (Bundle(path).manifest.main_graph for path in (bundle, make_half_bundle(tmp_path / "half")))
    names = ("onnxruntime", "torch-eager", "onnxruntime-cuda", "onnxruntime-cuda-fp16")
    assert [precision_for(spec(name), full) for name in names] == ["fp32", "fp32", "fp32", "fp16"]
    assert [precision_for(spec(name), half) for name in names] == ["fp16", "fp32", "fp32", "fp16"]


def test_classes_without_a_default_go_round_by_the_sample_s_index(tmp_path: Path) -> None:
    half = make_half_bundle(tmp_path / "half")
    peer = OnnxRuntime(Job(str(half), "cpu", "fp16", 1, 0))
    assert peer.inputs(4, 0)["label"].tolist() == [0, 1, 2, 0]
    assert peer.inputs(2, 5)["label"].tolist() == [2, 0]
    assert peer.inputs(2, 5)["label"].dtype == np.int64
    np.testing.assert_array_equal(peer.images(4, 0)[2:], peer.images(2, 2))  # whatever the batch


def test_real_engines_agree(bundle: Path, tmp_path: Path) -> None:
    real = ("torch-eager", "onnxruntime", "openvino", "aigc-rt")
    grey = make_bundle(tmp_path / "grey", "NHWC", channels=1)
    for path, factory in ((bundle, "tanh_module"), (grey, "export_arguments")):
        options = quick(*real, baseline="onnxruntime", torch=f"{HERE}:{factory}", seconds=0.01, limit_s=120.0)
        document = bench(path, options)
        assert [(row["peer"], row["status"], row["reason"]) for row in document["rows"]] == [
            (peer, "ok", None) for peer in real for _ in range(4)
        ]
    assert entry_of(document, "openvino")["facts"]["executes"] == "fp32"
    assert entry_of(document, "openvino")["facts"]["operations"].startswith("f32 x ")
    assert entry_of(document, "onnxruntime")["facts"]["provider"] == "CPUExecutionProvider"
    assert entry_of(document, "aigc-rt")["facts"]["threads"] == 1


@pytest.mark.slow
def test_torch_compile_agrees(bundle: Path) -> None:
    peers = ("torch-eager", "torch-compile")
    document = bench(bundle, quick(*peers, baseline=None, torch=f"{HERE}:tanh_module", limit_s=300.0))
    assert {row["status"] for row in rows_of(document, "torch-compile")} == {"ok"}
    assert entry_of(document, "torch-compile")["prepare_s"].keys() == {"1", "2"}


def test_torch_without_a_module_says_what_to_name(bundle: Path) -> None:
    document = bench(bundle, quick("torch-eager", FINE, batches=(1,)))
    (row,) = rows_of(document, "torch-eager")
    assert row["status"] == "missing"
    assert row["reason"] == "give --torch RUN or package.module:factory"


def test_a_factory_that_returns_half_of_export_s_arguments_is_refused(bundle: Path) -> None:
    document = bench(bundle, quick("torch-eager", FINE, batches=(1,), torch=f"{HERE}:half_of_the_arguments"))
    (row,) = rows_of(document, "torch-eager")
    assert row["status"] == "failed"
    assert "module and example_inputs at least" in row["reason"]


def test_a_folder_that_is_no_run_is_refused_before_anything_is_measured(bundle: Path) -> None:
    with pytest.raises(InputError, match=r"no run\.json in it"):
        bench(bundle, quick("torch-eager", FINE, torch=str(bundle)))


def test_ctrl_c_leaves_no_process_and_no_file(bundle: Path, tmp_path: Path) -> None:
    pids, scratch = tmp_path / "pids", tmp_path / "scratch"
    pids.mkdir()
    scratch.mkdir()
    code = (
        "from pathlib import Path\nfrom aigc_rt.bench.measure import BenchOptions, bench\n"
        f"peers = ({FINE!r}, {HERE + ':Hangs'!r})\n"
        f"bench(Path({str(bundle)!r}), BenchOptions(peers=peers, baseline={FINE!r}, batches=(1,)))"
    )
    environment = {
        **os.environ, "PEER_PIDS": str(pids), "TMPDIR": str(scratch), "PYTHONPATH": str(Path(__file__).parent)
    }  # fmt: skip
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: len(list(pids.iterdir())) == 2)
        time.sleep(0.2)
        parent.send_signal(signal.SIGINT)
        _, errors = parent.communicate(timeout=30)
    finally:
        parent.kill()
        parent.wait()
    assert "KeyboardInterrupt" in errors
    wait_for(lambda: not any(alive(int(pid.name)) for pid in pids.iterdir()))
    assert list(scratch.iterdir()) == []


def wait_for(true: Callable[[], bool]) -> None:
    until = time.perf_counter() + 30
    while not true():
        assert time.perf_counter() < until
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_orders_hold_every_cell_once_and_differ() -> None:
    orders = list(shuffled(12, 6, seed=1))
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 6
    assert orders == list(shuffled(12, 6, seed=1))
    assert orders != list(shuffled(12, 6, seed=2))


def test_compare_counts_levels() -> None:
    reference = np.array([[0, 255], [7, 8]], np.uint8)
    near = np.array([[1, 254], [7, 8]], np.uint8)
    assert compare(reference, near, 1) == {
        "agrees": True, "allowed_levels": 1, "max_levels": 1, "different": 0.5,
        "words": "its images differ by up to 1 levels of 255, 1 allowed",
    }  # fmt: skip
    assert not compare(reference, near, 0)["agrees"]
    assert compare(reference, 255 - reference, 1)["max_levels"] == 255  # uint8 arithmetic would wrap
    assert not compare(reference, reference.astype(np.float32), 1)["agrees"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"peers": ("onnxruntime", "onnxrutnime")}, {"peers": ()}, {"peers": ("openvino", "openvino")},
        {"baseline": "nobody"}, {"peers": ("openvino",), "baseline": "onnxruntime"},
        {"batches": ()}, {"batches": (0,)}, {"batches": (8, 8)}, {"seconds": 0.0},
        {"seconds": float("nan")}, {"seconds": float("inf")}, {"seconds": 60.0}, {"blocks": 0}, {"threads": 0},
        {"limit_s": 0.0}, {"limit_s": float("inf")}, {"rewarm_s": -1.0}, {"rewarm_s": float("nan")},
    ],
)  # fmt: skip
def test_options_that_cannot_be_right(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        BenchOptions(**wrong)


def test_a_bundle_that_cannot_be_measured(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleNotFound):
        bench(tmp_path / "nothing", quick(FINE))
    with pytest.raises(BenchError, match=r"at batch 9, 64: it was exported for batch 1 to 8"):
        bench(bundle, quick(FINE, batches=(1, 9, 64)))
    raw = make_bundle(tmp_path / "raw")
    manifest = Bundle(raw).manifest
    (raw / "manifest.json").unlink()
    write_manifest(raw, Manifest("raw", Tensor("generator"), manifest.graphs, hash_files(raw)))
    with pytest.raises(BenchError, match=r"makes no images \(tensor\)"):
        bench(raw, quick(FINE))
