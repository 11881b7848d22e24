"""Policy expansion: the softmax over the candidates' own values decides."""

from __future__ import annotations

import numpy as np
import pytest

from fosp_core.runtime import StepOutput
from fosp_core.selector import OFFLINE, ONLINE, Selector, expansion_probabilities

ACTIONS = np.asarray([[0.1, 0, 0], [0.9, 0, 0]], np.float32)


def output(q_reward: tuple[float, float], q_cost: tuple[float, float] = (0.0, 0.0)) -> StepOutput:
    return StepOutput(
        candidate_actions=ACTIONS,
        q_reward=np.asarray(q_reward, np.float32),
        q_cost=np.asarray(q_cost, np.float32),
        violation_probability=np.zeros(2, np.float32),
        state_violation_probability=0.0,
        surprise=0.0,
        is_first=False,
    )


def test_much_better_online_action_is_chosen_almost_surely() -> None:
    assert expansion_probabilities(np.asarray([0.0, 50.0]), np.zeros(2), 1.0, 1.0)[ONLINE] > 1 - 1e-9


def test_equal_values_give_one_half() -> None:
    assert expansion_probabilities(np.ones(2), np.ones(2), 1.0, 1.0).tolist() == [0.5, 0.5]


def test_high_cost_drives_the_probability_to_zero() -> None:
    assert expansion_probabilities(np.asarray([0.0, 1.0]), np.asarray([0.0, 100.0]), 1.0, 1.0)[ONLINE] < 1e-9


def test_large_kappa_falls_back_to_the_cheaper_offline_action() -> None:
    chosen = Selector(kappa=1000.0).select(output((0.0, 5.0), (0.0, 0.1)))
    assert chosen.chosen == OFFLINE


def test_softmax_matches_the_formula() -> None:
    q_reward, q_cost = np.asarray([1.0, 2.0]), np.asarray([0.2, 0.9])
    logits = (q_reward - 2.0 * q_cost) / 0.5
    expected = np.exp(logits) / np.exp(logits).sum()
    assert expansion_probabilities(q_reward, q_cost, 2.0, 0.5) == pytest.approx(expected)


def test_executed_action_is_the_one_that_was_scored() -> None:
    selection = Selector().select(output((0.0, 1.0)))
    assert selection.chosen == ONLINE
    assert selection.action.tolist() == ACTIONS[ONLINE].tolist()


def test_equal_values_leave_the_frozen_policy_in_charge_when_greedy() -> None:
    assert Selector().select(output((1.0, 1.0))).chosen == OFFLINE


def test_sampling_follows_the_probabilities_and_its_seed() -> None:
    first, second = (Selector(mode="sample", seed=7) for _ in range(2))
    picks = [first.select(output((0.0, 1.0))).chosen for _ in range(2000)]
    assert picks == [second.select(output((0.0, 1.0))).chosen for _ in range(2000)]
    assert np.mean(picks) == pytest.approx(1 / (1 + np.exp(-1.0)), abs=0.04)


def test_cost_limit_excludes_dear_candidates() -> None:
    probabilities = expansion_probabilities(np.asarray([0.0, 9.0]), np.asarray([0.1, 0.5]), 0.0, 1.0, cost_limit=0.2)
    assert probabilities.tolist() == [1.0, 0.0]


def test_least_cost_is_taken_when_every_candidate_exceeds_the_limit() -> None:
    probabilities = expansion_probabilities(np.asarray([9.0, 0.0]), np.asarray([0.5, 0.4]), 0.0, 1.0, cost_limit=0.2)
    assert probabilities.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(("kappa", "temperature"), [(-1.0, 1.0), (1.0, 0.0), (float("nan"), 1.0)])
def test_settings_out_of_range_are_refused(kappa: float, temperature: float) -> None:
    with pytest.raises(ValueError, match=r"kappa|temperature"):
        Selector(kappa=kappa, temperature=temperature)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        Selector().select(output((float("nan"), 0.0)))


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="boldest"):
        Selector(mode="boldest")  # type: ignore[arg-type]
