"""What users read is true: code runs, links resolve, commands exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.S | re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("code", blocks("python"), ids=["runtime", "conditions", "export"])
def test_the_readmes_python_runs(code: str, images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "demo" / "digits")
    (tmp_path / "readme.py").write_text(code)
    for _ in range(2):  # a reader tries it again
        done = subprocess.run([sys.executable, "readme.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_readmes_commands_and_options_exist() -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("aigc-rt ")]
    assert len(lines) > 5
    for line in lines:
        words = line.partition("#")[0].split()
        shown = subprocess.run(
            [sys.executable, "-c", "from aigc_rt.cli import main; main()", words[1], "--help"],
            capture_output=True,
            text=True,
            check=True,
            env={"COLUMNS": "200", "PATH": ""},
        ).stdout
        for option in [word for word in words if word.startswith("-")]:
            assert option in shown, f"{line}: {option}"


def test_the_table_of_qualities_is_what_was_measured() -> None:
    page = ROOT / "docs" / "quality.md"
    keys = ("frechet", "kernel", "precision", "recall", "density", "coverage")
    rows = re.findall(r"^\| \[[^\]]+\]\(quality/([^)]+\.json)\) \| ([^\n]+) \|$", page.read_text(), re.M)
    assert len(rows) == len(list((ROOT / "docs" / "quality").glob("*.json"))) >= 5
    for file, cells in rows:
        measured = json.loads((page.parent / "quality" / file).read_text())
        assert cells.split(" | ")[1:] == [f"{measured[key]:.3g}" for key in keys], file


def test_the_readmes_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"\bmake ([a-z-]+)", README)) - {"demo", "test"}
    for target in {"demo", "test", *targets}:
        assert re.search(rf"^{target}:", makefile, re.M), target
