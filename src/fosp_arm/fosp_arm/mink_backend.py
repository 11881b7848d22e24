"""Inverse kinematics by mink (quadratic programming on MuJoCo's kinematics of the URDF)."""

from __future__ import annotations

from pathlib import Path

import mink
import mujoco
import numpy as np

from fosp_arm.backend import GRIPPER_DOWN, REST_POSTURE, IkError, Vector
from fosp_arm.limits import LimitedArm
from fosp_core.task import ARM_JOINTS, TOOL_FRAME
from fosp_ros.errors import ConfigurationError

_SOLVER = "daqp"
_ORIENTATION_COST = 0.5
_POSTURE_COST = 2e-3
_DAMPING = 1e-6


class MinkBackend(LimitedArm):
    """See ``IkBackend``."""

    def __init__(
        self,
        urdf: Path | str,
        joint_margin_rad: float,
        joint_speed_fraction: float,
        posture: Vector = REST_POSTURE,
    ) -> None:
        """Load the arm.

        Args:
            urdf: robot description with the joints and the tool frame of the task.
            joint_margin_rad: distance that joints keep from their limits.
            joint_speed_fraction: part of the joint speed limits that is used, in (0, 1].
            posture: (7,) rad.

        Raises:
            ConfigurationError: the URDF cannot be used.
        """
        # Before MuJoCo, which makes do with a joint that has none.
        super().__init__(urdf)
        try:
            model = mujoco.MjModel.from_xml_path(str(urdf))
        except ValueError as error:
            raise ConfigurationError(f"{urdf}: cannot load the robot: {error}") from error
        names = [model.joint(i).name for i in range(model.njnt)]
        if names != list(ARM_JOINTS):
            raise ConfigurationError(f"{urdf}: joints are {', '.join(names)}; expected {', '.join(ARM_JOINTS)}")
        self._configuration = mink.Configuration(model)
        self._tool_body = model.body(TOOL_FRAME).id
        self._tool_task = mink.FrameTask(
            TOOL_FRAME, "body", position_cost=1.0, orientation_cost=_ORIENTATION_COST, lm_damping=1e-4
        )
        posture_task = mink.PostureTask(model, cost=_POSTURE_COST)
        posture_task.set_target(np.asarray(posture, dtype=np.float64))
        self._tasks = [self._tool_task, posture_task]
        speeds = dict(zip(ARM_JOINTS, joint_speed_fraction * self.velocity_limits, strict=True))
        self._limits = [
            mink.ConfigurationLimit(model, gain=0.5, min_distance_from_limits=joint_margin_rad),
            mink.VelocityLimit(model, speeds),
        ]
        self._down = mink.SO3.from_matrix(GRIPPER_DOWN)

    def tool(self, positions: Vector) -> Vector:
        """Tool position (3,) in metres."""
        self._configuration.update(positions)
        return np.array(self._configuration.data.xpos[self._tool_body])

    def solve(self, positions: Vector, target: Vector, dt_s: float, velocity: Vector | None = None) -> Vector:
        """One step of differential inverse kinematics; see ``IkBackend.solve``."""
        self._configuration.update(positions)
        self._tool_task.set_target(mink.SE3.from_rotation_and_translation(self._down, target))
        try:
            velocity = mink.solve_ik(
                self._configuration, self._tasks, dt_s, _SOLVER, damping=_DAMPING, limits=self._limits
            )
        except mink.NoSolutionFound as error:
            raise IkError("no joint motion within the limits reaches the target") from error
        if not np.all(np.isfinite(velocity)):
            raise IkError("the solver returned values that are not finite")
        return np.asarray(positions + velocity * dt_s)
