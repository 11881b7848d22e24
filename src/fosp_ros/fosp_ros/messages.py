"""Validation of messages: what passes here is finite, complete and in the expected order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from geometry_msgs.msg import TwistStamped
from numpy.typing import NDArray
from sensor_msgs.msg import JointState

from fosp_core.task import ARM_JOINTS, BASE_FRAME
from fosp_ros.errors import MessageError

Vector = NDArray[np.float64]


def joint_positions(message: JointState, joints: Sequence[str] = ARM_JOINTS) -> Vector:
    """Positions in radians of ``joints``, in that order, whatever the order in the message.

    Raises:
        MessageError: a joint is missing, names and positions differ in number, or a value is not finite.
    """
    names, positions = message.name, message.position
    if len(names) != len(positions):
        raise MessageError(f"joint state names {len(names)} joints but holds {len(positions)} positions")
    index = {name: i for i, name in enumerate(names)}
    missing = [name for name in joints if name not in index]
    if missing:
        raise MessageError(f"joint state lacks {', '.join(missing)}")
    values = np.array([positions[index[name]] for name in joints], dtype=np.float64)
    if not np.all(np.isfinite(values)):
        bad = [name for name, value in zip(joints, values, strict=True) if not np.isfinite(value)]
        raise MessageError(f"joint state holds a position that is not finite: {', '.join(bad)}")
    return values


def linear_velocity(message: TwistStamped) -> Vector:
    """Linear velocity (3,) in m/s of a twist in the base frame.

    Raises:
        MessageError: another frame, a value that is not finite, or a rotation (the tool only translates).
    """
    if message.header.frame_id != BASE_FRAME:
        raise MessageError(f"twist is given in frame {message.header.frame_id!r}, expected {BASE_FRAME!r}")
    linear, angular = message.twist.linear, message.twist.angular
    values = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
    if not np.all(np.isfinite(values)):
        raise MessageError("twist holds a value that is not finite")
    if np.any(values[3:]):
        raise MessageError("twist asks for a rotation; the tool only translates")
    return values[:3]


def twist(linear: NDArray[np.floating]) -> TwistStamped:
    """Twist message in the base frame from a linear velocity (3,) in m/s; the stamp is left to the caller."""
    message = TwistStamped()
    message.header.frame_id = BASE_FRAME
    message.twist.linear.x, message.twist.linear.y, message.twist.linear.z = (float(v) for v in linear)
    return message
