"""Inverse kinematics and collision checks by MoveIt (``moveit_py``, Jazzy or newer).

Joint steps come from the Jacobian of MoveIt's robot model; one into the table, or of the arm into itself, is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from moveit.core.planning_scene import PlanningScene
from moveit.core.robot_model import RobotModel
from moveit.core.robot_state import RobotState

from fosp_arm.backend import GRIPPER_DOWN, REST_POSTURE, IkError, Refusal, Vector
from fosp_arm.damped import damped_step, rotation_error
from fosp_arm.limits import LimitedArm
from fosp_arm.moveit_messages import table
from fosp_core.task import TOOL_FRAME
from fosp_ros.errors import ConfigurationError

GROUP: Final = "panda_arm"


class MoveItBackend(LimitedArm):
    """See ``IkBackend``."""

    def __init__(
        self, urdf: Path | str, srdf: Path | str, joint_margin_rad: float, joint_speed_fraction: float
    ) -> None:
        """Load the arm and a planning scene with the table.

        Args:
            urdf: robot description with the joints and the tool frame of the task.
            srdf: MoveIt's description of the same arm, with the group ``panda_arm``.
            joint_margin_rad: distance that joints keep from their limits.
            joint_speed_fraction: part of the joint speed limits that is used, in (0, 1].

        Raises:
            ConfigurationError: the descriptions cannot be used.
        """
        super().__init__(urdf)
        self._low = self.position_limits[:, 0] + joint_margin_rad
        self._high = self.position_limits[:, 1] - joint_margin_rad
        self._speed = joint_speed_fraction * self.velocity_limits
        try:
            model = RobotModel(str(urdf), str(srdf))
        except RuntimeError as error:
            raise ConfigurationError(f"{urdf}, {srdf}: MoveIt cannot load the robot: {error}") from error
        self._scene: Any = PlanningScene(model)
        self._scene.apply_collision_object(table())
        self._state: Any = RobotState(model)
        self._state.set_to_default_values()

    def tool(self, positions: Vector) -> Vector:
        """Tool position (3,) in metres."""
        return self._pose(positions)[:3, 3]

    def solve(self, positions: Vector, target: Vector, dt_s: float, velocity: Vector | None = None) -> Vector:
        """One damped step of differential inverse kinematics; see ``IkBackend.solve``."""
        pose = self._pose(positions)
        error = np.concatenate([target - pose[:3, 3], rotation_error(pose[:3, :3], GRIPPER_DOWN)])
        jacobian = np.asarray(self._state.get_jacobian(GROUP, TOOL_FRAME, np.zeros(3)))
        step = damped_step(jacobian, error, REST_POSTURE - positions)
        step *= min(1.0, float(np.min(self._speed * dt_s / np.maximum(np.abs(step), 1e-12))))
        # Outside of the limits already: back in is allowed, further out is not.
        solved = np.clip(positions + step, np.minimum(self._low, positions), np.maximum(self._high, positions))
        self._set(solved)
        if self._scene.is_state_colliding(self._state, GROUP, False):
            raise IkError("the next step collides", Refusal.COLLISION)
        if not np.all(np.isfinite(solved)):
            raise IkError("the solver returned values that are not finite")
        return np.asarray(solved)

    def _pose(self, positions: Vector) -> Vector:
        self._set(positions)
        return np.asarray(self._state.get_global_link_transform(TOOL_FRAME), dtype=np.float64)

    def _set(self, positions: Vector) -> None:
        self._state.set_joint_group_positions(GROUP, np.asarray(positions, dtype=np.float64))
        self._state.update()
