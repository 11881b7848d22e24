"""Fine-tuning on the running graph: rounds, refusals, the swap, cancelling and killing the trainer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.system

ROUND_S = 400.0
"""Longest wait for a stage of a round: the trainer yields to everything else on the machine."""
QUICK = {"paired_episodes": 0, "latency_limit_ms": 1000.0, "latency_ratio": 100.0}
"""Parameters of the trainer: rounds that are short, and that a busy machine does not fail."""


def exited(up: Any, run: Any) -> bool:
    """Whether the graph or a node of it has ended."""
    return up.process.poll() is not None or any(state["returncode"] for state in run.processes().values())


class Trained:
    """A running graph with a trainer, and a client of it."""

    def __init__(self, client: Any, run: Any, eventually: Any, models: Path) -> None:
        from fosp_interfaces.action import FineTune
        from fosp_interfaces.msg import SafetyStatus
        from fosp_ros import names, qos

        self.client, self.run, self.models, self.eventually, self.type = client, run, models, eventually, FineTune
        self.records = run.path / "records"
        self.trainer: Any = client.trainer
        self.trainer_pid = int(run.processes()["trainer_node"]["pid"])
        eventually(self.trainer.server_is_ready, "the trainer")
        self.statuses: deque[Any] = deque(maxlen=1)
        client.node.create_subscription(
            SafetyStatus, names.SAFETY_STATUS, lambda m: self.statuses.append(m), qos.STATUS
        )

    def run_episodes(self, **goal: Any) -> Any:
        """Result of the RunEpisodes action."""
        from fosp_interfaces.action import RunEpisodes

        asked = RunEpisodes.Goal(**{"scene": "standard", "count": 1, "seed": 0, "reset_after_halt": True, **goal})
        for _ in range(10):
            result = self.client.run_episodes(asked, lambda feedback: None, lambda: None)
            # on a busy machine frames come too late to let the monitor leave a halt
            if result.success or "stays halted" not in result.message:
                break
        return result

    def set(self, **parameters: int | float) -> None:
        """Set parameters of the trainer."""
        for name, value in parameters.items():
            self.client.set_parameter("trainer_node", name, value, lambda: None)

    def kill(self) -> None:
        """SIGKILL the trainer, and wait until the graph has forgotten it."""
        os.kill(self.trainer_pid, signal.SIGKILL)
        self.forget()

    def forget(self) -> None:
        """Wait until the graph has forgotten the trainer, which was killed."""
        self.eventually(lambda: "trainer_node" not in self.client.node.get_node_names(), "the trainer's end")

    def revive(self, start: Callable[..., Any]) -> Any:
        """Start the trainer again, as a launch file does."""
        parameters = ("--params-file", str(self.run.path / "parameters.yaml"))
        program = start("fosp_trainer.trainer_node", "--ros-args", "-r", "__node:=trainer_node", *parameters)
        self.trainer_pid = program.process.pid
        self.eventually(self.trainer.server_is_ready, "the trainer", ROUND_S)
        self.set(**QUICK)
        return program

    def send_signal(self, node: str, number: int) -> None:
        """Send a signal to a node."""
        os.kill(self.run.processes()[node]["pid"], number)

    def monitored_model(self) -> str:
        """Identity of the model that the monitor runs, as its latched status says."""
        return self.statuses[-1].model_id if self.statuses else ""

    def begin(self, heard: list[Any], **goal: Any) -> Any:
        """Handle of an accepted goal; its feedback goes to ``heard``."""
        sent = self.trainer.send_goal_async(
            self.type.Goal(**goal), feedback_callback=lambda message: heard.append(message.feedback)
        )
        self.eventually(sent.done, "the goal's acceptance")
        return sent.result()

    def end(self, handle: Any) -> Any:
        """Status and result of a goal."""
        result = handle.get_result_async()
        self.eventually(result.done, "the end of the round", ROUND_S)
        return result.result()

    def tune(self, **goal: Any) -> tuple[Any, list[Any]]:
        """Result and feedback of a round."""
        heard: list[Any] = []
        return self.end(self.begin(heard, **goal)).result, heard


@pytest.fixture
def graph(
    start: Callable[..., Any], small_models: Path, tmp_path: Path, run_folder: Any, eventually: Any
) -> Iterator[Trained]:
    """The graph with a trainer and the small model in a copy of the models folder."""
    from fosp_bringup import graph as nodes
    from fosp_bringup.client import GraphClient

    models = tmp_path / "models"
    shutil.copytree(small_models, models)
    up = start(
        "fosp_bringup.runner",
        *("--models-root", str(models), "--run-folder", str(run_folder.path), "--when-node-exits", "keep"),
        *("--trainer", "--no-require-calibration"),
    )
    services = nodes.services(nodes.Arguments(trainer=True))
    with GraphClient() as client:
        eventually(lambda: exited(up, run_folder) or not client.missing(services), "the graph")
        assert not exited(up, run_folder), up.output
        trained = Trained(client, run_folder, eventually, models)
        trained.set(**QUICK)
        # A server is known before its answers find their way back, and nothing tells when they do.
        time.sleep(3.0)
        yield trained
        assert "Traceback" not in run_folder.logs()
    assert up.stop(signal.SIGINT) == 0
    assert run_folder.living() == []


def test_round_that_passes_the_gate_takes_over_and_one_without_evidence_is_kept_aside(
    graph: Trained, made_up_run: Callable[..., None]
) -> None:
    from fosp_core.bundle import newest
    from fosp_interfaces.action import RunEpisodes

    result, _ = graph.tune()
    assert not result.success and "no recorded episodes" in result.message
    result, _ = graph.tune(episodes=["../models"])
    assert not result.success and "outside of the records folder" in result.message

    # A real episode: one layout leaves nothing to judge on.
    ran = graph.run_episodes(mode=RunEpisodes.Goal.EXPLORE)
    assert ran.success, ran.message
    result, heard = graph.tune(steps=2)
    assert not result.success and "too few" in result.message, result.message
    assert result.bundle == "safereach/.rounds/small-r1" and not result.active
    assert not json.loads(result.gate_report)["promoted"]
    assert newest(graph.models).name == "small"
    steps = [(f.stage, f.step, f.steps) for f in heard if f.stage in ("world_model", "critics", "actor")]
    assert steps == [(stage, step, 2) for stage in ("world_model", "critics", "actor") for step in (1, 2)]
    assert all(dict(zip(f.loss_names, f.losses, strict=True))["loss"] for f in heard if f.losses)

    made_up_run(graph.records / "made-up")
    result, _ = graph.tune(episodes=["made-up"], promote=graph.type.Goal.MANUAL)
    assert result.success and result.bundle == "safereach/.rounds/small-r2" and not result.active, result.message
    result, _ = graph.tune(episodes=["made-up"])
    assert result.success and result.active and result.bundle == "safereach/small-r3", result.message
    assert newest(graph.models).name == "small-r3"
    ran = graph.run_episodes()
    assert [e.model_id for e in ran.episodes] == ["small-r3"]
    assert "model small-r3" in graph.run.logs()


def test_second_round_is_refused_and_a_cancelled_one_leaves_nothing(
    graph: Trained, made_up_run: Callable[..., None]
) -> None:
    from action_msgs.msg import GoalStatus

    from fosp_core import models

    made_up_run(graph.records / "made-up")
    heard: list[Any] = []
    first = graph.begin(heard, steps=100_000)
    graph.eventually(lambda: any(f.stage == "world_model" for f in heard), "a gradient step", ROUND_S)
    result, _ = graph.tune()
    assert not result.success and "another round is going on" in result.message
    first.cancel_goal_async()
    ended = graph.end(first)
    assert ended.status == GoalStatus.STATUS_CANCELED
    assert "cancelled in stage world_model" in ended.result.message
    assert [entry.id for entry in models.catalogue(graph.models)] == ["small"]


def test_trainer_killed_while_collecting_training_exporting_or_gating_harms_nobody(
    graph: Trained, start: Callable[..., Any], made_up_run: Callable[..., None]
) -> None:
    from fosp_core import models
    from fosp_core.bundle import newest
    from fosp_interfaces.action import RunEpisodes

    made_up_run(graph.records / "made-up")

    def unharmed(killed_in: str) -> None:
        ran = graph.run_episodes()
        assert ran.success and [e.model_id for e in ran.episodes] == ["small"], (killed_in, ran.message)
        assert newest(graph.models).name == "small", killed_in
        found = models.catalogue(graph.models)
        assert not [entry.fault for entry in found if entry.fault], killed_in
        assert not [e for e in found if e.in_use and e.id != "small"], killed_in
        graph.revive(start)
        assert not list((graph.models / "safereach" / models.ROUNDS).glob(".*")), killed_in

    # collecting: the episodes go on without it
    killed: list[int] = []

    def kill_once(feedback: Any) -> None:
        if not killed:
            killed.append(graph.trainer_pid)
            os.kill(graph.trainer_pid, signal.SIGKILL)

    goal = RunEpisodes.Goal(scene="standard", count=2, mode=RunEpisodes.Goal.EXPLORE, reset_after_halt=True)
    ran = graph.client.run_episodes(goal, kill_once, lambda: None)
    assert killed and ran.success and len(ran.episodes) == 2, ran.message
    graph.eventually(lambda: "trainer_node" not in graph.client.node.get_node_names(), "the trainer's end")
    unharmed("collecting")
    assert "trainer_node was killed by SIGKILL" in graph.run.logs()

    for stage, steps in (("world_model", 100_000), ("exporting", 2), ("gate", 2)):
        graph.set(paired_episodes=500 if stage == "gate" else 0)
        heard: list[Any] = []
        graph.begin(heard, steps=steps, episodes=["made-up"])
        graph.eventually(lambda h=heard, s=stage: any(f.stage == s for f in h), f"stage {stage}", ROUND_S)
        if stage == "gate":
            graph.eventually(
                lambda h=heard: any(f.stage == "gate" and f.steps > 1 for f in h), "a paired episode", ROUND_S
            )
        graph.kill()
        unharmed(stage)

    result, _ = graph.tune(steps=2, episodes=["made-up"])
    assert result.success and result.active, result.message
    ran = graph.run_episodes()
    assert [e.model_id for e in ran.episodes] == [result.bundle.rsplit("/", 1)[-1]]


@pytest.mark.parametrize("stopped", ["safety_monitor", "policy_node"])
def test_trainer_killed_in_the_swap_leaves_one_model_for_all_after_its_next_start(
    graph: Trained, start: Callable[..., Any], made_up_run: Callable[..., None], stopped: str
) -> None:
    from fosp_core import models
    from fosp_core.bundle import newest

    made_up_run(graph.records / "made-up")
    heard: list[Any] = []
    graph.begin(heard, steps=2, episodes=["made-up"])
    # A node that does not answer holds the swap open: before the monitor has loaded, or between it and the policy. Not
    # stopped earlier: after 20 s of silence the others take it for dead, and it takes its time to be known again.
    graph.eventually(lambda: any(f.stage in ("exporting", "gate") for f in heard), "the round's bundle", ROUND_S)
    graph.send_signal(stopped, signal.SIGSTOP)
    try:
        graph.eventually(lambda: any(f.stage == "swap" for f in heard), "the swap", ROUND_S)
        graph.eventually(lambda: models.unfinished_swap(graph.models) is not None, "the note of the swap")
        if stopped == "policy_node":
            graph.eventually(lambda: graph.monitored_model() == "small-r1", "the monitor to load")
        os.kill(graph.trainer_pid, signal.SIGKILL)
    finally:
        graph.send_signal(stopped, signal.SIGCONT)
    graph.forget()
    assert models.unfinished_swap(graph.models) == models.Swap("small-r1", "small")
    assert newest(graph.models).name == "small", "what starts now starts with the old model"

    graph.revive(start)
    graph.eventually(lambda: models.unfinished_swap(graph.models) is None, "the end of the swap")
    graph.eventually(lambda: graph.monitored_model() == "small", "the monitor to go back")
    ran = graph.run_episodes()
    assert ran.success and [e.model_id for e in ran.episodes] == ["small"], ran.message
    assert models.find(graph.models, "small-r1").state == "waiting"
    result, _ = graph.tune(steps=2, episodes=["made-up"])
    assert result.success and result.active and result.bundle == "safereach/small-r2", result.message
