"""The configuration of MoveIt Servo fits the arm, the task and the arm node."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import yaml

import fosp_description
from fosp_arm import arm_node
from fosp_arm.backend import REST_POSTURE
from fosp_arm.mink_backend import MinkBackend
from fosp_bringup.graph import Arguments, nodes, parameters_yaml
from fosp_core.task import TOOL_FRAME, TOOL_SPEED_LIMIT, WORKSPACE
from fosp_ros import names
from fosp_sim.layout import REACH_RADIUS_MAX, REACH_RADIUS_MIN


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    text = (Path(__file__).parents[1] / "config" / "servo.yaml").read_text()
    return dict(yaml.safe_load(text)["moveit_servo"])


def default(name: str) -> Any:
    return next(p.default for p in arm_node.PARAMETERS if p.name == name)


def test_servo_runs_beside_the_arm_node_with_both_descriptions_and_is_started_again() -> None:
    specs = nodes(Arguments(arm_backend="servo", use_sim_time=True))
    servo = next(spec for spec in specs if spec.name == names.SERVO_NODE)
    arm = next(spec for spec in specs if spec.name == names.ARM_NODE)
    assert (servo.package, servo.executable, servo.role, servo.respawn) == ("moveit_servo", "servo_node", "robot", True)
    assert arm.parameters["backend"] == "servo" and servo.parameters["use_sim_time"] is True
    for name in ("robot_description", "robot_description_semantic"):
        assert ElementTree.fromstring(servo.parameters[name]).get("name") == "panda_safereach"
    written = yaml.safe_load(parameters_yaml(specs))["/servo_node"]["ros__parameters"]
    assert written["moveit_servo"]["command_in_type"] == "speed_units"
    assert names.SERVO_NODE not in [spec.name for spec in nodes(Arguments())]


def test_servo_listens_and_answers_where_the_arm_node_expects_it_and_never_moves_the_arm(
    config: dict[str, Any],
) -> None:
    assert config["command_out_topic"] == names.SERVO_TRAJECTORY != names.JOINT_TRAJECTORY
    assert config["command_out_type"] == "trajectory_msgs/JointTrajectory" and config["publish_joint_positions"]
    assert config["joint_topic"] == names.JOINT_STATES
    # The topics that are not named here have Servo's own names.
    assert not {"cartesian_command_in_topic", "status_topic"} & set(config)
    for name in (names.SERVO_TWIST, names.SERVO_STATUS, names.SERVO_COMMAND_TYPE):
        assert name.startswith(f"/{names.SERVO_NODE}/")


def test_servo_accepts_its_own_configuration(config: dict[str, Any]) -> None:
    assert config["max_expected_latency"] >= 3 * config["publish_period"]
    assert config["hard_stop_singularity_threshold"] > config["lower_singularity_threshold"]
    assert config["scene_collision_proximity_threshold"] >= config["self_collision_proximity_threshold"]
    srdf = ElementTree.parse(fosp_description.srdf_path()).getroot()
    assert srdf.find(f"group[@name='{config['move_group_name']}']/chain").get("tip_link") == TOOL_FRAME


def test_servos_limits_are_not_in_the_way_of_the_arm_nodes(config: dict[str, Any]) -> None:
    assert config["scale"]["linear"] > TOOL_SPEED_LIMIT
    assert config["incoming_command_timeout"] > default("command_timeout_s")
    assert config["joint_limit_margins"][0] >= default("joint_margin_rad")


@pytest.mark.parametrize("height", [WORKSPACE.low[2], WORKSPACE.high[2]])
def test_servo_slows_down_nowhere_on_the_reachable_part_of_the_square(config: dict[str, Any], height: float) -> None:
    backend = MinkBackend(fosp_description.urdf_path(), default("joint_margin_rad"), 0.9)
    model = mujoco.MjModel.from_xml_path(str(fosp_description.urdf_path()))
    data, jacobian = mujoco.MjData(model), np.zeros((6, 7))
    tool = model.body(TOOL_FRAME).id
    fingers = [model.body(f"panda_{side}finger").id for side in ("left", "right")]
    for radius in (REACH_RADIUS_MIN, 0.5, REACH_RADIUS_MAX):
        for y in (WORKSPACE.low[1], 0.0, WORKSPACE.high[1]):
            x, joints = np.sqrt(radius**2 - y**2), REST_POSTURE.copy()
            if x < WORKSPACE.low[0]:
                continue
            for _ in range(300):
                joints = backend.solve(joints, np.array([x, y, height]), 0.02)
            data.qpos[:] = joints
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            mujoco.mj_jacBody(model, data, jacobian[:3], jacobian[3:], tool)
            assert np.linalg.cond(jacobian) < config["lower_singularity_threshold"]
            lowest = min(
                data.geom_xpos[geom, 2] - np.abs(data.geom_xmat[geom].reshape(3, 3)[2]) @ model.geom_size[geom]
                for geom in range(model.ngeom)
                if model.geom_bodyid[geom] in fingers
            )
            assert lowest > config["scene_collision_proximity_threshold"]
