"""Forward kinematics of a serial chain from a URDF, with numpy alone."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fosp_core.task import ARM_JOINTS, BASE_FRAME, TOOL_FRAME
from fosp_ros.errors import ConfigurationError

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class _Joint:
    name: str
    origin: Matrix  # (4, 4) child frame in the parent's at joint position 0
    axis: Matrix | None  # (3,) unit axis of a moving joint in the child frame
    prismatic: bool


class Chain:
    """Kinematic chain between two links of a URDF."""

    def __init__(self, joints: Sequence[_Joint], order: Sequence[str]) -> None:
        moving = [joint.name for joint in joints if joint.axis is not None]
        if sorted(moving) != sorted(order):
            raise ConfigurationError(f"the chain moves by joints {', '.join(moving)}, expected {', '.join(order)}")
        index = {name: i for i, name in enumerate(order)}
        self._order = np.array([index[name] for name in moving], np.int64)
        origins, before = [], np.eye(4)
        for joint in joints:
            before = before @ joint.origin
            if joint.axis is not None:
                origins.append(before)
                before = np.eye(4)
        self._origins = np.array(origins).reshape(-1, 4, 4)
        self._tail = before
        axes = [(joint.axis, joint.prismatic) for joint in joints if joint.axis is not None]
        self._turns = np.array([0.0 if prismatic else 1.0 for _, prismatic in axes])
        self._slides = np.array([axis if prismatic else np.zeros(3) for axis, prismatic in axes]).reshape(-1, 3)
        self._skews = np.array([_skew(axis) for axis, _ in axes]).reshape(-1, 3, 3)
        self._squares = self._skews @ self._skews

    @staticmethod
    def from_urdf(
        path: Path | str, base: str = BASE_FRAME, tip: str = TOOL_FRAME, order: Sequence[str] = ARM_JOINTS
    ) -> Chain:
        """Read a chain.

        Args:
            path: URDF file.
            base: link whose frame positions are given in.
            tip: link whose position is wanted.
            order: names of the moving joints in the order of position vectors.

        Raises:
            ConfigurationError: unreadable file, no such chain, or other joints than ``order``.
        """
        try:
            root = ElementTree.parse(path).getroot()
        except (OSError, ElementTree.ParseError) as error:
            raise ConfigurationError(f"{path}: unreadable URDF: {error}") from error
        parents: dict[str, tuple[str, ElementTree.Element]] = {}
        for element in root.findall("joint"):
            parent, child = element.find("parent"), element.find("child")
            if parent is not None and child is not None:
                parents[child.get("link", "")] = (parent.get("link", ""), element)
        joints: list[_Joint] = []
        link = tip
        while link != base:
            if link not in parents:
                raise ConfigurationError(f"{path}: no chain of joints from {base!r} to {tip!r}")
            link, element = parents[link]
            joints.append(_read_joint(element))
        return Chain(joints[::-1], order)

    def pose(self, positions: NDArray[np.floating]) -> Matrix:
        """Homogeneous transform (4, 4) of the tip in the base frame for joint positions (N,) in rad."""
        values = np.asarray(positions, np.float64)[self._order]
        angles = values * self._turns
        steps = np.zeros((len(values), 4, 4))
        steps[:, :3, :3] = _rotations(self._skews, self._squares, angles)
        steps[:, :3, 3] = self._slides * values[:, None]
        steps[:, 3, 3] = 1.0
        transform = np.eye(4)
        for link in self._origins @ steps:
            transform = transform @ link
        return np.asarray(transform @ self._tail)

    def position(self, positions: NDArray[np.floating]) -> Matrix:
        """Position (3,) in metres of the tip in the base frame for joint positions (N,) in rad."""
        return self.pose(positions)[:3, 3]


def _read_joint(element: ElementTree.Element) -> _Joint:
    origin = np.eye(4)
    node = element.find("origin")
    if node is not None:
        roll, pitch, yaw = _vector(node.get("rpy", "0 0 0"))
        z, y, x = np.array([0.0, 0, 1]), np.array([0.0, 1, 0]), np.array([1.0, 0, 0])
        origin[:3, :3] = _rotation(z, yaw) @ _rotation(y, pitch) @ _rotation(x, roll)
        origin[:3, 3] = _vector(node.get("xyz", "0 0 0"))
    kind = element.get("type", "")
    if kind == "fixed":
        return _Joint(element.get("name", ""), origin, None, False)
    axis_node = element.find("axis")
    axis = _vector("1 0 0" if axis_node is None else axis_node.get("xyz", "1 0 0"))
    return _Joint(element.get("name", ""), origin, axis / np.linalg.norm(axis), kind == "prismatic")


def _vector(text: str) -> Matrix:
    return np.array([float(part) for part in text.split()])


def _rotation(axis: Matrix, angle: float) -> Matrix:
    """(3, 3) rotation about a unit axis."""
    skew = _skew(axis)[None]
    return _rotations(skew, skew @ skew, np.array([angle]))[0]


def _rotations(skews: Matrix, squares: Matrix, angles: Matrix) -> Matrix:
    """Rodrigues' formula: (J, 3, 3) rotations by angles (J,) about unit axes, given as cross-product matrices (J, 3, 3)
    and their squares.
    """
    sine, versine = np.sin(angles)[:, None, None], 1.0 - np.cos(angles)[:, None, None]
    return np.asarray(np.eye(3) + sine * skews + versine * squares)


def _skew(axis: Matrix) -> Matrix:
    x, y, z = axis
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
