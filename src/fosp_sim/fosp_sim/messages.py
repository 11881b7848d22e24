"""Messages that describe a frame, whichever simulator drew it."""

from __future__ import annotations

from typing import Final

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo

from fosp_core import task
from fosp_interfaces.msg import TaskState
from fosp_sim.session import FrameState
from fosp_sim.world import Intrinsics

CAMERA_FRAME: Final = "camera_optical_frame"


def task_state(state: FrameState, stamp: Time) -> TaskState:
    """State of the task at a frame with this stamp."""
    message = TaskState()
    message.header.stamp = stamp
    message.header.frame_id = task.BASE_FRAME
    message.phase = int(state.phase)
    message.tool, message.goal = _point(state.tool), _point(state.goal)
    for name in ("episode_id", "scene", "seed", "step", "is_first", "distance", "clearance", "reward", "cost"):
        setattr(message, name, getattr(state, name))
    for name in ("cost_reason", "reached", "truncated", "violated"):
        setattr(message, name, getattr(state, name))
    return message


def _point(position: NDArray[np.float64]) -> Point:
    x, y, z = (float(v) for v in position)
    return Point(x=x, y=y, z=z)


def camera_info(camera: Intrinsics, stamp: Time) -> CameraInfo:
    """An ideal camera's calibration."""
    message = CameraInfo(width=camera.width, height=camera.height, distortion_model="plumb_bob", d=[0.0] * 5)
    message.header.stamp = stamp
    message.header.frame_id = CAMERA_FRAME
    message.k = [camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [camera.fx, 0.0, camera.cx, 0.0, 0.0, camera.fy, camera.cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message
