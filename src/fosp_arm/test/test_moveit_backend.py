"""What uses MoveIt, with MuJoCo standing in for MoveIt's robot model where MoveIt is not installed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import mujoco
import numpy as np
import pytest
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

import fosp_description
from fosp_arm.backend import IkError
from fosp_arm.collision import CollisionModel
from fosp_arm.controller import ArmController, Mode, Settings
from fosp_arm.homing import PlanError, plan, settle
from fosp_arm.mink_backend import MinkBackend
from fosp_core.task import ARM_JOINTS, TOOL_FRAME, WORKSPACE
from fosp_ros.errors import ConfigurationError
from fosp_ros.kinematics import Chain

REST = np.array([0.0, -0.3, 0.0, -2.4, 0.0, 2.1, 0.785])
PERIOD = 0.02
MARGIN = 0.05
FRACTION = 0.9
INSTALLED = importlib.util.find_spec("moveit") is not None
OURS = ("fosp_arm.moveit_messages", "fosp_arm.moveit_backend", "fosp_arm.moveit_planner")
"""Modules that see the stand-in."""


class RobotModel:
    """Kinematics of the URDF."""

    def __init__(self, urdf: str, srdf: str) -> None:
        if not Path(srdf).is_file():
            raise RuntimeError(f"no such file: {srdf}")
        self.model = mujoco.MjModel.from_xml_path(urdf)


class RobotState:
    """The members of ``moveit.core.robot_state.RobotState`` that are used."""

    def __init__(self, model: RobotModel) -> None:
        self.model = model.model
        self.data = mujoco.MjData(self.model)

    def set_to_default_values(self) -> None:
        self.data.qpos[:] = 0.0

    def set_joint_group_positions(self, group: str, positions: np.ndarray) -> None:
        assert group == "panda_arm"
        self.data.qpos[:] = positions

    def update(self) -> None:
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)

    def get_global_link_transform(self, link: str) -> np.ndarray:
        out = np.eye(4)
        out[:3, :3] = self.data.body(link).xmat.reshape(3, 3)
        out[:3, 3] = self.data.body(link).xpos
        return out

    def get_jacobian(self, group: str, link: str, point: np.ndarray) -> np.ndarray:
        out = np.zeros((6, 7))
        mujoco.mj_jacBody(self.model, self.data, out[:3], out[3:], self.model.body(link).id)
        return out


class PlanningScene:
    """Collides where the tool is below the objects' tops."""

    def __init__(self, model: RobotModel) -> None:
        self.objects: list[Any] = []

    def apply_collision_object(self, message: Any) -> None:
        self.objects.append(message)

    def is_state_colliding(self, state: RobotState, group: str, verbose: bool) -> bool:
        tops = [o.primitive_poses[0].position.z + 0.5 * o.primitives[0].dimensions[2] for o in self.objects]
        return bool(state.data.body(TOOL_FRAME).xpos[2] < max(tops))


class MoveItPy:
    """The members of ``moveit.planning.MoveItPy`` and of its planning component that are used."""

    made: ClassVar[list[MoveItPy]] = []
    refuses = False

    def __init__(self, node_name: str, config_dict: dict[str, Any]) -> None:
        self.config = config_dict
        self.model = RobotModel(str(fosp_description.urdf_path()), str(fosp_description.srdf_path()))
        self.scene = PlanningScene(self.model)
        self.scene.current_state = RobotState(self.model)
        self.made.append(self)

    def get_robot_model(self) -> RobotModel:
        return self.model

    def get_planning_scene_monitor(self) -> Any:
        return SimpleNamespace(read_write=lambda: contextlib.nullcontext(self.scene))

    def get_planning_component(self, group: str) -> MoveItPy:
        assert group == "panda_arm"
        return self

    def set_start_state(self, robot_state: RobotState) -> None:
        self.start = robot_state.data.qpos.copy()

    def set_goal_state(self, robot_state: RobotState) -> None:
        self.goal = robot_state.data.qpos.copy()

    def plan(self) -> Any:
        """A way of three points, with the joints in another order."""
        path = [self.start, 0.5 * (self.start + self.goal), self.goal]
        message = JointTrajectory(
            joint_names=list(ARM_JOINTS)[::-1],
            points=[JointTrajectoryPoint(positions=joints[::-1].tolist()) for joints in path],
        )
        wrapped = SimpleNamespace(joint_trajectory=message)
        return Plan(not self.refuses, SimpleNamespace(get_robot_trajectory_msg=lambda: wrapped))


class Plan:
    """``MotionPlanResponse``: true when a way was found."""

    def __init__(self, found: bool, trajectory: Any) -> None:
        self.found, self.trajectory = found, trajectory
        self.error_code = SimpleNamespace(val=1 if found else -1)

    def __bool__(self) -> bool:
        return self.found


def stand_in() -> dict[str, ModuleType]:
    """Modules of MoveIt by name."""

    def message(**defaults: Any) -> Any:
        def make(**values: Any) -> SimpleNamespace:
            return SimpleNamespace(header=SimpleNamespace(frame_id=""), **{**defaults, **values})

        return make

    collision, primitive = message(primitives=[], primitive_poses=[]), message()
    collision.ADD, primitive.BOX = b"\x00", 1
    contents: dict[str, dict[str, Any]] = {
        "moveit": {},
        "moveit.core": {},
        "moveit.core.planning_scene": {"PlanningScene": PlanningScene},
        "moveit.core.robot_model": {"RobotModel": RobotModel},
        "moveit.core.robot_state": {"RobotState": RobotState},
        "moveit.planning": {"MoveItPy": MoveItPy},
        "moveit_msgs": {},
        "moveit_msgs.msg": {"CollisionObject": collision, "ServoStatus": message()},
        "moveit_msgs.srv": {"ServoCommandType": message()},
        "shape_msgs": {},
        "shape_msgs.msg": {"SolidPrimitive": primitive},
    }
    modules = {}
    for name, members in contents.items():
        modules[name] = ModuleType(name)
        vars(modules[name]).update(members)
    return modules


@pytest.fixture(scope="module")
def module() -> Iterator[Any]:
    if INSTALLED:
        yield importlib.import_module("fosp_arm.moveit_backend")
        return
    with pytest.MonkeyPatch.context() as patch:
        for name, made in stand_in().items():
            patch.setitem(sys.modules, name, made)
        for name in OURS:
            patch.delitem(sys.modules, name, raising=False)
        yield importlib.import_module("fosp_arm.moveit_backend")
    for name in OURS:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def backend(module: Any) -> Any:
    return module.MoveItBackend(fosp_description.urdf_path(), fosp_description.srdf_path(), MARGIN, FRACTION)


def test_tool_and_limits_agree_with_the_kinematics_of_the_other_nodes(backend: Any) -> None:
    chain, rng = Chain.from_urdf(fosp_description.urdf_path()), np.random.default_rng(0)
    np.testing.assert_allclose(backend.velocity_limits, [2.175] * 4 + [2.61] * 3)
    for _ in range(10):
        q = rng.uniform(*backend.position_limits.T)
        np.testing.assert_allclose(backend.tool(q), chain.position(q), atol=1e-6)


@pytest.mark.parametrize("y", [-0.28, 0.0, 0.28])
@pytest.mark.parametrize("x", [0.32, 0.5, 0.66])
def test_reaches_the_square_with_the_gripper_down(backend: Any, x: float, y: float) -> None:
    q, target = REST.copy(), np.array([x, y, 0.05])
    for _ in range(400):
        following = backend.solve(q, target, PERIOD)
        assert np.all(np.abs(following - q) <= FRACTION * backend.velocity_limits * PERIOD + 1e-9)
        q = following
    pose = Chain.from_urdf(fosp_description.urdf_path()).pose(q)
    assert np.linalg.norm(pose[:3, 3] - target) < 0.003
    np.testing.assert_allclose(pose[:3, :3], np.diag([1.0, -1.0, -1.0]), atol=0.03)


def test_step_into_the_table_is_refused(backend: Any) -> None:
    q, below = REST.copy(), np.array([0.5, 0.0, -0.1])
    while backend.tool(q)[2] > 0.005:
        q = backend.solve(q, below, PERIOD)
    with pytest.raises(IkError, match="collides"):
        backend.solve(q, below, 0.2)


def test_controller_moves_with_it_inside_the_workspace(backend: Any) -> None:
    controller = ArmController(backend, Settings(joint_margin_rad=MARGIN, joint_speed_fraction=FRACTION))
    q, now = REST.copy(), 0.0
    for _ in range(200):
        now += PERIOD
        controller.on_joints(q, now)
        controller.on_command(np.array([0.0, 0.2, -0.1]), 0.0, now)
        output = controller.step(now)
        if output.positions is not None:
            q = output.positions
    assert controller.mode is Mode.MOVING
    assert WORKSPACE.contains(backend.tool(q) * [1, 1, 1] + [0, 0, 1e-3])


def test_description_that_cannot_be_used_is_named(module: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.urdf"):
        module.MoveItBackend(tmp_path / "absent.urdf", fosp_description.srdf_path(), MARGIN, FRACTION)
    with pytest.raises(ConfigurationError, match=r"absent\.srdf"):
        module.MoveItBackend(fosp_description.urdf_path(), tmp_path / "absent.srdf", MARGIN, FRACTION)


def test_way_home_is_planned_above_the_table_and_everything_that_may_stand_there(module: Any) -> None:
    planning = importlib.import_module("fosp_arm.moveit_planner")
    ik = MinkBackend(fosp_description.urdf_path(), MARGIN, 1.0)
    collisions = CollisionModel(fosp_description.urdf_path(), fosp_description.srdf_path())
    planner = planning.MoveItPlanner(fosp_description.urdf_path(), fosp_description.srdf_path(), 2.0)
    home = np.array([0.36, 0.0, 0.1])
    legs = plan(settle(REST, np.array([0.6, 0.2, 0.05]), ik), home, ik, planner, collisions.touching)
    np.testing.assert_allclose(ik.tool(legs[-1][-1]), home, atol=5e-3)
    if not INSTALLED:
        moveit = MoveItPy.made[-1]
        assert [thing.id for thing in moveit.scene.objects] == ["table", "workspace"]
        np.testing.assert_allclose(moveit.start, legs[0][-1])
        np.testing.assert_allclose(moveit.goal, legs[2][0])
        assert moveit.config["plan_request_params"]["planning_time"] == 2.0
        names = moveit.config["robot_description_planning"]["joint_limits"]
        assert list(names) == list(ARM_JOINTS) and names["panda_joint1"]["max_velocity"] == 2.175
        assert moveit.config["planning_pipelines"]["pipeline_names"][0] in moveit.config


@pytest.mark.skipif(INSTALLED, reason="speaks of the stand-in")
def test_way_that_moveit_does_not_find_is_refused_with_its_code(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    planning = importlib.import_module("fosp_arm.moveit_planner")
    planner = planning.MoveItPlanner(fosp_description.urdf_path(), fosp_description.srdf_path(), 2.0)
    monkeypatch.setattr(MoveItPy, "refuses", True)
    with pytest.raises(PlanError, match="MoveItErrorCodes -1"):
        planner.between(REST, REST)
