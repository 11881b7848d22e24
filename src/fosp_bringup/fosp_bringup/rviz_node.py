"""The node behind the RViz configuration: markers of the decisions, and the operators' menu."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from pathlib import Path
from typing import Final

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from sensor_msgs.msg import JointState
from visualization_msgs.msg import MarkerArray

import fosp_description
from fosp_bringup.markers import Xyz, picture
from fosp_bringup.menu import MenuServer
from fosp_bringup.operators import Desk, Graph, Order
from fosp_ros import names, qos, runner
from fosp_ros.errors import MessageError
from fosp_ros.kinematics import Chain
from fosp_ros.messages import joint_positions
from fosp_ros.parameters import Parameter, Parameters

MARKERS: Final = "/fosp/operators/markers"
CONFIRM: Final = "Yes: "
DISMISS: Final = "No, leave it"
PARAMETERS: Final = (
    Parameter("models_root", "models", "Folder of the model bundles.", read_only=True),
    Parameter("scene", "standard", "Scene of the episodes that are started here.", read_only=True),
    Parameter("episodes", 1, "Episodes of one run.", "", 1, 1000),
    Parameter("path_length", 300, "Tool positions that are drawn.", "", 2, 10000, read_only=True),
)
PERIOD_S: Final = 0.1


def entries(asked: Order | None) -> list[str]:
    """Titles of the menu: the orders, or the question whether one is meant."""
    return [order.value for order in Order] if asked is None else [CONFIRM + asked.value, DISMISS]


def select(desk: Desk, title: str) -> None:
    """Do what a title of the menu says."""
    if title.startswith(CONFIRM):
        # What is confirmed must be what was asked: a late click on an older menu does nothing.
        if desk.asked is not None and title == CONFIRM + desk.asked.value:
            desk.confirm()
    elif title == DISMISS:
        desk.dismiss()
    else:
        desk.ask(Order(title))


class RvizNode(Node):
    """Wires the desk to the menu and the newest messages to markers."""

    def __init__(self) -> None:
        super().__init__(names.RVIZ_NODE)
        p = Parameters(self, PARAMETERS)
        self._graph = Graph(self, Path(p.string("models_root")), p.string("scene"), lambda: p.integer("episodes"))
        self._desk = Desk(self._graph)
        self._menu = MenuServer(self, lambda title: select(self._desk, title))
        self._path: deque[Xyz] = deque(maxlen=p.integer("path_length"))
        self._chain = Chain.from_urdf(fosp_description.urdf_path())
        self._joints: JointState | None = None
        self._markers = self.create_publisher(MarkerArray, MARKERS, 1)
        self.create_subscription(JointState, names.JOINT_STATES, self._on_joints, qos.JOINT_STATES)
        # A simulated clock may stand still; the picture does not.
        self.create_timer(PERIOD_S, self._show, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_joints(self, message: JointState) -> None:
        self._joints = message

    def _show(self) -> None:
        if self._joints is not None:
            # The arm node says what is wrong with joint states.
            with contextlib.suppress(MessageError):
                x, y, z = (float(v) for v in self._chain.position(joint_positions(self._joints)))
                self._path.append((x, y, z))
            self._joints = None
        self._markers.publish(picture(self._graph.sight(), tuple(self._path), self._desk.line))
        self._menu.show(entries(self._desk.asked), self._desk.line)


def main(args: list[str] | None = None) -> int:
    """Entry point of the executable ``rviz_node``."""
    return runner.run(RvizNode, names.RVIZ_NODE, args)


if __name__ == "__main__":
    sys.exit(main())
