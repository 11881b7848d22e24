"""Joint limits of a URDF. Every backend reads them here, so that what is missing is refused in one way."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fosp_arm.backend import Vector
from fosp_core.task import ARM_JOINTS
from fosp_ros.errors import ConfigurationError


@dataclass(frozen=True)
class JointLimits:
    """Limits in the order of ``ARM_JOINTS``."""

    positions: Vector
    """(7, 2) lowest and highest position, rad."""
    speeds: Vector
    """(7,) rad/s, > 0."""


def read_limits(urdf: Path | str) -> JointLimits:
    """Limits of the arm's joints.

    An arm whose limits are not known cannot be kept within them. URDF allows ``lower`` and ``upper`` to be left out and
    means 0 by it, which is a joint that cannot move; that is refused as well.

    Raises:
        ConfigurationError: unreadable file, or a joint that is absent or whose limits are missing, empty, not finite,
            0 or in the wrong order; the message names the joint and the limit.
    """
    try:
        root = ElementTree.parse(urdf).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise ConfigurationError(f"{urdf}: unreadable URDF: {error}") from error
    joints = {joint.get("name", ""): joint for joint in root.findall("joint")}
    absent = [name for name in ARM_JOINTS if name not in joints]
    if absent:
        raise ConfigurationError(f"{urdf}: no joint {', '.join(absent)}; expected {', '.join(ARM_JOINTS)}")
    rows = [_row(urdf, name, joints[name]) for name in ARM_JOINTS]
    return JointLimits(np.array([row[:2] for row in rows]), np.array([row[2] for row in rows]))


class LimitedArm:
    """The limits of an ``IkBackend``, read from its URDF; ``read_limits`` says which ones are refused."""

    def __init__(self, urdf: Path | str) -> None:
        limits = read_limits(urdf)
        self._positions, self._speeds = limits.positions, limits.speeds

    @property
    def position_limits(self) -> Vector:
        """(7, 2) rad."""
        return self._positions

    @property
    def velocity_limits(self) -> Vector:
        """(7,) rad/s."""
        return self._speeds


def _row(urdf: Path | str, name: str, joint: ElementTree.Element) -> tuple[float, float, float]:
    limit = joint.find("limit")
    if limit is None:
        raise ConfigurationError(f"{urdf}: joint {name} has no <limit>; lower, upper and velocity are needed")

    def value(key: str) -> float:
        text = (limit.get(key) or "").strip()
        if not text:
            raise ConfigurationError(f"{urdf}: joint {name} has no {key} limit")
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ConfigurationError(f"{urdf}: the {key} limit of joint {name} must be a number, got {text!r}")
        return number

    lower, upper, speed = value("lower"), value("upper"), value("velocity")
    if not lower < upper:
        raise ConfigurationError(f"{urdf}: joint {name}: lower limit {lower:g} rad must be below upper {upper:g} rad")
    if not speed > 0.0:
        raise ConfigurationError(f"{urdf}: joint {name}: velocity limit must be > 0 rad/s, got {speed:g}")
    return lower, upper, speed
