"""What MoveIt Servo says and what it means for the arm. No ROS, no clock of its own, no MoveIt.

Written for MoveIt Servo of Jazzy (moveit2 2.12) and Kilted (2.14), moveit_msgs 2.6. Servo turns twists into joint
positions in a node of its own, a period of its loop behind. Its answer is used only while it is alive, takes twists,
reports nothing that stops it, and has computed something since the motion began.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from fosp_arm.backend import IkError, Refusal, Vector

TWIST: Final = 1
"""``moveit_msgs/ServoCommandType.TWIST``."""


class StatusCode(IntEnum):
    """Codes of ``moveit_msgs/ServoStatus``."""

    INVALID = -1
    NO_WARNING = 0
    DECELERATE_FOR_APPROACHING_SINGULARITY = 1
    HALT_FOR_SINGULARITY = 2
    DECELERATE_FOR_LEAVING_SINGULARITY = 3
    DECELERATE_FOR_COLLISION = 4
    HALT_FOR_COLLISION = 5
    JOINT_BOUND = 6


@dataclass(frozen=True)
class Meaning:
    """What a status means here."""

    text: str
    refusal: Refusal | None = None
    """Why the arm must hold; None: it may move, if more slowly than it was told to."""


MEANINGS: Final[Mapping[int, Meaning]] = {
    StatusCode.INVALID: Meaning("MoveIt Servo cannot use the command", Refusal.NO_SOLUTION),
    StatusCode.NO_WARNING: Meaning("moving"),
    StatusCode.DECELERATE_FOR_APPROACHING_SINGULARITY: Meaning("slowed down towards a singularity"),
    StatusCode.HALT_FOR_SINGULARITY: Meaning("too close to a singularity", Refusal.SINGULARITY),
    StatusCode.DECELERATE_FOR_LEAVING_SINGULARITY: Meaning("slowed down on the way out of a singularity"),
    StatusCode.DECELERATE_FOR_COLLISION: Meaning("slowed down before a collision"),
    StatusCode.HALT_FOR_COLLISION: Meaning("the next step collides", Refusal.COLLISION),
    StatusCode.JOINT_BOUND: Meaning("a joint is at its limit", Refusal.JOINT_LIMIT),
}


def meaning(code: int) -> Meaning:
    """Meaning of a status code; one that is not known stops the arm."""
    return MEANINGS.get(code) or Meaning(f"MoveIt Servo reports the unknown status {code}", Refusal.NO_SOLUTION)


@dataclass(frozen=True)
class ServoSettings:
    """Times in seconds."""

    silence_s: float = 0.3
    """Age of the newest status from which Servo counts as gone; it sends one every 10 ms."""
    target_age_s: float = 0.1
    """Age of the newest joint positions from which on they are not used."""
    begin_s: float = 0.3
    """How long the arm waits for the first joint positions of a motion."""
    pause_s: float = 0.1
    """Time without a question after which the next one begins another motion."""
    ask_again_s: float = 1.0
    """Time between requests to take twists."""


class ServoFollower:
    """Call ``on_...`` with what arrives and ``follow`` once per control step. Times are of one monotonic clock."""

    def __init__(self, settings: ServoSettings | None = None) -> None:
        self._settings = settings or ServoSettings()
        self._status = Meaning("")
        self._status_at = -math.inf
        self._target: Vector | None = None
        self._target_at = -math.inf
        self._takes_twists = False
        self._requested_at = -math.inf
        self._asked_at = self._began_at = -math.inf

    def is_alive(self, now: float) -> bool:
        """Whether Servo was heard lately."""
        return now - self._status_at <= self._settings.silence_s

    def on_status(self, code: int, now: float) -> None:
        """A status arrived."""
        if not self.is_alive(now):
            # It was started again, and takes no twists before it is told to.
            self._takes_twists, self._requested_at = False, -math.inf
        self._status, self._status_at = meaning(code), now

    def on_target(self, positions: Vector, now: float) -> None:
        """Joint positions (7,), rad, that Servo wants to go to."""
        self._target, self._target_at = positions, now

    def needs_command_type(self, now: float) -> bool:
        """Whether to ask Servo now to take twists; counts as asked when it says so."""
        if self._takes_twists or not self.is_alive(now) or now - self._requested_at < self._settings.ask_again_s:
            return False
        self._requested_at = now
        return True

    def on_command_type(self, accepted: bool) -> None:
        """Servo's answer to that."""
        self._takes_twists = accepted

    def follow(self, positions: Vector, now: float) -> Vector:
        """Joint positions (7,) for this control step.

        Args:
            positions: (7,) where the arm was told to be last; the answer until Servo has computed another.
            now: seconds.

        Raises:
            IkError: Servo is silent, not ready, or reports a reason to hold.
        """
        settings = self._settings
        if now - self._asked_at > settings.pause_s:
            self._began_at = now
        self._asked_at = now
        if not self.is_alive(now):
            raise IkError("MoveIt Servo is silent", Refusal.NOT_READY)
        if not self._takes_twists:
            raise IkError("MoveIt Servo does not take twists yet", Refusal.NOT_READY)
        if self._status.refusal is not None and self._status_at >= self._began_at:
            raise IkError(self._status.text, self._status.refusal)
        # What was computed for an earlier motion would pull the arm back there.
        if self._target is not None and self._target_at >= self._began_at:
            if now - self._target_at <= settings.target_age_s:
                return self._target
        elif now - self._began_at <= settings.begin_s:
            return positions
        raise IkError("MoveIt Servo computes no joint positions", Refusal.NOT_READY)
