"""Joint targets as the robot's controller takes them."""

from __future__ import annotations

from rclpy.duration import Duration
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from fosp_arm.backend import Vector
from fosp_core.task import ARM_JOINTS


def target(positions: Vector, within_s: float) -> JointTrajectory:
    """The message that sends the arm to joint positions (7,), rad, beginning now."""
    point = JointTrajectoryPoint(positions=positions.tolist())
    point.time_from_start = Duration(seconds=within_s).to_msg()
    # A stamp of zero means: begin now.
    return JointTrajectory(joint_names=list(ARM_JOINTS), points=[point])
