"""What is said about the machine."""

import json
import os
from pathlib import Path

import pytest

import aigc_rt
from aigc_rt.bench import child, machine


def test_the_description_is_json_and_knows_its_cores() -> None:
    described = machine.describe()
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert 1 <= described["usable_cores"] <= described["cores"]
    assert described["python"].startswith("3.")


def test_a_control_group_limits_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_affinity", lambda: set(range(16)))
    for granted, cores in ((None, 16), (1.5, 2), (0.2, 1), (64.0, 16)):
        monkeypatch.setattr(machine, "_cgroup_cores", lambda granted=granted: granted)
        assert machine.usable_cores() == cores


def test_versions_of_what_is_installed() -> None:
    assert "numpy" in machine.libraries()
    assert all(machine.libraries().values())


def test_the_commit_is_that_of_the_checkout_and_none_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = machine.commit()
    if (Path(aigc_rt.__file__).parents[1] / ".git").exists():
        assert found is not None
        assert len(found["commit"]) == 40
        assert isinstance(found["dirty"], bool)
    installed = tmp_path / "aigc_rt" / "__init__.py"
    installed.parent.mkdir()
    installed.touch()
    monkeypatch.setattr(aigc_rt, "__file__", str(installed))
    assert machine.commit() is None


def test_a_busy_process_is_noticed_and_a_quiet_one_settles() -> None:
    assert 0.02 <= child.settle() <= child.QUIET_LIMIT_S + 0.1
    share = child.others_share(0.0, 0.0, None)
    assert share is None


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux tells")
def test_the_cores_have_been_busy() -> None:
    busy_s = machine.busy_s()
    assert busy_s is None or 0 < busy_s < os.times().elapsed * (os.cpu_count() or 1)
