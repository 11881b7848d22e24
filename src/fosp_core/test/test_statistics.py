"""Intervals and latency summaries."""

from __future__ import annotations

import pytest

from fosp_core.statistics import summarize_latency, wilson_interval


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


def test_latency_summary_ignores_missing_values() -> None:
    summary = summarize_latency([1.0, 2.0, 3.0, float("nan")])
    assert summary["count"] == 3
    assert summary["p50"] == 2.0
    assert summarize_latency([])["p50"] is None
