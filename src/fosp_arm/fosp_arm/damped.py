"""Differential inverse kinematics by damped least squares, on a Jacobian that somebody else computes."""

from __future__ import annotations

import numpy as np

from fosp_arm.backend import Vector

DAMPING = 0.02
POSTURE_GAIN = 0.02
"""Part of the way to the preferred posture that is gone in one step, as far as the tool allows."""


def rotation_error(rotation: Vector, wanted: Vector) -> Vector:
    """Small rotation vector (3,) from ``rotation`` to ``wanted`` (3, 3), in the base frame.

    Half the sum of the cross products of the axes (Luh, Walker and Paul, 1980): zero when they agree, right to first
    order.
    """
    return np.asarray(0.5 * np.cross(rotation.T, wanted.T).sum(axis=0))


def damped_step(jacobian: Vector, error: Vector, posture: Vector) -> Vector:
    """Joint step (N,) for a tool error (6,) of position and rotation, drawn by ``posture`` (N,) where the tool is free.

    Damped least squares (Nakamura and Hanafusa, 1986) about the step towards the posture.
    """
    square = jacobian @ jacobian.T + DAMPING**2 * np.eye(len(error))
    pull = POSTURE_GAIN * posture
    return np.asarray(pull + jacobian.T @ np.linalg.solve(square, error - jacobian @ pull))
