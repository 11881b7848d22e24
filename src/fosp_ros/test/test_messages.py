import math

import numpy as np
import pytest
from sensor_msgs.msg import JointState

from fosp_core.task import ARM_JOINTS, BASE_FRAME
from fosp_ros.errors import MessageError
from fosp_ros.messages import joint_positions, linear_velocity, twist


def test_joint_positions_follow_the_asked_order():
    names = [*reversed(ARM_JOINTS), "panda_finger_joint1"]
    message = JointState(name=names, position=[float(i) for i in range(8)])
    np.testing.assert_array_equal(joint_positions(message), [6, 5, 4, 3, 2, 1, 0])


@pytest.mark.parametrize(
    ("names", "positions", "expected"),
    [
        ([], [], "lacks panda_joint1"),
        (list(ARM_JOINTS), [0.0] * 6, "7 joints but holds 6"),
        (list(ARM_JOINTS), [0.0] * 6 + [math.nan], "not finite: panda_joint7"),
        (list(ARM_JOINTS)[:6], [0.0] * 6, "lacks panda_joint7"),
    ],
)
def test_bad_joint_state_is_named(names, positions, expected):
    with pytest.raises(MessageError, match=expected):
        joint_positions(JointState(name=names, position=positions))


def test_twist_round_trip():
    message = twist(np.array([0.1, -0.2, 0.05]))
    assert message.header.frame_id == BASE_FRAME
    np.testing.assert_allclose(linear_velocity(message), [0.1, -0.2, 0.05])


def test_bad_twist_is_named():
    message = twist(np.array([math.nan, 0, 0]))
    with pytest.raises(MessageError, match="not finite"):
        linear_velocity(message)
    message = twist(np.zeros(3))
    message.twist.angular.z = math.inf
    with pytest.raises(MessageError, match="not finite"):
        linear_velocity(message)
    message.twist.angular.z = 0.1
    with pytest.raises(MessageError, match="rotation"):
        linear_velocity(message)
    message = twist(np.zeros(3))
    message.header.frame_id = "camera"
    with pytest.raises(MessageError, match="'camera'"):
        linear_velocity(message)
