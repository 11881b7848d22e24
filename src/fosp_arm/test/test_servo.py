"""What MoveIt Servo's words mean, and when its joint positions are used."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from fosp_arm.backend import IkError, Refusal
from fosp_arm.servo import MEANINGS, ServoFollower, ServoSettings, StatusCode, meaning

HERE = np.zeros(7)
THERE = np.full(7, 0.1)
SETTINGS = ServoSettings()


def ready(now: float = 10.0) -> ServoFollower:
    follower = ServoFollower()
    follower.on_status(StatusCode.NO_WARNING, now)
    assert follower.needs_command_type(now)
    follower.on_command_type(True)
    return follower


@pytest.mark.parametrize(
    ("code", "refusal"),
    [
        (-1, Refusal.NO_SOLUTION),
        (0, None),
        (1, None),
        (2, Refusal.SINGULARITY),
        (3, None),
        (4, None),
        (5, Refusal.COLLISION),
        (6, Refusal.JOINT_LIMIT),
        (7, Refusal.NO_SOLUTION),
    ],
)
def test_every_halt_of_servo_is_a_reason_to_hold_and_a_slower_motion_is_none(
    code: int, refusal: Refusal | None
) -> None:
    assert meaning(code).refusal is refusal
    follower = ready()
    follower.follow(HERE, 10.0)
    follower.on_target(THERE, 10.01)
    follower.on_status(code, 10.01)
    if refusal is None:
        np.testing.assert_array_equal(follower.follow(HERE, 10.02), THERE)
    else:
        with pytest.raises(IkError, match=meaning(code).text) as error:
            follower.follow(HERE, 10.02)
        assert error.value.refusal is refusal


def test_codes_are_those_of_the_message_and_each_has_a_meaning() -> None:
    assert set(MEANINGS) == set(StatusCode)
    messages = pytest.importorskip("moveit_msgs.msg", reason="moveit_msgs comes with an installed MoveIt")
    for code in StatusCode:
        assert getattr(messages.ServoStatus, code.name) == code


def test_servo_is_asked_to_take_twists_once_it_lives_and_again_when_it_was_started_again() -> None:
    follower = ServoFollower()
    assert not follower.needs_command_type(1.0)
    follower.on_status(0, 1.0)
    assert follower.needs_command_type(1.0)
    assert not follower.needs_command_type(1.1)
    follower.on_status(0, 1.1 + SETTINGS.ask_again_s)
    assert follower.needs_command_type(1.1 + SETTINGS.ask_again_s)
    follower.on_command_type(True)
    follower.on_status(0, 2.2)
    assert not follower.needs_command_type(9.0)
    follower.on_status(0, 9.0)
    assert follower.needs_command_type(9.0)
    with pytest.raises(IkError, match="does not take twists"):
        follower.follow(HERE, 9.0)


def test_silent_servo_holds_the_arm() -> None:
    follower = ready()
    follower.follow(HERE, 10.0)
    follower.on_target(THERE, 10.01)
    with pytest.raises(IkError, match="silent") as error:
        follower.follow(HERE, 10.0 + SETTINGS.silence_s + 0.01)
    assert error.value.refusal is Refusal.NOT_READY


def test_arm_waits_where_it_is_for_the_first_positions_of_a_motion_but_not_long() -> None:
    follower = ready()
    follower.on_target(THERE, 9.99)
    for step in range(10):
        now = 10.0 + 0.02 * step
        follower.on_status(0, now)
        np.testing.assert_array_equal(follower.follow(HERE, now), HERE)
    for step in range(10, 16):
        follower.on_status(0, 10.0 + 0.02 * step)
        with contextlib.suppress(IkError):
            follower.follow(HERE, 10.0 + 0.02 * step)
    with pytest.raises(IkError, match="computes no joint positions"):
        follower.follow(HERE, 10.32)


def test_positions_of_an_earlier_motion_and_old_ones_are_not_used() -> None:
    follower = ready()
    follower.follow(HERE, 10.0)
    follower.on_target(THERE, 10.01)
    np.testing.assert_array_equal(follower.follow(HERE, 10.02), THERE)
    follower.on_status(0, 10.2)
    np.testing.assert_array_equal(follower.follow(HERE, 10.2), HERE)
    follower.on_target(THERE, 10.21)
    np.testing.assert_array_equal(follower.follow(HERE, 10.22), THERE)
    follower.follow(HERE, 10.27)
    with pytest.raises(IkError, match="computes no joint positions"):
        follower.follow(HERE, 10.21 + SETTINGS.target_age_s + 0.01)


def test_halt_that_was_reported_before_the_motion_does_not_count() -> None:
    follower = ready()
    follower.on_status(StatusCode.HALT_FOR_COLLISION, 10.05)
    np.testing.assert_array_equal(follower.follow(HERE, 10.1), HERE)
