"""Health of a node on ``/diagnostics``, once a second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node

from fosp_ros import names, qos, scheduling


class Level(IntEnum):
    """Levels of ``diagnostic_msgs/DiagnosticStatus``."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True)
class Health:
    """How a node is: level, one sentence, and figures."""

    level: Level
    message: str
    values: Mapping[str, object] = field(default_factory=dict)


class Diagnostics:
    """Publishes what ``health()`` returns, and counts faults by name."""

    def __init__(self, node: Node, health: Callable[[], Health], hardware_id: str = "", period_s: float = 1.0) -> None:
        self._node = node
        self._health = health
        self._hardware_id = hardware_id
        self._publisher = node.create_publisher(DiagnosticArray, names.DIAGNOSTICS, qos.DIAGNOSTICS)
        self._counts: Counter[str] = Counter()
        self._last_fault = ""
        # Steady: a simulated clock that stands still must not silence the diagnostics.
        node.create_timer(period_s, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def count(self, fault: str, detail: str = "") -> int:
        """Count one occurrence of a fault; returns how often it happened so far."""
        self._counts[fault] += 1
        self._last_fault = detail or fault
        return self._counts[fault]

    @property
    def counts(self) -> Mapping[str, int]:
        """Occurrences by fault."""
        return dict(self._counts)

    @property
    def last_fault(self) -> str:
        """What was wrong most recently; empty when nothing was."""
        return self._last_fault

    def publish(self) -> None:
        """Publish now."""
        health = self._health()
        values: dict[str, object] = {**health.values, "scheduling": scheduling.describe()}
        values.update({f"count.{name}": count for name, count in sorted(self._counts.items())})
        if self._last_fault:
            values["last_fault"] = self._last_fault
        status = DiagnosticStatus(
            level=bytes([health.level]),
            name=self._node.get_name(),
            message=health.message,
            hardware_id=self._hardware_id,
            values=[KeyValue(key=key, value=_text(value)) for key, value in values.items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
