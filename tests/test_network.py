"""Who can reach the graph from another computer, tried with two network namespaces joined by a cable."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

TALKER = """
import sys
import rclpy
from rclpy.node import Node
from std_msgs.msg import Bool
rclpy.init()
node = Node("talker")
publisher = node.create_publisher(Bool, "/command", 1)
node.create_timer(0.1, lambda: publisher.publish(Bool(data=True)))
print("up", flush=True)
rclpy.spin(node)
"""
LISTENER = """
import sys
import time
import rclpy
from rclpy.node import Node
from std_msgs.msg import Bool
rclpy.init()
node = Node("listener")
received = []
node.create_subscription(Bool, "/command", received.append, 1)
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end and not received:
    rclpy.spin_once(node, timeout_sec=0.2)
print(len(received), sorted(set(node.get_node_names()) - {"listener"}), flush=True)
"""


class Computers:
    """Two network namespaces, as far as the network goes two computers, with a cable between them."""

    def __init__(self) -> None:
        self._holders = [
            subprocess.Popen(["unshare", "--net", "sh", "-c", "echo up; exec sleep 600"], stdout=subprocess.PIPE)
            for _ in range(2)
        ]

    def plug(self) -> None:
        """Join them; raises ``CalledProcessError`` where that is not permitted."""
        first, second = (str(holder.pid) for holder in self._holders)
        for holder in self._holders:
            assert holder.stdout is not None
            if not holder.stdout.readline():
                raise subprocess.CalledProcessError(1, "unshare --net")
        _run(f"ip link add fosp0 netns {first} type veth peer name fosp0 netns {second}")
        for number, holder in enumerate(self._holders, start=1):
            inside = f"nsenter --net --target {holder.pid}"
            _run(f"{inside} ip address add 10.77.0.{number}/24 dev fosp0")
            _run(f"{inside} ip link set lo up")
            _run(f"{inside} ip link set fosp0 up")
            _run(f"{inside} ip route add 224.0.0.0/4 dev fosp0")

    def start(
        self, computer: int, program: str, discovery: str, folder: Path, *arguments: str
    ) -> subprocess.Popen[str]:
        """Run a Python program on one of them, with a discovery range or, where that is empty, as ``./run`` does."""
        from fosp_bringup import middleware

        # Namespaces share the memory of one machine, computers do not.
        env = {**os.environ, "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4", "ROS_DOMAIN_ID": "7"}
        for name in (middleware.RANGE, middleware.PROFILES):
            env.pop(name, None)
        env.update({middleware.RANGE: discovery} if discovery else middleware.environment(env))
        return subprocess.Popen(
            [
                "nsenter",
                "--net",
                "--target",
                str(self._holders[computer].pid),
                sys.executable,
                "-c",
                program,
                *arguments,
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={**env, "ROS_LOG_DIR": str(folder), "PYTHONUNBUFFERED": "1"},
        )

    def close(self) -> None:
        """Unplug and forget."""
        for holder in self._holders:
            holder.kill()
            holder.wait()


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True, text=True)


@pytest.fixture
def computers() -> Iterator[Computers]:
    if not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        pytest.skip("needs unshare, nsenter and ip")
    computers = Computers()
    try:
        try:
            computers.plug()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not permitted here: {error.cmd}")
        yield computers
    finally:
        computers.close()


# Whoever is to be heard may take its time on a busy machine; nobody needs to be waited for that long in vain.
@pytest.mark.parametrize(
    ("discovery", "reaches", "patience_s"), [("SUBNET", True, 90), ("LOCALHOST", False, 8), ("", False, 8)]
)
def test_only_this_computer_is_heard_by_default(
    computers: Computers,
    discovery: str,
    reaches: bool,
    patience_s: int,
    tmp_path: Path,
) -> None:
    intruder = computers.start(0, TALKER, "SUBNET", tmp_path)
    try:
        assert intruder.stdout is not None and intruder.stdout.readline() == "up\n"
        listener = computers.start(1, LISTENER, discovery, tmp_path, str(patience_s))
        output, _ = listener.communicate(timeout=120)
    finally:
        intruder.kill()
        intruder.wait()
    heard = not output.startswith("0 ")
    assert heard == reaches, output
