"""What came after each frame, and how well it was predicted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fosp_trainer import config as configuration
from fosp_trainer.agent import Agent
from fosp_trainer.inspection import future, inspect, reliability
from fosp_trainer.testing import random_episodes


def test_future_stays_within_its_episode_and_counts_from_the_next_frame() -> None:
    frames = random_episodes(2, length=4)
    frames.reward[:] = [9, 1, 2, 3, 9, 4, 5, 6]
    frames.cost[:] = [0, 0, 1, 0, 0, 0, 0, 0]
    seen = future(frames, 0.5, 1.0)
    assert seen.returned.tolist() == [1 + 1 + 0.75, 2 + 1.5, 3, 0, 4 + 2.5 + 1.5, 5 + 3, 6, 0]
    assert seen.cost.tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert seen.violates.tolist() == [True, True, True, False] + [False] * 4
    assert seen.steps_left[:3].tolist() == [2, 1, 0] and np.isinf(seen.steps_left[3:]).all()


def test_reliability_bins_predictions_and_counts_what_happened() -> None:
    p = np.array([0.05, 0.15, 0.15, 0.95, 1.0])
    bins = reliability(p, np.array([False, True, False, True, True]))
    assert [b["frames"] for b in bins] == [1, 2, 2]
    assert [b["seen"] for b in bins] == [0.0, 0.5, 1.0]
    assert bins[1]["predicted"] == pytest.approx(0.15)


def test_inspection_writes_plots_a_video_and_figures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    agent = Agent(configuration.preset("debug")).eval()
    train, held_out = random_episodes(6, labels=True), random_episodes(3, seed=1, labels=True)
    figures = inspect(agent, train, held_out, tmp_path, probe_steps=5)
    assert {p.name for p in tmp_path.iterdir()} == {
        "open_loop.png", "open_loop.gif", "table.png", "values.png", "reachability.png", "actor.png",
    }  # fmt: skip
    assert figures["frames"] == 36 and set(figures["probe_cm"]) == {"tool", "goal", "obstacle"}
    assert np.isfinite(figures["actor_error_on_good_episodes"] or 0.0)
