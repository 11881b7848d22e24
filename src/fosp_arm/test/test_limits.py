"""Joint limits: those of the URDF, or a refusal that names the joint."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import mujoco
import numpy as np
import pytest

import fosp_description
from fosp_arm.limits import read_limits
from fosp_arm.mink_backend import MinkBackend
from fosp_core.task import ARM_JOINTS
from fosp_ros.errors import ConfigurationError


def changed(folder: Path, joint: str, **values: str | None) -> Path:
    """A copy of the arm whose limits of one joint differ; None removes one."""
    tree = ElementTree.parse(fosp_description.urdf_path())
    limit = tree.getroot().find(f"joint[@name='{joint}']/limit")
    assert limit is not None
    for name, value in values.items():
        if value is None:
            del limit.attrib[name]
        else:
            limit.set(name, value)
    path = folder / "arm.urdf"
    tree.write(path)
    return path


def test_limits_are_those_that_mujoco_reads() -> None:
    model = mujoco.MjModel.from_xml_path(str(fosp_description.urdf_path()))
    limits = read_limits(fosp_description.urdf_path())
    assert [model.joint(i).name for i in range(model.njnt)] == list(ARM_JOINTS)
    np.testing.assert_allclose(limits.positions, model.jnt_range)
    np.testing.assert_allclose(limits.speeds, [2.175] * 4 + [2.61] * 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"velocity": None}, "joint panda_joint4 has no velocity limit"),
        ({"velocity": ""}, "joint panda_joint4 has no velocity limit"),
        ({"velocity": "0"}, r"joint panda_joint4: velocity limit must be > 0 rad/s, got 0"),
        ({"velocity": "-1"}, "must be > 0 rad/s, got -1"),
        ({"velocity": "fast"}, "velocity limit of joint panda_joint4 must be a number, got 'fast'"),
        ({"velocity": "inf"}, "must be a number, got 'inf'"),
        ({"lower": None}, "joint panda_joint4 has no lower limit"),
        ({"upper": " "}, "joint panda_joint4 has no upper limit"),
        ({"lower": "0", "upper": "0"}, "joint panda_joint4: lower limit 0 rad must be below upper 0 rad"),
        ({"lower": "1", "upper": "-1"}, "lower limit 1 rad must be below upper -1 rad"),
    ],
)
def test_limit_that_says_nothing_is_refused_with_the_joint_and_the_file(
    tmp_path: Path, values: dict[str, str | None], message: str
) -> None:
    path = changed(tmp_path, "panda_joint4", **values)
    with pytest.raises(ConfigurationError, match=message) as error:
        read_limits(path)
    assert str(path) in str(error.value)
    with pytest.raises(ConfigurationError):
        MinkBackend(path, 0.05, 0.9)


def test_joint_without_limits_and_arm_without_joints_are_refused(tmp_path: Path) -> None:
    tree = ElementTree.parse(fosp_description.urdf_path())
    joint = tree.getroot().find("joint[@name='panda_joint2']")
    assert joint is not None
    limit = joint.find("limit")
    assert limit is not None
    joint.remove(limit)
    path = tmp_path / "arm.urdf"
    tree.write(path)
    with pytest.raises(ConfigurationError, match="joint panda_joint2 has no <limit>"):
        read_limits(path)
    path.write_text('<robot name="r"><link name="a"/></robot>')
    with pytest.raises(ConfigurationError, match="no joint panda_joint1, panda_joint2"):
        read_limits(path)
    with pytest.raises(ConfigurationError, match="unreadable URDF"):
        read_limits(tmp_path / "absent.urdf")
