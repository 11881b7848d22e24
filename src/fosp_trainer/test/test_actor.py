"""Choice among proposals around an actor's action."""

from __future__ import annotations

import torch

from fosp_trainer.actor import constrained_choice, perturbations
from fosp_trainer.config import ProposalConfig


def choice(q_reward: list[float], q_cost: list[float], limit: float) -> int:
    return int(constrained_choice(torch.tensor([q_reward]), torch.tensor([q_cost]), limit))


def test_the_most_reward_within_the_limit_is_chosen() -> None:
    assert choice([3.0, 2.0, 1.0], [0.2, 0.1, 0.0], limit=0.15) == 1


def test_least_cost_is_chosen_where_nothing_is_within_the_limit() -> None:
    assert choice([3.0, 2.0, 1.0], [0.302, 0.301, 0.3], limit=0.15) == 2


def test_negative_reward_within_the_limit_goes_before_less_cost_outside() -> None:
    assert choice([-400.0, 9.0, 9.0], [0.1, 0.2, 0.3], limit=0.15) == 0


def test_perturbations_begin_with_none_and_come_in_opposite_pairs() -> None:
    offsets = perturbations(ProposalConfig(count=5, sigma=0.25), action=3)
    assert offsets.shape == (5, 3) and not offsets[0].any()
    assert torch.equal(offsets[1], -offsets[2]) and torch.equal(offsets[3], -offsets[4])
