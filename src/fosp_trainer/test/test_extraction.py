"""Policy extraction: the closed form on a table, and the constraint on imagined cost."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fosp_trainer import config as configuration
from fosp_trainer.agent import Agent
from fosp_trainer.critics import Transitions
from fosp_trainer.extraction import AugmentedLagrangian, Extraction

STATES, ACTIONS = 2, 3
COUNTS = torch.tensor([[4, 2, 2], [1, 3, 4]])
"""How often the behaviour takes each action in each state: pi_b."""
Q_REWARD = torch.tensor([[0.2, 0.6, 0.4], [0.3, 0.1, 0.5]])
Q_COST = torch.tensor([[0.0, 0.4, 0.1], [0.9, 0.2, 0.5]])
V_REWARD, V_COST = torch.tensor([0.4, 0.3]), torch.tensor([0.1, 0.4])
P = torch.tensor([0.1, 0.8])
"""The first state is feasible, the second is not."""
CONFIG = dataclasses.replace(configuration.preset("debug").actor, cost_limit=0.15, weight_clip=1e6)


class Table(nn.Module):
    """A policy over the table; features hold the state's number, actions the action's."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(STATES, ACTIONS))

    def log_prob(self, features: Tensor, action: Tensor) -> Tensor:
        """(N,) of the actions (N, 1)."""
        return torch.log_softmax(self.logits, -1)[features[:, 0].long(), action[:, 0].long()]


class TableValues:
    """Q and V read off a table."""

    def __init__(self, q: Tensor, v: Tensor) -> None:
        self.q, self.v = q, v

    def value_of(self, features: Tensor, action: Tensor) -> Tensor:
        """Q (N,)."""
        return self.q[features[:, 0].long(), action[:, 0].long()]

    def state_value(self, features: Tensor) -> Tensor:
        """V (N,)."""
        return self.v[features[:, 0].long()]


class TableCritics:
    reward = TableValues(Q_REWARD, V_REWARD)
    cost = TableValues(Q_COST, V_COST)


class TableReach:
    def probability(self, features: Tensor) -> Tensor:
        """p (N,)."""
        return P[features[:, 0].long()]


def dataset() -> Transitions:
    """Every state and action as often as ``COUNTS`` says."""
    rows = [(s, a) for s in range(STATES) for a in range(ACTIONS) for _ in range(int(COUNTS[s, a]))]
    state, action = (torch.tensor([[float(row[i])] for row in rows]) for i in (0, 1))
    zero = torch.zeros(len(rows))
    return Transitions(state, action, zero, zero, zero, state, zero, zero, torch.zeros(len(zero), 0))


def fit(config: Any) -> tuple[Tensor, Extraction]:
    """The fitted table (S, A)."""
    extraction, policy, batch = Extraction(config), Table(), dataset()
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)
    for _ in range(600):
        loss, _ = extraction.loss(policy, TableCritics(), TableReach(), batch, kind="awr")  # type: ignore[arg-type]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.softmax(policy.logits.detach(), -1), extraction


def test_closed_form_is_what_weighted_regression_fits() -> None:
    fitted, extraction = fit(CONFIG)
    behaviour = COUNTS / COUNTS.sum(1, keepdim=True)
    expected = torch.empty(STATES, ACTIONS)
    for s in range(STATES):
        for a in range(ACTIONS):
            u = 1.0 - P[s]
            reward = (Q_REWARD[s, a] - V_REWARD[s]) / extraction.reward_range.range
            cost = (Q_COST[s, a] - V_COST[s]) / extraction.cost_range.range
            safe = float(Q_COST[s, a] <= CONFIG.cost_limit)
            best = u * safe * torch.exp(CONFIG.reward_temperature * reward)
            expected[s, a] = behaviour[s, a] * (best + (1.0 - u) * torch.exp(-CONFIG.cost_temperature * cost))
    expected /= expected.sum(1, keepdim=True)
    torch.testing.assert_close(fitted, expected, atol=0.01, rtol=0)


def test_feasible_states_prefer_reward_among_safe_actions_and_others_least_cost() -> None:
    fitted, _ = fit(CONFIG)
    assert int(fitted[0].argmax()) == 2  # action 1 earns more but is unsafe
    assert int(fitted[1].argmax()) == 1  # the cheapest


def test_without_feasibility_only_safe_actions_count() -> None:
    fitted, _ = fit(dataclasses.replace(CONFIG, feasibility=False))
    assert float(fitted[0, 1]) < 0.01  # unsafe
    # the second state has no safe action: nothing is learned there
    torch.testing.assert_close(fitted[1], torch.full((3,), 1 / 3))


def lagrangian(**changes: float) -> AugmentedLagrangian:
    """With d = 0.1."""
    values = {"imagined_cost_limit": 0.1, "multiplier": 0.5, "penalty": 0.2, "penalty_growth": 0.1, **changes}
    return AugmentedLagrangian(dataclasses.replace(CONFIG, **values))  # type: ignore[arg-type]


def test_multiplier_rises_while_violated_and_falls_to_zero_when_slack() -> None:
    constraint = lagrangian()
    constraint.update(torch.tensor(1.0))
    assert float(constraint.multiplier) == pytest.approx(0.5 + 0.2 * 0.9)
    for _ in range(200):
        constraint.update(torch.tensor(0.0))
    assert float(constraint.multiplier) == 0.0


def test_penalty_coefficient_grows_to_its_maximum_and_never_shrinks() -> None:
    constraint = lagrangian(penalty_max=1.0)
    seen = []
    for cost in (1.0, 0.0, 1.0, *([0.0] * 60)):
        constraint.update(torch.tensor(cost))
        seen.append(float(constraint.penalty))
    assert all(b >= a for a, b in itertools.pairwise(seen))
    assert seen[-1] == pytest.approx(1.0)


def test_penalty_has_the_two_branches_of_the_augmented_lagrangian() -> None:
    constraint = lagrangian()
    g = 0.4
    assert float(constraint(torch.tensor(0.5))) == pytest.approx(0.5 * g + 0.1 * g * g)
    slack = lagrangian(multiplier=0.01)
    assert float(slack(torch.tensor(0.0))) == pytest.approx(-(0.01**2) / 0.4)
    cost = torch.tensor(0.0, requires_grad=True)
    slack(cost).backward()
    assert cost.grad is not None and float(cost.grad) == 0.0


@pytest.mark.parametrize("ahead", [False, True])
def test_gradient_of_imagined_cost_reaches_the_actor_through_the_model(ahead: bool) -> None:
    torch.manual_seed(0)
    agent = Agent(configuration.preset("debug"))
    nn.init.normal_(agent.world_model.cost_head[-1].weight, std=0.5)  # type: ignore[arg-type]
    state = agent.world_model.rssm.initial(4)
    state.deter.normal_()
    features, _ = agent.extraction.imagine(agent.world_model, agent.offline, state, torch.rand(4, 3))
    critics = agent.critics if ahead else None
    cost = agent.extraction.imagined_cost(agent.world_model, features, agent.config.critic, critics)
    agent.extraction.lagrangian(cost).backward()
    gradient = agent.offline.net[0].weight.grad  # type: ignore[union-attr]
    assert gradient is not None and float(gradient.abs().sum()) > 0.0
