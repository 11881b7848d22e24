"""The URDF is a Panda."""

import xml.etree.ElementTree as ET

import mujoco
import numpy as np
import pytest

from fosp_description import urdf_path

# Franka Emika, "Robot and interface specifications": rad and rad/s.
LOWER = [-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973]
UPPER = [2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973]
VELOCITY = [2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61]
# Modified Denavit-Hartenberg parameters (Craig): a, d, alpha of joints 1 to 7, then the flange.
DH = [
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -np.pi / 2),
    (0.0, 0.316, np.pi / 2),
    (0.0825, 0.0, np.pi / 2),
    (-0.0825, 0.384, -np.pi / 2),
    (0.0, 0.0, np.pi / 2),
    (0.088, 0.0, np.pi / 2),
    (0.0, 0.107, 0.0),
]


@pytest.fixture(scope="module")
def root() -> ET.Element:
    return ET.parse(urdf_path()).getroot()


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(str(urdf_path()))


def denavit_hartenberg_tool(joints: np.ndarray) -> np.ndarray:
    pose = np.eye(4)
    for (a, d, alpha), theta in zip(DH, [*joints, 0.0], strict=True):
        ca, sa, ct, st = np.cos(alpha), np.sin(alpha), np.cos(theta), np.sin(theta)
        pose = pose @ np.array(
            [[ct, -st, 0, a], [st * ca, ct * ca, -sa, -d * sa], [st * sa, ct * sa, ca, d * ca], [0, 0, 0, 1]]
        )
    turn = -np.pi / 4
    hand = np.eye(4)
    hand[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    hand[2, 3] = 0.1034
    return pose @ hand


def test_joint_limits_are_those_of_the_real_arm(root: ET.Element) -> None:
    joints = [joint for joint in root.iter("joint") if joint.get("type") == "revolute"]
    assert [joint.get("name") for joint in joints] == [f"panda_joint{i}" for i in range(1, 8)]
    limits = [joint.find("limit") for joint in joints]
    assert [float(limit.get("lower")) for limit in limits] == LOWER
    assert [float(limit.get("upper")) for limit in limits] == UPPER
    assert [float(limit.get("velocity")) for limit in limits] == VELOCITY


def test_forward_kinematics_agree_with_the_denavit_hartenberg_parameters(model: mujoco.MjModel) -> None:
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    for _ in range(50):
        data.qpos[:] = rng.uniform(LOWER, UPPER)
        mujoco.mj_kinematics(model, data)
        expected = denavit_hartenberg_tool(data.qpos)
        tool = data.body("panda_hand_tcp")
        np.testing.assert_allclose(tool.xpos, expected[:3, 3], atol=1e-6)
        np.testing.assert_allclose(tool.xmat.reshape(3, 3), expected[:3, :3], atol=1e-6)


def test_ready_pose_puts_the_tool_where_the_real_arm_has_it(model: mujoco.MjModel) -> None:
    data = mujoco.MjData(model)
    data.qpos[:] = [0, -np.pi / 4, 0, -3 * np.pi / 4, 0, np.pi / 2, np.pi / 4]
    mujoco.mj_kinematics(model, data)
    np.testing.assert_allclose(data.body("panda_hand_tcp").xpos, [0.3069, 0.0, 0.4869], atol=1e-4)
    np.testing.assert_allclose(data.body("panda_hand_tcp").xmat.reshape(3, 3), np.diag([1, -1, -1]), atol=1e-6)


def test_fingers_reach_just_past_the_tool(model: mujoco.MjModel) -> None:
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    offset = data.body("panda_hand_tcp").xpos - data.body("panda_leftfinger").xpos
    assert np.linalg.norm(offset) == pytest.approx(0.1034 - 0.0584)


def test_every_moving_link_has_mass_and_a_physical_inertia(root: ET.Element) -> None:
    for link in root.iter("link"):
        inertial = link.find("inertial")
        if inertial is None:
            assert link.get("name") in ("panda_link8", "panda_hand_tcp")
            continue
        assert float(inertial.find("mass").get("value")) > 0
        i = inertial.find("inertia")
        moments = sorted(float(i.get(axis)) for axis in ("ixx", "iyy", "izz"))
        assert moments[0] > 0 and moments[0] + moments[1] >= moments[2] - 1e-9


def test_shapes_are_primitives_drawn_as_they_collide(root: ET.Element) -> None:
    for link in root.iter("link"):
        shapes = {
            kind: [ET.tostring(node.find("geometry"))[:200].strip() for node in link.findall(kind)]
            for kind in ("visual", "collision")
        }
        assert shapes["visual"] == shapes["collision"]
        for node in link.iter("geometry"):
            assert node[0].tag in ("box", "cylinder", "sphere")
