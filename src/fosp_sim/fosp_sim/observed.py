"""A world that another simulator moves: what the task rules ask of it, from what that simulator reports. No ROS."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fosp_core import task
from fosp_sim.layout import MAX_OBSTACLES, Array, Layout
from fosp_sim.world import FALLEN_COSINE, ArmKinematics

OBSTACLES: Final = tuple(f"obstacle{i}" for i in range(MAX_OBSTACLES))
"""Names of the obstacles, in the order of a layout's."""
CLEAR_HEIGHT_M: Final = 0.25
"""Tool height above everything that stands on the table."""
LIFT_S: Final = 1.5
TRAVEL_S: Final = 2.0


class ObservedWorld:
    """See ``TaskWorld``. Feed it with ``on_joints``, ``on_pose`` and ``on_contact``."""

    def __init__(self, arm: str) -> None:
        """``arm``: name of the arm's model, as contacts name it."""
        self._arm = arm
        self._kinematics = ArmKinematics()
        self._joints: Array | None = None
        self._tool = np.full(3, np.nan)
        self._axes: dict[str, Array] = {}
        self._upright: dict[str, Array] = {}
        self._touched = self._touching = False

    @property
    def ready(self) -> bool:
        """Whether the arm and every obstacle of the layout have been heard of since the reset."""
        return self._joints is not None and all(name in self._axes for name in self._upright)

    @property
    def joints(self) -> Array | None:
        """Newest joint positions (7,), rad."""
        return self._joints

    @property
    def tool(self) -> Array:
        """Tool position (3,) in metres; NaN before joint positions are known."""
        return self._tool

    def on_joints(self, positions: Array) -> None:
        """Joint positions (7,), rad."""
        self._joints = positions
        self._tool = self._kinematics.tool(positions)

    def on_pose(self, name: str, quaternion: Array) -> None:
        """Orientation (w, x, y, z) of an obstacle."""
        self._axes[name] = _own_z(quaternion)

    def on_contact(self, first: str, second: str) -> None:
        """Two collision shapes that touch, by their scoped names (``model::link::collision``)."""
        models = {name.split("::", 1)[0] for name in (first, second)}
        if self._arm in models and models & set(self._upright):
            self._touched = True

    def reset(self, layout: Layout) -> None:
        """Begin to observe a layout."""
        self._upright = {name: _own_z(item.pose()[3:]) for name, item in zip(OBSTACLES, layout.obstacles, strict=False)}
        self._axes = {}
        self._touched = self._touching = False

    def set_joint_targets(self, joints: Array) -> None:
        """Nothing: the arm's controller has the targets from the arm node."""

    def step(self, count: int) -> None:
        """Close one control step: ``touching`` is about what was reported since the last one."""
        self._touching, self._touched = self._touched, False

    def refresh(self) -> None:
        """Nothing: poses are as reported."""

    def touching(self) -> bool:
        """Whether arm or hand touched an obstacle in the last control step."""
        return self._touching

    def fallen(self) -> NDArray[np.bool_]:
        """Which obstacles (3,) lean more than 30 degrees from how they were put down."""
        return np.array(
            [
                name in self._upright and name in self._axes and self._axes[name] @ self._upright[name] < FALLEN_COSINE
                for name in OBSTACLES
            ]
        )

    def clearance(self, limit: float = math.nan) -> float:
        """Not measured."""
        return math.nan

    def homing(self, start: Array) -> list[tuple[Array, float]]:
        """Joint positions (7,) and seconds from now on the way to ``start`` (3,): up, across, down.

        Raises:
            ValueError: the start is out of reach, or joint positions are not known.
        """
        if self._joints is None:
            raise ValueError("joint positions are not known")
        box = task.WORKSPACE
        above = [np.array([*box.clip(self._tool)[:2], CLEAR_HEIGHT_M]), np.array([*start[:2], CLEAR_HEIGHT_M])]
        way: list[tuple[Array, float]] = []
        joints, at_s = self._joints, 0.0
        for position, seconds in ((above[0], LIFT_S), (above[1], TRAVEL_S), (np.asarray(start), LIFT_S)):
            joints = self._kinematics.solve(joints, position, iterations=60)
            at_s += seconds
            way.append((joints, at_s))
        error = float(np.linalg.norm(self._kinematics.tool(joints) - start))
        if error > 2e-3:
            raise ValueError(f"start {tuple(start)} is out of reach by {error:.3f} m")
        return way


def _own_z(quaternion: Array) -> Array:
    """The z axis (3,) of a frame with this orientation."""
    w, x, y, z = quaternion
    return np.array([2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y)])
