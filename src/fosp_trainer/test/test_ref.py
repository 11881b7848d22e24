"""Reachability on a chain whose probabilities are known."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fosp_trainer import config as configuration
from fosp_trainer.critics import Transitions
from fosp_trainer.ref import Reachability, reach_target
from fosp_trainer.world_model import feature_length

DEBUG = configuration.preset("debug")
CONFIG = dataclasses.replace(DEBUG.critic, imagined_weight=0.0, slow_rate=0.1, reach_discount=0.9)
FEATURES = feature_length(DEBUG.space, DEBUG.world_model)
LENGTH = 5
"""The last state violates and absorbs."""
ON = 0.75
"""Share of steps that go on along the chain; the others end the episode safely."""


def chain() -> Transitions:
    """Every transition of the chain, as often as it happens: three of four go on."""
    rows = [(s, min(s + 1, LENGTH - 1), 1.0) for s in range(LENGTH) for _ in range(3)]
    rows += [(s, s, 0.0) for s in range(LENGTH - 1)]
    state, after = (torch.tensor([row[i] for row in rows]) for i in (0, 1))
    alive = torch.tensor([row[2] for row in rows])
    places = torch.eye(LENGTH, FEATURES) * 3.0
    cost_here = (state == LENGTH - 1).float()
    cost = (after == LENGTH - 1).float() * alive
    zero = torch.zeros(len(rows))
    return Transitions(
        places[state], torch.zeros(len(rows), 3), cost_here, zero, cost, places[after], alive, zero + 1,
        torch.zeros(len(rows), 0),
    )  # fmt: skip


@pytest.fixture(scope="module")
def fitted() -> Reachability:
    torch.manual_seed(0)
    reach = Reachability(DEBUG.space, DEBUG.world_model, CONFIG)
    optimizer = torch.optim.Adam(reach.parameters(), lr=5e-3)
    batch = chain()
    for step in range(1500):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1.0 - step / 1500)
        loss, _ = reach(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        reach.update_slow()
    return reach


def analytic() -> torch.Tensor:
    """p(s) = (gamma_p ON)^(steps to the violating state)."""
    return (CONFIG.reach_discount * ON) ** torch.arange(LENGTH - 1, -1, -1)


def test_state_probability_is_the_discounted_reach_probability(fitted: Reachability) -> None:
    p = fitted.probability(torch.eye(LENGTH, FEATURES) * 3.0).detach()
    torch.testing.assert_close(p, analytic().float(), atol=0.02, rtol=0)
    assert p[-1] > 0.98
    assert bool((p.diff() > 0).all())


def test_action_probability_counts_from_the_successor_on(fitted: Reachability) -> None:
    places = torch.eye(LENGTH, FEATURES)[: LENGTH - 1] * 3.0
    p = fitted.probability(places, torch.zeros(LENGTH - 1, 3)).detach()
    expected = analytic()[:-1].float()
    expected[-1] = ON  # the violation itself is not discounted
    torch.testing.assert_close(p, expected, atol=0.03, rtol=0)


def test_target_reads_costs_and_stops_at_the_end_of_an_episode() -> None:
    target = reach_target(
        torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.5, 0.5, 0.5]), torch.tensor([1.0, 1.0, 0.0]), 0.9
    )
    assert target.tolist() == pytest.approx([0.45, 1.0, 0.0])


def test_an_untrained_estimate_is_low_everywhere() -> None:
    reach = Reachability(DEBUG.space, DEBUG.world_model, CONFIG)
    assert float(reach.probability(torch.randn(100, FEATURES)).detach().mean()) < 0.25
