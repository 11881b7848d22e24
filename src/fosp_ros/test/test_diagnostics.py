from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from fosp_ros import names, qos
from fosp_ros.diagnostics import Diagnostics, Health, Level


@pytest.fixture
def node() -> Iterator[Node]:
    rclpy.init()
    node = Node("diagnosed")
    yield node
    node.destroy_node()
    rclpy.shutdown()


def test_health_figures_and_counts_are_published(node: Node) -> None:
    diagnostics = Diagnostics(node, lambda: Health(Level.WARN, "slow", {"rate": 9.123456, "mode": "x"}), period_s=0.01)
    assert diagnostics.count("bad_image", "image is empty") == 1
    assert diagnostics.count("bad_image", "image is truncated") == 2
    assert diagnostics.counts == {"bad_image": 2}
    heard: list[DiagnosticArray] = []
    node.create_subscription(DiagnosticArray, names.DIAGNOSTICS, heard.append, qos.DIAGNOSTICS)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not heard:
        executor.spin_once(timeout_sec=0.1)
    status = heard[-1].status[0]
    assert (status.level, status.name, status.message) == (bytes([Level.WARN]), "diagnosed", "slow")
    values = {v.key: v.value for v in status.values}
    assert values == {
        "rate": "9.123",
        "mode": "x",
        "scheduling": f"niceness {os.nice(0)}",
        "count.bad_image": "2",
        "last_fault": "image is truncated",
    }
    executor.shutdown()
