"""Scripted controllers: the planner is the ceiling, the straight line the floor."""

from collections.abc import Callable

import numpy as np
import pytest

from fosp_core import task
from fosp_sim.environment import SafeReachEnv
from fosp_sim.scripted import CONTROLLERS, FULL_SPEED, Controller, PlannerController, StraightController, toward


def outcomes(scene: str, make: Callable[[], Controller], seeds: range) -> tuple[float, float]:
    """Success and violation rate."""
    env = SafeReachEnv(scene=scene, images=False)
    ends = []
    for seed in seeds:
        _, info = env.reset(seed=seed)
        controller, ended = make(), False
        controller.reset(info, np.random.default_rng(seed))
        while not ended:
            action = controller.act(info)
            assert action.shape == (3,) and np.abs(action).max() <= 1.0
            _, _, _, terminated, truncated, info = env.step(action)
            ended = terminated or truncated
        ends.append((info["success"], info["violated"]))
    success, violated = np.mean(ends, axis=0)
    return float(success), float(violated)


@pytest.mark.parametrize("scene", task.SCENES)
def test_the_planner_reaches_every_goal_and_touches_nothing(scene: str) -> None:
    assert outcomes(scene, lambda: PlannerController(noise=0.0, clearance=0.08), range(10)) == (1.0, 0.0)


def test_the_straight_line_reaches_but_violates_often() -> None:
    success, violated = outcomes("standard", StraightController, range(40))
    assert success >= 0.95 and 0.4 < violated < 0.9


@pytest.mark.parametrize("kind", ["noisy", "random"])
def test_the_other_kinds_stay_within_the_action_range(kind: str) -> None:
    outcomes("standard", CONTROLLERS[kind], range(4))


def test_heading_for_a_point_slows_down_before_it() -> None:
    far = toward(np.zeros(3), np.array([1.0, 0.0, 0.0]), 1.0)
    near = toward(np.zeros(3), np.array([0.006, 0.0, 0.0]), 1.0)
    assert np.linalg.norm(far) == pytest.approx(FULL_SPEED)
    np.testing.assert_allclose(task.limited_displacement(near), [0.006, 0.0, 0.0])
