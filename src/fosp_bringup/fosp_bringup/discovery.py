"""Who is in a ROS domain. Also a program, so that the runner needs no ROS in its own process."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

DISCOVERY_S = 2.0
READY_TIMEOUT_S = 120.0


def clashes(node: Node, names: Iterable[str], wait_s: float = DISCOVERY_S) -> list[str]:
    """Those of ``names`` that a node of the domain bears, after waiting for the discovery of the others."""
    wanted = set(names)
    end = time.monotonic() + wait_s
    found: set[str] = set()
    while time.monotonic() < end and not found:
        time.sleep(0.1)
        found = wanted & set(node.get_node_names())
    return sorted(found)


def missing_services(node: Node, services: Iterable[str]) -> list[str]:
    """Those of ``services`` that nobody offers yet."""
    return [service for service in services if not node.count_services(service)]


def main() -> int:
    """``clashes NAME ...`` prints the names in use; ``wait SERVICE ...`` returns when all services are there."""
    command, *arguments = sys.argv[1:]
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Node("fosp_discovery", enable_rosout=False, start_parameter_services=False)
    try:
        if command == "clashes":
            print("\n".join(clashes(node, arguments)))
            return 0
        end = time.monotonic() + READY_TIMEOUT_S
        while missing := missing_services(node, arguments):
            if time.monotonic() > end:
                print(f"the graph is not complete after {READY_TIMEOUT_S:g} s, missing: {', '.join(missing)}")
                return 1
            time.sleep(0.2)
        print("the graph is ready")
        return 0
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
