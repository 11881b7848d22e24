"""What was heard of arm, monitor and task, and how long ago. No ROS, no clock of its own."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

import numpy as np

from fosp_arm.backend import Vector
from fosp_arm.homing import Episode, Monitor, Situation

_SPEED_WINDOW_S: Final = 0.2


class Watch:
    """Call ``on_...`` with what arrives, and ask for the ``situation``. Times are seconds of one monotonic clock."""

    def __init__(self, dry_run: bool = False) -> None:
        self._dry_run = dry_run
        self._joints: deque[tuple[float, Vector]] = deque()
        self._monitor, self._monitor_at = Monitor.UNKNOWN, -math.inf
        self._command_at = self._moved_at = -math.inf
        self._episode = Episode.NONE

    @property
    def joints(self) -> Vector | None:
        """Newest joint positions (7,), rad."""
        return self._joints[-1][1] if self._joints else None

    def on_joints(self, positions: Vector, now: float) -> None:
        """Measured joint positions (7,), rad."""
        self._joints.append((now, positions))
        while len(self._joints) > 2 and now - self._joints[1][0] >= _SPEED_WINDOW_S:
            self._joints.popleft()

    def on_monitor(self, state: Monitor, now: float) -> None:
        """The safety monitor said what it is doing."""
        self._monitor, self._monitor_at = state, now

    def on_command(self, velocity: Vector, now: float) -> None:
        """A command (3,) of the safety monitor, m/s."""
        self._command_at = now
        if np.any(velocity):  # NaN counts as motion
            self._moved_at = now

    def on_episode(self, episode: Episode) -> None:
        """The task said what it is doing."""
        self._episode = episode

    def situation(self, now: float) -> Situation:
        """What is known now."""
        return Situation(
            joints_age_s=now - self._joints[-1][0] if self._joints else math.inf,
            joint_speed_rad_s=self._speed(),
            monitor=self._monitor,
            monitor_age_s=now - self._monitor_at,
            command_age_s=now - self._command_at,
            moved_age_s=now - self._moved_at,
            episode=self._episode,
            dry_run=self._dry_run,
        )

    def _speed(self) -> float:
        if len(self._joints) < 2:
            return math.inf
        (before, first), (after, last) = self._joints[0], self._joints[-1]
        # Too short a time says nothing about the speed.
        if after - before < 0.25 * _SPEED_WINDOW_S:
            return math.inf
        return float(np.max(np.abs(last - first))) / (after - before)
