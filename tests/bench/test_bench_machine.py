"""What is said about the machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aigc_rt.bench import child, machine
from aigc_rt.bench.child import Reading
from aigc_rt.plan import available_threads


def test_the_description_is_json_and_knows_its_cores() -> None:
    described = machine.describe()
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert described["usable_cores"] == available_threads()
    assert described["python"].startswith("3.")


def test_versions_of_what_is_installed() -> None:
    assert "numpy" in machine.libraries()
    assert all(machine.libraries().values())


def test_a_quiet_process_settles_at_once_and_a_busy_one_is_waited_for() -> None:
    quiet, busy = Clock(0.0), Clock(child.QUIET_STEP_S)
    assert child.settle(quiet) >= child.QUIET_STEPS * child.QUIET_STEP_S
    assert quiet.read == 2 * child.QUIET_STEPS
    assert child.settle(busy) >= child.QUIET_LIMIT_S  # its pool spins through every step: the limit ends the wait


class Clock:
    """Processor time of a process that uses `rate_s` between two readings."""

    def __init__(self, rate_s: float) -> None:
        self.rate_s, self.read = rate_s, 0

    def __call__(self) -> float:
        self.read += 1
        return self.read * self.rate_s


def test_a_busy_neighbour_is_noticed() -> None:
    # Two cores for 10 s; this process used 8 s. A neighbour that burned 6 s had 6 of the 20 s.
    begin = Reading(wall_s=100.0, own_s=3.0, busy_s=500.0)
    assert child.others_share(begin, Reading(110.0, 11.0, 514.0), 2) == pytest.approx(0.3)
    assert child.others_share(begin, Reading(110.0, 11.0, 508.0), 2) == 0.0
    assert child.others_share(begin, Reading(110.0, 11.0, 507.99), 2) == 0.0  # the kernel counts in ticks
    assert child.others_share(begin, Reading(110.0, 11.0, None), 2) is None
    assert child.others_share(Reading(100.0, 3.0, None), Reading(110.0, 11.0, 514.0), 2) is None


def test_busy_ticks_are_those_of_the_allowed_cores_without_idle_and_iowait() -> None:
    stat = (
        "cpu  3 3 3 9999 9999 3 3 3 9 9\n"
        "cpu0 1 2 4 9999 9999 8 16 32 64 64\n"  # guest time is in user already
        "cpu1 1 0 0 9999 9999 0 0 0 0 0\n"
        "cpu11 1000 0 0 0 0 0 0 0 0 0\n"
        "intr 1 2 3\n"
    )
    assert machine.busy_ticks(stat, {0}) == 63
    assert machine.busy_ticks(stat, {0, 1}) == 64
    assert machine.busy_ticks(stat, {7}) == 0


@pytest.mark.skipif(machine.busy_s() is None, reason="the system does not tell")
def test_what_a_child_burns_is_the_others_share() -> None:
    begin = Reading.now()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True)
    end = Reading.now()
    share = child.others_share(begin, end, available_threads())
    assert share is not None
    assert share * available_threads() * (end.wall_s - begin.wall_s) > 0.25  # of 0.5 s: the kernel samples


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux tells")
def test_the_cores_have_been_busy() -> None:
    busy_s = machine.busy_s()
    assert busy_s is None or 0 < busy_s < os.times().elapsed * (os.cpu_count() or 1)


def test_an_adapter_s_module_does_not_import_its_engine() -> None:
    code = (
        "import sys, aigc_rt.bench.measure, aigc_rt.bench.peers.ort, aigc_rt.bench.peers.openvino\n"
        "print({'onnxruntime', 'openvino', 'torch', 'matplotlib'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
