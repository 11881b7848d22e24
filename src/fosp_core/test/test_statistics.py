"""Intervals, the area under a ROC curve, and latency summaries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fosp_core.statistics import auroc, paired_difference_interval, summarize_latency, wilson_interval


def test_wilson_interval_matches_a_published_value() -> None:
    # Brown, Cai and DasGupta (2001): 10 of 20.
    assert wilson_interval(10, 20) == pytest.approx((0.2993, 0.7007), abs=1e-4)


def test_bounds_stay_in_the_unit_interval() -> None:
    assert wilson_interval(0, 50)[0] == 0.0
    assert wilson_interval(50, 50)[1] == 1.0
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "trials"), [(-1, 5), (6, 5)])
def test_what_is_no_proportion_is_refused(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson_interval(successes, trials)


def test_paired_interval_is_antisymmetric_and_holds_the_difference() -> None:
    low, high = paired_difference_interval(30, 9, 2, 9)
    assert low < (9 - 2) / 50 < high
    assert paired_difference_interval(30, 2, 9, 9) == pytest.approx((-high, -low))


def test_paired_interval_is_narrower_where_outcomes_go_together() -> None:
    together, apart = paired_difference_interval(45, 5, 0, 50), paired_difference_interval(25, 25, 20, 30)
    assert together[1] - together[0] < 0.7 * (apart[1] - apart[0])


def test_paired_interval_without_trials_knows_nothing() -> None:
    assert paired_difference_interval(0, 0, 0, 0) == (-1.0, 1.0)
    with pytest.raises(ValueError, match=">= 0"):
        paired_difference_interval(1, -1, 0, 0)


@pytest.mark.parametrize("cells", [(0.75, 0.15, 0.05, 0.05), (0.4, 0.1, 0.1, 0.4), (0.9, 0.06, 0.02, 0.02)])
def test_paired_interval_covers_the_truth_as_often_as_it_says(cells: tuple[float, ...]) -> None:
    drawn = np.random.default_rng(0).multinomial(100, cells, size=1500)
    truth = cells[1] - cells[2]
    bounds = [paired_difference_interval(*(int(n) for n in row)) for row in drawn]
    covered = float(np.mean([low <= truth <= high for low, high in bounds]))
    assert 0.93 <= covered <= 0.995


def test_latency_summary_ignores_missing_values() -> None:
    summary = summarize_latency([1.0, 2.0, 3.0, float("nan")])
    assert summary["count"] == 3
    assert summary["p50"] == 2.0
    assert summarize_latency([])["p50"] is None


def test_auroc_of_separated_reversed_and_tied_scores() -> None:
    positive = np.array([False, False, True, True])
    assert auroc(np.array([0.1, 0.2, 0.3, 0.4]), positive) == 1.0
    assert auroc(np.array([0.4, 0.3, 0.2, 0.1]), positive) == 0.0
    assert auroc(np.ones(4), positive) == 0.5
    assert auroc(np.ones(4), np.zeros(4, np.bool_)) is None


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 1.0, width=32), st.booleans()), min_size=2, max_size=40))
def test_auroc_counts_pairs(pairs: list[tuple[float, bool]]) -> None:
    scores, positive = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    wins = [float(a > b) + 0.5 * float(a == b) for a in scores[positive] for b in scores[~positive]]
    found = auroc(scores, positive)
    assert (found is None) if not wins else found == pytest.approx(np.mean(wins))
