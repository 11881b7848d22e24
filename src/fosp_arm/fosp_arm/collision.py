"""Collisions of the arm with itself and with the table: MuJoCo on the URDF, without the pairs that the SRDF exempts."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Final

import mujoco

from fosp_arm.backend import Vector
from fosp_core.task import ARM_JOINTS
from fosp_ros.errors import ConfigurationError

TABLE_SIZE: Final = (1.5, 1.9, 0.04)
TABLE_CENTRE: Final = (0.45, 0.0, -0.021)
"""A millimetre below the base, which stands on it."""


class CollisionModel:
    """Tells what touches at joint positions. Used by one thread."""

    def __init__(self, urdf: Path | str, srdf: Path | str) -> None:
        """Load the arm and put the table under it.

        Raises:
            ConfigurationError: the descriptions cannot be used.
        """
        try:
            spec = mujoco.MjSpec.from_file(str(urdf))
            pairs = [
                (pair.get("link1", ""), pair.get("link2", ""))
                for pair in ElementTree.parse(srdf).getroot().iter("disable_collisions")
            ]
            for first, second in pairs:
                spec.add_exclude(bodyname1=first, bodyname2=second)
            spec.worldbody.add_geom(
                name="table",
                type=mujoco.mjtGeom.mjGEOM_BOX,
                size=[0.5 * side for side in TABLE_SIZE],
                pos=list(TABLE_CENTRE),
            )
            self._model = spec.compile()
        except (OSError, ValueError, ElementTree.ParseError) as error:
            raise ConfigurationError(f"{urdf}, {srdf}: cannot load the robot: {error}") from error
        names = [self._model.joint(i).name for i in range(self._model.njnt)]
        if names != list(ARM_JOINTS):
            raise ConfigurationError(f"{urdf}: joints are {', '.join(names)}; expected {', '.join(ARM_JOINTS)}")
        self._data = mujoco.MjData(self._model)

    def touching(self, joints: Vector) -> str:
        """What touches what at joint positions (7,), rad; empty when nothing does."""
        self._data.qpos[:] = joints
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_collision(self._model, self._data)
        for contact in self._data.contact[: self._data.ncon]:
            if contact.dist < 0.0:
                return " and ".join(self._name(geom) for geom in contact.geom)
        return ""

    def _name(self, geom: int) -> str:
        name = self._model.geom(geom).name
        return str(name or self._model.body(self._model.geom_bodyid[geom]).name)
