"""A way across by MoveIt (``moveit_py``, Jazzy or newer): OMPL in a planning scene with the table and the workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from moveit.core.robot_state import RobotState
from moveit.planning import MoveItPy

from fosp_arm.backend import Vector
from fosp_arm.homing import PlanError
from fosp_arm.limits import read_limits
from fosp_arm.moveit_backend import GROUP
from fosp_arm.moveit_messages import box, table
from fosp_core.task import ARM_JOINTS, WORKSPACE
from fosp_ros.errors import ConfigurationError

OBSTACLE_HEIGHT_M: Final = 0.2
"""What stands on the table is not known; everything up to here counts as occupied."""
ACCELERATION_RAD_S2: Final = 2.0
_OMPL: Final = {
    "planning_plugins": ["ompl_interface/OMPLPlanner"],
    "request_adapters": [
        "default_planning_request_adapters/ResolveConstraintFrames",
        "default_planning_request_adapters/ValidateWorkspaceBounds",
        "default_planning_request_adapters/CheckStartStateBounds",
        "default_planning_request_adapters/CheckStartStateCollision",
    ],
    # Time is not MoveIt's business here.
    "response_adapters": ["default_planning_response_adapters/ValidateSolution"],
}


class MoveItPlanner:
    """See ``Planner``."""

    def __init__(self, urdf: Path | str, srdf: Path | str, planning_s: float) -> None:
        """Start MoveIt in this process.

        Args:
            urdf: robot description.
            srdf: MoveIt's description of the same arm, with the group ``panda_arm``.
            planning_s: longest time for one plan, seconds.

        Raises:
            ConfigurationError: MoveIt does not accept the descriptions.
        """
        try:
            self._moveit: Any = MoveItPy(
                node_name="homing_planner", config_dict=configuration(Path(urdf), Path(srdf), planning_s)
            )
            self._group: Any = self._moveit.get_planning_component(GROUP)
        except RuntimeError as error:
            raise ConfigurationError(f"{urdf}, {srdf}: MoveIt does not start: {error}") from error
        with self._moveit.get_planning_scene_monitor().read_write() as scene:
            for thing in (table(), occupied()):
                scene.apply_collision_object(thing)
            scene.current_state.update()

    def between(self, start: Vector, goal: Vector) -> Vector:
        """A plan by OMPL; see ``Planner.between``."""
        self._group.set_start_state(robot_state=self._state(start))
        self._group.set_goal_state(robot_state=self._state(goal))
        found = self._group.plan()
        if not found:
            raise PlanError(f"MoveIt found no way (MoveItErrorCodes {found.error_code.val})")
        trajectory = found.trajectory.get_robot_trajectory_msg().joint_trajectory
        try:
            order = [list(trajectory.joint_names).index(name) for name in ARM_JOINTS]
        except ValueError as error:
            raise PlanError(f"MoveIt planned for other joints: {error}") from error
        path = np.array([[point.positions[i] for i in order] for point in trajectory.points])
        # The ends are exact, whatever tolerance MoveIt plans with.
        return np.concatenate([[start], path, [goal]])

    def _state(self, joints: Vector) -> Any:
        state = RobotState(self._moveit.get_robot_model())
        state.set_joint_group_positions(GROUP, np.asarray(joints, dtype=np.float64))
        state.update()
        return state


def occupied() -> Any:
    """The square of the workspace up to the height of what may stand there."""
    low, high = WORKSPACE.low, WORKSPACE.high
    size = (high[0] - low[0], high[1] - low[1], OBSTACLE_HEIGHT_M)
    centre = (0.5 * (low[0] + high[0]), 0.5 * (low[1] + high[1]), 0.5 * OBSTACLE_HEIGHT_M)
    return box("workspace", size, centre)


def configuration(urdf: Path, srdf: Path, planning_s: float) -> dict[str, Any]:
    """Parameters of MoveIt's node."""
    speeds = dict(zip(ARM_JOINTS, read_limits(urdf).speeds.tolist(), strict=True))
    limits = {
        name: {
            "has_velocity_limits": True,
            "max_velocity": speed,
            "has_acceleration_limits": True,
            "max_acceleration": ACCELERATION_RAD_S2,
        }
        for name, speed in speeds.items()
    }
    return {
        "robot_description": urdf.read_text(encoding="utf-8"),
        "robot_description_semantic": srdf.read_text(encoding="utf-8"),
        "robot_description_planning": {"joint_limits": limits},
        "planning_scene_monitor_options": {
            "name": "planning_scene_monitor",
            "robot_description": "robot_description",
            "wait_for_initial_state_timeout": 0.0,
        },
        "planning_pipelines": {"pipeline_names": ["ompl"]},
        "ompl": _OMPL,
        "plan_request_params": {
            "planning_pipeline": "ompl",
            "planning_time": planning_s,
            "planning_attempts": 5,
            "max_velocity_scaling_factor": 1.0,
            "max_acceleration_scaling_factor": 1.0,
        },
    }
