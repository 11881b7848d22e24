"""The SafeReach robot arm: one URDF that every simulator and solver loads."""

from __future__ import annotations

from pathlib import Path

URDF_NAME = "panda_safereach.urdf"


def urdf_path() -> Path:
    """Path of the arm's URDF (Panda kinematics, joint names and limits; primitive shapes)."""
    return Path(__file__).resolve().parent / "urdf" / URDF_NAME
