"""Constrained planning: on a toy where the answer is known, and with a world model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fosp_trainer import config as configuration
from fosp_trainer.agent import Agent
from fosp_trainer.config import PlannerConfig
from fosp_trainer.planner import Plan, PlanningPilot, Score, imagined_score, ranking, search


def walk(plans: Tensor) -> Tensor:
    """Where a point that starts at the origin is after every step of 0.2 (N, H, 2)."""
    return torch.cumsum(0.2 * plans, 1)


def score(plans: Tensor) -> tuple[Tensor, Tensor]:
    """Return: how far along x at the end; cost: steps inside a wall across the straight way."""
    places = walk(plans)
    inside = (places[..., 0] > 0.3) & (places[..., 0] < 0.7) & (places[..., 1].abs() < 0.25)
    return places[:, -1, 0], inside.float().sum(1)


def planned(cost_limit: float, score_of: Score = score) -> Plan:
    """From the straight way as a first guess."""
    config = PlannerConfig(horizon=6, plans=128, elites=12, iterations=8, max_std=0.6, cost_limit=cost_limit)
    generator = torch.Generator().manual_seed(0)
    straight = torch.zeros(6, 2)
    straight[:, 0] = 1.0
    return search(score_of, straight, torch.zeros(0, 6, 2), config, generator)


def test_goes_round_the_wall_although_the_straight_way_is_better() -> None:
    found = planned(0.1)
    assert found.feasible and found.cost == 0.0
    assert found.value > 0.8
    assert float(walk(found.actions[None])[0, :, 1].abs().max()) > 0.2


def test_goes_straight_where_the_wall_may_cost() -> None:
    found = planned(10.0)
    assert found.value == pytest.approx(1.2, abs=0.02)
    assert found.cost > 0.0


def test_takes_the_least_cost_where_nothing_is_feasible() -> None:
    def dear(plans: Tensor) -> tuple[Tensor, Tensor]:
        places = walk(plans)
        return places[:, -1, 0], 1.0 + (places[:, -1] - torch.tensor([-0.5, 0.0])).norm(dim=-1)

    found = planned(0.1, dear)
    assert not found.feasible
    assert found.cost == pytest.approx(1.0, abs=0.1)
    assert found.value < 0.0


def test_feasible_plans_go_by_return_and_the_rest_behind_them_by_cost() -> None:
    value, cost = torch.tensor([5.0, 1.0, 9.0, 2.0]), torch.tensor([0.0, 0.1, 3.0, 2.0])
    assert ranking(value, cost, 0.15).tolist() == [0, 1, 3, 2]
    assert ranking(value, cost, 0.15, least=3).tolist() == [0, 1, 3, 2]
    assert ranking(torch.tensor([1.0, 5.0]), torch.tensor([0.0, 0.1]), 0.15, least=3).tolist() == [0, 1]


@pytest.fixture(scope="module")
def agent() -> Agent:
    torch.manual_seed(0)
    agent = Agent(configuration.preset("debug"))
    for module in (agent.world_model.reward_head, agent.world_model.cost_head, agent.critics, agent.reach):
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
    return agent.eval()


def frames(count: int) -> list[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Noise."""
    rng = np.random.default_rng(3)
    return [(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8), rng.random(3).astype(np.float32)) for _ in range(count)]


def test_pilot_repeats_an_episode_and_keeps_to_the_action_space(agent: Agent) -> None:
    pilot = PlanningPilot(agent, seed=4)
    runs = []
    for _ in range(2):
        pilot.start()
        runs.append(np.stack([pilot.act(*frame).action for frame in frames(4)]))
    np.testing.assert_array_equal(*runs)
    assert runs[0].shape == (4, 3) and np.abs(runs[0]).max() <= 1.0
    assert len(np.unique(runs[0], axis=0)) > 1


def test_pilot_filters_as_the_exported_policy_does(agent: Agent) -> None:
    """The state after some frames is that of one sequence with the executed actions."""
    from fosp_trainer.world_model import Batch

    pilot = PlanningPilot(agent, seed=4)
    taken, seen = [np.zeros(3, np.float32)], frames(3)
    for frame in seen:
        taken.append(pilot.act(*frame).action)
    zero = torch.zeros(1, 3)
    is_first = torch.tensor([[1.0, 0.0, 0.0]])
    batch = Batch(
        torch.from_numpy(np.stack([image for image, _ in seen]))[None],
        torch.from_numpy(np.stack([proprio for _, proprio in seen]))[None],
        torch.from_numpy(np.stack(taken[:3]))[None], zero, zero, is_first, zero,
    )  # fmt: skip
    with torch.no_grad():
        expected = agent.world_model.observe(batch, sample=False).states
    assert pilot._state is not None
    torch.testing.assert_close(pilot._state.deter, expected.deter[:, -1])
    torch.testing.assert_close(pilot._state.table, expected.table[:, -1])


def test_score_is_the_model_s_own_rollout_with_values_behind_it(agent: Agent) -> None:
    model, config = agent.world_model, agent.config.critic
    state = model.rssm.initial(1)
    state.deter.normal_()
    plans = torch.rand(5, 3, 3) * 2 - 1
    with torch.no_grad():
        value, cost = imagined_score(agent, state, plans)
        repeated = type(state)(*(x.expand(5, -1) for x in (state.deter, state.stoch, state.table)))
        rollout = model.imagine(repeated, 3, actions=plans, sample=False)
        seen = model.features(rollout.states, rollout.proprio)[:, 1:]
        alive = model.continuation(seen)
        for found, signal, ahead, discount in (
            (value, model.reward(seen), agent.critics.reward.state_value(seen[:, -1]), config.discount),
            (cost, model.cost(seen), agent.critics.cost.state_value(seen[:, -1]), config.cost_discount),
        ):
            expected = ahead
            for t in reversed(range(3)):
                expected = signal[:, t] + discount * alive[:, t] * expected
            torch.testing.assert_close(found, expected)
