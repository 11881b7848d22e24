"""From a camera message to what a model needs: pixels, tool position, and whether an episode starts."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState

import fosp_description
from fosp_core.images import Image as RgbImage
from fosp_core.images import crop_resize
from fosp_interfaces.msg import TaskState
from fosp_ros import names, qos
from fosp_ros.images import from_message
from fosp_ros.kinematics import Chain
from fosp_ros.messages import joint_positions
from fosp_ros.polling import PolledSubscription
from fosp_ros.stamps import to_nanoseconds
from fosp_ros.tracking import EpisodeTracker, TaskStates, ToolTracker

TASK_WAIT_S = 0.02
"""The task's state of a frame normally arrives before the frame; waited for no longer than this."""


@dataclass(frozen=True)
class ModelFrame:
    """One camera frame, ready for ``PolicyRuntime.step``."""

    stamp_ns: int
    image: RgbImage  # (S, S, 3)
    digest: int
    tool: NDArray[np.float64]  # (3,) metres
    state: TaskState | None
    is_first: bool

    @property
    def running(self) -> bool:
        """Whether an episode is running at this frame."""
        return self.state is not None and self.state.phase == TaskState.RUNNING

    @property
    def others_may_move(self) -> bool:
        """Whether the arm may have been moved by others than the policy: a scene was laid out, or there is no task."""
        return self.is_first or self.state is None or self.state.phase not in (TaskState.RUNNING, TaskState.ENDED)


class FrameReader:
    """Joins camera frames with joint states and the task's state. ``read`` belongs to one thread."""

    def __init__(self, node: Node, joint_tolerance_s: float) -> None:
        self._joints = PolledSubscription(node, JointState, names.JOINT_STATES, qos.JOINT_STATES)
        self._tools = ToolTracker(Chain.from_urdf(fosp_description.urdf_path()), joint_tolerance_s)
        self._episodes = EpisodeTracker()
        self._tasks = TaskStates(PolledSubscription(node, TaskState, names.TASK_STATE, qos.TASK_STATE).take)

    @property
    def running(self) -> bool:
        """Whether an episode is running, as far as is known."""
        latest = self._tasks.latest
        return latest is not None and latest.phase == TaskState.RUNNING

    def read(self, message: Image, size: int) -> ModelFrame:
        """Make a frame of a message.

        Raises:
            ImageError: an image that cannot be used.
            MessageError: no joint states at its time.
        """
        image = crop_resize(from_message(message), size)
        for joints in self._joints.take():
            self._tools.add(to_nanoseconds(joints.header.stamp), joint_positions(joints))
        stamp_ns = to_nanoseconds(message.header.stamp)
        tool = self._tools.at(stamp_ns)
        state = self._tasks.of_frame(stamp_ns, TASK_WAIT_S)
        is_first = state is not None and self._episodes.is_first(state)
        return ModelFrame(stamp_ns, image, zlib.crc32(image.tobytes()), tool, state, is_first)
