"""A way across without MoveIt: every joint straight to its goal. What it may touch is checked by whoever goes it."""

from __future__ import annotations

import numpy as np

from fosp_arm.backend import Vector


class JointPlanner:
    """See ``Planner``."""

    def between(self, start: Vector, goal: Vector) -> Vector:
        """Both ends."""
        return np.array([start, goal])
