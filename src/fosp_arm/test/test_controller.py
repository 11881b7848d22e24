import math

import numpy as np
import pytest

from fosp_arm.backend import IkError, Refusal
from fosp_arm.controller import REFUSALS, ArmController, HoldReason, Mode, Settings
from fosp_core.task import TOOL_SPEED_LIMIT, WORKSPACE


class GantryBackend:
    """Three sliding joints: joint positions are the tool position."""

    position_limits = np.array([[-1.0, 1.0]] * 3)
    velocity_limits = np.array([1.0, 1.0, 1.0])

    def __init__(self) -> None:
        self.solves = 0
        self.fails: Refusal | None = None
        self.velocity = None

    def tool(self, positions):
        return np.array(positions)

    def solve(self, positions, target, dt_s, velocity=None):
        self.solves += 1
        self.velocity = velocity
        if self.fails:
            raise IkError("no", self.fails)
        return np.array(target)


START = np.array([0.5, 0.0, 0.1])
FORWARD = np.array([0.2, 0.0, 0.0])
PERIOD = 0.02


class Rig:
    """Drives a controller with a passed-in clock; the arm follows its targets at once when ``follows``."""

    def __init__(self, start=START, follows=True, **settings):
        self.backend = GantryBackend()
        self.settings = Settings(**settings)
        self.controller = ArmController(self.backend, self.settings)
        self.now = 100.0
        self.follows = follows
        self.measured = np.array(start)
        self.sent: list[tuple[float, np.ndarray]] = []

    def tick(self, velocity=None, age_s=0.05, joints=True):
        self.now += PERIOD
        if joints:
            self.controller.on_joints(self.measured, self.now)
        if velocity is not None:
            self.controller.on_command(np.asarray(velocity, dtype=float), age_s, self.now)
        output = self.controller.step(self.now)
        if output.positions is not None:
            self.sent.append((self.now, output.positions))
            if self.follows:
                self.measured = output.positions.copy()
        return output


def test_waits_until_joint_states_arrive():
    rig = Rig()
    output = rig.tick(FORWARD, joints=False)
    assert (output.positions, output.mode) == (None, Mode.WAITING)


def test_moves_with_the_commanded_velocity():
    rig = Rig()
    for _ in range(50):
        output = rig.tick(FORWARD)
        assert output.mode is Mode.MOVING
    np.testing.assert_allclose(rig.measured, START + FORWARD * 50 * PERIOD, atol=1e-9)


def test_nothing_is_sent_and_nothing_solved_at_rest():
    rig = Rig()
    for _ in range(20):
        assert rig.tick(np.zeros(3)).positions is None
    assert rig.backend.solves == 0
    assert rig.controller.reason is HoldReason.ZERO


def test_silence_holds_the_measured_position_within_the_timeout():
    rig = Rig(follows=False)
    for _ in range(10):
        rig.tick(FORWARD)
    last_command = rig.now
    rig.measured = START + np.array([0.004, 0.001, 0.0])
    outputs = [rig.tick() for _ in range(12)]
    first_hold = next(i for i, output in enumerate(outputs) if output.mode is Mode.HOLDING)
    assert (first_hold + 1) * PERIOD <= rig.settings.command_timeout_s + PERIOD + 1e-9
    assert outputs[first_hold].reason is HoldReason.SILENCE
    np.testing.assert_array_equal(outputs[first_hold].positions, rig.measured)
    assert rig.now > last_command


def test_the_hold_is_repeated_briefly_and_does_not_follow_a_sagging_arm():
    rig = Rig(follows=False)
    for _ in range(5):
        rig.tick(FORWARD)
    held = rig.measured.copy()
    outputs = []
    for i in range(20):
        rig.measured = held - [0, 0, 0.001 * i]
        outputs.append(rig.tick(np.zeros(3)))
    sent = [output.positions for output in outputs if output.positions is not None]
    assert 3 <= len(sent) <= 7
    for positions in sent:
        np.testing.assert_array_equal(positions, held)
    assert outputs[-1].positions is None


@pytest.mark.parametrize("bad", [[math.nan, 0, 0], [math.inf, 0, 0], [0.1, 0.1]])
def test_a_command_that_is_not_finite_holds(bad):
    rig = Rig()
    rig.tick(FORWARD)
    rig.controller.on_command(np.array(bad), 0.05, rig.now)
    output = rig.tick()
    assert (output.mode, output.reason) == (Mode.HOLDING, HoldReason.BAD_COMMAND)


@pytest.mark.parametrize("age_s", [0.6, -0.2, math.nan])
def test_a_command_for_an_old_or_future_frame_holds(age_s):
    rig = Rig()
    rig.tick(FORWARD)
    output = rig.tick(FORWARD, age_s=age_s)
    assert (output.mode, output.reason) == (Mode.HOLDING, HoldReason.OLD_COMMAND)


def test_stale_joint_states_hold_the_position_measured_last():
    rig = Rig(follows=False)
    for _ in range(5):
        rig.tick(FORWARD)
    output = rig.tick(FORWARD)
    while output.mode is Mode.MOVING:
        output = rig.tick(FORWARD, joints=False)
    assert output.reason is HoldReason.STALE_JOINTS
    np.testing.assert_array_equal(output.positions, rig.measured)
    assert rig.tick(FORWARD).mode is Mode.MOVING


def test_speed_is_limited_along_any_direction():
    rig = Rig(start=(0.5, -0.1, 0.05))
    before = rig.measured.copy()
    for _ in range(10):
        rig.tick([5.0, 5.0, 0.5])
        assert np.linalg.norm(rig.measured - before) <= TOOL_SPEED_LIMIT * PERIOD * 1.0001
        before = rig.measured.copy()


def test_setpoint_leads_the_measured_tool_by_at_most_the_limit():
    rig = Rig(follows=False)
    for _ in range(100):
        output = rig.tick(FORWARD)
    assert np.linalg.norm(output.positions - rig.measured) <= rig.settings.lead_m + 1e-9


def test_tool_stays_inside_the_workspace():
    rig = Rig(start=(0.78, 0.28, 0.15))
    for _ in range(100):
        rig.tick([0.1, 0.1, 0.1])
        assert WORKSPACE.contains(rig.measured)
    np.testing.assert_allclose(rig.measured, WORKSPACE.high, atol=1e-9)


def test_from_outside_the_tool_may_come_in_but_not_go_further_out():
    rig = Rig(start=(0.5, 0.0, 0.3))
    for _ in range(10):
        rig.tick([0.0, 0.0, 0.2])
    assert rig.measured[2] == pytest.approx(0.3)
    rig.tick([0.0, 0.0, -0.2])
    assert rig.measured[2] == pytest.approx(0.3 - 0.2 * PERIOD)


def test_joint_limits_keep_their_margin_whatever_the_solver_says():
    rig = Rig(start=(0.5, 0.0, 0.1), workspace=WORKSPACE.__class__((-9, -9, -9), (9, 9, 9)), joint_margin_rad=0.3)
    for _ in range(200):
        rig.tick([0.2, 0.0, 0.0])
    assert rig.measured[0] <= 1.0 - 0.3 + 1e-12


def test_joint_speed_keeps_its_fraction():
    rig = Rig(joint_speed_fraction=0.1)
    before = rig.measured.copy()
    rig.tick([0.25, 0.0, 0.0])
    assert np.max(np.abs(rig.measured - before)) <= 0.1 * 1.0 * PERIOD + 1e-12


@pytest.mark.parametrize("refusal", list(Refusal))
def test_every_refusal_of_the_solver_holds_for_a_reason_of_its_own(refusal):
    rig = Rig()
    rig.tick(FORWARD)
    rig.backend.fails = refusal
    output = rig.tick(FORWARD)
    assert (output.mode, output.reason) == (Mode.HOLDING, REFUSALS[refusal])
    assert len(set(REFUSALS.values())) == len(Refusal)
    rig.backend.fails = None
    assert rig.tick(FORWARD).mode is Mode.MOVING


def test_solver_is_told_the_velocity_of_the_set_point_which_ends_at_the_wall():
    rig = Rig(start=(0.79, 0.0, 0.1))
    rig.tick(FORWARD)
    np.testing.assert_allclose(rig.backend.velocity, FORWARD)
    for _ in range(5):
        rig.tick(FORWARD)
    np.testing.assert_allclose(rig.backend.velocity, 0.0, atol=1e-12)


def test_an_arm_that_somebody_moved_is_not_pulled_back():
    rig = Rig()
    for _ in range(10):
        rig.tick(FORWARD)
    rig.measured = np.array([0.3, 0.2, 0.1])
    output = rig.tick(FORWARD)
    assert (output.positions, output.reason) == (None, HoldReason.DISPLACED)
    assert rig.tick(FORWARD).positions is None
    rig.tick(np.zeros(3))
    output = rig.tick(FORWARD)
    np.testing.assert_allclose(output.positions, np.array([0.3, 0.2, 0.1]) + FORWARD * PERIOD)


def test_a_hold_target_is_not_repeated_after_a_scene_reset():
    rig = Rig()
    for _ in range(10):
        rig.tick(FORWARD)
    assert rig.tick(np.zeros(3)).positions is not None
    rig.measured = np.array([0.3, 0.2, 0.1])
    assert rig.tick(np.zeros(3)).positions is None


def test_a_late_step_does_not_jump():
    rig = Rig()
    rig.tick(FORWARD)
    before = rig.measured.copy()
    rig.now += 0.09
    rig.tick(FORWARD)
    assert np.linalg.norm(rig.measured - before) <= TOOL_SPEED_LIMIT * 0.04 + 1e-9


def test_commands_of_two_publishers_hold_until_one_is_left_and_says_zero():
    rig = Rig()
    for _ in range(5):
        rig.tick(FORWARD)
    rig.controller.on_publishers(2)
    output = rig.tick(FORWARD)
    assert (output.mode, output.reason) == (Mode.HOLDING, HoldReason.SECOND_PUBLISHER)
    rig.controller.on_publishers(1)
    assert rig.tick(FORWARD).reason is HoldReason.DISPLACED
    rig.tick(np.zeros(3))
    assert rig.tick(FORWARD).mode is Mode.MOVING


def test_drift_during_a_hold_is_seen():
    rig = Rig(follows=False)
    for _ in range(3):
        rig.tick(FORWARD)
    rig.tick(np.zeros(3))
    assert rig.controller.hold_drift_m() == pytest.approx(0.0)
    for _ in range(10):
        rig.measured = rig.measured + np.array([0.005, 0, 0])
        rig.tick(np.zeros(3))
    assert rig.controller.hold_drift_m() == pytest.approx(0.05)
