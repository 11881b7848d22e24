"""Subscriptions that are read when their messages are needed instead of waking the node for each one.

rclpy spends about half a millisecond on every callback. Joint states at 50 Hz or more in three nodes would cost more
than the rest of the nodes together.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile

M = TypeVar("M")


class _NeverExecuted(CallbackGroup):
    """Keeps a subscription out of the executor's wait set."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        pass


class PolledSubscription(Generic[M]):
    """The messages that wait in a subscription's queue."""

    def __init__(self, node: Node, message_type: type[M], topic: str, qos: QoSProfile) -> None:
        # The group must outlive the subscription, which keeps only a weak reference to it.
        self._group = _NeverExecuted()
        self._subscription = node.create_subscription(message_type, topic, _unused, qos, callback_group=self._group)

    def take(self) -> list[M]:
        """All waiting messages, oldest first; at most as many as the queue is deep."""
        messages: list[M] = []
        with self._subscription.handle:
            while (taken := self._subscription.handle.take_message(self._subscription.msg_type, False)) is not None:
                messages.append(taken[0])
        return messages


def _unused(message: object) -> None:
    raise AssertionError("a polled subscription has no callback")
