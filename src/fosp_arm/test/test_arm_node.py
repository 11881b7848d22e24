"""The arm node over DDS, with a fake arm that goes where it is told."""

from __future__ import annotations

import importlib.util
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import TwistStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from trajectory_msgs.msg import JointTrajectory

from fosp_arm.arm_node import ArmNode
from fosp_arm.controller import HoldReason, Mode
from fosp_core.task import ARM_JOINTS
from fosp_ros import names, qos
from fosp_ros.errors import ConfigurationError
from fosp_ros.messages import twist
from fosp_ros.stamps import from_nanoseconds
from fosp_ros.testing import ABOVE_THE_TABLE, Bench

FORWARD = np.array([0.1, 0.0, 0.0])


class ArmBench(Bench[ArmNode]):
    """The arm node with a monitor and a robot around it, both at 50 Hz in a thread of their own."""

    def __enter__(self) -> ArmBench:
        super().__enter__()
        self.measured = np.array(ABOVE_THE_TABLE)
        self.follows = True
        self.joints_flow = True
        self.command: TwistStamped | None = None
        self.sent: list[np.ndarray] = []
        self._commands = self.client.create_publisher(TwistStamped, names.ARM_COMMAND, qos.COMMAND)
        self.client.create_subscription(JointTrajectory, names.JOINT_TRAJECTORY, self._on_trajectory, qos.TRAJECTORY)
        self.connect()
        self.until(lambda: self._commands.get_subscription_count() > 0, "a listener for commands")
        self._ending = threading.Event()
        self._player = threading.Thread(target=self._play, daemon=True)
        self._player.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ending.set()
        self._player.join()
        super().__exit__(*error)

    def _play(self) -> None:
        while not self._ending.wait(0.02):
            if self.joints_flow:
                self.send_joints(self.now_ns, self.measured.tolist())
            command = self.command
            if command is not None:
                command.header.stamp = from_nanoseconds(self.now_ns)
                self._commands.publish(command)

    def _on_trajectory(self, message: JointTrajectory) -> None:
        assert list(message.joint_names) == list(ARM_JOINTS) and len(message.points) == 1
        positions = np.array(message.points[0].positions)
        self.sent.append(positions)
        if self.follows:
            self.measured = positions

    @property
    def tool(self) -> np.ndarray:
        return self.node._controller._backend.tool(self.measured)

    def is_holding(self, reason: HoldReason) -> bool:
        return self.node._controller.mode is Mode.HOLDING and self.node._controller.reason is reason

    def move(self) -> None:
        start = self.tool
        self.command = twist(FORWARD)
        self.until(lambda: self.tool[0] > start[0] + 0.02, "motion")


@pytest.fixture
def bench() -> Iterator[ArmBench]:
    # The widest timeouts that are allowed: no test is about speed.
    with ArmBench(ArmNode, {"command_timeout_s": 0.3, "joint_timeout_s": 1.0, "command_age_s": 2.0}) as bench:
        yield bench


def test_moves_the_tool_along_the_commanded_direction(bench: ArmBench) -> None:
    start = bench.tool
    bench.move()
    travelled = bench.tool - start
    assert travelled[0] > 0.02
    np.testing.assert_allclose(travelled[1:], 0.0, atol=0.005)


def test_silence_holds_the_measured_position(bench: ArmBench) -> None:
    bench.move()
    bench.follows = False
    held = bench.measured.copy()
    bench.command = None
    bench.until(lambda: bench.is_holding(HoldReason.SILENCE), "a hold")
    bench.until(lambda: np.array_equal(bench.sent[-1], held), "the measured position")
    # And then nothing more.
    count = len(bench.sent)
    bench.until(lambda: bench.node._controller.step(math.inf).positions is None, "rest")
    assert all(np.array_equal(p, held) for p in bench.sent[count:])


def test_a_zero_command_holds(bench: ArmBench) -> None:
    bench.move()
    bench.command = twist(np.zeros(3))
    bench.until(lambda: bench.is_holding(HoldReason.ZERO), "a hold")


@pytest.mark.parametrize("fault", ["not finite", "frame", "rotation"])
def test_a_malformed_command_holds_and_is_named(bench: ArmBench, fault: str) -> None:
    bench.move()
    bad = twist(FORWARD)
    if fault == "not finite":
        bad.twist.linear.y = math.nan
    elif fault == "frame":
        bad.header.frame_id = "camera"
    else:
        bad.twist.angular.z = 1.0
    bench.command = bad
    bench.until(lambda: bench.is_holding(HoldReason.BAD_COMMAND), "a hold")
    assert fault in bench.node._diagnostics.last_fault


def test_a_second_publisher_of_commands_holds(bench: ArmBench) -> None:
    bench.move()
    intruder = bench.client.create_publisher(TwistStamped, names.ARM_COMMAND, qos.COMMAND)
    bench.until(lambda: bench.is_holding(HoldReason.SECOND_PUBLISHER), "a hold")
    assert bench.node._diagnostics.counts["second_publisher"] == 1
    bench.client.destroy_publisher(intruder)
    bench.until(lambda: bench.is_holding(HoldReason.DISPLACED), "one publisher")
    bench.command = twist(np.zeros(3))
    bench.until(lambda: bench.is_holding(HoldReason.ZERO), "rest")
    bench.move()


def test_lost_joint_states_hold(bench: ArmBench) -> None:
    bench.move()
    bench.joints_flow = False
    bench.until(lambda: bench.is_holding(HoldReason.STALE_JOINTS), "a hold")
    bench.joints_flow = True
    bench.move()


def test_joint_states_without_the_arm_are_counted(bench: ArmBench) -> None:
    bench.joints_flow = False
    publisher = bench.client.create_publisher(JointState, names.JOINT_STATES, qos.JOINT_STATES)
    bad = JointState(name=["wheel"], position=[0.0])
    counts = bench.node._diagnostics
    bench.until(lambda: counts.counts.get("bad_joint_state"), "the count", lambda: publisher.publish(bad))
    assert "panda_joint1" in counts.last_fault


def test_ending_in_motion_sends_the_measured_position() -> None:
    with ArmBench(ArmNode, {"command_timeout_s": 0.3, "joint_timeout_s": 1.0, "command_age_s": 2.0}) as bench:
        bench.move()
        bench.node._loop.close()
        bench.follows = False
        count = len(bench.sent)
        bench.node.close()
        bench.until(lambda: len(bench.sent) > count, "the last message")
        measured = bench.node._controller.measured
        np.testing.assert_array_equal(bench.sent[-1], measured)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"speed_limit_m_s": 1.0}, "speed_limit_m_s"),
        ({"backend": "magic"}, "backend"),
        ({"urdf": "/nowhere.urdf"}, "/nowhere.urdf"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=named), Bench(ArmNode, changes):
        pass


def test_dry_run_computes_everything_and_moves_nothing() -> None:
    settings = {"command_timeout_s": 0.3, "joint_timeout_s": 1.0, "command_age_s": 2.0, "dry_run": True}
    with ArmBench(ArmNode, settings) as bench:
        planned = bench.listen(JointTrajectory, names.ARM_DRY_RUN, qos.TRAJECTORY)
        bench.command = twist(FORWARD)
        bench.until(lambda: len(planned) > 5 and bench.node._controller.mode is Mode.MOVING, "joint targets")
        chain = bench.node._controller._backend
        assert chain.tool(np.array(planned[-1].points[0].positions))[0] > bench.tool[0]
        assert bench.sent == []
        assert bench.client.count_publishers(names.JOINT_TRAJECTORY) == 0


def test_arm_that_is_brought_home_is_not_taken_for_one_that_does_not_hold(bench: ArmBench) -> None:
    bench.move()
    bench.command = twist(np.zeros(3))
    bench.until(lambda: bench.is_holding(HoldReason.ZERO), "a hold")
    # The last targets of the hold are on their way.
    bench.until(lambda: bench.node._controller.step(math.inf).positions is None, "rest")
    homing = bench.client.create_publisher(Bool, names.ARM_HOMING, qos.TASK_STATE)
    bench.until(lambda: homing.get_subscription_count() > 0, "a listener")
    homing.publish(Bool(data=True))
    bench.until(lambda: bench.node._homing._heard_at > 0.0, "the word")
    bench.follows = False
    for _ in range(20):
        bench.measured = bench.measured + np.array([0.01, 0, 0, 0, 0, 0, 0])
        homing.publish(Bool(data=True))
        time.sleep(0.02)
    assert bench.node._controller.hold_drift_m() == 0.0
    # A command in the meantime moves nothing.
    bench.command = twist(FORWARD)
    homing.publish(Bool(data=True))
    bench.until(lambda: bench.is_holding(HoldReason.DISPLACED), "a hold")
    bench.follows = True
    bench.command = twist(np.zeros(3))
    homing.publish(Bool(data=False))
    bench.until(lambda: bench.node._homing._heard_at < 0.0 and bench.is_holding(HoldReason.ZERO), "the end of homing")
    bench.move()


@pytest.mark.skipif(importlib.util.find_spec("moveit_msgs") is not None, reason="MoveIt is installed here")
@pytest.mark.parametrize(("backend", "needed"), [("moveit", "moveit_py"), ("servo", "moveit_msgs")])
def test_moveit_that_is_not_installed_is_named(backend: str, needed: str) -> None:
    with (
        pytest.raises(ConfigurationError, match=f"needs {needed}, which is not installed"),
        ArmBench(ArmNode, {"backend": backend}),
    ):
        pass
