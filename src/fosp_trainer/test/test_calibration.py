"""Bounds against analytic cases and simulation, properties by hypothesis, and the command on a tiny bundle."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fosp_core.bundle import Thresholds, load_bundle, update_manifest
from fosp_core.safety import Frame, Limits, MonitorState, Now, Reason, observe_frame
from fosp_core.task import CONTROL_PERIOD_S
from fosp_core.testing import make_bundle
from fosp_trainer import calibration as c
from fosp_trainer.calibration import Settings, Trace
from fosp_trainer.calibration_plots import write_plots
from fosp_trainer.commands import calibrate as command
from fosp_trainer.commands import shifts
from fosp_trainer.errors import UserError

RISKS = st.floats(0.0, 1.0, width=32)


def trace(
    risk: Sequence[float],
    violation: int | None = None,
    group: str = "own",
    surprise: Sequence[float] | None = None,
    seed: int = 0,
) -> Trace:
    """An episode; ``violation`` is the decision whose action violates."""
    cost = np.zeros(len(risk))
    if violation is not None:
        cost[violation] = 1.0
    row = np.asarray(risk, np.float64)
    return Trace(row, row, np.asarray(surprise if surprise is not None else row * 0.0, np.float64), cost, group, seed)


# -- order statistics


def test_quantile_is_the_largest_rank_that_the_binomial_allows() -> None:
    # (1 - 0.05)^n <= 0.05 first holds for n = 59
    assert c.lower_quantile(np.arange(58.0), 0.05, 0.95) is None
    assert c.lower_quantile(np.arange(59.0), 0.05, 0.95) == 0.0
    # P(Bin(93, 0.05) <= 1) = 0.0500..., the known sample size for the second smallest score
    assert c.lower_quantile(np.arange(92.0), 0.05, 0.95) == 0.0
    assert c.lower_quantile(np.arange(93.0), 0.05, 0.95) == 1.0


def test_upper_quantile_mirrors_the_lower_one() -> None:
    scores = np.random.default_rng(0).normal(size=300)
    assert c.upper_quantile(scores, 0.1, 0.9) == -c.lower_quantile(-scores, 0.1, 0.9)  # type: ignore[operator]
    assert c.upper_quantile(np.arange(58.0), 0.05, 0.95) is None
    assert c.upper_quantile(np.arange(59.0), 0.05, 0.95) == 58.0


def test_bound_holds_as_often_as_it_says_and_wastes_little() -> None:
    rng = np.random.default_rng(1)
    rate, confidence, repeats = 0.1, 0.9, 1000
    # with uniform scores the threshold itself is the true rate of missed violations
    found = np.array([c.lower_quantile(rng.random(100), rate, confidence) for _ in range(repeats)], np.float64)
    kept = float(np.mean(found <= rate))
    assert confidence - 0.03 <= kept < 0.98
    assert found.mean() > 0.04


def test_choosing_between_bound_and_price_keeps_the_confidence() -> None:
    rng = np.random.default_rng(2)
    asked = Settings(missed=0.1, confidence=0.9)
    for affordable in (0.02, 0.08, 0.1, 0.12, 0.3):
        choices = [c.choose(rng.random(80), asked, affordable) for _ in range(400)]
        kept = np.mean([choice.threshold <= choice.missed_rate for choice in choices])
        assert kept >= 0.87, affordable


def test_rate_bound_is_clopper_and_pearsons() -> None:
    assert c.rate_bound(0, 59, 0.95) == pytest.approx(1 - 0.05 ** (1 / 59))
    assert c.rate_bound(5, 5, 0.95) == 1.0
    assert c.rate_bound(0, 0, 0.95) == 1.0
    # solves P(Bin(20, p) <= 2) = 0.05
    p = c.rate_bound(2, 20, 0.95)
    assert sum(math.comb(20, k) * p**k * (1 - p) ** (20 - k) for k in range(3)) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="no rate"):
        c.rate_bound(3, 2, 0.95)


def test_poisson_bound_after_no_event_is_minus_log() -> None:
    assert c.poisson_bound(0, 2.0, 0.95) == pytest.approx(-math.log(0.05) / 2)
    assert c.poisson_bound(1, 0.0, 0.95) == math.inf


@settings(deadline=None)
@given(st.lists(RISKS, min_size=1, max_size=200), st.floats(0.01, 0.5), st.floats(0.5, 0.99))
def test_threshold_misses_less_than_the_asked_share_of_its_own_data(
    scores: list[float], rate: float, confidence: float
) -> None:
    found = c.lower_quantile(np.array(scores), rate, confidence)
    if found is None:
        assert (1 - rate) ** len(scores) > 1 - confidence - 1e-9
    else:
        missed = int(np.sum(np.array(scores) < found))
        assert c.rate_bound(missed, len(scores), confidence) <= rate + 1e-9


# -- scores


def test_peak_counts_only_decisions_early_enough() -> None:
    violating = trace([0.1, 0.5, 0.2, 0.9, 1.0], violation=3)
    assert violating.steps_to_violation == 4
    assert c.early_peak(violating, 1) == 0.9
    assert c.early_peak(violating, 2) == 0.5
    assert c.early_peak(violating, 4) == 0.1
    assert c.early_peak(violating, 5) == -math.inf
    with pytest.raises(ValueError, match="does not violate"):
        c.early_peak(trace([0.1]), 1)


def test_leads_count_from_the_first_alarm_and_ignore_late_ones() -> None:
    episodes = [trace([0.1, 0.9, 0.2, 0.9], violation=3), trace([0.1, 0.1, 0.9], violation=1)]
    assert c.leads(episodes, 0.5) == [3]
    assert c.recall(episodes, 0.5, 3) == 0.5
    assert c.recall(episodes, 0.5, 4) == 0.0
    assert c.recall([], 0.5, 1) is None


def test_surprise_needs_consecutive_frames_and_forgives_the_first() -> None:
    row = np.array([99.0, 5.0, 6.0, 1.0, 7.0, 8.0, 9.0])
    assert c.sustained(row, 3) == 7.0
    assert c.burst_alarm(row, 6.9, 3) == 6
    assert c.burst_alarm(row, 7.0, 3) is None
    assert c.sustained(row[:3], 3) == 0.0


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 50.0), min_size=1, max_size=40), st.floats(0.0, 50.0), st.integers(1, 5))
def test_sustained_surprise_is_where_the_alarm_begins(row: list[float], bound: float, frames: int) -> None:
    surprise = np.array(row)
    alarmed = c.burst_alarm(surprise, bound, frames) is not None
    assert alarmed == (c.sustained(surprise, frames) > bound)


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 50.0), min_size=1, max_size=40), st.floats(0.1, 50.0), st.floats(0.1, 50.0))
def test_surprise_halts_in_calibration_where_it_halts_the_monitor(
    row: list[float], bound: float, average: float
) -> None:
    thresholds = Thresholds(caution=1.0, halt=1.0, surprise=bound, surprise_average=average)
    state, halted = MonitorState(), None
    for i, surprise in enumerate(row):
        stamp = 1.0 + i * CONTROL_PERIOD_S
        frame = Frame(stamp, i, 50.0, (0.5, 0.0, 0.1), 0.0, surprise, 0.0, is_first=i == 0)
        state = observe_frame(state, Limits(), thresholds, frame, Now(stamp, stamp))
        if halted is None and Reason.OUT_OF_DISTRIBUTION in state.input_reasons:
            halted = i
    assert c.surprise_alarm(np.array(row), thresholds, Limits().surprise_frames) == halted


def test_average_surprise_begins_at_zero_and_forgives_the_first() -> None:
    assert c.averages(np.array([99.0, 5.0, 5.0])).tolist() == pytest.approx([0.0, 1.0, 1.8])
    assert c.average_alarm(np.array([99.0, 5.0, 5.0]), 1.0) == 2
    assert c.average_alarm(np.array([99.0, 5.0, 5.0]), None) is None


def test_alarms_end_an_episodes_time() -> None:
    clean = [np.array([0.1, 0.9, 0.1, 0.9]), np.array([0.1, 0.2])]
    events, hours = c.alarms_per_hour(clean, 0.5)
    assert events == 1 and hours == pytest.approx(4 * 0.1 / 3600)


@settings(deadline=None)
@given(st.lists(st.lists(RISKS, min_size=1, max_size=12), min_size=1, max_size=12), st.floats(0.0, 20_000.0))
def test_affordable_threshold_is_the_smallest_within_the_price(rows: list[list[float]], per_hour: float) -> None:
    clean = [np.array(row) for row in rows]
    found = c.affordable_threshold(clean, per_hour)
    events, hours = c.alarms_per_hour(clean, found)
    assert events <= per_hour * hours or found == 1.0
    below = float(np.nextafter(found, 0.0))
    if below >= c.LEAST_THRESHOLD:
        events, hours = c.alarms_per_hour(clean, below)
        assert events > per_hour * hours


@settings(deadline=None)
@given(st.lists(RISKS, min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_affordable_caution_keeps_to_its_share(risks: list[float], share: float) -> None:
    row = np.array(risks)
    found = c.affordable_caution(row, share)
    assert np.mean(row >= found) <= share or found == 1.0


# -- quality of the risk


def test_steps_are_dangerous_within_the_horizon_and_end_at_the_violation() -> None:
    risks, positive = c.dangerous(trace(np.linspace(0, 1, 20).tolist(), violation=14), horizon=10)
    assert len(risks) == 15
    assert positive.tolist() == [False] * 5 + [True] * 10
    assert not c.dangerous(trace([0.5] * 4))[1].any()


def test_reliability_of_honest_risks_lies_on_the_diagonal() -> None:
    rng = np.random.default_rng(3)
    scores = rng.random(50_000)
    honest = c.reliability(scores, rng.random(50_000) < scores)
    assert honest["error"] < 0.02 and len(honest["bins"]) == 10
    boastful = c.reliability(scores, rng.random(50_000) < scores / 2)
    assert boastful["error"] == pytest.approx(0.25, abs=0.02)
    assert c.reliability(np.ones(3), np.ones(3, np.bool_))["bins"][0]["count"] == 3, "1 belongs to the last bin"


# -- the whole calibration


def separable(rng: np.random.Generator, violating: int = 120, clean: int = 400) -> list[Trace]:
    """Clean episodes stay below 0.4; violating ones rise above 0.6 from six steps before the violation on."""
    traces = []
    for i in range(clean):
        row = rng.uniform(0.0, 0.4, 30)
        traces.append(trace(row.tolist(), surprise=rng.uniform(0.0, 5.0, 30).tolist(), seed=i))
    for i in range(violating):
        row = np.r_[rng.uniform(0.0, 0.4, 14), rng.uniform(0.6, 1.0, 10)]
        traces.append(trace(row.tolist(), violation=20, group="noise 1", seed=i))
    return traces


def test_separable_risk_gives_the_asked_bound_for_free() -> None:
    traces = separable(np.random.default_rng(4))
    found = c.calibrate(traces, Settings(false_surprise=0.01), surprise_frames=3, model_hash="m")
    thresholds, halt = found.thresholds, found.figures["halt"]
    assert thresholds.method == "conformal" and thresholds.confidence == 0.95 and thresholds.missed_rate == 0.05
    assert halt["reached"] and halt["false_halts"]["events"] == 0 and halt["recall"] >= 0.95
    assert 0.4 < thresholds.caution <= thresholds.halt
    assert 0.0 < thresholds.surprise <= 5.0 and found.figures["surprise"]["reached"]
    assert thresholds.surprise_average is not None and 0.0 < thresholds.surprise_average < 5.0
    assert found.figures["auroc"]["all"] > 0.8 and found.figures["auroc"]["own"] is None
    assert found.figures["halt"]["median_lead_s"] == pytest.approx(0.7)
    json.dumps(found.figures, allow_nan=False)


def test_bound_holds_on_new_episodes_of_the_same_kind() -> None:
    kept = []
    asked = Settings(missed=0.1, confidence=0.9, false_halts_per_hour=1e6, caution_share=0.99)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found = c.calibrate(separable(rng, 60, 5), asked, 3)
        fresh = separable(rng, 300, 0)
        kept.append(1.0 - c.recall(fresh, found.thresholds.halt, asked.lead_steps) <= 0.1)  # type: ignore[operator]
    assert np.mean(kept) >= 0.8


def test_curves_agree_with_counting_one_threshold_at_a_time() -> None:
    traces = separable(np.random.default_rng(12), 20, 20)
    curves = c.calibrate(traces, Settings(), 3).figures["curves"]
    clean = [t.risk for t in traces if t.group == "own"]
    violating = [t for t in traces if t.group != "own"]
    for i in (0, 20, 35, 39, 70, 99):
        threshold = curves["thresholds"][i]
        events, hours = c.alarms_per_hour(clean, threshold)
        assert curves["false_vetoes_per_hour"][i] == pytest.approx(events / hours)
        assert curves["recall"][i] == c.recall(violating, threshold, 2)


def test_too_few_violations_are_told_and_the_smaller_claim_is_written() -> None:
    found = c.calibrate(separable(np.random.default_rng(5), violating=20), Settings(), 3)
    halt = found.figures["halt"]
    assert not halt["reached"] and "at least 59 are needed" in halt["reason"]
    assert found.thresholds.missed_rate == pytest.approx(1 - 0.05 ** (1 / 20)) and found.thresholds.confidence == 0.95


def test_blind_risk_claims_nothing() -> None:
    rng = np.random.default_rng(6)
    traces = [trace(rng.uniform(0.2, 0.8, 30).tolist(), seed=i) for i in range(300)]
    traces += [trace([0.1] * 30, violation=20, group="noise 1", seed=i) for i in range(100)]
    found = c.calibrate(traces, Settings(false_halts_per_hour=1e-3), 3)
    assert found.thresholds.confidence == 0.0 and found.thresholds.missed_rate == 1.0
    assert not found.figures["halt"]["reached"] and "the price allows" in found.figures["halt"]["reason"]


def test_a_bound_above_one_half_is_no_claim() -> None:
    scores = np.r_[np.full(60, 0.1), np.full(40, 0.9)]
    assert c.choose(scores, Settings(), affordable=0.5).confidence == 0.0
    fewer = c.choose(np.r_[scores[:20], scores[60:]], Settings(), affordable=0.5)
    assert fewer.confidence == 0.95 and 20 / 60 < fewer.missed_rate < 0.5


def test_no_violation_at_all_claims_nothing() -> None:
    found = c.calibrate(separable(np.random.default_rng(7), violating=0), Settings(), 3)
    assert found.thresholds.confidence == 0.0 and found.figures["halt"]["recall"] is None
    json.dumps(found.figures, allow_nan=False)


def test_no_clean_episode_cannot_be_calibrated() -> None:
    with pytest.raises(ValueError, match="nothing to calibrate"):
        c.calibrate(separable(np.random.default_rng(8), clean=0), Settings(), 3)


def test_check_counts_on_other_episodes_at_the_given_thresholds() -> None:
    thresholds = Thresholds(caution=0.5, halt=0.7, surprise=5.0)
    fresh = [trace([0.1] * 10, surprise=[0.0, *[9.0] * 9]), trace([0.1, 0.8, 0.1])]
    fresh += [trace([0.1, 0.6, 0.6, 0.9], violation=3), trace([0.1, 0.9, 0.9, 0.9], violation=3, group="noise 1")]
    found = c.check(fresh, thresholds, Settings(), 3)
    assert found["halt"]["missed"]["all"]["missed"] == 1 and found["halt"]["missed"]["noise 1"]["missed"] == 0
    assert found["halt"]["false_halts"]["events"] == 1 and found["surprise"]["false_halts"]["events"] == 1
    assert c.check(fresh[2:], thresholds, Settings(), 3)["halt"]["false_halts"]["per_hour"] is None


def test_data_hash_depends_on_the_values_and_not_on_the_order() -> None:
    traces = separable(np.random.default_rng(9), 5, 5)
    assert c.data_hash(traces) == c.data_hash(traces[::-1])
    other = [*traces[:-1], trace([0.5] * 24, violation=20, group="noise 1", seed=4)]
    assert c.data_hash(traces) != c.data_hash(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"missed": 1.0}, "below 1"), ({"confidence": 0.0}, "> 0"), ({"caution_lead_steps": 1}, "caution_lead_steps")],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**change)


def test_plots_are_written_for_full_and_for_empty_figures(tmp_path: Path) -> None:
    for name, violating in (("full", 30), ("empty", 0)):
        figures = c.calibrate(separable(np.random.default_rng(10), violating), Settings(), 3).figures
        for path in write_plots(figures, tmp_path / name):
            assert path.read_text().lstrip().startswith("<?xml")
        assert len(list((tmp_path / name).iterdir())) == 4


# -- bundles and commands


def test_bundle_says_why_its_thresholds_carry_no_bound(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "test")
    assert "not calibrated" in bundle.calibration_fault
    base = {
        "caution": 0.3, "halt": 0.6, "surprise": 5.0, "surprise_average": 4.0, "method": "conformal",
        "missed_rate": 0.1,
    }  # fmt: skip

    def fault(**changes: Any) -> str:
        return update_manifest(bundle, thresholds=Thresholds(**{**base, **changes})).calibration_fault

    assert fault(confidence=0.95, model_hash=bundle.graphs_hash) == ""
    assert "not calibrated" in fault(confidence=0.0, model_hash=bundle.graphs_hash)
    assert "another model" in fault(confidence=0.95, model_hash="0" * 64)
    assert "average" in fault(confidence=0.95, model_hash=bundle.graphs_hash, surprise_average=None)


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes from ``separable`` in place of the simulation."""

    def episodes(groups: Any, *_: Any, **__: Any) -> list[tuple[str, dict[str, Any]]]:
        return [
            (
                "own" if t.group == "own" else "noise 0.3",
                {
                    "seed": t.seed,
                    "trace": {n: getattr(t, n).tolist() for n in ("risk", "least_risk", "surprise", "cost")},
                },
            )
            for t in separable(np.random.default_rng(11))
        ]

    monkeypatch.setattr("fosp_trainer.evaluation.traced_episodes", episodes)


@pytest.mark.usefixtures("replayed")
def test_command_writes_a_calibrated_manifest_figures_and_plots(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "models" / "first")
    out = tmp_path / "out" / "figures.json"
    command.run(command.Calibrate(bundle.path, json=out, check_episodes=10))
    found = load_bundle(bundle.path)
    assert found.calibration_fault == "" and found.manifest.files == bundle.manifest.files
    figures = json.loads(out.read_text())
    assert figures["thresholds"]["halt"] == found.manifest.thresholds.halt
    assert figures["thresholds"]["data_hash"] == found.manifest.thresholds.data_hash
    assert found.manifest.evaluation["calibration"]["halt"]["reached"] is True
    assert figures["check"]["halt"]["missed"]["all"]["violating"] == 120
    assert (out.parent / "reliability.svg").is_file()


@pytest.mark.usefixtures("replayed")
def test_command_writes_a_new_bundle_and_leaves_the_old_one(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "models" / "first")
    before = (bundle.path / "manifest.json").read_bytes()
    target = tmp_path / "models" / "second"
    command.run(command.Calibrate(bundle.path, output=target, quiet=True))
    found = load_bundle(target)
    assert found.id == "second" and found.calibration_fault == ""
    assert found.manifest.provenance["created"] > bundle.manifest.provenance["created"]
    assert (bundle.path / "manifest.json").read_bytes() == before
    with pytest.raises(UserError, match="exists"):
        command.run(command.Calibrate(bundle.path, output=target))


@pytest.mark.usefixtures("replayed")
def test_dry_run_changes_nothing(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "first")
    before = (bundle.path / "manifest.json").read_bytes()
    command.run(command.Calibrate(bundle.path, dry_run=True, quiet=True))
    assert (bundle.path / "manifest.json").read_bytes() == before


# -- out of distribution


def test_detection_counts_alarms_delays_and_unannounced_violations() -> None:
    strange = [0.0, *[9.0] * 9]
    familiar = [trace([0.1] * 10, surprise=[0.0, *[1.0] * 9], seed=i) for i in range(10)]
    shifted = [
        trace([0.1] * 10, surprise=strange, seed=0),
        trace([0.1] * 10, violation=8, surprise=strange, seed=1),
        trace([0.1] * 10, violation=1, surprise=strange, seed=2),
        trace([0.1, 0.1, 0.9, *[0.1] * 7], violation=5, surprise=[0.0, *[1.0] * 9], seed=3),
    ]
    thresholds = Thresholds(caution=0.5, halt=0.5, surprise=5.0, surprise_average=8.0)
    found = c.detection(shifted, familiar, thresholds, frames=3)
    assert found["detected_by_single_frames"] == 3 and found["detected_by_average"] == 0
    assert found["detection_rate"] == 0.75 and found["delay_steps"] == {"median": 3.0, "p90": 3.0}
    assert found["violating"] == 3 and found["violating_without_a_halt_before"] == 1
    assert found["stopped_by_surprise_or_risk"] == 4 and found["auroc"] == 0.875
    clean = c.detection(familiar, familiar, thresholds, frames=3)
    assert clean["detected"] == 0 and clean["alarms_per_hour"] == 0.0 and clean["delay_steps"] is None
    assert clean["auroc"] == 0.5
    json.dumps([found, clean], allow_nan=False)


def test_shifts_runs_the_familiar_scene_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def episodes(groups: Any, *_: Any, **__: Any) -> list[tuple[str, dict[str, Any]]]:
        asked.extend(groups)
        assert not any(drive.monitor for drive, _ in groups.values())
        row = [0.0, *[9.0] * 5]
        return [
            (name, {"seed": 0, "trace": {"risk": row, "least_risk": row, "surprise": row, "cost": [0.0] * 6}})
            for name in groups
        ]

    monkeypatch.setattr("fosp_trainer.evaluation.traced_episodes", episodes)
    bundle = make_bundle(tmp_path / "test")
    shifts.run(shifts.Shifts(bundle.path, scenes=("colors",), json=tmp_path / "shifts.json"))
    scenes = json.loads((tmp_path / "shifts.json").read_text())["scenes"]
    assert asked == ["standard", "colors"] == list(scenes)
    assert scenes["colors"]["detection_rate"] == 1.0
    with pytest.raises(UserError, match="episodes"):
        shifts.run(shifts.Shifts(bundle.path, episodes=0))
