"""Pictures of decisions for RViz, as markers; pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from fosp_bringup.operators import Sight
from fosp_core.task import ACTION_SCALE_M, BASE_FRAME, WORKSPACE, Box

Xyz = tuple[float, float, float]
GREY = (0.6, 0.6, 0.6)
OFFLINE, ONLINE = (0.2, 0.4, 1.0), (1.0, 0.6, 0.0)
ARROW_LENGTH = 5.0
"""Drawn length of a candidate in units of its displacement, so that 3 cm can be seen."""


def risk_color(probability: float, halt_threshold: float) -> tuple[float, float, float]:
    """Green at 0, yellow half way, red from the halt threshold on; grey when not known."""
    if not (math.isfinite(probability) and math.isfinite(halt_threshold) and halt_threshold > 0.0):
        return GREY
    share = min(max(probability / halt_threshold, 0.0), 1.0)
    return min(2.0 * share, 1.0), min(2.0 * (1.0 - share), 1.0), 0.0


def picture(sight: Sight, path: Sequence[Xyz], line: str, box: Box = WORKSPACE) -> MarkerArray:
    """Everything that is drawn: workspace, tool path, both candidates, the chosen one, and the texts.

    Args:
        sight: what the graph said last.
        path: tool positions, metres in ``panda_link0``, oldest first.
        line: what the operators' desk says.
        box: workspace.
    """
    color = risk_color(sight.violation_probability, sight.halt_threshold)
    markers = [_box(box, color), _line("tool_path", path, (0.2, 0.9, 0.9))]
    tool = path[-1] if path else None
    for index, base in enumerate((OFFLINE, ONLINE)):
        is_chosen = index == sight.chosen
        shown = tool is not None and index < len(sight.candidates) and len(sight.candidates[index]) == 3
        markers.append(
            _arrow(f"candidate_{index}", tool, sight.candidates[index], base, is_chosen)
            if tool is not None and shown
            else _gone(f"candidate_{index}")
        )
    known = math.isfinite(sight.violation_probability)
    risk = f"violation probability {sight.violation_probability:.2f}" if known else "violation probability unknown"
    reasons = f" ({', '.join(sight.reasons)})" if sight.reasons else ""
    markers.append(_text("status", f"{sight.state}{reasons}\n{risk}\n{line}", (box.low[0], 0.0, 0.6), color))
    return MarkerArray(markers=markers)


def _marker(namespace: str, kind: int, color: Xyz, alpha: float = 1.0) -> Marker:
    marker = Marker(ns=namespace, id=0, type=kind, action=Marker.ADD)
    marker.header.frame_id = BASE_FRAME
    marker.pose.orientation.w = 1.0
    marker.color = ColorRGBA(r=color[0], g=color[1], b=color[2], a=alpha)
    return marker


def _gone(namespace: str) -> Marker:
    marker = Marker(ns=namespace, id=0, action=Marker.DELETE)
    marker.header.frame_id = BASE_FRAME
    return marker


def _box(box: Box, color: Xyz) -> Marker:
    marker = _marker("workspace", Marker.CUBE, color, 0.15)
    for axis, low, high in zip("xyz", box.low, box.high, strict=True):
        setattr(marker.pose.position, axis, (low + high) / 2.0)
        setattr(marker.scale, axis, high - low)
    return marker


def _line(namespace: str, path: Sequence[Xyz], color: Xyz) -> Marker:
    if len(path) < 2:
        return _gone(namespace)
    marker = _marker(namespace, Marker.LINE_STRIP, color)
    marker.scale.x = 0.004
    marker.points = [Point(x=x, y=y, z=z) for x, y, z in path]
    return marker


def _arrow(namespace: str, tool: Xyz, action: Sequence[float], color: Xyz, is_chosen: bool) -> Marker:
    marker = _marker(namespace, Marker.ARROW, color, 1.0 if is_chosen else 0.35)
    marker.scale.x, marker.scale.y = (0.012, 0.024) if is_chosen else (0.006, 0.012)
    tip = [t + ARROW_LENGTH * ACTION_SCALE_M * a for t, a in zip(tool, action, strict=True)]
    marker.points = [Point(x=tool[0], y=tool[1], z=tool[2]), Point(x=tip[0], y=tip[1], z=tip[2])]
    return marker


def _text(namespace: str, text: str, position: Xyz, color: Xyz) -> Marker:
    marker = _marker(namespace, Marker.TEXT_VIEW_FACING, color)
    marker.pose.position.x, marker.pose.position.y, marker.pose.position.z = position
    marker.scale.z = 0.05
    marker.text = text
    return marker
