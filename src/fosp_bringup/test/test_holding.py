"""Measurement of the time until the arm holds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fosp_bringup.holding import ToolSample, measure_hold


def samples(speeds: list[float]) -> list[ToolSample]:
    """One sample each 20 ms, the first 40 ms before the stop at t = 0."""
    return [ToolSample(0.02 * i - 0.04, (0.01 * i, 0.0, 0.0), speed) for i, speed in enumerate(speeds)]


def test_time_counts_to_the_first_sample_at_rest() -> None:
    hold = measure_hold(samples([0.5, 0.5, 0.4, 0.2, 0.005, 0.0, 0.0]), 0.0)
    assert hold.hold_s is not None and math.isclose(hold.hold_s, 0.04) and hold.within_limit
    assert hold.speed_before == 0.4 and math.isclose(hold.travel_m, 0.04)


def test_moving_again_after_a_rest_counts_as_moving() -> None:
    hold = measure_hold(samples([0.5, 0.5, 0.4, 0.0, 0.3, 0.0, 0.0]), 0.0)
    assert hold.hold_s is not None and math.isclose(hold.hold_s, 0.06)


def test_arm_that_never_rests_has_no_time() -> None:
    hold = measure_hold(samples([0.5] * 20), 0.0)
    assert hold.hold_s is None and not hold.within_limit


def test_late_hold_is_not_within_the_limit() -> None:
    assert not measure_hold(samples([0.5] * 15 + [0.0] * 5), 0.0).within_limit


@pytest.mark.parametrize(("late_s", "within"), [(0.0, True), (0.0003, True), (0.0012, False)])
def test_a_fraction_of_a_millisecond_does_not_decide(late_s: float, within: bool) -> None:
    seen = samples([0.5] * 12 + [0.0] * 4)
    hold = measure_hold([replace(s, time_s=s.time_s + (late_s if s.time_s > 0.01 else 0.0)) for s in seen], 0.0)
    assert hold.hold_s is not None and math.isclose(hold.hold_s, 0.2 + late_s) and hold.within_limit is within


@pytest.mark.parametrize(
    ("speeds", "within"),
    [
        ([0.5] * 8 + [0.0] * 2, True),
        # Held, but farther away than any command could have sent it.
        ([0.5] * 15 + [0.0] * 2, False),
        # Not far yet, but still moving.
        ([0.5] * 6, False),
    ],
)
def test_travel_is_bounded_by_what_the_arm_may_do_in_the_time_it_has(speeds: list[float], within: bool) -> None:
    assert measure_hold(samples(speeds), 0.0).within_travel is within


@pytest.mark.parametrize("speeds", [[0.5, 0.5], [0.0, 0.0, 0.0, 0.0, 0.0]])
def test_measurement_that_means_nothing_is_refused(speeds: list[float]) -> None:
    with pytest.raises(ValueError, match=r"span|not moving"):
        measure_hold(samples(speeds), 0.0)
