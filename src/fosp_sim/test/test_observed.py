"""A world known from reports keeps the task's books as the physics does."""

from __future__ import annotations

import numpy as np
import pytest

from fosp_sim.environment import TaskRules
from fosp_sim.layout import sample_layout
from fosp_sim.observed import CLEAR_HEIGHT_M, ObservedWorld
from fosp_sim.session import Phase, Session
from fosp_sim.world import HOME, ArmKinematics, World

ARM = "panda::panda_hand::collision0"
OBSTACLE = "obstacle0::link::collision"


@pytest.fixture
def observed() -> ObservedWorld:
    world = ObservedWorld("panda")
    world.on_joints(np.array(HOME))
    return world


def test_arm_against_an_obstacle_is_a_touch_once_in_its_control_step(observed: ObservedWorld) -> None:
    observed.reset(sample_layout("standard", 0))
    observed.on_contact(ARM, OBSTACLE)
    observed.step(4)
    assert observed.touching()
    observed.step(4)
    assert not observed.touching()
    observed.on_contact(OBSTACLE, ARM)
    observed.step(4)
    assert observed.touching()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("table::link::collision", OBSTACLE),
        ("obstacle1::link::collision", OBSTACLE),
        (ARM, "table::link::collision"),
        (ARM, "obstacle2::link::collision"),  # not in this layout
    ],
)
def test_other_contacts_are_no_touch(observed: ObservedWorld, first: str, second: str) -> None:
    observed.reset(sample_layout("standard", 0))
    observed.on_contact(first, second)
    observed.step(4)
    assert not observed.touching()


@pytest.mark.parametrize("scene", ["standard", "obstacle_count"])
@pytest.mark.parametrize(("lean_deg", "fallen"), [(0.0, False), (25.0, False), (35.0, True), (90.0, True)])
def test_leaning_obstacle_has_fallen_beyond_thirty_degrees(
    observed: ObservedWorld, scene: str, lean_deg: float, fallen: bool
) -> None:
    layout = sample_layout(scene, 3)
    observed.reset(layout)
    assert not observed.fallen().any() and not observed.ready
    half = 0.5 * np.deg2rad(lean_deg)
    for index, item in enumerate(layout.obstacles):
        observed.on_pose(f"obstacle{index}", item.pose()[3:])
    assert observed.ready and not observed.fallen().any()
    w, x, y, z = layout.obstacles[-1].pose()[3:]
    c, s = np.cos(half), np.sin(half)
    # A turn about the world's x for a standing thing, its y-z axis for a lying one, both across its own z.
    axis = (1.0, 0.0, 0.0) if not layout.obstacles[-1].lying else (0.0, 0.0, 1.0)
    a, b = np.array([c, *(s * np.array(axis))]), np.array([w, x, y, z])
    turned = np.array([a[0] * b[0] - a[1:] @ b[1:], *(a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:]))])
    observed.on_pose(f"obstacle{len(layout.obstacles) - 1}", turned)
    assert list(observed.fallen()[: len(layout.obstacles)]) == [False] * (len(layout.obstacles) - 1) + [fallen]


def test_reward_and_cost_are_those_of_the_physics() -> None:
    layout = sample_layout("standard", 5)
    with World() as physics:
        physics.reset(layout)
        observed = ObservedWorld("panda")
        observed.on_joints(physics.joints.copy())
        observed.reset(layout)
        sessions = TaskRules(physics), TaskRules(observed)
        for rules in sessions:
            rules.start(layout)
        kinematics, target = ArmKinematics(), physics.tool
        for step in range(40):
            target = target + 0.02 * (layout.goal_point - target) / np.linalg.norm(layout.goal_point - target)
            physics.set_joint_targets(kinematics.solve(physics.joints, target, iterations=5))
            touched = False
            for _ in range(20):
                physics.step(1)
                if physics.touching():
                    touched = True
                    observed.on_contact(ARM, OBSTACLE)
            physics.refresh()
            observed.on_joints(physics.joints.copy())
            for index in range(len(layout.obstacles)):
                observed.on_pose(f"obstacle{index}", physics.data.body(f"obstacle{index}").xquat)
            observed.step(20)
            expected = sessions[0].advance(sessions[0].cost_now(touched))
            assert sessions[1].advance(sessions[1].cost_now(observed.touching())) == pytest.approx(expected), step
        assert sessions[0].violated == sessions[1].violated and sessions[0].reached == sessions[1].reached


def test_session_runs_over_reports(observed: ObservedWorld) -> None:
    session = Session(observed)
    session.reset(session.sample("standard", 1), 4)
    session.start()
    observed.on_contact(ARM, OBSTACLE)
    session.tick(None)
    assert session.frame().is_first
    observed.on_contact(ARM, OBSTACLE)
    session.tick(None)
    state = session.frame()
    assert (state.phase, state.cost, state.cost_reason, state.violated) == (Phase.RUNNING, 1.0, "contact", True)
    assert np.isnan(state.clearance)


def test_way_to_the_start_goes_over_everything_and_ends_there(observed: ObservedWorld) -> None:
    kinematics = ArmKinematics()
    for seed in range(20):
        start = np.array(sample_layout("standard", seed).start)
        way = observed.homing(start)
        times = [at_s for _, at_s in way]
        assert times == sorted(times) and times[0] > 0
        for joints, _ in way[:-1]:
            assert kinematics.tool(joints)[2] == pytest.approx(CLEAR_HEIGHT_M, abs=5e-3)
        np.testing.assert_allclose(kinematics.tool(way[-1][0]), start, atol=2e-3)


def test_way_is_refused_without_joints_or_out_of_reach(observed: ObservedWorld) -> None:
    with pytest.raises(ValueError, match="out of reach"):
        observed.homing(np.array([1.4, 0.0, 0.1]))
    with pytest.raises(ValueError, match="not known"):
        ObservedWorld("panda").homing(np.array([0.5, 0.0, 0.1]))
