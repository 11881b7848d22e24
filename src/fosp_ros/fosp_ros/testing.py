"""A bench for node tests: one node of the project, over DDS, with a fake camera, robot, task and policy around it.

Every bench has a ROS domain of its own, so that tests can run beside each other and beside a running graph.
"""

from __future__ import annotations

import random
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

import numpy as np
import rclpy
import yaml
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, JointState

from fosp_core.images import Image as RgbImage
from fosp_core.task import ARM_JOINTS, IMAGE_SIZE
from fosp_interfaces.msg import PolicyDecision, TaskState
from fosp_ros import names, qos
from fosp_ros.images import to_message
from fosp_ros.stamps import from_nanoseconds

N = TypeVar("N", bound=Node)
_STRIPE = 10
"""Grey levels."""
PATIENCE_S = 60.0
"""Tests share their cores with whatever else runs, and none is about speed."""

ABOVE_THE_TABLE = (0.0, 0.1, 0.0, -2.36, 0.0, 2.46, 0.785)
"""Joint positions, rad, that put the tool well inside the workspace."""


def plain_image(red: float = 0.3, green: float = 0.3, blue: float = 0.3, size: int = IMAGE_SIZE) -> RgbImage:
    """An image of one mean colour, parts in [0, 1]; ``fosp_core.testing.make_bundle`` says what it means to the model.

    A brighter and a darker stripe keep it from being an image of nothing.
    """
    colour = np.array([red, green, blue]) * 255
    image = np.broadcast_to(colour, (size, size, 3)).copy()
    image[size // 4 : size // 2] += _STRIPE
    image[size // 2 : size // 2 + size // 4] -= _STRIPE
    return np.clip(image, 0, 255).astype(np.uint8)


class Bench(Generic[N]):
    """Use as a context manager; ``node`` is the node under test, ``client`` the one that plays everything else."""

    def __init__(self, factory: Callable[[], N], parameters: Mapping[str, Any] | None = None) -> None:
        """``parameters`` are given to the node as a parameter file would."""
        self._factory = factory
        self._parameters = dict(parameters or {})
        self._threads: list[tuple[SingleThreadedExecutor, threading.Thread]] = []
        self._stop = threading.Event()

    def __enter__(self) -> Bench[N]:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump({"/**": {"ros__parameters": self._parameters}}, file)
            file.flush()
            rclpy.init(
                args=["--ros-args", "--params-file", file.name] if self._parameters else [],
                domain_id=_free_domain(),
                signal_handler_options=SignalHandlerOptions.NO,
            )
            try:
                self.node = self._factory()
            except BaseException:
                rclpy.shutdown()
                raise
        self.client = Node("bench", use_global_arguments=False)
        self._tasks = self.client.create_publisher(TaskState, names.TASK_STATE, qos.TASK_STATE)
        self._joints = self.client.create_publisher(JointState, names.JOINT_STATES, qos.JOINT_STATES)
        self._images = self.client.create_publisher(Image, names.CAMERA_IMAGE, qos.IMAGE)
        self._decisions = self.client.create_publisher(PolicyDecision, names.POLICY_DECISION, qos.DECISION)
        for node in (self.node, self.client):
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            thread = threading.Thread(target=self._spin, args=(executor,), daemon=True)
            thread.start()
            self._threads.append((executor, thread))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for executor, thread in self._threads:
            executor.create_task(lambda: None)
            thread.join(5.0)
        close = getattr(self.node, "close", None)
        if close is not None:
            close()
        for executor, _ in self._threads:
            executor.shutdown(timeout_sec=1.0)
        self.node.destroy_node()
        self.client.destroy_node()
        rclpy.shutdown()

    def _spin(self, executor: SingleThreadedExecutor) -> None:
        while not self._stop.is_set():
            executor.spin_once()

    @property
    def now_ns(self) -> int:
        """Now, on the clock of the stamps."""
        return int(self.client.get_clock().now().nanoseconds)

    def listen(self, kind: type[Any], topic: str, profile: QoSProfile) -> list[Any]:
        """A list that grows with every message of a topic; waits until the node's publisher was found."""
        received: list[Any] = []
        subscription = self.client.create_subscription(kind, topic, received.append, profile)
        self.until(lambda: subscription.get_publisher_count() > 0, f"a publisher of {topic}")
        return received

    def call(self, kind: type[Any], name: str, request: Any) -> Any:
        """Answer of a service."""
        client = self.client.create_client(kind, name)
        self.until(client.service_is_ready, f"service {name}")
        future = client.call_async(request)
        self.until(future.done, f"an answer of {name}")
        return future.result()

    def until(self, condition: Callable[[], Any], what: str, step: Callable[[], object] | None = None) -> Any:
        """Wait until ``condition`` gives something true, and give that.

        ``step`` is called ten times a second meanwhile. Raises ``AssertionError`` when it takes too long.
        """
        end = time.monotonic() + PATIENCE_S
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > end:
                raise AssertionError(f"waited {PATIENCE_S:g} s for {what}")
            if step is not None:
                step()
            time.sleep(0.01 if step is None else 0.1)

    def connect(self) -> None:
        """Wait until the node hears camera, robot, task and policy, as far as it listens to them."""
        listened = {name for name, _ in self.node.get_subscriber_names_and_types_by_node(self.node.get_name(), "/")}
        for publisher in (self._tasks, self._joints, self._images, self._decisions):
            if publisher.topic_name in listened:
                self.until(partial(_is_heard, publisher), publisher.topic_name)

    def send_task(
        self, stamp_ns: int, phase: int = TaskState.RUNNING, episode: int = 1, is_first: bool = False
    ) -> None:
        """Publish the task's state of a frame."""
        message = TaskState(phase=phase, episode_id=episode, is_first=is_first, scene="standard")
        message.header.stamp = from_nanoseconds(stamp_ns)
        self._tasks.publish(message)

    def send_joints(self, stamp_ns: int, positions: Sequence[float] = ABOVE_THE_TABLE) -> None:
        """Publish joint positions, rad."""
        message = JointState(name=list(ARM_JOINTS), position=[float(v) for v in positions])
        message.header.stamp = from_nanoseconds(stamp_ns)
        self._joints.publish(message)

    def send_image(self, message: Image) -> None:
        """Publish any image message."""
        self._images.publish(message)

    def send_frame(
        self,
        image: RgbImage | None = None,
        phase: int = TaskState.RUNNING,
        episode: int = 1,
        is_first: bool = False,
        stamp_ns: int | None = None,
        joints: Sequence[float] | None = ABOVE_THE_TABLE,
    ) -> int:
        """Publish task state, joint state and image with one stamp, by default now; returns the stamp."""
        stamp = self.now_ns if stamp_ns is None else stamp_ns
        self.send_task(stamp, phase, episode, is_first)
        if joints is not None:
            self.send_joints(stamp, joints)
        self.send_image(to_message(plain_image() if image is None else image, from_nanoseconds(stamp), "camera"))
        return stamp

    def send_decision(
        self,
        stamp_ns: int,
        action: Sequence[float] = (0.5, 0.0, 0.0),
        candidates: Sequence[float] = (0.5, 0.0, 0.0, 0.0, 0.5, 0.0),
    ) -> None:
        """Publish a decision on the frame with a stamp."""
        message = PolicyDecision(action=[float(v) for v in action], candidate_actions=[float(v) for v in candidates])
        message.header.stamp = from_nanoseconds(stamp_ns)
        message.decided_at = from_nanoseconds(self.now_ns)
        self._decisions.publish(message)


def _is_heard(publisher: Any) -> bool:
    return bool(publisher.get_subscription_count() > 0)


def _free_domain() -> int:
    """A ROS domain that nobody on this computer uses, seen from its first UDP port (RTPS 2.5, 9.6.2.3)."""
    domains = list(range(1, 102))
    random.SystemRandom().shuffle(domains)
    for domain in domains:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7400 + 250 * domain + 10))
            except OSError:
                continue
            return domain
    raise RuntimeError("all ROS domains of this computer are in use")
