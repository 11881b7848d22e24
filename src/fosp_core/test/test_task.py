"""Numbers of the task."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fosp_core import task

ACTIONS = st.tuples(*[st.floats(-1.0, 1.0)] * 3).map(np.asarray)


@given(ACTIONS)
def test_tool_never_exceeds_its_speed_limit(action: np.ndarray) -> None:
    assert np.linalg.norm(task.action_to_twist(action)) <= task.TOOL_SPEED_LIMIT + 1e-9


@given(ACTIONS)
def test_displacement_keeps_the_direction_and_the_axis_limit(action: np.ndarray) -> None:
    step = task.limited_displacement(action)
    assert np.all(np.abs(step) <= task.ACTION_SCALE_M + 1e-12)
    assert np.linalg.norm(np.cross(step, action)) == pytest.approx(0.0, abs=1e-9)
    assert float(step @ action) >= 0.0


def test_seeds_of_data_calibration_and_evaluation_are_disjoint() -> None:
    ranges = sorted(task.SEED_RANGES.values())
    assert all(high <= low for (_, high), (low, _) in itertools.pairwise(ranges))
    with pytest.raises(ValueError, match="evaluation seed"):
        task.evaluation_seed(10**6)


def test_unknown_scene_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'moon'.*standard"):
        task.check_scene("moon")
