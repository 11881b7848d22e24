from __future__ import annotations

from collections.abc import Iterator

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import String

from fosp_ros.polling import PolledSubscription


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
