"""The homing node over DDS, with an arm that goes where it is told and a monitor that streams zeros."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import TwistStamped
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

import fosp_description
from fosp_arm.homing_node import HomingNode
from fosp_core.task import ARM_JOINTS
from fosp_interfaces.msg import SafetyStatus, TaskState
from fosp_ros import names, qos
from fosp_ros.errors import ConfigurationError
from fosp_ros.kinematics import Chain
from fosp_ros.messages import twist
from fosp_ros.testing import ABOVE_THE_TABLE, Bench

HOME = (0.36, 0.0, 0.10)
SLACK = {"joint_timeout_s": 1.0, "command_timeout_s": 1.0, "rest_time_s": 1.0}
"""No test is about speed."""


class Arm(Bench[HomingNode]):
    """Arm and monitor, both at 50 Hz in a thread of their own."""

    def __enter__(self) -> Arm:
        super().__enter__()
        self.measured = np.array(ABOVE_THE_TABLE)
        self.velocity = np.zeros(3)
        self.follows = self.streams = True
        self.sent: list[np.ndarray] = []
        self._chain = Chain.from_urdf(fosp_description.urdf_path())
        self._commands = self.client.create_publisher(TwistStamped, names.ARM_COMMAND, qos.COMMAND)
        self._status = self.client.create_publisher(SafetyStatus, names.SAFETY_STATUS, qos.STATUS)
        self._task = self.client.create_publisher(TaskState, names.TASK_STATE, qos.TASK_STATE)
        self.client.create_subscription(JointTrajectory, names.JOINT_TRAJECTORY, self._go, qos.TRAJECTORY)
        self._home = self.client.create_client(Trigger, names.ARM_HOME)
        self.until(self._home.service_is_ready, "the service")
        for publisher in (self._commands, self._status, self._task):
            self.until(lambda p=publisher: p.get_subscription_count() > 0, publisher.topic_name)
        self.monitor(SafetyStatus.NOMINAL)
        self._ending = threading.Event()
        self._player = threading.Thread(target=self._play, daemon=True)
        self._player.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ending.set()
        self._player.join()
        super().__exit__(*error)

    def monitor(self, state: int) -> None:
        """Have the monitor in a state from now on."""
        self.state = state
        self._status.publish(SafetyStatus(state=state))

    def episode(self, phase: int) -> None:
        """Have the task in a phase."""
        self._task.publish(TaskState(phase=phase))

    def _go(self, message: JointTrajectory) -> None:
        assert list(message.joint_names) == list(ARM_JOINTS)
        positions = np.array(message.points[0].positions)
        self.sent.append(positions)
        if self.follows:
            self.measured = positions

    def _play(self) -> None:
        step = 0
        while not self._ending.wait(0.02):
            step += 1
            self.send_joints(self.now_ns, self.measured.tolist())
            if self.streams:
                self._commands.publish(twist(self.velocity))
                if step % 10 == 0:
                    self._status.publish(SafetyStatus(state=self.state))

    @property
    def tool(self) -> np.ndarray:
        return self._chain.position(self.measured)

    def ask(self) -> Any:
        """Ask for the way home; the answer, some day."""
        return self._home.call_async(Trigger.Request())

    def home(self) -> Trigger.Response:
        answer = self.ask()
        self.until(answer.done, "an answer")
        return answer.result()

    def on_its_way(self) -> Any:
        answer, begin = self.ask(), self.tool
        self.until(lambda: np.linalg.norm(self.tool - begin) > 0.03, "motion")
        return answer

    def stops(self, answer: Any, reason: str) -> None:
        """Wait for the answer; the arm must stay where it is then."""
        self.until(answer.done, "an answer")
        assert not answer.result().success and reason in answer.result().message
        held = self.tool
        assert np.linalg.norm(held - HOME) > 0.05
        count = len(self.sent)
        self.until(lambda: self.now_ns and len(self.sent) - count <= 1, "rest")
        np.testing.assert_allclose(self.tool, held, atol=2e-3)


@pytest.fixture
def arm() -> Iterator[Arm]:
    quick = {"tool_speed_m_s": 0.25, "joint_speed_fraction": 0.5, "tracking_limit_rad": 0.6}
    with Arm(HomingNode, {**SLACK, **quick}) as it:
        yield it


def test_arm_goes_home_above_everything_and_says_so_on_its_way(arm: Arm) -> None:
    words: list[Bool] = []
    arm.client.create_subscription(Bool, names.ARM_HOMING, words.append, qos.TASK_STATE)
    answer = arm.home()
    assert answer.success and answer.message == "the arm is home"
    np.testing.assert_allclose(arm.tool, HOME, atol=6e-3)
    assert max(arm._chain.position(joints)[2] for joints in arm.sent) > 0.25
    arm.until(lambda: any(word.data for word in words), "the word")
    # From there it goes again: up and down on the spot.
    assert arm.home().success


@pytest.mark.parametrize(
    ("state", "phase", "reason"),
    [
        (SafetyStatus.HALTED, TaskState.ENDED, "the safety monitor has halted; reset it first"),
        (SafetyStatus.INACTIVE, TaskState.ENDED, "the safety monitor is not active"),
        (SafetyStatus.NOMINAL, TaskState.RUNNING, "an episode is running"),
    ],
)
def test_arm_does_not_set_out_when_it_must_not(arm: Arm, state: int, phase: int, reason: str) -> None:
    arm.monitor(state)
    arm.episode(phase)
    answer = arm.home()
    assert not answer.success and reason in answer.message
    assert arm.sent == []


def test_arm_does_not_set_out_while_it_is_moved_or_nobody_watches(arm: Arm) -> None:
    arm.velocity = np.array([0.0, 0.1, 0.0])
    assert "the arm is being moved" in arm.home().message
    arm.velocity = np.zeros(3)
    arm.streams = False
    # Neither commands nor its status come any more.
    assert "the safety monitor" in arm.home().message
    assert arm.sent == []


def test_halt_stops_the_arm_on_its_way(arm: Arm) -> None:
    answer = arm.on_its_way()
    arm.monitor(SafetyStatus.HALTED)
    arm.stops(answer, "stopped on the way: the safety monitor has halted")


def test_dead_monitor_stops_the_arm_on_its_way(arm: Arm) -> None:
    answer = arm.on_its_way()
    arm.streams = False
    arm.stops(answer, "stopped on the way: the safety monitor sends no commands")


def test_command_of_the_monitor_stops_the_arm_on_its_way(arm: Arm) -> None:
    answer = arm.on_its_way()
    arm.velocity = np.array([0.1, 0.0, 0.0])
    arm.stops(answer, "stopped on the way: somebody else moves the arm")


def test_operator_stops_the_arm_on_its_way_and_only_then(arm: Arm) -> None:
    assert not arm.call(Trigger, names.ARM_HOME_CANCEL, Trigger.Request()).success
    answer = arm.on_its_way()
    second = arm.home()
    assert not second.success and second.message == "the arm is on its way home already"
    assert arm.call(Trigger, names.ARM_HOME_CANCEL, Trigger.Request()).success
    arm.stops(answer, "stopped on the way: cancelled")
    assert arm.home().success


def test_arm_that_does_not_follow_is_given_up() -> None:
    with Arm(HomingNode, SLACK) as arm:
        arm.follows = False
        answer = arm.home()
        assert not answer.success and "the arm does not follow" in answer.message
        # The last word is to stay where it is.
        arm.until(lambda: arm.sent and np.array_equal(arm.sent[-1], arm.measured), "a hold")


def test_end_of_the_node_stops_the_arm() -> None:
    with Arm(HomingNode, SLACK) as arm:
        arm.on_its_way()
        arm.node.close()
        assert not arm.node._thread.is_alive()
        count = len(arm.sent)
        arm.until(lambda: len(arm.sent) >= count, "the last target")
        assert np.linalg.norm(arm.tool - HOME) > 0.05


def test_dry_run_refuses() -> None:
    with Arm(HomingNode, {"dry_run": True}) as arm:
        assert "dry run" in arm.home().message and arm.sent == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"home_x": 2.0}, "home_x"),
        ({"planner": "magic"}, "planner"),
        ({"urdf": "/nowhere.urdf"}, "/nowhere.urdf"),
        ({"srdf": "/nowhere.srdf"}, "/nowhere.srdf"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named), Bench(HomingNode, changes):
        pass


@pytest.mark.skipif(importlib.util.find_spec("moveit") is not None, reason="MoveIt is installed here")
def test_moveit_that_is_not_installed_is_named() -> None:
    with (
        pytest.raises(ConfigurationError, match="needs moveit_py, which is not installed"),
        Bench(HomingNode, {"planner": "moveit"}),
    ):
        pass
