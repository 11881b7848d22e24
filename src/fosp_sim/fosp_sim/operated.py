"""A real table as the task rules see it: tool pose from joint states, the rest from effort and an operator. No ROS."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fosp_sim.layout import MAX_OBSTACLES, RED, Array, Item, Layout
from fosp_sim.world import ArmKinematics


class EffortContact:
    """Contact from joint efforts: a change that is faster than gravity and motion explain.

    A slow mean of every joint's effort is the expectation; it stands still while there is contact, for at most
    ``hold_s``, so that a lasting change (another posture, a tool change) becomes the new expectation.
    """

    def __init__(self, threshold_nm: float, time_constant_s: float = 0.5, hold_s: float = 1.0) -> None:
        """``threshold_nm``: deviation of any joint, N m, from which on there is contact; 0 switches it off."""
        self._threshold = threshold_nm
        self._time_constant = time_constant_s
        self._hold = hold_s
        self._mean: Array | None = None
        self._updated_at = 0.0
        self._since: float | None = None

    def update(self, efforts: Array, now_s: float) -> bool:
        """Whether efforts (N,) in N m at a time in s mean contact."""
        if self._threshold <= 0.0 or not np.all(np.isfinite(efforts)):
            return False
        if self._mean is None or len(self._mean) != len(efforts):
            self._mean, self._updated_at = efforts.astype(np.float64), now_s
            return False
        contact = bool(np.max(np.abs(efforts - self._mean)) > self._threshold)
        if contact and self._since is None:
            self._since = now_s
        elif not contact:
            self._since = None
        if self._since is None or now_s - self._since > self._hold:
            weight = 1.0 - math.exp(-max(now_s - self._updated_at, 0.0) / self._time_constant)
            self._mean = self._mean + weight * (efforts - self._mean)
        self._updated_at = now_s
        return contact


class OperatedWorld:
    """See ``TaskWorld``. Feed it with ``on_joints``, ``mark_contact`` and ``mark_fallen``."""

    def __init__(self, contact: EffortContact) -> None:
        self._contact = contact
        self._kinematics = ArmKinematics()
        self._tool = np.full(3, np.nan)
        self._fallen = 0
        self._touched = self._touching = False

    @property
    def tool(self) -> Array:
        """Tool position (3,) in metres; NaN before joint positions are known."""
        return self._tool

    def on_joints(self, positions: Array, efforts: Array, now_s: float) -> None:
        """Joint positions (7,) in rad and efforts in N m (none: empty)."""
        self._tool = self._kinematics.tool(positions)
        if len(efforts) and self._contact.update(efforts, now_s):
            self._touched = True

    def mark_contact(self) -> None:
        """The operator saw arm or hand touch an obstacle."""
        self._touched = True

    def mark_fallen(self) -> None:
        """The operator saw an obstacle fall."""
        self._fallen = min(self._fallen + 1, MAX_OBSTACLES)

    def layout(self, scene: str, seed: int, goal: Array) -> Layout:
        """What the operator laid out, as far as it is known: the goal (3,) and where the tool is."""
        x, y, z = (float(v) for v in self._tool)
        item = Item("cylinder", (0.05, 0.05, 0.05), (float(goal[0]), float(goal[1])), RED)
        return Layout(scene, seed, (x, y, z), item, ())

    def reset(self, layout: Layout) -> None:
        """Begin a layout: nothing has fallen or touched."""
        self._fallen = 0
        self._touched = self._touching = False

    def set_joint_targets(self, joints: Array) -> None:
        """Nothing: the arm's controller has the targets from the arm node."""

    def step(self, count: int) -> None:
        """Close one control step."""
        self._touching, self._touched = self._touched, False

    def refresh(self) -> None:
        """Nothing: poses are as measured."""

    def touching(self) -> bool:
        """Whether arm or hand touched an obstacle in the last control step."""
        return self._touching

    def fallen(self) -> NDArray[np.bool_]:
        """As many True (3,) as obstacles fell."""
        return np.arange(MAX_OBSTACLES) < self._fallen

    def clearance(self, limit: float = math.nan) -> float:
        """Not measured."""
        return math.nan
