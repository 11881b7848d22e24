import numpy as np
import pytest

from fosp_ros.errors import ConfigurationError
from fosp_ros.kinematics import Chain

URDF = """<robot name="r">
  <link name="base"/><link name="upper"/><link name="lower"/><link name="tip"/>
  <joint name="shoulder" type="revolute"><parent link="base"/><child link="upper"/>
    <origin xyz="0 0 1" rpy="0 0 0"/><axis xyz="0 0 1"/></joint>
  <joint name="slide" type="prismatic"><parent link="upper"/><child link="lower"/>
    <origin xyz="0.5 0 0" rpy="0 1.5707963267948966 0"/><axis xyz="0 0 1"/></joint>
  <joint name="end" type="fixed"><parent link="lower"/><child link="tip"/><origin xyz="0 0 0.25"/></joint>
</robot>"""


@pytest.fixture
def urdf(tmp_path):
    path = tmp_path / "robot.urdf"
    path.write_text(URDF)
    return path


def test_position_of_a_small_chain(urdf):
    chain = Chain.from_urdf(urdf, "base", "tip", ("slide", "shoulder"))
    np.testing.assert_allclose(chain.position(np.array([0.0, 0.0])), [0.75, 0, 1], atol=1e-12)
    np.testing.assert_allclose(chain.position(np.array([0.25, np.pi / 2])), [0, 1, 1], atol=1e-12)


@pytest.mark.parametrize(
    ("base", "tip", "order", "expected"),
    [
        ("base", "nothing", ("shoulder", "slide"), "no chain"),
        ("tip", "base", ("shoulder", "slide"), "no chain"),
        ("base", "tip", ("shoulder",), "moves by joints shoulder, slide"),
    ],
)
def test_wrong_chain_is_named(urdf, base, tip, order, expected):
    with pytest.raises(ConfigurationError, match=expected):
        Chain.from_urdf(urdf, base, tip, order)


def test_unreadable_file_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"missing\.urdf"):
        Chain.from_urdf(tmp_path / "missing.urdf")
    broken = tmp_path / "broken.urdf"
    broken.write_text("<robot")
    with pytest.raises(ConfigurationError, match="unreadable URDF"):
        Chain.from_urdf(broken)


def test_arm_agrees_with_mujoco():
    mujoco = pytest.importorskip("mujoco")
    description = pytest.importorskip("fosp_description")
    path = description.urdf_path()
    model = mujoco.MjModel.from_xml_path(str(path))
    data = mujoco.MjData(model)
    chain = Chain.from_urdf(path)
    rng = np.random.default_rng(0)
    joints = [model.joint(f"panda_joint{i}") for i in range(1, 8)]
    for _ in range(20):
        q = np.array([rng.uniform(*joint.range) for joint in joints])
        for joint, value in zip(joints, q, strict=True):
            data.qpos[joint.qposadr[0]] = value
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(chain.position(q), data.body("panda_hand_tcp").xpos, atol=1e-6)
