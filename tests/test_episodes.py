"""Episodes on the running graph outlive the node that records them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.system


def test_episode_whose_node_was_killed_is_kept_and_marked_when_the_node_comes_back(
    start: Callable[..., Any], models: Path, tmp_path: Path, run_folder: Any, eventually: Any
) -> None:
    from fosp_bringup import graph as nodes
    from fosp_bringup.client import GraphClient
    from fosp_interfaces.action import RunEpisodes

    up = start(
        "fosp_bringup.runner",
        *("--models-root", str(models), "--run-folder", str(run_folder.path), "--when-node-exits", "keep"),
        "--no-require-calibration",
    )
    with GraphClient() as client:
        eventually(lambda: not client.missing(nodes.services(nodes.Arguments())), "the graph")
        pid = run_folder.processes()["episode_node"]["pid"]

        class Killed(Exception):
            pass

        steps: list[int] = []

        def check() -> None:
            if steps and steps[-1] >= 3:
                os.kill(pid, signal.SIGKILL)
                raise Killed

        goal = RunEpisodes.Goal(scene="standard", count=1, seed=3, reset_after_halt=True)
        with pytest.raises(Killed):
            client.run_episodes(goal, lambda feedback: steps.append(int(feedback.step)), check)
    assert run_folder.episodes() == []

    start(
        "fosp_episodes.episode_node",
        *("--ros-args", "-r", "__node:=episode_node", "--params-file", str(run_folder.path / "parameters.yaml")),
    )
    (folder,) = eventually(run_folder.episodes, "the episode")
    summary = json.loads((folder / "episode.json").read_text())["summary"]
    assert summary["aborted"] and "ended in the middle" in summary["abort_reason"]
    assert (summary["seed"], summary["model_id"]) == (3, "tiny") and summary["steps"] >= 2
    assert (folder / "episode.npz").exists() and (folder / "messages.mcap").exists()
    assert up.stop(signal.SIGINT) == 0
