"""Reachability refitted on own episodes: what changes, and what must not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fosp_core import task
from fosp_trainer import config as configuration
from fosp_trainer.agent import Agent
from fosp_trainer.config import RefitConfig
from fosp_trainer.data import Frames
from fosp_trainer.errors import UserError
from fosp_trainer.refit import FIRST_SEED_INDEX, plan, refit
from fosp_trainer.testing import random_episodes

CONFIG = RefitConfig(own=(2, 2), noisy=1, replay=4, batch=32, steps=60)


def make_agent() -> Agent:
    torch.manual_seed(0)
    return Agent(configuration.preset("debug")).eval()


def never_violating(count: int) -> Frames:
    """Episodes of noise without a cost."""
    frames = random_episodes(count)
    frames.cost[:] = 0.0
    return frames


def test_only_the_reachability_estimate_changes() -> None:
    agent = make_agent()
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    refit(agent, never_violating(4), random_episodes(3, seed=1), CONFIG, seed=0)
    changed = {name for name, value in agent.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("reach.") for name in changed)


def test_episodes_without_violations_lower_the_risk_and_the_loss_says_so() -> None:
    agent = make_agent()
    seen: list[int] = []
    losses = refit(agent, never_violating(4), None, CONFIG, seed=0, on_step=lambda step, _: seen.append(step))
    assert losses["state"][1] < losses["state"][0] and losses["action"][1] < losses["action"][0]
    assert seen == list(range(1, CONFIG.steps + 1))


def test_same_seed_gives_the_same_estimate() -> None:
    weights = []
    for seed in (0, 0, 1):
        agent = make_agent()
        refit(agent, random_episodes(4), random_episodes(3, seed=1), CONFIG, seed)
        weights.append(torch.cat([p.detach().flatten() for p in agent.reach.parameters()]))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_plan_runs_policy_and_noisy_variants_on_layouts_of_their_own() -> None:
    config = dataclasses.replace(CONFIG, own=(3, 5), noise=(0.3, 0.6), noisy=2)
    drives = plan("bundle", config, seed=1)
    assert [(d.scene, d.noise, len(seeds)) for _, d, seeds in drives] == [
        ("standard", 0.0, 3), ("standard", 0.3, 2), ("standard", 0.6, 2),
        ("varied", 0.0, 5), ("varied", 0.3, 2), ("varied", 0.6, 2),
    ]  # fmt: skip
    layouts = [seed for _, _, seeds in drives for seed in seeds]
    others = [seed for _, _, seeds in plan("bundle", config, seed=2) for seed in seeds]
    low, high = task.SEED_RANGES["data"]
    assert len(np.unique(layouts + others)) == 2 * len(layouts)
    assert low + FIRST_SEED_INDEX <= min(layouts) and max(others) < high
    assert all(d.keep and not d.monitor and d.mode == "offline" for _, d, _ in drives)


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"steps": -1}, {"own": (0, 0), "noise": ()}, {"noise": (-1.0,)}])
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError):
        dataclasses.replace(CONFIG, **wrong)
