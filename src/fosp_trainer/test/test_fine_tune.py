"""A round on few own episodes: what changes, what must not, and how it ends early."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fosp_trainer import config as configuration
from fosp_trainer.agent import Agent
from fosp_trainer.data import DataError
from fosp_trainer.errors import UserError
from fosp_trainer.fine_tune import STAGES, Cancelled, Progress, eagerness, fine_tune
from fosp_trainer.replay import Replay
from fosp_trainer.testing import random_episodes

OWN, OLD = random_episodes(3, seed=1), Replay(random_episodes(6, seed=2, labels=True))


def make_agent() -> Agent:
    torch.manual_seed(0)
    return Agent(configuration.preset("debug"))


def state(agent: Agent, prefix: str = "") -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in agent.state_dict().items() if name.startswith(prefix)}


def changed(before: dict[str, torch.Tensor], agent: Agent) -> set[str]:
    after = agent.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.mark.parametrize("old", [OLD, None], ids=["with old episodes", "own episodes alone"])
def test_offline_policy_stays_bit_identical_while_all_else_learns(old: Replay | None) -> None:
    agent = make_agent()
    before = state(agent)
    report = fine_tune(agent, OWN, old)
    moved = changed(before, agent)
    # what pi_off reads from images stays too
    fixed = ("offline.", "behaviour.", "world_model.encoder", "world_model.reader")
    assert not any(name.startswith(fixed) for name in moved)
    parts = (
        "world_model.decoder",
        "world_model.rssm",
        "critics.cost.q",
        "critics.cost.slow_v",
        "reach.action_net",
        "online",
    )
    for part in parts:
        assert any(name.startswith(part) for name in moved), part
    assert report.own_episodes == 3
    assert report.old_episodes == (6 if old else 0)
    assert ("no old ones" in report.note()) == (old is None)


@pytest.mark.parametrize(("violating", "expected"), [(0, 0.5), (1, 0.75), (2, 1.0), (6, 1.0)])
def test_the_fewer_own_episodes_violated_the_gentler_is_the_round(violating: int, expected: float) -> None:
    own = random_episodes(10, seed=3)
    cost = np.where(own.episode_of < violating, 1.0, 0.0).astype(np.float32)
    own = dataclasses.replace(own, cost=cost)
    assert eagerness(own, configuration.preset("debug").fine_tune) == pytest.approx(expected)
    report = fine_tune(make_agent(), own, OLD)
    assert report.eagerness == pytest.approx(expected)


def test_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    agents = [make_agent() for _ in range(3)]
    for agent, seed in zip(agents, (1, 1, 2), strict=True):
        fine_tune(agent, OWN, OLD, seed=seed)
    assert not changed(state(agents[0]), agents[1])
    assert changed(state(agents[0]), agents[2])


def test_labels_of_own_episodes_are_not_used() -> None:
    agents = [make_agent(), make_agent()]
    labelled = random_episodes(3, seed=1, labels=True)
    moved = dataclasses.replace(labelled, goal=labelled.goal + 1.0, obstacles=labelled.obstacles - 1.0)
    for agent, frames in zip(agents, (labelled, moved), strict=True):
        fine_tune(agent, frames, OLD)
    assert not changed(state(agents[0]), agents[1])


def test_random_numbers_of_the_caller_are_left_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    fine_tune(make_agent_without_seeding(), OWN, OLD)
    assert torch.equal(torch.rand(3), expected)


def make_agent_without_seeding() -> Agent:
    with torch.random.fork_rng(devices=[]):
        return make_agent()


def test_every_gradient_step_is_heard_of_with_losses_and_the_time_left() -> None:
    heard: list[Progress] = []

    def on_step(progress: Progress) -> bool:
        heard.append(progress)
        return True

    fine_tune(make_agent(), OWN, OLD, on_step=on_step)
    assert [(p.stage, p.step) for p in heard] == [(stage, step) for stage in STAGES for step in (1, 2, 3)]
    assert all("loss" in p.losses and p.steps == 3 and p.seconds_left >= 0 for p in heard)
    assert heard[-1].seconds_left == 0


@pytest.mark.parametrize("stage", STAGES)
def test_round_can_be_cancelled_at_any_step_and_pi_off_is_still_the_same(stage: str) -> None:
    agent = make_agent()
    before = state(agent, "offline.")
    heard: list[Progress] = []

    def on_step(progress: Progress) -> bool:
        heard.append(progress)
        return (progress.stage, progress.step) != (stage, 2)

    with pytest.raises(Cancelled, match=stage):
        fine_tune(agent, OWN, OLD, on_step=on_step)
    assert (heard[-1].stage, heard[-1].step) == (stage, 2)
    assert not changed(before, agent)


def test_diverging_loss_stops_the_round_and_names_the_stage_and_step() -> None:
    agent = make_agent()

    def poison(progress: Progress) -> bool:
        if (progress.stage, progress.step) == ("world_model", 2):
            with torch.no_grad():
                agent.world_model.reward_head[-1].bias.fill_(float("nan"))
        return True

    with pytest.raises(UserError, match="world_model diverged at gradient step 2"):
        fine_tune(agent, OWN, OLD, on_step=poison)


def test_too_few_or_ill_shaped_episodes_are_refused() -> None:
    with pytest.raises(UserError, match="too few"):
        fine_tune(make_agent(), random_episodes(1, length=5))
    small = dataclasses.replace(OWN, image=OWN.image[:, ::2, ::2])
    with pytest.raises(DataError, match="image"):
        fine_tune(make_agent(), small)


def test_parts_can_be_left_out() -> None:
    agent = make_agent()
    before = state(agent, "world_model.")
    fine_tune(agent, OWN, OLD, dataclasses.replace(agent.config.fine_tune, world_model_updates=0))
    assert not changed(before, agent)
