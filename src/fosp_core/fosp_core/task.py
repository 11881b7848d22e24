"""SafeReach as numbers that every part shares: frames, limits, rates, scene names.

All positions are metres in ``panda_link0``; the tool is ``panda_hand_tcp``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

TASK: Final = "safereach"
BASE_FRAME: Final = "panda_link0"
TOOL_FRAME: Final = "panda_hand_tcp"
ARM_JOINTS: Final = tuple(f"panda_joint{i}" for i in range(1, 8))

CONTROL_HZ: Final = 10.0
CONTROL_PERIOD_S: Final = 1.0 / CONTROL_HZ
COMMAND_HZ: Final = 50.0
MAX_STEPS: Final = 80
REACH_RADIUS_M: Final = 0.04
REACH_BONUS: Final = 5.0
REWARD_PER_METRE: Final = 10.0

ACTION_LENGTH: Final = 3
PROPRIO_LENGTH: Final = 3
IMAGE_SIZE: Final = 64
ACTION_SCALE_M: Final = 0.03
TOOL_SPEED_LIMIT: Final = 0.25
"""Metres per second, along any direction."""
TOOL_LEAD_M: Final = 0.03
"""How far the tool's set-point may run ahead of the measured tool."""

TRAIN_SCENES: Final = ("standard", "varied")
"""``varied``: other sizes and shades, and one obstacle or two, so that no one look is learned by heart."""
TRANSFER_SCENES: Final = ("obstacle_shape", "goal_shape", "obstacle_count", "new_objects")
SCENES: Final = (
    "standard", *TRANSFER_SCENES, "colors", "camera_shift", "clutter", "moving_obstacle", "lights_off", "varied",
    "hand", "blur", "wide_gripper",
)  # fmt: skip
"""Layouts depend on a scene's place in this order: new ones go last."""
SHIFTED_SCENES: Final = tuple(scene for scene in SCENES if scene not in (*TRAIN_SCENES, *TRANSFER_SCENES))


@dataclass(frozen=True)
class Box:
    """Axis-aligned box in metres."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def contains(self, point: NDArray[np.floating]) -> bool:
        """Whether a finite point (3,) lies inside or on the boundary."""
        p = np.asarray(point, dtype=np.float64)
        return bool(np.all(np.isfinite(p)) and np.all(p >= self.low) and np.all(p <= self.high))

    def clip(self, point: NDArray[np.floating]) -> NDArray[np.float64]:
        """Nearest point (3,) inside the box."""
        return np.clip(np.asarray(point, dtype=np.float64), self.low, self.high)


WORKSPACE: Final = Box(low=(0.2, -0.3, 0.03), high=(0.8, 0.3, 0.16))
"""The white square, and the heights the tool keeps to."""

TABLE_CELLS: Final = 32
TABLE_CELL_M: Final = 0.02
TABLE_LOW: Final = (0.18, -0.32)
"""Maps of the table: square, ``TABLE_CELLS`` cells a side, index [i, j] along x and y, the corner of cell [0, 0] at
``TABLE_LOW``. They reach 2 cm beyond the white square.
"""

CAMERA_POSITION: Final = (1.15, 0.0, 0.85)
CAMERA_TARGET: Final = (0.50, 0.0, 0.03)
CAMERA_FOVY_DEG: Final = 42.0
"""The training view: a level camera opposite the robot that has the target in the middle of its picture."""

SEED_RANGES: Final = {
    "evaluation": (0, 1_000_000),
    "calibration": (1_000_000, 2_000_000),
    "data": (2_000_000, 100_000_000),
}
"""Half-open ranges of layout seeds; disjoint, so that nothing is judged on what it was trained on."""


def limited_displacement(action: NDArray[np.floating]) -> NDArray[np.float64]:
    """Tool displacement in metres over one control period for an action (3,) in [-1, 1].

    Each axis moves by at most ``ACTION_SCALE_M``; the vector is shortened, keeping its direction, so that the
    tool never exceeds ``TOOL_SPEED_LIMIT``.
    """
    displacement = ACTION_SCALE_M * np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
    limit = TOOL_SPEED_LIMIT * CONTROL_PERIOD_S
    length = float(np.linalg.norm(displacement))
    return displacement if length <= limit else displacement * (limit / length)


def action_to_twist(action: NDArray[np.floating]) -> NDArray[np.float64]:
    """Linear tool velocity (3,) in m/s for an action (3,) in [-1, 1]."""
    return limited_displacement(action) / CONTROL_PERIOD_S


def check_scene(name: str) -> str:
    """Return ``name`` or raise ``ValueError`` that lists the known scenes."""
    if name not in SCENES:
        raise ValueError(f"unknown scene {name!r}; known scenes: {', '.join(SCENES)}")
    return name


def data_seed(index: int) -> int:
    """Layout seed number ``index`` (>= 0) for data collection, disjoint from evaluation and calibration."""
    return _seed("data", index)


def calibration_seed(index: int) -> int:
    """Layout seed number ``index`` (>= 0) for calibration."""
    return _seed("calibration", index)


def evaluation_seed(index: int) -> int:
    """Layout seed number ``index`` (>= 0) for evaluation."""
    return _seed("evaluation", index)


def _seed(purpose: str, index: int) -> int:
    low, high = SEED_RANGES[purpose]
    if not 0 <= index < high - low:
        raise ValueError(f"{purpose} seed index {index} is outside [0, {high - low})")
    return low + index
