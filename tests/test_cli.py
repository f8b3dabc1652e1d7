from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from aigc_rt import cli
from aigc_rt.command import ends_well

COMMAND = [sys.executable, "-m", "aigc_rt"]


SUBCOMMANDS = tuple(c.callback.__name__ for c in cli.application().registered_commands if c.callback)


def run(*arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, **more)


def fails(code: int, *arguments: object, says: str) -> None:
    """The command ends with that code and one clear message, no traceback, nothing on stdout."""
    done = run(*arguments)
    assert done.returncode == code, done.stderr
    assert says in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.fixture
def bundle(tmp_path: Path, images: Path) -> Path:
    return Path(shutil.copytree(images, tmp_path / "toy"))


def test_generate_writes_a_grid_that_a_seed_repeats(bundle: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    assert run("generate", bundle, "-n", 9, "--seed", 7, "--out", one).returncode == 0
    done = run("generate", bundle, "-n", 9, "--seed", 7, "--out", two, "--device", "cpu", "--json")
    assert done.returncode == 0
    assert one.read_bytes() == two.read_bytes()
    with Image.open(one) as image:
        assert image.size == (22 * (3 * (5 + 2) + 2), 22 * (3 * (4 + 2) + 2))  # 506 pixels wide, 23 would do at 484
    document = json.loads(done.stdout.splitlines()[-1])
    assert (document["seed"], document["scale"]) == (7, 22)
    assert document["plan"]["chosen"][0]["backend"] == "onnxruntime"


def test_generate_draws_pixels_as_large_as_asked_and_says_what_it_did(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.png"
    for arguments, size in (
        (("-n", 1), (5, 4)),
        (("-n", 1, "--scale", 3), (15, 12)),
        (("-n", 4, "--scale", 1), (16, 14)),
    ):
        done = run("generate", bundle, *arguments, "--out", out)
        assert done.returncode == 0, done.stderr
        with Image.open(out) as image:
            assert image.size == size
    assert done.stdout == f"{out}: 4 samples of seed 0, made by onnxruntime with fp32 on cpu\n"


def test_generate_from_a_graph_without_a_program_says_what_to_call(bundle: Path, tmp_path: Path) -> None:
    from aigc_rt.bundle import Bundle, write_manifest
    from aigc_rt.manifest import Tensor

    manifest = Bundle(bundle).manifest
    write_manifest(bundle, dataclasses.replace(manifest, program=Tensor(manifest.program.graph)))
    fails(1, "generate", bundle, "--out", tmp_path / "x.png", says="Call it from Python: aigc_rt.load(...).run(inputs)")


def test_generate_takes_conditions(labelled: Path, tmp_path: Path) -> None:
    for value in ("1", "one"):
        assert (
            run("generate", labelled, "-n", 2, "--set", f"label={value}", "--out", tmp_path / f"{value}.npy").returncode
            == 0
        )
    assert np.array_equal(np.load(tmp_path / "1.npy"), np.load(tmp_path / "one.npy"))
    fails(1, "generate", labelled, "--out", tmp_path / "x.png", says="has no default")
    fails(2, "generate", labelled, "--out", tmp_path / "x.png", "--set", "label", says="NAME=VALUE")


def test_verify_answers_with_its_exit_code(bundle: Path) -> None:
    done = run("verify", bundle)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ok      generator/fp32 with onnxruntime on cpu" in done.stdout
    report = json.loads(run("verify", bundle, "--json").stdout)
    assert report["passed"] is True
    (bundle / "extra").write_text("x")
    done = run("verify", bundle, "--json")
    assert done.returncode == 1
    assert "does not list it" in json.loads(done.stdout)["checks"][0]["detail"]


def test_verify_finds_a_variant_that_answers_otherwise(bundle: Path, tmp_path: Path) -> None:
    """A bundle whose hashes are right and whose weights are others: only the recorded answer tells."""
    import toy

    from aigc_rt.bundle import Bundle, write_manifest

    before = Bundle(bundle).manifest
    changed = toy.model(labelled=False)
    tensor = next(t for t in changed.graph.initializer if t.name == "second")
    tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) * np.float32(1.01)).tobytes()
    other = toy.bundle(tmp_path / "other", graph=changed)
    mixed = dataclasses.replace(Bundle(other).manifest, evidence=before.evidence)
    write_manifest(other, mixed)
    done = run("verify", other)
    assert done.returncode == 1
    assert "failed  generator/fp32 with onnxruntime" in done.stdout


def test_inspect_and_plan_show_the_same_to_people_and_programs(bundle: Path) -> None:
    text, document = run("inspect", bundle).stdout, json.loads(run("inspect", bundle, "--json").stdout)
    assert {v["variant"] for v in document["variants"]} == {"fp32", "fp16"}
    assert "fp16: fp16 onnx" in text
    assert document["manifest"]["schema"] == 1
    text, document = run("plan", bundle).stdout, json.loads(run("plan", bundle, "--json").stdout)
    assert "run   generator/fp32 with onnxruntime on cpu" in text
    assert document["chosen"][0]["variant"] == "fp32"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("generate", "BUNDLE", "-n", "0", "--out", "x.png"), "greater than or equal to"),
        (("generate", "BUNDLE", "-n", "-3", "--out", "x.png"), "greater than or equal to"),
        (("generate", "BUNDLE", "--seed", "-1", "--out", "x.png"), "greater than or equal to"),
        (("generate", "BUNDLE"), "--out"),
        (("generate", "BUNDLE", "--out", "x.png", "--set", "n=3"), "no condition"),
        (("plan", "BUNDLE", "--threads", "100000"), "1024"),
        (("generate", "BUNDLE", "--out", "x.png", "--device", "gpu"), "cuda:N"),
        (("generate", "BUNDLE", "--out", "x.png", "--backend", "torch"), "onnxruntime"),
        (("plan", "BUNDLE", "--precision", "fp8"), "fp16"),
        (("verify",), "BUNDLE"),
        (("export", "RUN", "--out", "x", "--precision", "fp8"), "fp32, fp16"),
        (("export", "RUN", "--out", "x", "--precision", ""), "fp32"),
        (("export", "RUN", "--out", "x", "--engine", "openvino"), "tensorrt-rtx"),
        (("bench", "BUNDLE", "--batches", "one"), "whole numbers"),
        (("bench", "BUNDLE", "--peers", "magic"), "known peers"),
        (("bench", "BUNDLE", "--plot", "x.nonsense"), ".png"),
        (("bench", "BUNDLE", "--seconds", "inf"), "it must be a number"),
        (("bench", "BUNDLE", "--seconds", "nan"), "greater than or equal to"),
        (("bench", "BUNDLE", "--seconds", "1e9"), "the limit of a step"),
        (("bench", "BUNDLE", "--from", "x.json"), "leave out bundle"),
        (("bench", "--from", "x.json", "--blocks", "3"), "leave out blocks"),
        (("bench",), "give a BUNDLE"),
        (("generate", "BUNDLE", "--out", "no-such-folder/x.png"), "there is no folder no-such-folder. Make the folder"),
        (("generate", "BUNDLE", "--out", "x.png", "--scale", "0"), "greater than or equal to"),
        (("train", "gan", "--data", "digits", "--out", "x", "--max-grad-norm", "0.5"), "go with --dp-epsilon"),
        (("generate", "BUNDLE", "--out", "x.png", "--set", "label=1", "--set", "label=2"), "given twice"),
        (("train", "gan", "--data", "digits", "--out", "x", "--lr", "1", "--recipe", "lr=2"), "the same twice"),
        (("train", "gan", "--data", "digits", "--out", "x", "--adapter-alpha", "4"), "without a rank"),
        (("frobnicate",), "No such command"),
    ],
)
def test_arguments_that_cannot_be_right_end_with_2(arguments: tuple[str, ...], says: str) -> None:
    done = CliRunner().invoke(cli.application(), arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in " ".join(done.stderr.split())


def test_families_are_listed_and_explained() -> None:
    listed = CliRunner().invoke(cli.application(), ["families", "--json"])
    found = json.loads(listed.stdout)
    assert {"gan", "dcgan", "cgan", "vae", "cvae", "vaegan"} <= found.keys()
    assert found["gan"]["settings"]["widths"] == [256, 512]
    explained = CliRunner().invoke(cli.application(), ["families", "cgan"]).stdout
    assert "spectral_norm: the discriminator's layers" in explained
    assert "  r3gan: epochs=40" in explained
    fails(1, "families", "gna", says="Known families are gan")


def test_odd_names_end_with_1(tmp_path: Path) -> None:
    digits = ("train", "gan", "--data", "digits", "--out", tmp_path / "run")
    fails(1, *digits, "--only", "²", says="there is no class '²'")
    fails(1, *digits, "--from", "x" * 300, says="start from xxx")
    fails(1, "evaluate", "x" * 300, says="File name too long. Give another path.")


def test_what_is_not_there_ends_with_1(bundle: Path, tmp_path: Path) -> None:
    fails(1, "verify", tmp_path / "none", says="there is nothing")
    fails(1, "inspect", tmp_path, says="without manifest.json")
    fails(1, "generate", bundle, "--out", tmp_path / "x.png", "--device", "cuda", says="NVIDIA driver")
    fails(1, "generate", bundle, "--out", tmp_path / "x.png", "--backend", "tensorrt", says="tensorrt")
    fails(1, "generate", bundle, "--out", tmp_path / "x.jpg", says=".png or .npy")
    fails(1, "export", tmp_path / "none", "--out", tmp_path / "out", says="there is nothing")
    fails(1, "export", "no.module:factory", "--out", tmp_path / "out", says="No module named")
    fails(1, "train", "gan", "--data", "no-such-data", "--out", tmp_path / "run", says="mnist5k")
    fails(1, "train", "gpt5", "--data", "digits", "--out", tmp_path / "run", says="Known families are gan")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["toy"]


def test_a_damaged_bundle_ends_with_1(bundle: Path, tmp_path: Path) -> None:
    graph = next(bundle.glob("*.fp32.*"))
    good = graph.read_bytes()
    graph.write_bytes(good[:-1])
    fails(1, "generate", bundle, "--out", tmp_path / "x.png", says="the manifest says")
    graph.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    fails(1, "generate", bundle, "--out", tmp_path / "x.png", says="SHA-256")
    manifest = bundle / "manifest.json"
    text = manifest.read_text()
    for wrong, says in ((text[:100], "not JSON"), (text.replace('"schema": 1', '"schema": 99'), "its schema is 99")):
        manifest.write_text(wrong)
        fails(1, "generate", bundle, "--out", tmp_path / "x.png", says=says)


def test_a_graph_that_is_not_onnx_ends_with_1(tmp_path: Path) -> None:
    import toy

    from aigc_rt.bundle import Bundle, hash_files, write_manifest

    path = toy.bundle(tmp_path / "bad", precisions=("fp32",))
    manifest = Bundle(path).manifest
    (path / manifest.main_graph.variants["fp32"].file).write_bytes(b"this is no ONNX file")
    files = {k: v for k, v in hash_files(path).items() if k != "manifest.json"}
    write_manifest(path, dataclasses.replace(manifest, files=files))
    fails(1, "generate", path, "--out", tmp_path / "x.png", says="protobuf")
    assert run("verify", path).returncode == 1


def test_a_factory_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def good(): return {'module': torch.nn.ReLU(), 'example_inputs': (torch.ones(2, 3),)}\n"
        "def extra(): return {**good(), 'colour': 'red'}\n"
        "def wrong(): return 3\n"
        "def raises(): return 1 / 0\n"
        "def leaves(): raise SystemExit(0)\n"
    )
    done = run("export", "mine:good", "--out", "bundle", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["manifest"]["program"]["kind"] == "tensor"
    for name, says in (
        ("extra", "colour"),
        ("wrong", "no dict"),
        ("raises", "ZeroDivisionError"),
        ("leaves", "SystemExit"),
    ):
        done = run("export", f"mine:{name}", "--out", "other", cwd=tmp_path)
        assert (done.returncode, says in done.stderr, "Traceback" in done.stderr) == (1, True, False), done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_an_output_that_takes_no_more_is_a_clear_error(bundle: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "inspect", bundle], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, "No space left" in done.stderr, "Traceback" in done.stderr) == (1, True, False)


def test_a_path_that_the_terminal_cannot_show(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "é.png"
    done = run("generate", bundle, "-n", 1, "--out", out, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, "xe9.png" in done.stdout, out.exists()) == (0, True, True)


SLOW = """
import sys, time
from pathlib import Path
from aigc_rt import cli, generator
def slow(*a, **k):
    print("loading", file=sys.stderr, flush=True)
    time.sleep(60)
generator.load = slow
cli.main()
"""


def test_ctrl_c_ends_with_130_and_leaves_nothing(bundle: Path, tmp_path: Path) -> None:
    arguments = ["generate", str(bundle), "--out", str(tmp_path / "x.png")]
    child = subprocess.Popen([sys.executable, "-c", SLOW, *arguments], stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    assert child.stderr.readline() == "loading\n"
    child.send_signal(signal.SIGINT)
    rest = child.communicate()[1]
    assert child.returncode == 130
    assert "Traceback" not in rest
    assert not (tmp_path / "x.png").exists()


def test_what_a_command_knows_about_going_on_is_said_at_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(*words: str) -> None:
        raise KeyboardInterrupt(*words)

    for words, said in (((), "interrupted\n"), (("go on with --resume",), "interrupted: go on with --resume\n")):
        with pytest.raises(typer.Exit) as ended:
            ends_well(stopped)(*words)
        assert (ended.value.exit_code, capsys.readouterr().err) == (130, said)


def test_ctrl_c_while_the_command_starts_is_no_traceback() -> None:
    code = (
        "import os, signal, sys\n"
        "class Press:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Press())\n"
        "from aigc_rt.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_without_typer_the_command_says_how_to_install_it() -> None:
    code = "import sys; sys.modules['typer'] = None; from aigc_rt.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'aigc-rt[cli]'" in done.stderr


def test_the_version() -> None:
    assert run("--version").stdout.count(".") == 2


def test_the_installed_command_is_this_one() -> None:
    command = Path(sys.executable).with_name("aigc-rt" + (".exe" if os.name == "nt" else ""))
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    assert {"train", "export", "inspect", "verify", "plan", "generate", "bench"} <= set(SUBCOMMANDS)
    for name in SUBCOMMANDS:
        assert f" {name} " in done.stdout


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_help_is_plain_words(name: str) -> None:
    """rich's markup made an emoji of ":factory"."""
    done = CliRunner(env={"COLUMNS": "500", "FORCE_COLOR": "1"}).invoke(cli.application(), [name, "--help"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert all(ord(letter) < 0x2500 for letter in done.stdout)
    if name in ("export", "bench"):
        assert "PACKAGE.MODULE:FACTORY" in done.stdout
