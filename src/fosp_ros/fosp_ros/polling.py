"""Subscriptions without an executor: read when needed, or waited for by a thread of their own.

rclpy's executor spends about a millisecond on every callback, most of it on services and timers that have nothing to
do. On the way from camera to command, and for joint states at 50 Hz or more, that would cost more than all the rest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rclpy.callback_groups import CallbackGroup
from rclpy.guard_condition import GuardCondition
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import QoSProfile

if TYPE_CHECKING:
    from rclpy.subscription import MessageInfo

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
    """The messages that wait in a subscription's queue. May be used by several threads."""

    def __init__(self, node: Node, message_type: type[M], topic: str, qos: QoSProfile) -> None:
        # The group must outlive the subscription, which keeps only a weak reference to it.
        self._group = _NeverExecuted()
        self._subscription = node.create_subscription(message_type, topic, _unused, qos, callback_group=self._group)
        self._lock = threading.Lock()

    @property
    def handle(self) -> Any:
        """What a wait set waits for."""
        return self._subscription.handle

    def take(self) -> list[M]:
        """All waiting messages, oldest first; at most as many as the queue is deep."""
        return [message for message, _ in self._taken(raw=False)]

    def _taken(self, raw: bool) -> list[tuple[Any, MessageInfo]]:
        taken = []
        handle = self._subscription.handle
        with self._lock, handle:
            while (each := handle.take_message(self._subscription.msg_type, raw)) is not None:
                taken.append(each)
        return taken


class RawSubscription(PolledSubscription["tuple[bytes, MessageInfo]"]):
    """The messages as they came, serialized, each with its times."""

    def take(self) -> list[tuple[bytes, MessageInfo]]:
        """All waiting messages with what the middleware knows of each, oldest first."""
        return self._taken(raw=True)


class Listener:
    """A thread that waits for messages of some subscriptions and hands over the newest one of each, or every one.

    What arrives while a message is worked on waits in the subscription's queue, where newer ones replace it. Jobs given
    to ``call`` run in the same thread between messages, so that what they share with the callbacks needs no lock.
    """

    def __init__(
        self,
        node: Node,
        subscriptions: Sequence[tuple[PolledSubscription[Any], Callable[[Any], None]]],
        on_error: Callable[[Exception], None],
        name: str,
        every: bool = False,
    ) -> None:
        """Prepare the thread; ``start`` begins it.

        Args:
            node: the node that the subscriptions belong to.
            subscriptions: with the callback of each; when several have messages, the first comes first.
            on_error: called in the thread with what a callback or job raised; the thread goes on.
            name: name of the thread.
            every: whether older messages that wait are handed over too.
        """
        self._subscriptions = list(subscriptions)
        self._every = every
        self._on_error = on_error
        self._context = node.context
        self._wake = GuardCondition(callback=None, callback_group=None, context=self._context)
        self._lock = threading.Lock()
        self._jobs: list[Callable[[], None]] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; may be called once."""
        self._thread.start()

    def call(self, job: Callable[[], None]) -> None:
        """Run a job in the thread, before the next message."""
        with self._lock:
            self._jobs.append(job)
        self._wake.trigger()

    def close(self, timeout_s: float = 5.0) -> bool:
        """Stop after the current message; whether the thread has ended in time."""
        self._closed = True
        self._wake.trigger()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        ended = not self._thread.is_alive()
        if ended:
            self._wake.destroy()
        return ended

    def _run(self) -> None:
        wait_set = rclpy_implementation.WaitSet(len(self._subscriptions), 1, 0, 0, 0, 0, self._context.handle)
        while not self._closed and self._context.ok():
            wait_set.clear_entities()
            for subscription, _ in self._subscriptions:
                wait_set.add_subscription(subscription.handle)
            wait_set.add_guard_condition(self._wake.handle)
            wait_set.wait(-1)
            self._run_jobs()
            ready = wait_set.get_ready_entities("subscription")
            for subscription, callback in self._subscriptions:
                if not self._closed and subscription.handle.pointer in ready:
                    self._guarded(self._hand_over, subscription, callback)
                    self._run_jobs()

    def _hand_over(self, subscription: PolledSubscription[Any], callback: Callable[[Any], None]) -> None:
        for message in subscription.take()[None if self._every else -1 :]:
            callback(message)

    def _run_jobs(self) -> None:
        with self._lock:
            jobs, self._jobs = self._jobs, []
        for job in jobs:
            self._guarded(job)

    def _guarded(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception as error:
            self._on_error(error)


def _unused(message: object) -> None:
    raise AssertionError("a polled subscription has no callback")
