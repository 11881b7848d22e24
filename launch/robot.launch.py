"""The arm node and, with camera:=, the camera node of a real robot."""

from __future__ import annotations

from fosp_bringup import launching
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """The nodes of this role."""
    return launching.description(["robot"], sim="none")
