"""The robot description that MuJoCo, mink, Gazebo and RViz share."""

from __future__ import annotations

from pathlib import Path

__all__ = ["srdf_path", "urdf_path"]


def urdf_path() -> Path:
    """Path of the one URDF of the arm, hand and tool frame (``panda_link0`` to ``panda_hand_tcp``)."""
    return Path(__file__).resolve().parent / "urdf" / "panda_safereach.urdf"


def srdf_path() -> Path:
    """Path of MoveIt's description of the same arm: group ``panda_arm``, postures, links that never collide."""
    return urdf_path().with_suffix(".srdf")
