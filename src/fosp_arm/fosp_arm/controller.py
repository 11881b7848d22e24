"""From tool velocities to joint targets, and when to hold instead. No ROS, no clock of its own.

The controller moves only while a usable command is fresh, joint states are fresh and the inverse kinematics has an
answer. In every other case it holds the position that was measured when the reason arose. Times are seconds of one
monotonic clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np

from fosp_arm.backend import IkBackend, IkError, Refusal, Vector
from fosp_core.task import TOOL_LEAD_M, TOOL_SPEED_LIMIT, WORKSPACE, Box


class Mode(Enum):
    """What the controller does."""

    WAITING = "waiting for joint states"
    HOLDING = "holding"
    MOVING = "moving"


class HoldReason(Enum):
    """Why the arm does not move."""

    NONE = ""
    NO_COMMAND = "no command was received yet"
    ZERO = "the command is zero"
    SILENCE = "commands stopped"
    OLD_COMMAND = "the command belongs to an old or a future frame"
    BAD_COMMAND = "the command is malformed"
    STALE_JOINTS = "joint states are missing or too old"
    DISPLACED = "the arm was moved by somebody else; waiting for a zero command"
    SECOND_PUBLISHER = "somebody else publishes arm commands"
    NO_SOLUTION = "inverse kinematics has no solution"
    COLLISION = "the next step would collide"
    SINGULARITY = "the arm is too close to a singularity"
    JOINT_LIMIT = "a joint is at its limit"
    SOLVER_NOT_READY = "inverse kinematics does not answer"


REFUSALS: Final = {
    Refusal.NO_SOLUTION: HoldReason.NO_SOLUTION,
    Refusal.COLLISION: HoldReason.COLLISION,
    Refusal.SINGULARITY: HoldReason.SINGULARITY,
    Refusal.JOINT_LIMIT: HoldReason.JOINT_LIMIT,
    Refusal.NOT_READY: HoldReason.SOLVER_NOT_READY,
}
"""Why the arm holds when the inverse kinematics refuses."""


@dataclass(frozen=True)
class Settings:
    """Limits of the controller."""

    command_timeout_s: float = 0.08
    joint_timeout_s: float = 0.2
    command_age_s: float = 0.5
    """Oldest frame, by the stamp of the command, that may still move the arm."""
    future_s: float = 0.05
    speed_m_s: float = TOOL_SPEED_LIMIT
    lead_m: float = TOOL_LEAD_M
    """How far the set-point may run ahead of the measured tool."""
    joint_margin_rad: float = 0.05
    joint_speed_fraction: float = 0.9
    hold_repeat_s: float = 0.1
    """How long the hold target is repeated, in case a message is lost."""
    workspace: Box = WORKSPACE


@dataclass(frozen=True)
class Output:
    """What to do now; ``positions`` (N,) in rad are to be sent, ``None``: nothing to send."""

    positions: Vector | None
    mode: Mode
    reason: HoldReason


class ArmController:
    """Call ``on_joints`` and ``on_command`` with what arrives and ``step`` at a steady rate."""

    def __init__(self, backend: IkBackend, settings: Settings) -> None:
        self._backend = backend
        self._settings = settings
        self._low = backend.position_limits[:, 0] + settings.joint_margin_rad
        self._high = backend.position_limits[:, 1] - settings.joint_margin_rad
        self._speed = backend.velocity_limits * settings.joint_speed_fraction
        self._measured: Vector | None = None
        self._measured_at = -math.inf
        self._velocity = np.zeros(3)
        self._command_fault = HoldReason.NO_COMMAND
        self._command_at = -math.inf
        self._needs_rest = False
        self._publishers = 1
        self._commanded: Vector | None = None  # joint target sent last while moving, or held
        self._commanded_tool = np.zeros(3)  # tool position there, while moving
        self._setpoint = np.zeros(3)  # of the tool
        self._stepped_at = -math.inf
        self._hold_until = -math.inf
        self.mode = Mode.WAITING
        self.reason = HoldReason.STALE_JOINTS

    @property
    def measured(self) -> Vector | None:
        """Newest measured joint positions (N,), rad."""
        return self._measured

    def tracking_error_rad(self) -> float:
        """Largest difference between the target sent last and the measured position; NaN without a target."""
        if self._measured is None or self._commanded is None:
            return math.nan
        return float(np.max(np.abs(self._commanded - self._measured)))

    def hold_drift_m(self) -> float:
        """How far the tool is from where it was told to hold; 0 while it is not told anything."""
        if self.mode is not Mode.HOLDING or self._measured is None or self._commanded is None:
            return 0.0
        held = self._backend.tool(self._commanded)
        return float(np.linalg.norm(self._backend.tool(self._measured) - held))

    def on_joints(self, positions: Vector, now: float) -> None:
        """Take in measured joint positions (N,), rad, finite."""
        previous, elapsed = self._measured, now - self._measured_at
        self._measured, self._measured_at = np.array(positions, dtype=np.float64), now
        if previous is None:
            return
        # No motor is that fast: a simulation was reset or somebody moved the arm. An old target would pull it back.
        reachable = 0.1 + 2.0 * self._backend.velocity_limits * max(elapsed, 0.0)
        if np.any(np.abs(self._measured - previous) > reachable):
            self._commanded = None
            self._needs_rest = True
            self._hold_until = -math.inf
            if self.mode is Mode.MOVING:
                self.mode, self.reason = Mode.HOLDING, HoldReason.DISPLACED

    def on_command(self, velocity: Vector, age_s: float, now: float) -> None:
        """Take in a tool velocity (3,) in m/s and the age of the frame it belongs to, on the clock of the stamps."""
        values = np.asarray(velocity, dtype=np.float64)
        if values.shape != (3,) or not np.all(np.isfinite(values)):
            self.on_bad_command(now)
            return
        self._command_at = now
        self._velocity = values
        if not np.any(values):
            self._command_fault = HoldReason.ZERO
        elif not -self._settings.future_s <= age_s <= self._settings.command_age_s:
            self._command_fault = HoldReason.OLD_COMMAND
        else:
            self._command_fault = HoldReason.NONE

    def on_publishers(self, count: int) -> None:
        """How many publish commands: with more than one, nobody knows whose word counts."""
        self._publishers = count
        if count > 1:
            self._needs_rest = True

    def release(self) -> None:
        """Somebody else brings the arm somewhere: what was held does not count, and a command moves it after a zero."""
        self._needs_rest = True
        if self.mode is not Mode.MOVING:
            self._commanded = None
            self._hold_until = -math.inf

    def on_bad_command(self, now: float) -> None:
        """A command arrived that cannot be used: hold."""
        self._command_at = now
        self._velocity = np.zeros(3)
        self._command_fault = HoldReason.BAD_COMMAND

    def step(self, now: float) -> Output:
        """Next joint target; to be called at the control rate, and at once when a command asks for a hold."""
        measured = self._measured
        if measured is None:
            self.mode, self.reason = Mode.WAITING, HoldReason.STALE_JOINTS
            return Output(None, self.mode, self.reason)
        reason = self._hold_reason(now)
        if reason in (HoldReason.ZERO, HoldReason.SILENCE, HoldReason.NO_COMMAND):
            self._needs_rest = False
        elif reason is HoldReason.NONE and self._needs_rest:
            reason = HoldReason.DISPLACED
        if reason is HoldReason.NONE:
            try:
                return self._move(measured, now)
            except IkError as error:
                reason = REFUSALS[error.refusal]
        return self._hold(measured, reason, now)

    def stop(self) -> Vector | None:
        """The position to hold when the controller ends while moving; ``None`` when there is nothing to send."""
        return self._measured if self.mode is Mode.MOVING else None

    def _hold_reason(self, now: float) -> HoldReason:
        if now - self._measured_at > self._settings.joint_timeout_s:
            return HoldReason.STALE_JOINTS
        if self._publishers > 1:
            return HoldReason.SECOND_PUBLISHER
        if self._command_fault is HoldReason.NO_COMMAND:
            return HoldReason.NO_COMMAND
        if now - self._command_at > self._settings.command_timeout_s:
            return HoldReason.SILENCE
        return self._command_fault

    def _hold(self, measured: Vector, reason: HoldReason, now: float) -> Output:
        if self.mode is Mode.MOVING:
            self._commanded = measured.copy()
            self._hold_until = now + self._settings.hold_repeat_s
        self.mode, self.reason = Mode.HOLDING, reason
        positions = self._commanded if now <= self._hold_until else None
        return Output(positions, self.mode, self.reason)

    def _move(self, measured: Vector, now: float) -> Output:
        settings = self._settings
        tool = self._backend.tool(measured)
        if self.mode is Mode.MOVING and self._commanded is not None:
            commanded, start = self._commanded, self._commanded_tool
            # A late call must not make up for lost time with one large step.
            dt = min(max(now - self._stepped_at, 0.0), 0.04)
        else:
            commanded, start, self._setpoint, dt = measured, tool, tool, 0.02
        self._stepped_at = now
        if dt == 0.0:
            return Output(None, self.mode, self.reason)
        before, self._setpoint = self._setpoint, self._advance(self._setpoint, tool, dt)
        velocity = (self._setpoint - before) / dt
        reach = settings.speed_m_s * dt
        target = start + _shortened(self._setpoint - start, reach)
        solved = self._limited(commanded, self._backend.solve(commanded, target, dt, velocity), dt)
        arrived = self._backend.tool(solved)
        travelled = float(np.linalg.norm(arrived - start))
        if travelled > reach:
            solved = commanded + (solved - commanded) * (reach / travelled)
            arrived = self._backend.tool(solved)
        self._commanded, self._commanded_tool = solved, arrived
        self.mode, self.reason = Mode.MOVING, HoldReason.NONE
        return Output(solved.copy(), self.mode, self.reason)

    def _advance(self, setpoint: Vector, tool: Vector, dt: float) -> Vector:
        """Set-point (3,) after ``dt``: not too fast, not too far ahead of the tool, not out of the workspace."""
        moved = setpoint + _shortened(self._velocity, self._settings.speed_m_s) * dt
        moved = tool + _shortened(moved - tool, self._settings.lead_m)
        box = self._settings.workspace
        # Outside already: back in is allowed, further out is not.
        return np.clip(moved, np.minimum(box.low, setpoint), np.maximum(box.high, setpoint))

    def _limited(self, start: Vector, goal: Vector, dt: float) -> Vector:
        """Joint step within the limits of speed and position, whatever the solver said."""
        step = goal - start
        excess = float(np.max(np.abs(step) / (self._speed * dt)))
        if excess > 1.0:
            step = step / excess
        return np.clip(start + step, np.minimum(self._low, start), np.maximum(self._high, start))


def _shortened(vector: Vector, length: float) -> Vector:
    norm = float(np.linalg.norm(vector))
    return vector if norm <= length else vector * (length / norm)
