"""Fine-tuning on the running graph: rounds, refusals, the swap, cancelling and killing the trainer."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.system


def made_up_run(folder: Path, episodes: int = 6) -> None:
    """Recorded episodes of noise, without costs."""
    from fosp_trainer.testing import random_episodes

    names = ("image", "proprio", "action", "reward", "cost", "is_first", "is_terminal")
    for number in range(episodes):
        frames = random_episodes(1, seed=number)
        target = folder / f"episode_{number:04d}"
        target.mkdir(parents=True)
        arrays = {name: getattr(frames, name) for name in names} | {"cost": np.zeros_like(frames.cost)}
        np.savez_compressed(target / "episode.npz", **arrays)
        summary = {"scene": "standard", "seed": number, "success": False, "violated": False, "aborted": False}
        content = {"schema_version": 1, "summary": {**summary, "model_id": "small"}}
        (target / "episode.json").write_text(json.dumps(content))


def exited(up: Any, run: Any) -> bool:
    """Whether the graph or a node of it has ended."""
    return up.process.poll() is not None or any(state["returncode"] for state in run.processes().values())


class Trained:
    """A running graph with a trainer, and a client of it."""

    def __init__(self, client: Any, run: Any, eventually: Any, models: Path) -> None:
        from rclpy.action.client import ActionClient

        from fosp_interfaces.action import FineTune
        from fosp_ros import names

        self.client, self.run, self.models, self.eventually, self.type = client, run, models, eventually, FineTune
        self.records = run.path / "records"
        self.trainer: Any = ActionClient(client.node, FineTune, names.FINE_TUNE)
        eventually(self.trainer.server_is_ready, "the trainer")

    def run_episodes(self, **goal: Any) -> Any:
        """Result of the RunEpisodes action."""
        from fosp_interfaces.action import RunEpisodes

        asked = RunEpisodes.Goal(**{"scene": "standard", "count": 1, "seed": 0, "reset_after_halt": True, **goal})
        return self.client.run_episodes(asked, lambda feedback: None, lambda: None)

    def set(self, **parameters: int) -> None:
        """Set parameters of the trainer."""
        from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
        from rcl_interfaces.srv import SetParameters

        values = [
            Parameter(name=name, value=ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=value))
            for name, value in parameters.items()
        ]
        client = self.client.node.create_client(SetParameters, "/trainer_node/set_parameters")
        self.eventually(client.service_is_ready, "the trainer's parameters")
        future = client.call_async(SetParameters.Request(parameters=values))
        self.eventually(future.done, "an answer of the trainer")
        assert all(result.successful for result in future.result().results)

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
        self.eventually(result.done, "the end of the round", 300.0)
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
        "--trainer",
    )
    services = nodes.services(nodes.Arguments(trainer=True))
    with GraphClient() as client:
        eventually(lambda: exited(up, run_folder) or not client.missing(services), "the graph")
        assert not exited(up, run_folder), up.output
        trained = Trained(client, run_folder, eventually, models)
        trained.set(paired_episodes=0)
        yield trained
        assert "Traceback" not in run_folder.logs()
    assert up.stop(signal.SIGINT) == 0
    assert run_folder.living() == []


def test_round_that_passes_the_gate_takes_over_and_one_without_evidence_is_kept_aside(graph: Trained) -> None:
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


def test_second_round_is_refused_a_cancelled_one_leaves_nothing_and_a_killed_trainer_harms_nobody(
    graph: Trained,
) -> None:
    from action_msgs.msg import GoalStatus

    from fosp_core import models

    made_up_run(graph.records / "made-up")
    heard: list[Any] = []
    first = graph.begin(heard, steps=100_000)
    graph.eventually(lambda: any(f.stage == "world_model" for f in heard), "a gradient step")
    result, _ = graph.tune()
    assert not result.success and "another round is going on" in result.message
    first.cancel_goal_async()
    ended = graph.end(first)
    assert ended.status == GoalStatus.STATUS_CANCELED
    assert "cancelled in stage world_model" in ended.result.message

    heard.clear()
    graph.begin(heard, steps=100_000)
    graph.eventually(lambda: any(f.stage == "world_model" for f in heard), "a gradient step")
    os.kill(graph.run.processes()["trainer_node"]["pid"], signal.SIGKILL)
    ran = graph.run_episodes()
    assert ran.success and [e.model_id for e in ran.episodes] == ["small"], ran.message
    assert [entry.id for entry in models.catalogue(graph.models)] == ["small"]
    assert "trainer_node was killed by SIGKILL" in graph.run.logs()
