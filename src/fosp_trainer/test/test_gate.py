"""The gate: what promotes a bundle and, one by one, what refuses it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from fosp_core.testing import make_bundle
from fosp_trainer import gate
from fosp_trainer.gate import Evidence, Labels, Reading, Settings, Verdict, judge
from fosp_trainer.testing import random_episodes


def reading(episodes: int = 8, length: int = 20, seed: int = 0) -> Reading:
    """Two equally good models on episodes, every other of which ends in a violation that both foresee."""
    rng = np.random.default_rng(seed)
    episode = np.repeat(np.arange(episodes), length)
    left = np.tile(np.arange(length)[::-1], episodes)
    happened = np.where(episode % 2 == 0, 0.9**left, 0.0)
    risk = np.clip(happened[:, None] + rng.normal(0, 0.05, (len(episode), 2)), 0, 1)
    return Reading(
        episode=episode, happened=happened, action_risk=risk, choice_difference=rng.normal(0, 0.01, len(episode))
    )


def labels(seed: int = 2) -> Labels:
    """Costs at the end of every other episode, which the current model foresees."""
    known = reading(seed=seed)
    return Labels(known.episode, known.happened == 1.0, known.action_risk[:, 0])


LABELS = labels()
GOOD = Evidence(
    parity_error=1e-6,
    own=reading(),
    old=reading(seed=1),
    labels=LABELS,
    step_ms=np.full((60, 2), 0.3),
    violated=[(False, False)] * 40,
    risk_errors=np.random.default_rng(3).normal(0.05, 0.02, (40, 2)),
)


def refused(**changes: object) -> Verdict:
    return judge(dataclasses.replace(GOOD, **changes))  # type: ignore[arg-type]


def with_new(base: Reading, name: str, values: np.ndarray) -> Reading:
    array = getattr(base, name).copy()
    array[:, 1] = values
    return dataclasses.replace(base, **{name: array})


def test_bundle_that_is_no_worse_is_promoted_and_every_check_is_told() -> None:
    verdict = judge(GOOD)
    assert verdict.promoted and not verdict.reasons
    names = [check.name for check in verdict.checks]
    assert names == [
        "parity", "labels", "violation", "calibration_simulated", "imagined_risk", "calibration_new",
        "memory", "latency",
    ]  # fmt: skip
    assert verdict.to_json()["promoted"] is True


@pytest.mark.parametrize("error", [1e-3, float("nan")])
def test_difference_between_torch_and_onnx_refuses(error: float) -> None:
    verdict = refused(parity_error=error)
    assert not verdict.promoted and "ONNX Runtime" in verdict.reasons[0]
    assert verdict.to_json()["checks"][0]["value"] in (error, None)


def test_more_violations_on_the_same_layouts_refuse() -> None:
    worse = [(False, True)] * 8 + [(False, False)] * 32
    assert [c.name for c in refused(violated=worse).checks if not c.passed] == ["violation"]
    better = [(True, False)] * 8 + [(False, False)] * 32
    assert refused(violated=better).promoted


def test_few_paired_episodes_show_nothing_and_refuse() -> None:
    assert not refused(violated=[(False, False)] * 5).promoted


def test_paired_bound_covers_the_true_difference_as_often_as_stated() -> None:
    rng = np.random.default_rng(0)
    true = 0.05  # violations rise from 0.20 to 0.25
    covered = []
    for _ in range(1000):
        draw = rng.random(60)
        current, new = draw < 0.20, (draw >= 0.15) & (draw < 0.40)
        covered.append(gate.paired_rate_bound(list(zip(current.tolist(), new.tolist(), strict=True)), 0.9)[1] >= true)
    assert 0.86 <= np.mean(covered) <= 0.95


def test_paired_mean_bound_is_students() -> None:
    mean, bound = gate.paired_mean_bound(np.array([0.0, 0.2]), 0.9)
    assert mean == pytest.approx(0.1) and bound == pytest.approx(0.1 + 3.0777 * 0.1, rel=1e-4)
    assert gate.paired_mean_bound(np.array([0.0]), 0.9)[1] == np.inf


def test_riskier_choices_in_imagination_refuse() -> None:
    assert GOOD.own is not None
    worse = dataclasses.replace(GOOD.own, choice_difference=GOOD.own.choice_difference + 0.1)
    assert [c.name for c in refused(own=worse).checks if not c.passed] == ["imagined_risk"]


@pytest.mark.parametrize("part", ["own", "old"])
def test_violation_probability_that_lost_its_calibration_refuses(part: str) -> None:
    base: Reading = getattr(GOOD, part)
    verdict = refused(**{part: with_new(base, "action_risk", 1.0 - base.happened)})
    name = "calibration_new" if part == "own" else "memory"
    assert [c.name for c in verdict.checks if not c.passed] == [name]
    broken = refused(**{part: with_new(base, "action_risk", np.full(len(base.episode), np.nan))})
    assert not broken.promoted


def test_violation_probability_that_fits_its_own_episodes_worse_refuses() -> None:
    assert GOOD.risk_errors is not None
    worse = GOOD.risk_errors + np.array([0.0, 0.04])
    assert [c.name for c in refused(risk_errors=worse).checks if not c.passed] == ["calibration_simulated"]
    assert not refused(risk_errors=np.where(np.arange(40)[:, None] == 7, np.nan, GOOD.risk_errors)).promoted


def test_more_caution_on_earlier_episodes_is_no_fault_as_long_as_what_happened_there_is_foreseen() -> None:
    assert GOOD.old is not None
    careful = with_new(GOOD.old, "action_risk", np.minimum(1.0, GOOD.old.action_risk[:, 0] + 0.5))
    assert refused(old=careful).promoted
    forgetful = with_new(GOOD.old, "action_risk", 0.3 * GOOD.old.happened)
    assert [c.name for c in refused(old=forgetful).checks if not c.passed] == ["memory"]


def test_few_held_out_episodes_refuse_by_chance_only_where_nothing_else_shows_calibration() -> None:
    base = reading(episodes=4)
    # one episode in four turned out otherwise than was foreseen
    surprising = np.where(base.episode == 1, 0.5, base.action_risk[:, 0])
    unlucky = with_new(base, "action_risk", surprising)
    assert refused(own=unlucky).promoted
    verdict = refused(own=unlucky, risk_errors=None)
    assert [c.name for c in verdict.checks if not c.passed] == ["calibration_new"]
    worse_everywhere = with_new(base, "action_risk", 0.3 + 0.4 * base.action_risk[:, 0])
    assert not refused(own=worse_everywhere).promoted


def test_flipped_labels_refuse() -> None:
    flipped = dataclasses.replace(LABELS, costly=~LABELS.costly)
    verdict = refused(labels=flipped)
    assert "have a cost" in verdict.reasons[0]
    swapped = np.zeros_like(LABELS.costly)
    swapped[reading(seed=2).happened == 0] = True
    swapped[::2] = False
    verdict = refused(labels=dataclasses.replace(LABELS, costly=swapped))
    assert "contradict" in verdict.reasons[0]


def test_model_that_knows_nothing_of_a_new_scene_does_not_contradict_its_costs() -> None:
    rng = np.random.default_rng(3)
    chance = [dataclasses.replace(LABELS, state_risk=rng.random(LABELS.state_risk.shape)) for _ in range(200)]
    passed = [gate.check_labels(labelled, Settings()).passed for labelled in chance]
    assert np.mean(passed) >= Settings().confidence - 0.05


def test_costs_moved_to_the_episodes_without_any_refuse() -> None:
    base = LABELS
    left = np.tile(np.arange(20)[::-1], 8)
    moved = (base.episode % 2 == 1) & (left < 5)
    verdict = refused(labels=dataclasses.replace(base, costly=moved))
    assert [c.name for c in verdict.checks if not c.passed] == ["labels"]


def test_costs_near_things_do_not_contradict_a_model_that_saw_no_risk_there() -> None:
    unforeseen = dataclasses.replace(LABELS, state_risk=1.0 - LABELS.state_risk)
    assert not refused(labels=unforeseen).promoted
    assert refused(labels=dataclasses.replace(unforeseen, nearness=LABELS.state_risk)).promoted
    assert not refused(labels=dataclasses.replace(unforeseen, nearness=1.0 - LABELS.state_risk)).promoted


def test_episodes_without_any_cost_are_no_contradiction() -> None:
    quiet = dataclasses.replace(LABELS, costly=np.zeros_like(LABELS.costly))
    assert refused(labels=quiet).promoted


def test_slower_bundle_refuses() -> None:
    slow = np.full((60, 2), [0.3, 0.6])
    assert [c.name for c in refused(step_ms=slow).checks if not c.passed] == ["latency"]


def test_no_evidence_is_a_refusal() -> None:
    verdict = judge(Evidence(parity_error=0.0))
    assert not verdict.promoted and "too few" in verdict.reasons[0]
    assert not judge(dataclasses.replace(GOOD, own=reading(episodes=2), violated=[])).promoted
    assert judge(dataclasses.replace(GOOD, violated=[])).promoted, "held-out episodes alone can show it"


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="confidence"):
        Settings(confidence=0.3)
    with pytest.raises(ValueError, match="risk_margin"):
        Settings(risk_margin=float("nan"))


def test_reading_compares_both_models_on_the_same_frames(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    current, frames = make_bundle(tmp_path / "current"), random_episodes(2, length=5)
    frames.cost[:] = 0.0
    frames.cost[[2, 5]] = 1.0  # third frame of the first episode; first of the second, where no action led
    found = gate.read(current, make_bundle(tmp_path / "new"), frames, 0.5)
    assert found.episodes == 2 and found.action_risk.shape == (8, 2)
    assert found.happened.tolist() == [0.5, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert np.array_equal(found.action_risk[:, 0], found.action_risk[:, 1])
    assert not found.choice_difference.any()


def test_labels_and_times_are_taken_from_every_frame_and_both_models(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    frames = random_episodes(2, length=5)
    current, new = make_bundle(tmp_path / "current"), make_bundle(tmp_path / "new")
    told = gate.read_labels(current, frames)
    assert told.episodes == 2 and told.state_risk.shape == (10,)
    assert np.array_equal(told.costly, frames.cost > 0) and told.nearness is None
    times = gate.time_steps(current, new, frames, count=12)
    assert times.shape == (12, 2) and (times > 0).all()
