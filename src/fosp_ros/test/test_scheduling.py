"""Real time is taken when a node is ready, by all of its threads, and where it is asked for and allowed only."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fosp_ros import scheduling
from fosp_ros.errors import ConfigurationError
from fosp_ros.scheduling import REALTIME_VARIABLE, claim_real_time

THREADS = """
import os, threading
from fosp_ros.scheduling import claim_real_time
begun, done = threading.Event(), threading.Event()
schedules = []
def note(): schedules.append((os.sched_getscheduler(0), os.sched_getparam(0).sched_priority))
def before():
    note(); begun.set(); done.wait(); note()
thread = threading.Thread(target=before)
thread.start(); begun.wait()
claim_real_time()
done.set(); thread.join(); note()
after = threading.Thread(target=note)
after.start(); after.join()
print(schedules)
"""
NODES = """
import sys
from rclpy.node import Node
from fosp_ros import runner, scheduling
from fosp_ros.lifecycle import ManagedNode

class Plain(Node):
    def __init__(self):
        super().__init__("plain")
        print("starting", scheduling.describe(), flush=True)
        self.create_timer(0.01, self.tick)

    def tick(self):
        print("ready", scheduling.describe(), flush=True)
        sys.stdin.readline()

class Managed(ManagedNode):
    def __init__(self):
        super().__init__("managed")
        self.create_timer(0.01, self.tick)

    def configure(self):
        print("starting", scheduling.describe(), flush=True)

    def tick(self):
        if not self.is_active:
            self.start()
            print("ready", scheduling.describe(), flush=True)
            sys.stdin.readline()

sys.exit(runner.run({"plain": Plain, "managed": Managed}[sys.argv[1]], sys.argv[1], []))
"""


def allowed() -> bool:
    """Whether this user may run processes in real time."""
    command = [sys.executable, "-c", "import os; os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(7))"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


real_time = pytest.mark.skipif(not allowed(), reason="this user may not run processes in real time")
ASKED = {**os.environ, REALTIME_VARIABLE: "7"}


@real_time
def test_all_threads_take_it_and_those_that_begin_later() -> None:
    command = [sys.executable, "-c", THREADS]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=ASKED).stdout
    normal, real = (int(os.SCHED_OTHER), 0), (int(os.SCHED_RR), 7)
    assert told.strip() == str([normal, real, real, real])


@real_time
@pytest.mark.parametrize("kind", ["plain", "managed"])
def test_a_node_starts_without_it_and_works_with_it(kind: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", NODES, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ASKED
    )
    assert process.stdout is not None
    said = [process.stdout.readline().strip() for _ in range(2)]
    process.kill()
    process.communicate()
    assert said == [f"starting niceness {os.nice(0)}", "ready real time, priority 7"]


@pytest.mark.parametrize("text", ["high", "0", "100", "-5", "5.0"])
def test_a_wrong_priority_is_refused_by_name(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REALTIME_VARIABLE, text)
    with pytest.raises(ConfigurationError, match=f"{REALTIME_VARIABLE} must be an integer"):
        claim_real_time()


@pytest.mark.parametrize("text", ["", "20"])
def test_unasked_or_forbidden_nothing_changes(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: object) -> None:
        raise PermissionError

    monkeypatch.setenv(REALTIME_VARIABLE, text)
    monkeypatch.setattr(os, "sched_setscheduler", forbid)
    claim_real_time()
    assert scheduling.describe() == f"niceness {os.nice(0)}"
