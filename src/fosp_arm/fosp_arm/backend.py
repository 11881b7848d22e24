"""What the arm controller needs of an inverse kinematics; one implementation a file."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

GRIPPER_DOWN = np.diag([1.0, -1.0, -1.0])
"""Orientation of the tool: z down, x along the base frame's x."""

REST_POSTURE = np.array([0.0, -0.3, 0.0, -2.4, 0.0, 2.1, 0.785])
"""Posture, rad, that the one redundant joint is drawn to; the tool hangs over the middle of the workspace."""


class Refusal(Enum):
    """Why there is no joint motion."""

    NO_SOLUTION = "no solution"
    COLLISION = "collision"
    SINGULARITY = "singularity"
    JOINT_LIMIT = "joint limit"
    NOT_READY = "not ready"


class IkError(Exception):
    """No joint motion was found; the arm must hold."""

    def __init__(self, message: str, refusal: Refusal = Refusal.NO_SOLUTION) -> None:
        super().__init__(message)
        self.refusal = refusal


class IkBackend(Protocol):
    """Differential inverse kinematics of one arm. Used by one thread."""

    @property
    def position_limits(self) -> Vector:
        """(N, 2) lowest and highest joint positions, rad, as the URDF has them."""

    @property
    def velocity_limits(self) -> Vector:
        """(N,) joint speeds, rad/s, as the URDF has them."""

    def tool(self, positions: Vector) -> Vector:
        """Tool position (3,) in metres in the base frame for joint positions (N,)."""

    def solve(self, positions: Vector, target: Vector, dt_s: float, velocity: Vector | None = None) -> Vector:
        """Joint positions (N,) that bring the tool from ``positions`` towards ``target`` (3,) within ``dt_s``.

        The gripper is kept, or brought back to, pointing down. ``velocity`` (3,), m/s, is that of the set-point in this
        step, for a solver that runs beside the control loop; None: that of the way to the target.

        Raises:
            IkError: no solution.
        """
