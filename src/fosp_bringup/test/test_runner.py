"""Supervision of the graph's processes, with plain programs for nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fosp_bringup import runner
from fosp_bringup.graph import Arguments, GraphError, NodeSpec
from fosp_bringup.priority import Priority, realtime_allowed
from fosp_core.testing import make_bundle

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
SUPERVISOR = """
import multiprocessing, os, sys
from pathlib import Path
from fosp_bringup.priority import Priority
from fosp_bringup.runner import GraphManager, LogPrinter
multiprocessing.set_start_method("fork")
folder = Path(sys.argv[1])
manager = GraphManager(LogPrinter(folder, sys.stdout), folder / "processes.json", sys.argv[2] == "stop")
for index, (program, priority) in enumerate(zip(sys.argv[3:], Priority)):
    manager.add_node(f"node{index}", [sys.executable, "-c", program], os.environ, priority)
manager.loop()
"""

Supervise = Callable[..., subprocess.Popen[str]]


def wait_for(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def pids(folder: Path, count: int) -> list[int]:
    """Process ids, once ``count`` nodes have said that they are up."""
    wait_for(lambda: all((folder / f"node{i}.log").exists() for i in range(count)))
    state = runner.read_processes(folder)
    return [state[f"node{i}"]["pid"] or 0 for i in range(count)]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Supervise]:
    started: list[subprocess.Popen[str]] = []

    def start(*programs: str, when_node_exits: str = "stop") -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SUPERVISOR, str(tmp_path), when_node_exits, *programs]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_every_process(supervise: Supervise, tmp_path: Path, number: signal.Signals) -> None:
    process = supervise(SLEEPER, SLEEPER)
    nodes = pids(tmp_path, 2)
    process.send_signal(number)
    process.wait(timeout=30)
    assert not any(alive(pid) for pid in nodes)


def test_signal_right_at_the_start_is_not_lost(supervise: Supervise, tmp_path: Path) -> None:
    process = supervise(SLEEPER, SLEEPER)
    wait_for(lambda: (tmp_path / "processes.json").exists())
    process.terminate()
    process.wait(timeout=30)
    assert all(entry["returncode"] is not None for entry in runner.read_processes(tmp_path).values())


def test_process_that_ignores_the_signal_is_killed(supervise: Supervise, tmp_path: Path) -> None:
    process = supervise(SLEEPER, STUBBORN)
    nodes = pids(tmp_path, 2)
    process.terminate()
    process.wait(timeout=30)
    assert not any(alive(pid) for pid in nodes)


@pytest.mark.parametrize("program", [SLEEPER, STUBBORN])
def test_no_process_outlives_a_killed_runner(supervise: Supervise, tmp_path: Path, program: str) -> None:
    process = supervise(program, program)
    nodes = pids(tmp_path, 2)
    process.kill()
    wait_for(lambda: not any(alive(pid) for pid in nodes))


def test_priorities_count_among_all_nodes(supervise: Supervise, tmp_path: Path) -> None:
    process = supervise(*[SLEEPER] * len(Priority))
    nodes = pids(tmp_path, len(Priority))
    # Linux may schedule by session, and then niceness orders processes of one session only.
    assert {os.getsid(pid) for pid in nodes} == {process.pid}
    assert [os.getpriority(os.PRIO_PROCESS, pid) for pid in nodes] == [p.niceness for p in Priority]
    real = os.SCHED_RR if realtime_allowed() else os.SCHED_OTHER
    classes = [real, real, os.SCHED_OTHER, os.SCHED_OTHER, os.SCHED_IDLE]
    assert [os.sched_getscheduler(pid) for pid in nodes] == classes


def test_death_of_a_node_is_said_by_name_and_stops_the_graph(supervise: Supervise, tmp_path: Path) -> None:
    process = supervise(SLEEPER, SLEEPER)
    nodes = pids(tmp_path, 2)
    os.kill(nodes[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=30)
    assert "node1 was killed by SIGKILL" in output
    assert not alive(nodes[0])


def test_others_go_on_after_a_death_when_asked_to(supervise: Supervise, tmp_path: Path) -> None:
    supervise(SLEEPER, SLEEPER, when_node_exits="keep")
    nodes = pids(tmp_path, 2)
    os.kill(nodes[1], signal.SIGKILL)
    wait_for(lambda: runner.read_processes(tmp_path)["node1"]["returncode"] == -signal.SIGKILL)
    time.sleep(0.5)
    assert alive(nodes[0])


def test_output_of_every_process_is_kept(supervise: Supervise, tmp_path: Path) -> None:
    supervise(SLEEPER, "print('hello')", when_node_exits="keep")
    wait_for(lambda: (tmp_path / "node1.log").exists() and "hello" in (tmp_path / "node1.log").read_text())


def test_package_that_is_not_built_is_named() -> None:
    with pytest.raises(GraphError, match="no_such_package is not built"):
        runner.executable(NodeSpec("no_such_package", "node", "node", {}))


def test_newest_bundle_is_chosen_and_a_damaged_one_refused_by_name(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "safereach" / "tiny")
    arguments = Arguments(models_root=str(tmp_path))
    assert runner.chosen_bundle(arguments).bundle == "safereach/tiny"
    file = bundle.path / "judge.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(GraphError, match=r"judge\.onnx"):
        runner.chosen_bundle(arguments)


def test_missing_bundle_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="holds no bundle"):
        runner.chosen_bundle(Arguments(models_root=str(tmp_path)))


def test_environment_keeps_what_the_user_set(tmp_path: Path) -> None:
    env = runner.environment(tmp_path, {"OMP_NUM_THREADS": "4"})
    assert env["OMP_NUM_THREADS"] == "4" and env["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SYSTEM_DEFAULT"
    assert runner.environment(tmp_path, {"ROS_AUTOMATIC_DISCOVERY_RANGE": ""}).items() >= {
        ("ROS_AUTOMATIC_DISCOVERY_RANGE", "SYSTEM_DEFAULT")
    }
    beyond = runner.environment(tmp_path, {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"})
    assert beyond["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SUBNET" and "FASTDDS_DEFAULT_PROFILES_FILE" not in beyond


def test_exit_codes_are_described() -> None:
    assert runner.describe_exit(-9) == "was killed by SIGKILL"
    assert runner.describe_exit(1) == "ended with an error (exit code 1)"
