"""Operators' tools: RViz with the menu, and the web page."""

from __future__ import annotations

from fosp_bringup import launching
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """The nodes of this role."""
    return launching.description(["operators"], console="true")
