"""Policy, safety monitor and episodes."""

from __future__ import annotations

from fosp_bringup import launching
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """The nodes of this role."""
    return launching.description(["policy"])
