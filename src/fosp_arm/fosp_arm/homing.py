"""The arm's way to its start: when it may go, whether a way is fit to be gone, and going it. No ROS, no clock.

The way is up, across above everything that may stand on the table, and down; it is gone slowly, leg by leg.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

import numpy as np

from fosp_arm.backend import IkBackend, IkError, Vector
from fosp_core.task import WORKSPACE

CLEAR_HEIGHT_M: Final = 0.26
"""Height of the tool on the way across; what stands on the table reaches up to 0.20 m."""
CLEAR_MARGIN_M: Final = 0.03
"""How far the tool may sink on the way across."""
_STEP_M: Final = 0.005
_STEP_RAD: Final = 0.02
_IK_DT_S: Final = 0.04
_SETTLING_STEPS: Final = 60
_CREEP: Final = 0.05
"""Part of the full speed that braking ends with."""


class Monitor(Enum):
    """What the safety monitor is doing."""

    UNKNOWN = "unknown"
    INACTIVE = "inactive"
    WATCHING = "watching"
    HALTED = "halted"


class Episode(Enum):
    """What the task is doing."""

    NONE = "none"
    READY = "ready"
    RUNNING = "running"


@dataclass(frozen=True)
class Situation:
    """What is known when the arm is to be brought home, and on the way. Ages in seconds, infinite when never heard."""

    joints_age_s: float = math.inf
    joint_speed_rad_s: float = math.inf
    """Largest speed of a joint."""
    monitor: Monitor = Monitor.UNKNOWN
    monitor_age_s: float = math.inf
    command_age_s: float = math.inf
    """Of the newest command of the monitor."""
    moved_age_s: float = math.inf
    """Of the newest command that moves the arm."""
    episode: Episode = Episode.NONE
    dry_run: bool = False


@dataclass(frozen=True)
class Limits:
    """How fresh what is known must be, and how the way is gone."""

    joints_age_s: float = 0.2
    monitor_age_s: float = 1.5
    """The monitor sends its status at 2 Hz or faster."""
    command_age_s: float = 0.2
    """The monitor sends commands at 50 Hz, zero when nothing is to move."""
    rest_s: float = 0.5
    """Time without a command that moves the arm."""
    rest_rad_s: float = 0.05
    tool_speed_m_s: float = 0.1
    joint_speed_fraction: float = 0.2
    ramp_s: float = 0.5
    """From rest to full speed."""
    tracking_rad: float = 0.15
    """Distance between target and arm at which it does not follow."""
    arrived_rad: float = 0.02


def refusal(now: Situation, limits: Limits) -> str:
    """Why the arm may not set out; empty when it may."""
    if now.dry_run:
        return "dry run: the arm is not moved"
    if now.joints_age_s > limits.joints_age_s:
        return "joint states are missing or too old"
    fault = _monitor_fault(now, limits)
    if fault:
        return fault
    if now.episode is Episode.RUNNING:
        return "an episode is running; cancel it or wait for its end"
    if now.episode is Episode.READY:
        return "an episode is about to begin"
    if now.moved_age_s < limits.rest_s:
        return "the arm is being moved"
    # NaN and the unknown are no rest either.
    if not now.joint_speed_rad_s <= limits.rest_rad_s:
        return "the arm is moving"
    return ""


def interruption(now: Situation, limits: Limits) -> str:
    """Why the arm must stop on its way; empty when it may go on."""
    if now.joints_age_s > limits.joints_age_s:
        return "joint states stopped"
    fault = _monitor_fault(now, limits)
    if fault:
        return fault
    if now.moved_age_s < limits.rest_s:
        return "somebody else moves the arm"
    if now.episode is not Episode.NONE:
        return "an episode began"
    return ""


def _monitor_fault(now: Situation, limits: Limits) -> str:
    if now.monitor is Monitor.UNKNOWN or now.monitor_age_s > limits.monitor_age_s:
        return "the safety monitor is silent"
    if now.monitor is Monitor.HALTED:
        return "the safety monitor has halted; reset it first"
    if now.monitor is Monitor.INACTIVE:
        return "the safety monitor is not active"
    if now.command_age_s > limits.command_age_s:
        return "the safety monitor sends no commands"
    return ""


class PlanError(Exception):
    """There is no way home that is fit to be gone; the message says why."""


class Planner(Protocol):
    """Finds the way across. One implementation a file."""

    def between(self, start: Vector, goal: Vector) -> Vector:
        """Joint positions (K, 7), rad, from ``start`` (7,) to ``goal`` (7,), both included; K >= 2.

        Raises:
            PlanError: no way was found.
        """


Collides = Callable[[Vector], str]
"""What touches what at joint positions (7,); empty when nothing does."""


def plan(start: Vector, home: Vector, ik: IkBackend, planner: Planner, collides: Collides) -> list[Vector]:
    """Legs (K, 7) each, rad, from joint positions ``start`` (7,) to the tool position ``home`` (3,): up, across, down.

    Raises:
        PlanError: there is no such way; nothing was moved.
    """
    tool = ik.tool(start)
    height = max(CLEAR_HEIGHT_M, float(tool[2]))
    up = straight(start, np.array([*tool[:2], height]), ik)
    # From the far end, so that the way down ends exactly where it is checked to end.
    above = settle(up[-1], np.array([*home[:2], height]), ik)
    across = np.asarray(planner.between(up[-1], above), dtype=np.float64)
    down = straight(above, home, ik)
    legs = [up, across, down]
    fault = unfit(legs, start, home, ik, collides)
    if fault:
        raise PlanError(fault)
    return legs


def straight(start: Vector, target: Vector, ik: IkBackend) -> Vector:
    """Joint positions (K, 7) that bring the tool from ``start`` (7,) along a line to ``target`` (3,).

    Raises:
        PlanError: out of reach.
    """
    begin = ik.tool(start)
    count = max(1, math.ceil(float(np.linalg.norm(target - begin)) / _STEP_M))
    path, joints = [start], start
    for step in range(1, count + 1):
        joints = _towards(joints, begin + (target - begin) * step / count, ik)
        path.append(joints)
    path.append(settle(joints, target, ik))
    return np.array(path)


def settle(start: Vector, target: Vector, ik: IkBackend) -> Vector:
    """Joint positions (7,) with the tool at ``target`` (3,), found from ``start``.

    Raises:
        PlanError: out of reach.
    """
    joints = start
    for _ in range(_SETTLING_STEPS):
        joints = _towards(joints, target, ik)
    missed = float(np.linalg.norm(ik.tool(joints) - target))
    if missed > _STEP_M:
        place = ", ".join(f"{v:.2f}" for v in target)
        raise PlanError(f"({place}) is out of reach by {missed * 100:.1f} cm")
    return joints


def _towards(joints: Vector, target: Vector, ik: IkBackend) -> Vector:
    try:
        return ik.solve(joints, target, _IK_DT_S)
    except IkError as error:
        raise PlanError(f"no way from here: {error}") from error


def dense(path: Vector, step_rad: float = _STEP_RAD) -> Vector:
    """The same way with no joint step above ``step_rad``."""
    parts = [path[:1]]
    for before, after in itertools.pairwise(path):
        count = max(1, math.ceil(float(np.max(np.abs(after - before))) / step_rad))
        fractions = np.arange(1, count + 1)[:, None] / count
        parts.append(before + fractions * (after - before))
    return np.concatenate(parts)


def unfit(legs: Sequence[Vector], start: Vector, home: Vector, ik: IkBackend, collides: Collides) -> str:
    """What is wrong with a way, whoever planned it; empty when it is fit to be gone."""
    low, high = ik.position_limits.T
    at, ends = start, (ik.tool(start)[:2], home[:2])
    for leg in legs:
        if leg.ndim != 2 or leg.shape[1] != len(start) or len(leg) < 2 or not np.all(np.isfinite(leg)):
            return "the planned way is malformed"
        if float(np.max(np.abs(leg[0] - at))) > _STEP_RAD:
            return "the planned way does not begin where the arm is"
        at = leg[-1]
        for joints in dense(leg):
            if np.any(joints < np.minimum(low, start)) or np.any(joints > np.maximum(high, start)):
                return "the planned way leaves the joint limits"
            tool = ik.tool(joints)
            beside = min(float(np.linalg.norm(tool[:2] - end)) for end in ends)
            if tool[2] < min(WORKSPACE.low[2], float(ik.tool(start)[2])) - 1e-3:
                return "the planned way goes too low"
            if beside > CLEAR_MARGIN_M and tool[2] < CLEAR_HEIGHT_M - CLEAR_MARGIN_M:
                return "the planned way leads through what may stand on the table"
            touching = collides(joints)
            if touching:
                return f"the planned way collides: {touching}"
    if float(np.linalg.norm(ik.tool(at) - home)) > _STEP_M:
        return "the planned way does not end at the start"
    return ""


class Ride:
    """Goes one leg from rest to rest. Call ``step`` at a steady rate."""

    def __init__(self, leg: Vector, ik: IkBackend, limits: Limits) -> None:
        self._path = dense(leg)
        speeds = limits.joint_speed_fraction * ik.velocity_limits
        tools = np.array([ik.tool(joints) for joints in self._path])
        joint_s = np.max(np.abs(np.diff(self._path, axis=0)) / speeds, axis=1)
        tool_s = np.linalg.norm(np.diff(tools, axis=0), axis=1) / limits.tool_speed_m_s
        # Seconds from the beginning at full speed.
        self._times = np.concatenate([[0.0], np.cumsum(np.maximum(joint_s, tool_s))])
        self._ramp_s = limits.ramp_s
        self._at_s = self._rate = 0.0

    @property
    def end(self) -> Vector:
        """Joint positions (7,) at the end."""
        return self._path[-1]

    @property
    def is_over(self) -> bool:
        """Whether the last target was given."""
        return self._at_s >= self._times[-1]

    def step(self, dt_s: float) -> Vector:
        """Joint target (7,) after another ``dt_s``."""
        left_s = float(self._times[-1]) - self._at_s
        # Braking alone would never quite end.
        braking = max(math.sqrt(2.0 * max(left_s, 0.0) / self._ramp_s), _CREEP)
        self._rate = min(self._rate + dt_s / self._ramp_s, 1.0, braking)
        self._at_s = min(self._at_s + self._rate * dt_s, float(self._times[-1]))
        return np.array([np.interp(self._at_s, self._times, joint) for joint in self._path.T])
