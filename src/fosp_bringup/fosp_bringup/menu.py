"""A menu on an interactive marker, as RViz's InteractiveMarkers display talks to it.

The protocol is two topics and a service of ``visualization_msgs`` (updates with a running number and a keep-alive,
feedback, the whole state on request). The Python library ``interactive_markers`` is not among the wheels; for a single
marker that never moves, what it would add to these messages is less than what a second code path costs, so this
module serves the protocol in every installation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile
from visualization_msgs.msg import (
    InteractiveMarker,
    InteractiveMarkerControl,
    InteractiveMarkerFeedback,
    InteractiveMarkerUpdate,
    Marker,
    MenuEntry,
)
from visualization_msgs.srv import GetInteractiveMarkers

from fosp_core.task import BASE_FRAME, WORKSPACE

TOPIC: Final = "/fosp/operators"
MARKER: Final = "operators"
KEEP_ALIVE_S: Final = 0.5


def menu_marker(entries: Sequence[str], line: str) -> InteractiveMarker:
    """A button beside the workspace with a menu; entry ``i`` has id ``i + 1``."""
    marker = InteractiveMarker(name=MARKER, description=line, scale=0.2)
    marker.header.frame_id = BASE_FRAME
    marker.pose.position.x, marker.pose.position.y, marker.pose.position.z = WORKSPACE.low[0], 0.5, 0.2
    marker.pose.orientation.w = 1.0
    body = Marker(type=Marker.SPHERE)
    body.scale.x = body.scale.y = body.scale.z = 0.1
    body.color.r, body.color.g, body.color.b, body.color.a = 0.2, 0.6, 1.0, 1.0
    control = InteractiveMarkerControl(name="menu", always_visible=True, markers=[body])
    control.interaction_mode = InteractiveMarkerControl.MENU
    control.orientation.w = 1.0
    marker.controls = [control]
    marker.menu_entries = [
        MenuEntry(id=i + 1, parent_id=0, title=title, command_type=MenuEntry.FEEDBACK)
        for i, title in enumerate(entries)
    ]
    return marker


class MenuServer:
    """Serves one menu; ``on_select`` gets the title of the chosen entry."""

    def __init__(self, node: Node, on_select: Callable[[str], None], topic: str = TOPIC) -> None:
        self._on_select = on_select
        self._entries: tuple[str, ...] = ()
        self._marker = menu_marker((), "")
        self._number = 0
        self._id = f"{node.get_name()}{topic}"
        profile = QoSProfile(depth=100)
        self._updates = node.create_publisher(InteractiveMarkerUpdate, f"{topic}/update", profile)
        node.create_subscription(InteractiveMarkerFeedback, f"{topic}/feedback", self._on_feedback, profile)
        node.create_service(GetInteractiveMarkers, f"{topic}/get_interactive_markers", self._on_get)
        # A simulated clock may stand still; without a sign of life RViz takes the menu away.
        node.create_timer(KEEP_ALIVE_S, self._keep_alive, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def show(self, entries: Sequence[str], line: str) -> None:
        """Replace menu and description; clients hear of it when something changed."""
        marker = menu_marker(entries, line)
        if marker == self._marker:
            return
        self._entries, self._marker = tuple(entries), marker
        self._number += 1
        update = self._update(InteractiveMarkerUpdate.UPDATE)
        update.markers = [marker]
        self._updates.publish(update)

    def _update(self, kind: int) -> InteractiveMarkerUpdate:
        return InteractiveMarkerUpdate(server_id=self._id, seq_num=self._number, type=kind)

    def _keep_alive(self) -> None:
        self._updates.publish(self._update(InteractiveMarkerUpdate.KEEP_ALIVE))

    def _on_get(
        self, request: GetInteractiveMarkers.Request, response: GetInteractiveMarkers.Response
    ) -> GetInteractiveMarkers.Response:
        response.sequence_number = self._number
        response.markers = [self._marker]
        return response

    def _on_feedback(self, message: InteractiveMarkerFeedback) -> None:
        is_choice = message.event_type == InteractiveMarkerFeedback.MENU_SELECT and message.marker_name == MARKER
        if is_choice and 1 <= message.menu_entry_id <= len(self._entries):
            self._on_select(self._entries[message.menu_entry_id - 1])
