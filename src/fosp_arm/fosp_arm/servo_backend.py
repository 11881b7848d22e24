"""Inverse kinematics by MoveIt Servo: twists go to ``servo_node``, its joint positions come back.

Needs ``moveit_msgs``. What Servo computes goes to a topic of this project and through the arm node, which keeps its
limits, its watchdog and its hold whatever Servo does; the robot's controller has one publisher.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from geometry_msgs.msg import TwistStamped
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory

from fosp_arm.backend import GRIPPER_DOWN, Vector
from fosp_arm.damped import rotation_error
from fosp_arm.limits import LimitedArm
from fosp_arm.moveit_messages import CollisionObject, ServoCommandType, ServoStatus, table
from fosp_arm.servo import TWIST, ServoFollower
from fosp_core.task import ARM_JOINTS, BASE_FRAME
from fosp_ros import names, qos
from fosp_ros.kinematics import Chain
from fosp_ros.polling import PolledSubscription

POSITION_GAIN: Final = 1.0
"""1/s: what is left of a difference between tool and target is gone after about a second. Servo answers a period or two
late, so that a part of the difference is always still under way."""
ROTATION_GAIN: Final = 2.0
"""1/s."""
_TEND_S: Final = 0.1


class ServoBackend(LimitedArm):
    """See ``IkBackend``."""

    def __init__(self, node: Node, urdf: Path | str) -> None:
        """Listen to Servo and talk to it through ``node``.

        Raises:
            ConfigurationError: the URDF cannot be used.
        """
        super().__init__(urdf)
        self._chain = Chain.from_urdf(urdf)
        self._node = node
        self._follower = ServoFollower()
        self._lock = threading.Lock()  # guards the follower
        self._twists = node.create_publisher(TwistStamped, names.SERVO_TWIST, qos.TRAJECTORY)
        self._scene = node.create_publisher(CollisionObject, names.COLLISION_OBJECT, qos.TASK_STATE)
        self._statuses = PolledSubscription(node, ServoStatus, names.SERVO_STATUS, qos.TASK_STATE)
        self._targets = PolledSubscription(node, JointTrajectory, names.SERVO_TRAJECTORY, qos.TRAJECTORY)
        self._command_type = node.create_client(ServoCommandType, names.SERVO_COMMAND_TYPE)
        # Also while the clock of a simulation stands still.
        node.create_timer(_TEND_S, self._tend, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def tool(self, positions: Vector) -> Vector:
        """Tool position (3,) in metres."""
        return self._chain.position(positions)

    def solve(self, positions: Vector, target: Vector, dt_s: float, velocity: Vector | None = None) -> Vector:
        """Tell Servo the twist of this step and give what it has computed so far; see ``IkBackend.solve``."""
        pose = self._chain.pose(positions)
        error = target - pose[:3, 3]
        linear = error / dt_s if velocity is None else velocity + POSITION_GAIN * error
        angular = ROTATION_GAIN * rotation_error(pose[:3, :3], GRIPPER_DOWN)
        message = TwistStamped()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.header.frame_id = BASE_FRAME
        message.twist.linear.x, message.twist.linear.y, message.twist.linear.z = (float(v) for v in linear)
        message.twist.angular.x, message.twist.angular.y, message.twist.angular.z = (float(v) for v in angular)
        self._twists.publish(message)
        with self._lock:
            now = self._listen()
            return self._follower.follow(positions, now)

    def _listen(self) -> float:
        """Take in what has arrived; the time of that."""
        now = time.monotonic()
        for status in self._statuses.take():
            self._follower.on_status(int(status.code), now)
        for trajectory in self._targets.take():
            wanted = last_positions(trajectory)
            if wanted is not None:
                self._follower.on_target(wanted, now)
        return now

    def _tend(self) -> None:
        """See to it that Servo knows the table and takes twists."""
        with self._lock:
            now = self._listen()
            # Nothing moves before the table is known.
            reachable = self._command_type.service_is_ready() and self._scene.get_subscription_count() > 0
            if not reachable or not self._follower.needs_command_type(now):
                return
        self._scene.publish(table())
        request = ServoCommandType.Request(command_type=TWIST)
        self._command_type.call_async(request).add_done_callback(self._on_command_type)

    def _on_command_type(self, future: Any) -> None:
        with self._lock:
            self._follower.on_command_type(bool(future.result().success))


def last_positions(trajectory: JointTrajectory) -> Vector | None:
    """Joint positions (7,), rad, at the end of a trajectory; None when it does not have them all, finite."""
    if not trajectory.points:
        return None
    found = dict(zip(trajectory.joint_names, trajectory.points[-1].positions, strict=False))
    values = np.array([found.get(name, np.nan) for name in ARM_JOINTS], dtype=np.float64)
    return values if np.all(np.isfinite(values)) else None
