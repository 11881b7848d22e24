"""Quality of service of every topic; publishers and subscribers take it from here, so that they always match."""

from __future__ import annotations

from typing import Final

from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _profile(
    reliability: ReliabilityPolicy,
    depth: int,
    durability: DurabilityPolicy = DurabilityPolicy.VOLATILE,
    deadline_s: float | None = None,
) -> QoSProfile:
    profile = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability)
    if deadline_s is not None:
        profile.deadline = Duration(seconds=deadline_s)
    return profile


COMMAND_DEADLINE_S: Final = 0.2

IMAGE: Final = _profile(ReliabilityPolicy.BEST_EFFORT, 1)
"""Images and camera_info: sensor data, newest only."""

JOINT_STATES: Final = _profile(ReliabilityPolicy.BEST_EFFORT, 1)
"""Joint states: sensor data, newest only."""

DECISION: Final = _profile(ReliabilityPolicy.RELIABLE, 1)
COMMAND: Final = _profile(ReliabilityPolicy.RELIABLE, 1, deadline_s=COMMAND_DEADLINE_S)
TRAJECTORY: Final = _profile(ReliabilityPolicy.RELIABLE, 1)
STATUS: Final = _profile(ReliabilityPolicy.RELIABLE, 1, DurabilityPolicy.TRANSIENT_LOCAL)
STATUS_HISTORY: Final = _profile(ReliabilityPolicy.RELIABLE, 20)
"""Safety status for subscribers that must not miss one between two readings."""
TASK_STATE: Final = _profile(ReliabilityPolicy.RELIABLE, 10)
DIAGNOSTICS: Final = _profile(ReliabilityPolicy.RELIABLE, 10)
