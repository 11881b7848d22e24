"""In-sample critics on problems whose solution is known."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from fosp_trainer import config as configuration
from fosp_trainer.critics import Critics, Transitions, expectile_weight, lambda_return
from fosp_trainer.world_model import feature_length

DEBUG = configuration.preset("debug")
CONFIG = dataclasses.replace(DEBUG.critic, head="scalar", imagined_weight=0.0, slow_rate=0.2)
FEATURES = feature_length(DEBUG.space, DEBUG.world_model)


def bandit() -> Transitions:
    """One state; three actions, equally often, that give 0, 1 and 2 of reward and of cost and end the episode."""
    action = torch.tensor([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    outcome = torch.tensor([0.0, 1.0, 2.0])
    state, zero = torch.zeros(3, FEATURES), torch.zeros(3)
    return Transitions(state, action, zero, outcome, outcome, state, zero, zero + 1, torch.zeros(len(zero), 0))


@pytest.fixture(scope="module")
def fitted() -> Critics:
    torch.manual_seed(0)
    critics = Critics(DEBUG.space, DEBUG.world_model, CONFIG)
    optimizer = torch.optim.Adam(critics.parameters(), lr=5e-3)
    for step in range(800):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1.0 - step / 800)
        loss, _ = critics(bandit())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        critics.update_slow()
    return critics


def test_q_learns_each_actions_own_outcome(fitted: Critics) -> None:
    batch = bandit()
    for pair in (fitted.reward, fitted.cost):
        torch.testing.assert_close(pair.value_of(batch.features, batch.action), batch.reward, atol=0.03, rtol=0)


def expectile(values: list[float], tau: float) -> float:
    """The v with sum |tau - 1(q < v)| (q - v) = 0, by bisection."""
    low, high = min(values), max(values)
    for _ in range(60):
        v = (low + high) / 2
        balance = sum((tau if q > v else 1.0 - tau) * (q - v) for q in values)
        low, high = (v, high) if balance > 0 else (low, v)
    return low


def test_reward_value_is_the_upper_and_cost_value_the_lower_expectile(fitted: Critics) -> None:
    state = torch.zeros(1, FEATURES)
    reward, cost = (float(pair.state_value(state).detach()) for pair in (fitted.reward, fitted.cost))
    assert reward == pytest.approx(expectile([0.0, 1.0, 2.0], CONFIG.reward_expectile), abs=0.05)
    assert cost == pytest.approx(expectile([0.0, 1.0, 2.0], 1.0 - CONFIG.cost_expectile), abs=0.05)
    assert cost < 1.0 < reward


def test_expectile_weight_is_heavy_on_the_named_side() -> None:
    error = torch.tensor([-1.0, 1.0])  # Q - V
    assert expectile_weight(error, 0.8, upper=True).tolist() == pytest.approx([0.2, 0.8])
    assert expectile_weight(error, 0.8, upper=False).tolist() == pytest.approx([0.8, 0.2])


def test_values_bootstrap_from_the_successor_unless_the_episode_ended() -> None:
    torch.manual_seed(1)
    critics = Critics(DEBUG.space, DEBUG.world_model, CONFIG)
    asked: list[Tensor] = []
    original = critics.reward.state_value
    critics.reward.state_value = lambda x, slow=False: asked.append(x) or original(x, slow)  # type: ignore[assignment,func-returns-value]
    batch = dataclasses.replace(bandit(), next_features=torch.ones(3, FEATURES))
    critics.reward.loss(batch, None, 0.0)
    assert torch.equal(asked[0], batch.next_features)
    ended = critics.reward.loss(batch, None, 0.0)["q"]
    elsewhere = critics.reward.loss(dataclasses.replace(batch, next_features=-batch.next_features), None, 0.0)["q"]
    torch.testing.assert_close(ended, elsewhere)


def test_lambda_return_mixes_one_step_and_long_returns() -> None:
    reward, value = torch.tensor([[1.0, 2.0]]), torch.tensor([[10.0, 20.0]])
    discount = torch.tensor([[0.5, 0.5]])
    torch.testing.assert_close(lambda_return(reward, value, discount, 0.0), torch.tensor([[6.0, 12.0]]))
    torch.testing.assert_close(lambda_return(reward, value, discount, 1.0), torch.tensor([[7.0, 12.0]]))
    torch.testing.assert_close(
        lambda_return(reward, value, torch.tensor([[0.0, 0.5]]), 1.0), torch.tensor([[1.0, 12.0]])
    )


def test_slow_copies_follow_and_get_no_gradient() -> None:
    critics = Critics(DEBUG.space, DEBUG.world_model, CONFIG)
    loss, _ = critics(bandit())
    loss.backward()
    slow = [
        p for pair in (critics.reward, critics.cost) for p in (*pair.slow_q.parameters(), *pair.slow_v.parameters())
    ]
    assert slow and all(p.grad is None for p in slow)
    with torch.no_grad():
        for p in critics.reward.v.parameters():
            p.add_(1.0)
    before = [p.clone() for p in critics.reward.slow_v.parameters()]
    critics.update_slow()
    for old, new, fast in zip(before, critics.reward.slow_v.parameters(), critics.reward.v.parameters(), strict=True):
        torch.testing.assert_close(new, old + CONFIG.slow_rate * (fast - old))
