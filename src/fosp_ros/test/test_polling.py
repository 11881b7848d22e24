from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from std_msgs.msg import String

from fosp_ros.polling import Listener, PolledSubscription, RawSubscription


@pytest.fixture
def node() -> Iterator[Node]:
    rclpy.init()
    node = Node("polling_test")
    yield node
    node.destroy_node()
    rclpy.shutdown()


def test_messages_wait_in_the_queue_and_never_wake_the_executor(node: Node) -> None:
    qos = QoSProfile(depth=3)
    polled = PolledSubscription(node, String, "~/text", qos)
    publisher = node.create_publisher(String, "~/text", qos)
    heard: list[String] = []
    node.create_subscription(String, "~/text", heard.append, qos)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while publisher.get_subscription_count() < 2:
        executor.spin_once(timeout_sec=0.1)
    assert polled.take() == []
    for i in range(5):
        publisher.publish(String(data=str(i)))
        count = len(heard)
        while len(heard) == count:
            executor.spin_once(timeout_sec=0.1)
    # As deep as the queue is, newest last.
    assert [m.data for m in polled.take()] == ["2", "3", "4"]
    assert polled.take() == []
    executor.shutdown()


class Heard:
    """A listener on one topic that can be held up in its callback."""

    def __init__(self, node: Node, on_error: Callable[[Exception], None] = lambda error: None) -> None:
        self.texts: list[str] = []
        self.threads: set[int] = set()
        self.in_callback = threading.Semaphore(0)
        self.may_go_on = threading.Semaphore(0)
        qos = QoSProfile(depth=1)
        self.publisher = node.create_publisher(String, "~/text", qos)
        self.listener = Listener(node, [(PolledSubscription(node, String, "~/text", qos), self._on)], on_error, "test")
        while self.publisher.get_subscription_count() == 0:
            pass
        self.listener.start()

    def _on(self, message: String) -> None:
        self.texts.append(message.data)
        self.threads.add(threading.get_ident())
        self.in_callback.release()
        assert self.may_go_on.acquire(timeout=60)
        if message.data == "broken":
            raise RuntimeError("broken")

    def send(self, text: str) -> None:
        self.publisher.publish(String(data=text))


def test_a_listener_works_on_the_newest_message_only(node: Node) -> None:
    heard = Heard(node)
    heard.send("0")
    assert heard.in_callback.acquire(timeout=60)
    for i in range(1, 6):
        heard.send(str(i))
    heard.may_go_on.release(2)
    assert heard.in_callback.acquire(timeout=60)
    assert heard.listener.close()
    assert heard.texts == ["0", "5"]


def test_a_listener_hands_over_every_message_as_it_came_where_asked_to(node: Node) -> None:
    qos = QoSProfile(depth=10)
    texts: list[str] = []
    stamps: list[int] = []
    first, rest, done = threading.Event(), threading.Event(), threading.Event()

    def on(taken: tuple[bytes, Any]) -> None:
        data, info = taken
        texts.append(deserialize_message(data, String).data)
        stamps.append(int(info["source_timestamp"]))
        first.set()
        assert rest.wait(60)
        if len(texts) == 6:
            done.set()

    publisher = node.create_publisher(String, "~/text", qos)
    listener = Listener(node, [(RawSubscription(node, String, "~/text", qos), on)], lambda _: None, "test", every=True)
    while publisher.get_subscription_count() == 0:
        pass
    listener.start()
    publisher.publish(String(data="0"))
    assert first.wait(60)
    for i in range(1, 6):
        publisher.publish(String(data=str(i)))
    rest.set()
    assert done.wait(60) and listener.close()
    assert texts == [str(i) for i in range(6)]
    assert 0 < stamps[0] <= stamps[-1] and stamps == sorted(stamps)


def test_an_error_in_a_callback_is_reported_and_the_listener_goes_on(node: Node) -> None:
    errors: list[Exception] = []
    heard = Heard(node, errors.append)
    heard.may_go_on.release(2)
    heard.send("broken")
    assert heard.in_callback.acquire(timeout=60)
    heard.send("well")
    assert heard.in_callback.acquire(timeout=60)
    assert heard.listener.close()
    assert [str(error) for error in errors] == ["broken"] and heard.texts == ["broken", "well"]


def test_jobs_run_in_the_thread_of_the_callbacks(node: Node) -> None:
    heard = Heard(node)
    heard.may_go_on.release()
    heard.send("0")
    assert heard.in_callback.acquire(timeout=60)
    done = threading.Event()
    threads: set[int] = set()
    heard.listener.call(lambda: (threads.add(threading.get_ident()), done.set())[1])
    assert done.wait(60)
    assert heard.listener.close()
    assert threads == heard.threads


def test_a_listener_without_messages_can_be_closed(node: Node) -> None:
    assert Heard(node).listener.close()
