"""A relay between a publisher and its subscribers, which can be told to spoil what passes."""

from __future__ import annotations

import copy
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile

from fosp_interfaces.msg import PolicyDecision
from fosp_ros.polling import Listener, PolledSubscription
from fosp_ros.stamps import from_nanoseconds, to_nanoseconds

Publish = Callable[[Any], None]
Spoil = Callable[[Any, Publish], None]
"""Gets a message of its own and what publishes it; may publish it changed, later, twice, or not at all."""


class Relay:
    """Passes messages on from one topic to another, as they are or spoiled."""

    def __init__(self, node: Node, kind: type, source: str, target: str, profile: QoSProfile) -> None:
        self._node, self._kind, self._target = node, kind, target
        self._publisher = node.create_publisher(kind, target, profile)
        self._lock = threading.Lock()
        self._spoil: Spoil | None = None
        self.passed_at = -math.inf
        """Steady time of the last message that was passed on as it is."""
        self.spoiled_at: float | None = None
        """Steady time of the first message that was spoiled; None before."""
        self.errors: list[Exception] = []
        subscription: PolledSubscription[Any] = PolledSubscription(node, kind, source, profile)
        self._listener = Listener(node, [(subscription, self._on_message)], self.errors.append, f"relay {source}")
        self._listener.start()

    def spoil(self, how: Spoil | None) -> None:
        """Spoil every message from now on, or none."""
        with self._lock:
            self._spoil, self.spoiled_at = how, None

    def publish_as(self, profile: QoSProfile) -> None:
        """Publish with another quality of service."""
        with self._lock:
            previous, self._publisher = self._publisher, self._node.create_publisher(self._kind, self._target, profile)
            self.spoiled_at = time.monotonic()
        self._node.destroy_publisher(previous)

    def close(self) -> None:
        """End the relay."""
        self._listener.close()

    def _on_message(self, message: Any) -> None:
        with self._lock:
            how = self._spoil
            if how is None:
                self._publisher.publish(message)
                self.passed_at = time.monotonic()
                return
            if self.spoiled_at is None:
                self.spoiled_at = time.monotonic()
        how(message, self._send)

    def _send(self, message: Any) -> None:
        with self._lock:
            self._publisher.publish(message)


def drop(message: Any, publish: Publish) -> None:
    """Pass nothing on."""


def shifted(seconds: float) -> Spoil:
    """Another time in the stamp."""

    def spoil(message: Any, publish: Publish) -> None:
        stamp = to_nanoseconds(message.header.stamp) + round(seconds * 1e9)
        message.header.stamp = from_nanoseconds(max(stamp, 0))
        publish(message)

    return spoil


def repeated_stamp() -> Spoil:
    """Every message with the stamp of the first."""
    first: list[Any] = []

    def spoil(message: Any, publish: Publish) -> None:
        if not first:
            first.append(message.header.stamp)
        message.header.stamp = first[0]
        publish(message)

    return spoil


def swapped() -> Spoil:
    """Every pair of messages in the wrong order."""
    waiting: list[Any] = []

    def spoil(message: Any, publish: Publish) -> None:
        waiting.append(message)
        if len(waiting) == 2:
            publish(waiting.pop())
            time.sleep(0.02)
            publish(waiting.pop())

    return spoil


def delayed(delay_s: Callable[[], float]) -> Spoil:
    """Every message later, in the order in which they came."""
    due = 0.0

    def spoil(message: Any, publish: Publish) -> None:
        nonlocal due
        due = max(due, time.monotonic() + delay_s())
        timer = threading.Timer(due - time.monotonic(), publish, [message])
        timer.daemon = True
        timer.start()

    return spoil


def thinned(kept: int, of: int) -> Spoil:
    """Only ``kept`` out of ``of`` messages."""
    count = 0

    def spoil(message: Any, publish: Publish) -> None:
        nonlocal count
        count += 1
        if count % of < kept:
            publish(message)

    return spoil


def frozen() -> Spoil:
    """The pixels of the first image in every image."""
    first: list[Any] = []

    def spoil(message: Any, publish: Publish) -> None:
        if not first:
            first.append(message.data)
        message.data = first[0]
        publish(message)

    return spoil


def painted(paint: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    """Other pixels: ``paint`` gets and returns uint8 (height, width, 3)."""

    def spoil(message: Any, publish: Publish) -> None:
        image = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        changed = np.ascontiguousarray(paint(image), np.uint8)
        message.data = type(message.data)("B", changed.tobytes())
        publish(message)

    return spoil


def of_brightness(level: float) -> Callable[[np.ndarray], np.ndarray]:
    """Paint with a mean of ``level`` in [0, 1], with a little left of what was to be seen."""

    def paint(image: np.ndarray) -> np.ndarray:
        faint = 0.2 * (image.astype(np.float64) - image.mean(axis=(0, 1)))
        return np.clip(np.rint(faint + 255 * level), 0, 255)

    return paint


def blue(image: np.ndarray) -> np.ndarray:
    """Paint everything blue."""
    return np.stack([image[..., 0] // 4, image[..., 1] // 4, 160 + image[..., 2] // 4], axis=-1)


def with_fields(**values: Any) -> Spoil:
    """Other values in some fields."""

    def spoil(message: Any, publish: Publish) -> None:
        for name, value in values.items():
            setattr(message, name, value)
        publish(message)

    return spoil


def cut_short(message: Any, publish: Publish) -> None:
    """Half of the pixels."""
    message.data = message.data[: len(message.data) // 2]
    publish(message)


def decided_earlier(seconds: float) -> Spoil:
    """A decision that was ready earlier than it says."""

    def spoil(message: PolicyDecision, publish: Publish) -> None:
        message.decided_at = from_nanoseconds(to_nanoseconds(message.decided_at) - round(seconds * 1e9))
        publish(message)

    return spoil


def replayed() -> Spoil:
    """The first message again and again."""
    first: list[Any] = []

    def spoil(message: Any, publish: Publish) -> None:
        if not first:
            first.append(copy.deepcopy(message))
        publish(first[0])

    return spoil
