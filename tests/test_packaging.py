"""What is shipped: every module and nothing else; extras that do not fight."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_wheel_holds_every_module_of_the_tree_and_nothing_else(tmp_path: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    source = tmp_path / "source"  # a copy: setuptools leaves build folders behind
    for name in tracked.stdout.splitlines():
        path = ROOT / name
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            (source / name).symlink_to(path.readlink())
        elif path.is_file():
            (source / name).write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    own = {p.relative_to(ROOT).as_posix() for p in (ROOT / "aigc_rt").rglob("*.py") if "/bench/" not in f"{p}"}
    expected = {name for name in own if not name.startswith(("aigc_rt/export/", "aigc_rt/bench/"))} | {
        "aigc_rt/py.typed"
    }
    for room in ("export", "bench"):
        modules = [p for p in (ROOT / room).rglob("*.py") if "suite" not in p.parts]
        expected |= {f"aigc_rt/{p.relative_to(ROOT).as_posix()}" for p in modules}
    expected |= {p.relative_to(ROOT).as_posix() for p in (ROOT / "aigc_rt/zoo").rglob("*") if p.is_file()}
    assert held == expected


NOT_HERE = {"tensorrt", "onnxruntime-gpu"}
"""What this machine cannot install: neither requires onnxruntime (read in their metadata)."""


def name_of(requirement: Requirement) -> str:
    return re.sub(r"[-_.]+", "-", requirement.name).lower()


def required(lines: list[str]) -> set[str]:
    """Names of what requirements bring, all the way down, from the metadata of what is installed."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [(requirement, "") for requirement in map(Requirement, lines)]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = name_of(requirement)
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                further = own(wanted) if name == "aigc-rt" else installed(name)
                waiting += [(needed, wanted) for needed in further]
        found.add(name)
    return found


def own(extra: str) -> list[Requirement]:
    return [
        Requirement(line) for line in (PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"])
    ]


def installed(name: str) -> list[Requirement]:
    if name in NOT_HERE:
        return []
    return [Requirement(line) for line in metadata.requires(name) or []]


EXTRAS = [extra for extra in PROJECT["optional-dependencies"] if extra not in ("cpu", "all")]


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_beside_gpu_brings_no_second_onnxruntime(extra: str) -> None:
    assert "onnxruntime" not in required([f"aigc-rt[{extra}]"])


def test_the_walk_above_would_find_one() -> None:
    assert "onnxruntime" in required(["aigc-rt[cpu]"])
    assert "onnxruntime" in required(["aigc-rt[all]"])


def test_the_runtime_depends_on_numpy_and_platformdirs() -> None:
    assert required(["aigc-rt"]) == {"aigc-rt", "numpy", "platformdirs"}


def test_constraints_pin_what_is_tested() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {requirement.name.lower(): requirement for requirement in map(Requirement, lines)}
    for name in required(["aigc-rt[all,dev]"]) - {"aigc-rt"}:
        found = {re.sub(r"[-_.]+", "-", key): pin for key, pin in pins.items()}.get(name)
        assert found is not None, f"constraints.txt does not pin {name}"
        version = metadata.version(name)
        assert found.specifier.contains(version), f"{name} {version} is installed, constraints.txt says {found}"


def test_every_sub_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {p.parent for room in ("aigc_rt", "export", "bench") for p in (ROOT / room).rglob("__init__.py")}
    names = {f.relative_to(ROOT).as_posix().replace("/", ".") for f in folders if "aigc_rt/export" not in f"{f}"}
    names = {name for name in names if not name.startswith("aigc_rt.bench")}
    assert {name if name.startswith("aigc_rt") else f"aigc_rt.{name}" for name in names} == set(listed)
