import numpy as np
import pytest

import fosp_description
from fosp_arm.backend import GRIPPER_DOWN, REST_POSTURE
from fosp_arm.controller import ArmController, Mode, Settings
from fosp_arm.mink_backend import MinkBackend
from fosp_core.task import TOOL_SPEED_LIMIT, WORKSPACE
from fosp_ros.errors import ConfigurationError
from fosp_ros.kinematics import Chain

PERIOD = 0.02
MARGIN = 0.05
FRACTION = 0.9


@pytest.fixture(scope="module")
def backend() -> MinkBackend:
    return MinkBackend(fosp_description.urdf_path(), MARGIN, FRACTION)


@pytest.fixture(scope="module")
def chain() -> Chain:
    return Chain.from_urdf(fosp_description.urdf_path())


def settle(backend: MinkBackend, tool: np.ndarray, start: np.ndarray = REST_POSTURE) -> np.ndarray:
    q = np.array(start)
    for _ in range(400):
        q = backend.solve(q, tool, PERIOD)
    return q


def test_limits_are_those_of_the_real_arm(backend):
    np.testing.assert_allclose(backend.velocity_limits, [2.175] * 4 + [2.61] * 3)
    assert backend.position_limits.shape == (7, 2)
    assert backend.position_limits[3, 1] < 0.0


def test_tool_agrees_with_the_kinematics_of_the_other_nodes(backend, chain):
    rng = np.random.default_rng(0)
    for _ in range(10):
        q = rng.uniform(*backend.position_limits.T)
        np.testing.assert_allclose(backend.tool(q), chain.position(q), atol=1e-6)


@pytest.mark.parametrize("y", [-0.28, 0.0, 0.28])
@pytest.mark.parametrize("x", [0.28, 0.5, 0.66])
def test_reaches_the_square_with_the_gripper_down(backend, chain, x, y):
    target = np.array([x, y, 0.05])
    q = settle(backend, target)
    pose = chain.pose(q)
    assert np.linalg.norm(pose[:3, 3] - target) < 0.002
    np.testing.assert_allclose(pose[:3, :3], GRIPPER_DOWN, atol=0.02)
    low, high = backend.position_limits.T
    assert np.all(q >= low + MARGIN - 1e-6)
    assert np.all(q <= high - MARGIN + 1e-6)


def test_a_path_keeps_speed_limits_orientation_and_workspace(backend, chain):
    controller = ArmController(backend, Settings(joint_margin_rad=MARGIN, joint_speed_fraction=FRACTION))
    q = settle(backend, np.array([0.35, 0.0, 0.1]))
    now = 0.0
    rng = np.random.default_rng(1)
    velocity = np.zeros(3)
    for i in range(1500):
        now += PERIOD
        if i % 25 == 0:
            velocity = rng.uniform(-0.4, 0.4, 3)
        controller.on_joints(q, now)
        controller.on_command(velocity, 0.05, now)
        output = controller.step(now)
        assert output.mode is Mode.MOVING
        before, q = q, output.positions
        assert np.all(np.abs(q - before) <= FRACTION * backend.velocity_limits * PERIOD + 1e-9)
        pose = chain.pose(q)
        assert np.linalg.norm(pose[:3, 3] - chain.position(before)) <= TOOL_SPEED_LIMIT * PERIOD * 1.01
        outside = np.maximum(np.array(WORKSPACE.low) - pose[:3, 3], pose[:3, 3] - np.array(WORKSPACE.high)).max()
        assert outside < 0.005
        assert pose[2, 2] < -0.98


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<robot", "unreadable URDF"),
        ('<robot name="r"><link name="a"/></robot>', "expected panda_joint1"),
    ],
)
def test_a_urdf_that_does_not_fit_is_named(tmp_path, text, expected):
    path = tmp_path / "arm.urdf"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=expected):
        MinkBackend(path, MARGIN, FRACTION)
