"""The running graph with relays in its streams, and everything that can be seen of it from outside."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import rclpy
from geometry_msgs.msg import TwistStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

import fosp_description
from fosp_bringup import graph
from fosp_bringup.discovery import missing_services
from fosp_bringup.domain import free_domain
from fosp_bringup.faults.measure import CommandSample, Held, TargetSample, ToolSample, hold_after
from fosp_bringup.faults.relay import Relay
from fosp_bringup.lifetime import child_setup
from fosp_bringup.runner import LOG_FOLDER, environment, read_processes
from fosp_core.bundle import FILES, write_bundle
from fosp_core.safety import SafetyState
from fosp_core.task import ARM_JOINTS
from fosp_core.testing import make_bundle
from fosp_interfaces.msg import PolicyDecision, SafetyStatus
from fosp_interfaces.srv import ResetScene
from fosp_ros import names, qos
from fosp_ros.kinematics import Chain
from fosp_ros.messages import linear_velocity
from fosp_ros.polling import Listener, PolledSubscription
from fosp_ros.stamps import age_s

CLOCK: Final = "/clock"
START_TIMEOUT_S: Final = 120.0
ANSWER_TIMEOUT_S: Final = 20.0
START_ATTEMPTS: Final = 5
START_WAIT_S: Final = 6.0
FULL_MOTION_S: Final = 0.3
MOVING_SPEED: Final = 0.1
MODEL: Final = "safereach/steady"
SENSELESS_MODEL: Final = "safereach/senseless"
_ACTION: Final = (0.0, 0.6, 0.0)
"""Sideways at 0.18 m/s: away from the obstacles of the layout and for three seconds within the workspace."""
_HISTORY: Final = 3000
_STEP_S: Final = 1e-3
_STALL_STEP_S: Final = 0.01
_SEED: Final = 0

_RELAYED: Final = (
    (names.CAMERA_IMAGE, Image, qos.IMAGE, (names.POLICY_NODE, names.SAFETY_MONITOR)),
    (names.JOINT_STATES, JointState, qos.JOINT_STATES, (names.POLICY_NODE, names.SAFETY_MONITOR, names.ARM_NODE)),
    (names.POLICY_DECISION, PolicyDecision, qos.DECISION, (names.SAFETY_MONITOR,)),
)
"""Topics that pass a relay, and the nodes that listen behind it."""
_RELAYED_CLOCK: Final = (
    CLOCK,
    Clock,
    QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
    (names.POLICY_NODE, names.SAFETY_MONITOR, names.ARM_NODE),
)
"""With a simulated clock."""


class RigError(Exception):
    """The graph does not do what the test needs; the message says what was waited for."""


def make_models(root: Path) -> Path:
    """Models folder with two bundles whose policy moves the tool steadily and whose risk follows the brightness.

    The judge of the second one says NaN from a mean brightness of 0.61 of full scale on.
    """
    make_bundle(root / MODEL, offline_action=_ACTION, online_action=_ACTION)
    bundle = make_bundle(root / SENSELESS_MODEL, offline_action=_ACTION, online_action=_ACTION)
    with tempfile.TemporaryDirectory() as scratch:
        judge = Path(scratch) / "judge.onnx"
        _make_senseless(bundle.path / judge.name, judge)
        others = {name: bundle.path / name for name in FILES if name != judge.name}
        staged = {name: Path(shutil.copy(path, scratch)) for name, path in others.items()}
        write_bundle(bundle.path, bundle.manifest, {**staged, judge.name: judge})
    return root


def _make_senseless(source: Path, target: Path) -> None:
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(source))
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["sensible" if name == "violation_probability" else name for name in node.output]
        node.input[:] = ["sensible" if name == "violation_probability" else name for name in node.input]
    constants = {"bright": np.float32(0.61), "nan": np.float32(np.nan), "flat_shape": np.asarray([1], np.int64)}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    graph.node.extend(
        [
            helper.make_node("Reshape", ["brightness", "flat_shape"], ["seen"]),
            helper.make_node("Greater", ["seen", "bright"], ["dazzled"]),
            helper.make_node("Where", ["dazzled", "nan", "sensible"], ["violation_probability"]),
        ]
    )
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


class Rig:
    """One running graph. A context manager; everything it started is gone at its end."""

    def __init__(
        self, models: Path, folder: Path, prefix: Sequence[str] = (), options: Sequence[str] = (), bundle: str = MODEL
    ) -> None:
        """``prefix``: command that the runner is started with; ``options``: further ones for the runner."""
        self.models, self.folder = models, folder
        self._command = [
            *prefix,
            *(sys.executable, "-m", "fosp_bringup.runner", "--when-node-exits", "keep", "--no-record-overview"),
            *("--models-root", str(models), "--bundle", bundle, "--run-folder", str(folder)),
            "--no-require-calibration",
            *options,
        ]
        self._relayed = (*_RELAYED, _RELAYED_CLOCK) if "--use-sim-time" in options else _RELAYED
        self._command += ["--remap"]
        self._command += [
            f"{node}:{topic}:={_relayed(topic)}" for topic, _, _, nodes in self._relayed for node in nodes
        ]
        self._chain = Chain.from_urdf(fosp_description.urdf_path())
        self._threads: list[threading.Thread] = []
        self._clients: dict[str, Any] = {}
        self.commands: deque[CommandSample] = deque(maxlen=_HISTORY)
        self.targets: deque[TargetSample] = deque(maxlen=_HISTORY)
        self.tools: deque[ToolSample] = deque(maxlen=_HISTORY)
        self.statuses: deque[tuple[float, SafetyStatus]] = deque(maxlen=_HISTORY)
        self.errors: list[Exception] = []
        self.false_starts = 0
        self._stalls: deque[tuple[float, float]] = deque(maxlen=_HISTORY)

    def __enter__(self) -> Rig:
        domain = free_domain()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._log = (self.folder / "runner.log").open("w")
        self.runner = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=environment(self.folder / LOG_FOLDER, {**os.environ, "ROS_DOMAIN_ID": str(domain)}),
            start_new_session=True,
            preexec_fn=child_setup(signal.SIGTERM),
        )
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context, domain_id=domain)
        self.node = Node("fault_injector", context=self._context, enable_rosout=False, start_parameter_services=False)
        self.relays = {
            topic: Relay(self.node, kind, topic, _relayed(topic), profile) for topic, kind, profile, _ in self._relayed
        }
        self.images, self.joints, self.decisions = (self.relays[topic] for topic, *_ in _RELAYED)
        watched: list[tuple[type, str, QoSProfile, Callable[[Any], None]]] = [
            (TwistStamped, names.ARM_COMMAND, qos.COMMAND, self._on_command),
            (JointTrajectory, names.JOINT_TRAJECTORY, qos.TRAJECTORY, self._on_target),
            (JointState, names.JOINT_STATES, qos.JOINT_STATES, self._on_joints),
        ]
        self.node.create_subscription(SafetyStatus, names.SAFETY_STATUS, self._on_status, qos.STATUS_HISTORY)
        self._listener = Listener(
            self.node,
            [(PolledSubscription(self.node, kind, topic, profile), call) for kind, topic, profile, call in watched],
            self.errors.append,
            "watcher",
        )
        self._listener.start()
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._open = True
        self._spinner = threading.Thread(target=self._spin, daemon=True)
        self._spinner.start()
        threading.Thread(target=self._watch_machine, daemon=True).start()
        try:
            wanted = graph.services(graph.Arguments())
            self.until(lambda: not missing_services(self.node, wanted), "the graph", START_TIMEOUT_S)
            self.until(lambda: self.statuses and self.tools, "the monitor and the robot", START_TIMEOUT_S)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for state in read_processes(self.folder).values():
            if state["returncode"] is None and state["pid"]:
                _signal(state["pid"], signal.SIGCONT)
        if self.runner.poll() is None:
            self.runner.send_signal(signal.SIGINT)
            try:
                self.runner.wait(30.0)
            except subprocess.TimeoutExpired:
                self.runner.kill()
                self.runner.wait()
        self._open = False
        self._executor.wake()
        self._spinner.join(5.0)
        for relay in self.relays.values():
            relay.close()
        self._listener.close()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)
        self._log.close()

    # -- the graph --------------------------------------------------------------------------------------------

    def pid(self, node: str) -> int:
        """Process id of a node."""
        pid = read_processes(self.folder).get(node, {}).get("pid")
        if not pid:
            raise RigError(f"{node} has no process")
        return pid

    def living(self) -> set[str]:
        """Nodes whose process is there."""
        return {name for name, state in read_processes(self.folder).items() if _is_alive(state["pid"])}

    def signal(self, node: str, number: signal.Signals) -> float:
        """Send a signal to a node; returns when."""
        pid, at = self.pid(node), time.monotonic()
        os.kill(pid, number)
        return at

    def logs(self) -> str:
        """Everything that was said."""
        files = sorted((self.folder / LOG_FOLDER).glob("*.log"))
        return "\n".join(file.read_text(errors="replace") for file in files)

    def client(self, kind: type, name: str, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        """Client of a service that has been found."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
        self.until(self._clients[name].service_is_ready, f"service {name}", timeout_s)
        return self._clients[name]

    def call(self, kind: type, name: str, request: Any, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        """Answer of a service."""
        client = self.client(kind, name, timeout_s)
        future = client.call_async(request)
        self.until(future.done, f"an answer of {name}", timeout_s)
        return future.result()

    def trigger(self, name: str) -> tuple[bool, str]:
        """Success and message of a service without arguments."""
        answer = self.call(Trigger, name, Trigger.Request())
        return bool(answer.success), str(answer.message)

    def until(
        self, condition: Callable[[], Any], what: str, timeout_s: float = ANSWER_TIMEOUT_S, pause_s: float = 0.01
    ) -> Any:
        """Wait until ``condition`` gives something true, and give that; raises ``RigError``."""
        end = time.monotonic() + timeout_s
        while True:
            value = condition()
            if value:
                return value
            if self.errors:
                raise RigError(f"the injector failed: {self.errors[0]!r}")
            if time.monotonic() > end:
                raise RigError(f"waited {timeout_s:g} s for {what}")
            time.sleep(pause_s)

    # -- trials -----------------------------------------------------------------------------------------------

    @property
    def state(self) -> SafetyState:
        """Newest state of the monitor."""
        return SafetyState(self.statuses[-1][1].state)

    def reasons_since(self, start: float) -> list[str]:
        """Names of the reasons that the monitor gave since then, in the order in which they came up."""
        found = [name for at, status in list(self.statuses) if at >= start for name in status.reason_names]
        return list(dict.fromkeys(found))

    def begin(self) -> None:
        """Lay out the scene, reset the monitor if it is halted, start, and wait until the arm is in full motion.

        A machine that is busy with other things may stop the arm before that; then it is tried again, and counted.
        """
        for _ in range(START_ATTEMPTS):
            self._start()
            since = time.monotonic()
            with contextlib.suppress(RigError):
                self.until(lambda: self.moves() or self.state is SafetyState.HALTED, "motion", START_WAIT_S)
            time.sleep(FULL_MOTION_S)
            if self.moves():
                return
            self.false_starts += 1
        raise RigError(f"no full motion in {START_ATTEMPTS} attempts: {', '.join(self.reasons_since(since))}")

    def _start(self) -> None:
        request = ResetScene.Request(scene="standard", seed=_SEED, episode_id=time.monotonic_ns() % 2**31)
        answer = self.call(ResetScene, names.SCENE_RESET, request)
        if not answer.success:
            raise RigError(f"the scene was not laid out: {answer.message}")
        self.reset()
        started, message = self.trigger(names.SCENE_START)
        if not started:
            raise RigError(f"the episode did not start: {message}")

    def reset(self, timeout_s: float = ANSWER_TIMEOUT_S) -> str:
        """Reset the monitor, as an operator would: again while it is refused; returns the last answer."""
        end = time.monotonic() + timeout_s
        while True:
            done, message = self.trigger(names.SAFETY_RESET)
            if done:
                return message
            if time.monotonic() > end:
                raise RigError(f"the reset is still refused after {timeout_s:g} s: {message}")
            time.sleep(0.1)

    def end(self) -> None:
        """Stop the episode if one runs."""
        self.trigger(names.SCENE_STOP)

    def moves(self) -> bool:
        """Whether the arm is told to move and does."""
        newest = self.commands[-1] if self.commands else None
        fresh = newest is not None and newest.moves and time.monotonic() - newest.received < 0.1
        return fresh and bool(self.tools) and self.tools[-1].speed >= MOVING_SPEED

    def hold_since(self, trigger: float) -> Held:
        """When the arm held after a fault, as far as is known now."""
        return hold_after(trigger, list(self.commands), list(self.targets), list(self.tools), time.monotonic())

    # -- what is received -------------------------------------------------------------------------------------

    def stall_since(self, start: float) -> float:
        """Longest time, s, that a thread of this process waited in vain for a processor since then."""
        return max((stall for at, stall in list(self._stalls) if at >= start), default=0.0)

    def _watch_machine(self) -> None:
        while self._open:
            before = time.monotonic()
            time.sleep(_STALL_STEP_S)
            now = time.monotonic()
            self._stalls.append((now, now - before - _STALL_STEP_S))

    def _on_command(self, message: TwistStamped) -> None:
        moves = bool(linear_velocity(message).any())
        age = age_s(message.header.stamp, self.node.get_clock().now().nanoseconds)
        self.commands.append(CommandSample(time.monotonic(), moves, age))

    def _on_target(self, message: JointTrajectory) -> None:
        self.targets.append(TargetSample(time.monotonic(), np.array(message.points[-1].positions)))

    def _on_joints(self, message: JointState) -> None:
        at = time.monotonic()
        index = [list(message.name).index(name) for name in ARM_JOINTS]
        positions, velocities = np.array(message.position)[index], np.array(message.velocity)[index]
        here = self._chain.position(positions)
        ahead = self._chain.position(positions + velocities * _STEP_S)
        self.tools.append(ToolSample(at, here, float(np.linalg.norm(ahead - here)) / _STEP_S))

    def _on_status(self, message: SafetyStatus) -> None:
        self.statuses.append((time.monotonic(), message))

    def _spin(self) -> None:
        try:
            while self._open and self._context.ok():
                self._executor.spin_once(timeout_sec=0.5)
        except Exception as error:
            self.errors.append(error)


def _relayed(topic: str) -> str:
    return f"/relayed{topic}"


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _is_alive(pid: int | None) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
