"""What is shipped: every module and nothing else; extras that do not fight."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
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
    assert held == expected


def required(name: str, extra: str = "") -> Iterator[str]:
    """Names of what an installed package requires, itself and its extra included, all the way down."""
    seen, waiting = set(), [(name, extra)]
    while waiting:
        package, wanted = waiting.pop()
        if (package, wanted) in seen:
            continue
        seen.add((package, wanted))
        yield package
        try:
            lines = metadata.requires(package) or []
        except metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted}):
                key = re.sub(r"[-_.]+", "-", requirement.name).lower()
                waiting += [(key, ""), *((key, more) for more in requirement.extras)]


EXTRAS = [extra for extra in PROJECT["optional-dependencies"] if extra not in ("cpu", "all")]


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_beside_gpu_brings_no_second_onnxruntime(extra: str) -> None:
    assert "onnxruntime" not in set(required("aigc-rt", extra))


def test_the_walk_above_would_find_one() -> None:
    assert "onnxruntime" in set(required("aigc-rt", "cpu"))
    assert "onnxruntime" in set(required("aigc-rt", "all"))


def test_the_runtime_depends_on_numpy_and_platformdirs() -> None:
    assert set(required("aigc-rt")) == {"aigc-rt", "numpy", "platformdirs"}


def test_constraints_pin_what_is_tested() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {requirement.name.lower(): requirement for requirement in map(Requirement, lines)}
    for name in set(required("aigc-rt", "all")) | set(required("aigc-rt", "dev")):
        if name == "aigc-rt":
            continue
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        found = {re.sub(r"[-_.]+", "-", key): pin for key, pin in pins.items()}.get(name)
        assert found is not None, f"constraints.txt does not pin {name}"
        assert found.specifier.contains(installed), f"{name} {installed} is installed, constraints.txt says {found}"


def test_every_sub_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {p.parent for room in ("aigc_rt", "export", "bench") for p in (ROOT / room).rglob("__init__.py")}
    names = {f.relative_to(ROOT).as_posix().replace("/", ".") for f in folders if "aigc_rt/export" not in f"{f}"}
    names = {name for name in names if not name.startswith("aigc_rt.bench")}
    assert {name if name.startswith("aigc_rt") else f"aigc_rt.{name}" for name in names} == set(listed)
