"""The running graph: refusals, holds, cameras; over DDS, in separate processes."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.system


class GraphUnderTest:
    """A running graph and a client of it."""

    def __init__(self, client: Any, run: Any, eventually: Any) -> None:
        self.client = client
        self.run = run
        self._eventually = eventually
        self._clients: dict[str, Any] = {}

    def call(self, kind: type, name: str, request: Any) -> Any:
        """Answer of a service."""
        # Clients live as long as their node: destroying one while another thread spins is asking for trouble.
        if name not in self._clients:
            self._clients[name] = self.client.node.create_client(kind, name)
        client = self._clients[name]
        self._eventually(client.service_is_ready, f"service {name}")
        future = client.call_async(request)
        self._eventually(future.done, f"an answer of {name}")
        return future.result()

    def run_episodes(self, **goal: Any) -> Any:
        """Result of the RunEpisodes action."""
        from fosp_interfaces.action import RunEpisodes

        asked = RunEpisodes.Goal(**{"scene": "standard", "count": 1, "seed": 0, "reset_after_halt": True, **goal})
        return self.client.run_episodes(asked, lambda feedback: None, lambda: None)


def exited(up: Any, run: Any) -> bool:
    """Whether the graph or a node of it has ended."""
    return up.process.poll() is not None or any(state["returncode"] for state in run.processes().values())


@pytest.fixture
def graph(
    start: Callable[..., Any], models: Path, tmp_path: Path, run_folder: Any, eventually: Any, request: Any
) -> Iterator[GraphUnderTest]:
    """The graph with the test bundle in a copy of the models folder; options for ``fosp-up`` by parametrization."""
    from fosp_bringup import graph as nodes
    from fosp_bringup.client import GraphClient

    own_models = tmp_path / "models"
    shutil.copytree(models, own_models)
    options = list(getattr(request, "param", ()))
    up = start(
        "fosp_bringup.runner",
        *("--models-root", str(own_models), "--run-folder", str(run_folder.path), "--when-node-exits", "keep"),
        "--no-require-calibration",
        *options,
    )
    sim = options[options.index("--sim") + 1] if "--sim" in options else "mujoco"
    services = nodes.services(nodes.Arguments(sim=sim))
    with GraphClient() as client:
        eventually(lambda: exited(up, run_folder) or not client.missing(services), "the graph")
        assert not exited(up, run_folder), up.output
        yield GraphUnderTest(client, run_folder, eventually)
        assert "Traceback" not in run_folder.logs()
    assert up.stop(signal.SIGINT) == 0
    assert run_folder.living() == []


@pytest.mark.parametrize("graph", [("--use-sim-time",)], indirect=True)
def test_arm_holds_close_by_when_the_monitor_dies_under_simulated_time(graph: GraphUnderTest) -> None:
    from fosp_bringup.holding import measure_hold
    from fosp_interfaces.action import RunEpisodes

    goal = RunEpisodes.Goal(scene="standard", count=1, seed=0, reset_after_halt=True)
    pid = graph.run.processes()["safety_monitor"]["pid"]
    killed = graph.client.kill_in_motion(goal, pid, 5, lambda feedback: None, lambda: None)
    assert killed is not None, graph.run.logs()
    hold = measure_hold(killed.samples, killed.at_s)
    # Times are measured by benchmarks/faults.py, on a machine that has nothing else to do.
    assert hold.within_travel, hold
    # The rest of the graph goes on, and says who died.
    assert set(graph.run.living()) >= {"simulation_node", "arm_node", "policy_node", "episode_node"}
    assert "safety_monitor was killed by SIGKILL" in graph.run.logs()


def test_what_cannot_be_done_is_refused_by_name_and_the_graph_goes_on(graph: GraphUnderTest, tmp_path: Path) -> None:
    from fosp_interfaces.srv import LoadModel, ResetScene
    from fosp_ros import names

    # A bundle with one flipped byte.
    damaged = tmp_path / "models" / "safereach" / "damaged"
    shutil.copytree(tmp_path / "models" / "safereach" / "tiny", damaged)
    data = bytearray((damaged / "judge.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (damaged / "judge.onnx").write_bytes(data)
    # A bundle without one of its files.
    incomplete = tmp_path / "models" / "safereach" / "incomplete"
    shutil.copytree(tmp_path / "models" / "safereach" / "tiny", incomplete)
    (incomplete / "policy_step.onnx").unlink()
    for service in (names.POLICY_LOAD_MODEL, names.SAFETY_LOAD_MODEL):
        for bundle, culprit in (
            ("safereach/damaged", "judge.onnx"),
            ("safereach/incomplete", "policy_step.onnx"),
            ("safereach/absent", "absent"),
            ("../outside", "outside"),
        ):
            answer = graph.call(LoadModel, service, LoadModel.Request(bundle=bundle))
            assert not answer.success and culprit in answer.message, (service, bundle, answer)
            assert answer.model_id == "tiny"

    answer = graph.call(ResetScene, names.SCENE_RESET, ResetScene.Request(scene="kitchen", seed=1, episode_id=0))
    assert not answer.success and "kitchen" in answer.message
    result = graph.run_episodes(scene="kitchen")
    assert not result.success and "unknown scene 'kitchen'" in result.message and not result.path
    result = graph.run_episodes(count=0)
    assert not result.success and "count" in result.message

    result = graph.run_episodes()
    assert result.success, result.message
    assert [(e.model_id, e.aborted) for e in result.episodes] == [("tiny", False)]


def test_second_goal_is_refused_and_the_first_can_be_cancelled(graph: GraphUnderTest, eventually: Any) -> None:
    from rclpy.action.client import ActionClient

    from fosp_interfaces.action import RunEpisodes
    from fosp_interfaces.msg import SafetyStatus

    actions = ActionClient(graph.client.node, RunEpisodes, "/fosp/episodes/run")
    eventually(actions.server_is_ready, "the action server")
    feedback: list[Any] = []
    goal = RunEpisodes.Goal(scene="standard", count=5, seed=0, reset_after_halt=True)
    sent = actions.send_goal_async(goal, feedback_callback=feedback.append)
    eventually(sent.done, "the goal's acceptance")
    result = sent.result().get_result_async()
    eventually(lambda: any(f.feedback.step >= 3 for f in feedback), "the first steps")

    second = graph.run_episodes()
    assert not second.success and "another run" in second.message

    def in_the_middle() -> bool:
        # A halt ends an episode by itself, and nothing is left of it to cancel.
        newest = feedback[-1].feedback
        return newest.step >= 3 and newest.safety_state != SafetyStatus.HALTED

    eventually(in_the_middle, "an episode in the middle")
    sent.result().cancel_goal_async()
    eventually(result.done, "the cancelled result")
    outcome = result.result().result
    assert outcome.message == "stopped: cancelled"
    *before, last = outcome.episodes
    assert (last.aborted, last.abort_reason) == (True, "cancelled")
    assert all(e.halted and not e.aborted for e in before)
    assert [p.name for p in graph.run.episodes()] == [f"episode_{i:04d}" for i in range(len(outcome.episodes))]


def test_model_without_calibration_is_not_started_unless_allowed(
    start: Callable[..., Any], models: Path, run_folder: Any, domain: int
) -> None:
    up = start("fosp_bringup.runner", "--models-root", str(models), "--run-folder", str(run_folder.path))
    assert up.wait() != 0
    assert "model tiny: its thresholds are not calibrated" in up.output and "fosp-train calibrate" in up.output
    assert run_folder.living() == []


def test_second_graph_in_the_same_domain_is_refused(
    graph: GraphUnderTest, start: Callable[..., Any], models: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "second"
    options = ("--models-root", str(models), "--run-folder", str(folder), "--no-require-calibration")
    second = start("fosp_bringup.runner", *options)
    assert second.wait() == 1
    assert "has a running graph with" in second.output and "ROS_DOMAIN_ID" in second.output
