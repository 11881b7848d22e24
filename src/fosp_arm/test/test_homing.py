"""The arm's way home: when it may set out, which ways are refused, and how one is gone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import fosp_description
from fosp_arm.collision import CollisionModel
from fosp_arm.homing import (
    CLEAR_HEIGHT_M,
    CLEAR_MARGIN_M,
    Episode,
    Limits,
    Monitor,
    PlanError,
    Ride,
    Situation,
    interruption,
    plan,
    refusal,
    settle,
    unfit,
)
from fosp_arm.joint_planner import JointPlanner
from fosp_arm.mink_backend import MinkBackend
from fosp_arm.watch import Watch
from fosp_core.task import WORKSPACE
from fosp_ros.errors import ConfigurationError

LIMITS = Limits()
HOME = np.array([0.36, 0.0, 0.10])
REST = np.array([0.0, -0.3, 0.0, -2.4, 0.0, 2.1, 0.785])
READY = Situation(
    joints_age_s=0.02,
    joint_speed_rad_s=0.0,
    monitor=Monitor.WATCHING,
    monitor_age_s=0.4,
    command_age_s=0.02,
    moved_age_s=math.inf,
)
PERIOD = 0.02


@pytest.fixture(scope="module")
def ik() -> MinkBackend:
    return MinkBackend(fosp_description.urdf_path(), 0.05, 1.0)


@pytest.fixture(scope="module")
def collisions() -> CollisionModel:
    return CollisionModel(fosp_description.urdf_path(), fosp_description.srdf_path())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dry_run": True}, "dry run"),
        ({"joints_age_s": 0.3}, "joint states are missing"),
        ({"monitor": Monitor.UNKNOWN}, "the safety monitor is silent"),
        ({"monitor_age_s": 2.0}, "the safety monitor is silent"),
        ({"monitor": Monitor.HALTED}, "the safety monitor has halted; reset it first"),
        ({"monitor": Monitor.INACTIVE}, "the safety monitor is not active"),
        ({"command_age_s": 0.3}, "the safety monitor sends no commands"),
        ({"moved_age_s": 0.4}, "the arm is being moved"),
        ({"episode": Episode.RUNNING}, "an episode is running"),
        ({"episode": Episode.READY}, "an episode is about to begin"),
        ({"joint_speed_rad_s": 0.1}, "the arm is moving"),
        ({"joint_speed_rad_s": math.nan}, "the arm is moving"),
    ],
)
def test_arm_sets_out_only_at_rest_with_the_monitor_watching(change: dict[str, object], reason: str) -> None:
    assert refusal(READY, LIMITS) == ""
    assert refusal(replace(READY, **change), LIMITS).startswith(reason)


def test_nothing_known_is_no_reason_to_set_out_or_to_go_on() -> None:
    assert refusal(Situation(), LIMITS) and interruption(Situation(), LIMITS)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"joints_age_s": 0.3}, "joint states stopped"),
        ({"monitor": Monitor.HALTED}, "the safety monitor has halted"),
        ({"monitor_age_s": 2.0}, "the safety monitor is silent"),
        ({"command_age_s": 0.3}, "the safety monitor sends no commands"),
        ({"moved_age_s": 0.1}, "somebody else moves the arm"),
        ({"episode": Episode.READY}, "an episode began"),
        ({"episode": Episode.RUNNING}, "an episode began"),
    ],
)
def test_arm_stops_on_its_way_when_it_could_not_have_set_out(change: dict[str, object], reason: str) -> None:
    moving = replace(READY, joint_speed_rad_s=0.3)
    assert interruption(moving, LIMITS) == ""
    assert interruption(replace(moving, **change), LIMITS).startswith(reason)


def test_watch_tells_ages_and_speeds() -> None:
    watch = Watch()
    assert watch.joints is None and refusal(watch.situation(0.0), LIMITS)
    for step in range(51):
        now = 10.0 + step * PERIOD
        watch.on_joints(np.full(7, 0.2 * step * PERIOD), now)
    watch.on_monitor(Monitor.WATCHING, now)
    watch.on_command(np.zeros(3), now)
    watch.on_episode(Episode.READY)
    seen = watch.situation(now + 0.1)
    assert seen.joint_speed_rad_s == pytest.approx(0.2)
    assert (seen.joints_age_s, seen.command_age_s, seen.monitor_age_s) == pytest.approx((0.1, 0.1, 0.1))
    assert seen.moved_age_s == math.inf and seen.episode is Episode.READY
    watch.on_command(np.array([0.0, math.nan, 0.0]), now)
    assert watch.situation(now).moved_age_s == 0.0
    lone = Watch()
    lone.on_joints(np.zeros(7), 1.0)
    assert lone.situation(1.0).joint_speed_rad_s == math.inf


def test_way_home_from_anywhere_in_the_workspace_is_free_and_high(ik: MinkBackend, collisions: CollisionModel) -> None:
    rng = np.random.default_rng(0)
    for _ in range(6):
        radius, angle = rng.uniform(0.33, 0.7), rng.uniform(-0.4, 0.4)
        begin = np.array([radius * np.cos(angle), radius * np.sin(angle), rng.uniform(0.03, 0.16)])
        start = settle(REST, begin, ik)
        legs = plan(start, HOME, ik, JointPlanner(), collisions.touching)
        assert len(legs) == 3
        np.testing.assert_array_equal(legs[0][0], start)
        np.testing.assert_allclose(ik.tool(legs[-1][-1]), HOME, atol=5e-3)
        across = [ik.tool(joints)[2] for joints in legs[1]]
        assert min(across) > CLEAR_HEIGHT_M - CLEAR_MARGIN_M


class Crooked:
    """A planner that plans something else."""

    def __init__(self, *extra: np.ndarray) -> None:
        self.extra = extra

    def between(self, start: np.ndarray, goal: np.ndarray) -> np.ndarray:
        return np.array([start, *self.extra, goal])


def test_planned_way_is_checked_whoever_planned_it(ik: MinkBackend, collisions: CollisionModel) -> None:
    start = settle(REST, np.array([0.55, 0.2, 0.05]), ik)
    low = settle(REST, np.array([0.45, 0.1, 0.05]), ik)
    beyond = REST.copy()
    beyond[3] = 0.1
    for extra, reason in (
        (low, "through what may stand on the table"),
        (beyond, "joint limits"),
        (np.full(7, np.nan), "malformed"),
    ):
        with pytest.raises(PlanError, match=reason):
            plan(start, HOME, ik, Crooked(extra), collisions.touching)
    with pytest.raises(PlanError, match="collides: hand and head"):
        plan(start, HOME, ik, JointPlanner(), lambda joints: "hand and head")
    good = plan(start, HOME, ik, JointPlanner(), collisions.touching)
    for legs, reason in (
        ([good[0][5:], *good[1:]], "does not begin where the arm is"),
        (good[:2], "does not end at the start"),
    ):
        assert reason in unfit(legs, start, HOME, ik, collisions.touching)


def test_start_out_of_reach_is_refused_before_anything_moves(ik: MinkBackend, collisions: CollisionModel) -> None:
    start = settle(REST, np.array([0.5, 0.0, 0.1]), ik)
    with pytest.raises(PlanError, match="out of reach"):
        plan(start, np.array([0.95, 0.0, 0.1]), ik, JointPlanner(), collisions.touching)


@pytest.mark.parametrize("tool_speed", [0.05, 0.1])
def test_ride_keeps_its_speeds_begins_and_ends_at_rest(
    ik: MinkBackend, collisions: CollisionModel, tool_speed: float
) -> None:
    limits = Limits(tool_speed_m_s=tool_speed)
    start = settle(REST, np.array([0.6, -0.2, 0.05]), ik)
    for leg in plan(start, HOME, ik, JointPlanner(), collisions.touching):
        ride = Ride(leg, ik, limits)
        targets = [leg[0]]
        # No time, no way: the first step of a thread takes none.
        np.testing.assert_allclose(ride.step(0.0), leg[0], atol=1e-9)
        while not ride.is_over:
            targets.append(ride.step(PERIOD))
            assert len(targets) < 2000
        np.testing.assert_allclose(targets[-1], leg[-1], atol=1e-9)
        np.testing.assert_array_equal(ride.end, targets[-1])
        joint = np.max(np.abs(np.diff(targets, axis=0)) / ik.velocity_limits, axis=1) / PERIOD
        tools = np.array([ik.tool(joints) for joints in targets])
        tool = np.linalg.norm(np.diff(tools, axis=0), axis=1) / PERIOD
        assert joint.max() <= limits.joint_speed_fraction * 1.001
        assert tool.max() <= tool_speed * 1.05
        # Quarter of the speed at most in the first and last steps.
        assert max(tool[:3].max(), tool[-2:].max()) <= 0.25 * tool_speed


def test_ride_of_a_leg_that_is_no_way_ends_at_once(ik: MinkBackend) -> None:
    ride = Ride(np.array([REST, REST]), ik, LIMITS)
    np.testing.assert_array_equal(ride.step(PERIOD), REST)
    assert ride.is_over


def test_collision_model_knows_the_table_the_arm_itself_and_rest(ik: MinkBackend, collisions: CollisionModel) -> None:
    assert collisions.touching(REST) == ""
    lowest = settle(REST, np.array([0.5, 0.0, WORKSPACE.low[2]]), ik)
    assert collisions.touching(lowest) == ""
    into = settle(REST, np.array([0.5, 0.0, 0.005]), ik)
    assert "table" in collisions.touching(into)
    folded = np.array([0.0, -1.7, 0.0, -3.0, 0.0, -0.0, 0.0])
    assert collisions.touching(folded) != ""


def test_descriptions_that_cannot_be_used_are_named(tmp_path: object) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.srdf"):
        CollisionModel(fosp_description.urdf_path(), "/absent.srdf")
    with pytest.raises(ConfigurationError, match=r"absent\.urdf"):
        CollisionModel("/absent.urdf", fosp_description.srdf_path())
