"""Reaction of policy_node, safety_monitor and arm_node: processor time, camera to command, trigger to hold.

The nodes are processes of their own; camera and robot are played by this script at 10 and 50 Hz. The model is the small
test bundle, whose risk follows the brightness of the image; policy_step.py measures inference of a released one.
``--trainer`` measures the same while a trainer makes updates on every core, at its own low priority. All have the
priorities that the graph gives them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import tyro
from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from recording import record
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger

from fosp_bringup import graph
from fosp_bringup.domain import free_domain
from fosp_bringup.lifetime import child_setup
from fosp_bringup.priority import Priority
from fosp_core.statistics import summarize_latency
from fosp_core.task import ARM_JOINTS
from fosp_core.testing import make_bundle
from fosp_interfaces.msg import SafetyStatus, TaskState
from fosp_ros import names, qos
from fosp_ros.images import to_message
from fosp_ros.messages import linear_velocity
from fosp_ros.polling import Listener, PolledSubscription
from fosp_ros.stamps import from_nanoseconds, to_nanoseconds
from fosp_ros.testing import ABOVE_THE_TABLE, plain_image

SAFE, DANGEROUS = plain_image(), plain_image(0.95, 0.95, 0.95)
READY_TIMEOUT_S = 60.0
RESETS = 20
"""Times a reset is asked for; each refusal is followed by 0.3 s of healthy frames, and a second is enough."""
WARM_UP_S = 30.0
"""Processor time after which a trainer has imported everything and makes updates."""
MODULES = {
    "policy_node": "fosp_policy_node.policy_node",
    "safety_monitor": "fosp_safety_monitor.safety_monitor",
    "arm_node": "fosp_arm.arm_node",
}


@dataclass
class Options:
    """How much is measured."""

    idle_s: float = 20.0
    """Seconds in which frames flow and nothing runs."""
    steps: int = 300
    """Control steps for the latency from camera to command."""
    trials: int = 20
    """Halts of each kind."""
    trainer: bool = False
    """Whether a trainer works beside it."""
    name: str = ""
    """Name of the result file; reaction or reaction_with_trainer by default."""


class World:
    """Camera, robot and task for the three nodes, and what the monitor commands."""

    def __init__(self, models: Path) -> None:
        model = {"models_root": str(models), "bundle": "safereach/test"}
        # the test bundle claims no bound
        parameters = {"policy_node": model, "safety_monitor": {**model, "require_calibration": "false"}, "arm_node": {}}
        priorities = {spec.name: spec.priority for spec in graph.nodes(graph.Arguments())}
        self.processes = {
            name: subprocess.Popen(
                [sys.executable, "-m", module, "--ros-args"]
                + [word for key, value in parameters[name].items() for word in ("-p", f"{key}:={value}")],
                preexec_fn=child_setup(signal.SIGKILL, priorities[name]),
            )
            for name, module in MODULES.items()
        }
        rclpy.init()
        self.node = Node("reaction")
        self._tasks = self.node.create_publisher(TaskState, names.TASK_STATE, qos.TASK_STATE)
        self._images = self.node.create_publisher(Image, names.CAMERA_IMAGE, qos.IMAGE)
        self._joints = self.node.create_publisher(JointState, names.JOINT_STATES, qos.JOINT_STATES)
        self._halt = self.node.create_client(Trigger, names.SAFETY_HALT)
        self._reset = self.node.create_client(Trigger, names.SAFETY_RESET)
        commands = PolledSubscription(self.node, TwistStamped, names.ARM_COMMAND, qos.COMMAND)
        statuses = PolledSubscription(self.node, SafetyStatus, names.SAFETY_STATUS, qos.STATUS)
        self._listener = Listener(
            self.node, [(commands, self._on_command), (statuses, self._on_status)], self._on_error, "listener"
        )
        self._spinner = threading.Thread(target=rclpy.spin, args=(self.node,), daemon=True)
        self.moved_ns: dict[int, int] = {}  # first motion by the stamp of its frame
        self.commands: list[tuple[int, bool]] = []  # when received, and whether it moves
        self.halted = False
        self._count = 0

    def __enter__(self) -> World:
        self._spinner.start()
        self._listener.start()
        try:
            begin = time.monotonic()
            while not all(client.service_is_ready() for client in (self._halt, self._reset)):
                self.check()
                if time.monotonic() - begin > READY_TIMEOUT_S:
                    raise SystemExit(f"reaction: the monitor offers no halt and reset after {READY_TIMEOUT_S:g} s")
                time.sleep(0.1)
            self.frames(TaskState.READY, 30)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGINT)
        for process in self.processes.values():
            process.wait()
        self._listener.close()
        rclpy.shutdown()
        self._spinner.join()

    def check(self) -> None:
        """Raise ``SystemExit`` when a node has ended."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise SystemExit(f"reaction: {name} ended with {process.returncode}")

    def frame(self, phase: int, image: np.ndarray = SAFE, is_first: bool = False) -> int:
        """Publish one frame and what belongs to it; returns its stamp."""
        # No two images are equal: a camera that always sees the same is taken for frozen.
        self._count += 1
        image = image.copy()
        image[0, 0, 0] = self._count % 256
        stamp_ns = time.time_ns()
        stamp = from_nanoseconds(stamp_ns)
        task = TaskState(phase=phase, episode_id=1, is_first=is_first)
        task.header.stamp = stamp
        self._tasks.publish(task)
        self.robot(stamp_ns)
        self._images.publish(to_message(image, stamp, "camera"))
        return stamp_ns

    def robot(self, stamp_ns: int) -> None:
        """Publish joint states."""
        joints = JointState(name=list(ARM_JOINTS), position=list(ABOVE_THE_TABLE))
        joints.header.stamp = from_nanoseconds(stamp_ns)
        self._joints.publish(joints)

    def frames(self, phase: int, count: int, image: np.ndarray = SAFE) -> list[int]:
        """Publish frames at 10 Hz with joint states at 50 Hz; returns the stamps."""
        stamps = []
        due = time.monotonic()
        for i in range(count):
            self.check()
            stamps.append(self.frame(phase, image, is_first=i == 0))
            for tick in range(5):
                if tick:
                    self.robot(time.time_ns())
                due += 0.02
                time.sleep(max(0.0, due - time.monotonic()))
        return stamps

    def hold_after_ms(self, trigger_ns: int) -> float:
        """From a trigger to the first command that holds, after which none moves."""
        later = [(at, moves) for at, moves in list(self.commands) if at >= trigger_ns]
        last = max((at for at, moves in later if moves), default=trigger_ns)
        held = next((at for at, moves in later if not moves and at >= last), None)
        return float("nan") if held is None else (held - trigger_ns) * 1e-6

    def call(self, what: str) -> bool:
        """Call the service ``halt`` or ``reset``."""
        client = self._halt if what == "halt" else self._reset
        return bool(client.call(Trigger.Request()).success)

    def processor_s(self) -> dict[str, float]:
        """Processor time that each node has used."""
        return {name: processor_s(process.pid) for name, process in self.processes.items()}

    def _on_command(self, message: TwistStamped) -> None:
        now = time.time_ns()
        moves = bool(linear_velocity(message).any())
        self.commands.append((now, moves))
        if moves:
            self.moved_ns.setdefault(to_nanoseconds(message.header.stamp), now)

    def _on_status(self, message: SafetyStatus) -> None:
        self.halted = message.state == SafetyStatus.HALTED

    def _on_error(self, error: Exception) -> None:
        raise error


@contextlib.contextmanager
def trainer() -> Iterator[None]:
    """Updates of every part of the model, without an end, as the trainer node makes them."""
    command = [sys.executable, str(Path(__file__).with_name("train_step.py")), "--child", "--sizes", "cpu"]
    command += ["--updates", str(10**9), "--threads", str(os.cpu_count() or 1)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, preexec_fn=child_setup(signal.SIGKILL, Priority.BACKGROUND)
    )
    try:
        while processor_s(process.pid) < WARM_UP_S:
            if process.poll() is not None:
                raise SystemExit(f"reaction: the trainer ended with {process.returncode}")
            time.sleep(1.0)
        yield
        if process.poll() is not None:
            raise SystemExit("reaction: the trainer ended before the measurement")
    finally:
        process.kill()
        process.wait()


def processor_s(pid: int) -> float:
    """Processor time that a process has used."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        return 0.0
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def share(world: World, work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Percent of one core that each node uses during ``work``, and what it returns."""
    before, start = world.processor_s(), time.monotonic()
    result = work()
    elapsed = time.monotonic() - start
    used = {name: 100 * (s - before[name]) / elapsed for name, s in world.processor_s().items()}
    return {**used, "together": sum(used.values())}, result


def halts(world: World, trials: int, trigger: Callable[[], int]) -> list[float]:
    """Trigger to hold, ms, of halts in motion; resets after each."""
    times = []
    for _ in range(trials):
        world.frames(TaskState.RUNNING, 8)
        at = trigger()
        time.sleep(0.1)
        world.frames(TaskState.RUNNING, 3)
        times.append(world.hold_after_ms(at))
        for _ in range(RESETS):
            if world.call("reset"):
                break
            world.frames(TaskState.READY, 3)
        else:
            raise SystemExit("reaction: the monitor refuses to reset")
    return times


def main(options: Options) -> None:
    """Measure and write the result."""
    os.environ["ROS_DOMAIN_ID"] = str(free_domain())
    beside = trainer() if options.trainer else contextlib.nullcontext()
    with tempfile.TemporaryDirectory() as folder:
        make_bundle(Path(folder) / "safereach" / "test")
        with beside, World(Path(folder)) as world:
            idle, _ = share(world, lambda: world.frames(TaskState.READY, round(options.idle_s * 10)))
            running, stamps = share(world, lambda: world.frames(TaskState.RUNNING, options.steps))
            latency = [(world.moved_ns[s] - s) * 1e-6 for s in stamps if s in world.moved_ns]
            world.frames(TaskState.READY, 5)

            def danger() -> int:
                return world.frame(TaskState.RUNNING, DANGEROUS)

            def operator() -> int:
                at = time.time_ns()
                world.call("halt")
                return at

            figures: dict[str, dict[str, Any]] = {
                "processor_percent_idle": idle,
                "processor_percent_running": running,
                "camera_to_command_ms": {**summarize_latency(latency), "frames": len(stamps)},
                "dangerous_frame_to_hold_ms": _figures(halts(world, options.trials, danger)),
                "operator_halt_to_hold_ms": _figures(halts(world, options.trials, operator)),
            }
    name = options.name or ("reaction_with_trainer" if options.trainer else "reaction")
    path = record(name, {"model_id": "test", "trainer": options.trainer, **figures})
    for name, values in figures.items():
        print(name, {k: round(v, 2) for k, v in values.items() if isinstance(v, int | float)})
    print(f"written to {path}")


def _figures(times: Sequence[float]) -> dict[str, Any]:
    return {**summarize_latency(times), "runs": list(times)}


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
