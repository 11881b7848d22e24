"""The whole graph: ``ros2 launch fosp_bringup safereach.launch.py sim:=mujoco``."""

from __future__ import annotations

from fosp_bringup import launching
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Every node that the arguments ask for."""
    return launching.description()
