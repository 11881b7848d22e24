"""Brings the arm home when an operator asks for it: a planned way, checked for collisions, gone slowly.

The safety monitor does not judge this motion. The arm sets out only at rest, outside of episodes, and with the monitor
watching; a halt, silence, somebody else's command or an operator's word stops it where it is. Targets are sent one by
one, so that the arm stops as well when this node dies.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, Final

import numpy as np
from geometry_msgs.msg import TwistStamped
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

import fosp_description
from fosp_arm.backend import Vector
from fosp_arm.collision import CollisionModel
from fosp_arm.homing import Episode, Limits, Monitor, PlanError, Planner, Ride, interruption, plan, refusal
from fosp_arm.joint_planner import JointPlanner
from fosp_arm.mink_backend import MinkBackend
from fosp_arm.targets import target
from fosp_arm.watch import Watch
from fosp_core.task import COMMAND_HZ, WORKSPACE
from fosp_interfaces.msg import SafetyStatus, TaskState
from fosp_ros import names, qos, runner
from fosp_ros.diagnostics import Diagnostics, Health, Level
from fosp_ros.errors import ConfigurationError, MessageError
from fosp_ros.messages import joint_positions, linear_velocity
from fosp_ros.parameters import Parameter, Parameters
from fosp_ros.polling import PolledSubscription

PARAMETERS = (
    Parameter("urdf", "", "Robot description file; empty: the one this project ships.", read_only=True),
    Parameter("srdf", "", "MoveIt's description of the robot; empty: the one this project ships.", read_only=True),
    Parameter("planner", "joint", "What plans the way across.", choices=("joint", "moveit"), read_only=True),
    Parameter("dry_run", False, "Refuse every request: the arm must not move.", read_only=True),
    Parameter("home_x", 0.36, "Tool position at the start.", "m", WORKSPACE.low[0], WORKSPACE.high[0], read_only=True),
    Parameter("home_y", 0.0, "Tool position at the start.", "m", WORKSPACE.low[1], WORKSPACE.high[1], read_only=True),
    Parameter("home_z", 0.10, "Tool position at the start.", "m", WORKSPACE.low[2], WORKSPACE.high[2], read_only=True),
    Parameter("tool_speed_m_s", 0.1, "Largest tool speed on the way.", "m/s", 0.01, 0.25, read_only=True),
    Parameter(
        "joint_speed_fraction", 0.2, "Part of the joint speed limits that is used.", "", 0.05, 0.5, read_only=True
    ),
    Parameter(
        "joint_margin_rad", 0.05, "Distance that joints keep from their limits.", "rad", 0.01, 0.5, read_only=True
    ),
    Parameter("planning_time_s", 2.0, "Longest time for a plan of MoveIt.", "s", 0.1, 30.0, read_only=True),
    Parameter(
        "joint_timeout_s", 0.2, "Age of the joint states at which the arm stops.", "s", 0.03, 2.0, read_only=True
    ),
    Parameter("command_timeout_s", 0.2, "Silence of the monitor at which it stops.", "s", 0.05, 2.0, read_only=True),
    Parameter("tracking_limit_rad", 0.15, "Lag behind the target at which it stops.", "rad", 0.02, 1.0, read_only=True),
    Parameter("rest_time_s", 0.5, "Time without motion before the arm sets out.", "s", 0.1, 10.0, read_only=True),
    Parameter("arrival_timeout_s", 3.0, "Longest wait for the arm at the end of a leg.", "s", 0.5, 30.0),
)
PERIOD_S: Final = 1.0 / COMMAND_HZ
_REPORT_S: Final = 0.1
_HOLD_STEPS: Final = 5
_MONITOR: Final = {
    SafetyStatus.INACTIVE: Monitor.INACTIVE,
    SafetyStatus.NOMINAL: Monitor.WATCHING,
    SafetyStatus.CAUTION: Monitor.WATCHING,
    SafetyStatus.HALTED: Monitor.HALTED,
}
_EPISODE: Final = {TaskState.READY: Episode.READY, TaskState.RUNNING: Episode.RUNNING}


class _StoppedError(Exception):
    """The arm stops on its way; the message says why."""


class HomingNode(Node):
    """Wires plan and ride to the arm, and both to the operator's services."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(names.HOMING_NODE, **kwargs)
        self._p = p = Parameters(self, PARAMETERS)
        urdf = p.string("urdf") or str(fosp_description.urdf_path())
        srdf = p.string("srdf") or str(fosp_description.srdf_path())
        self._limits = Limits(
            joints_age_s=p.float("joint_timeout_s"),
            command_age_s=p.float("command_timeout_s"),
            rest_s=p.float("rest_time_s"),
            tool_speed_m_s=p.float("tool_speed_m_s"),
            joint_speed_fraction=p.float("joint_speed_fraction"),
            tracking_rad=p.float("tracking_limit_rad"),
        )
        self._home = np.array([p.float(f"home_{axis}") for axis in "xyz"])
        self._ik = MinkBackend(urdf, p.float("joint_margin_rad"), 1.0)
        self._collisions = CollisionModel(urdf, srdf)
        self._planner = _planner(p, urdf, srdf)
        self._watch = Watch(p.boolean("dry_run"))
        self._trajectory = self.create_publisher(JointTrajectory, names.JOINT_TRAJECTORY, qos.TRAJECTORY)
        self._homing = self.create_publisher(Bool, names.ARM_HOMING, qos.TASK_STATE)
        self._joint_states = PolledSubscription(self, JointState, names.JOINT_STATES, qos.JOINT_STATES)
        self._commands = PolledSubscription(self, TwistStamped, names.ARM_COMMAND, qos.COMMAND)
        self._statuses = PolledSubscription(self, SafetyStatus, names.SAFETY_STATUS, qos.STATUS)
        self._tasks = PolledSubscription(self, TaskState, names.TASK_STATE, qos.TASK_STATE)
        group = ReentrantCallbackGroup()
        self.create_service(Trigger, names.ARM_HOME, self._on_home, callback_group=group)
        self.create_service(Trigger, names.ARM_HOME_CANCEL, self._on_cancel, callback_group=group)
        self.create_timer(_REPORT_S, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME), callback_group=group)
        self._diagnostics = Diagnostics(self, self._health, hardware_id="panda_arm")
        self._answer: Future[tuple[bool, str]] | None = None
        self._result: tuple[bool, str] | None = None
        self._last = "not asked yet"
        self._stage = ""
        self._wanted, self._closing, self._cancelled = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve, name="homing", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the arm if it is on its way."""
        self._closing.set()
        self._cancelled.set()
        self._wanted.set()
        self._thread.join(5.0)

    # -- the operator, in the executor ----------------------------------------------------------------------

    async def _on_home(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._answer is not None:
            response.success, response.message = False, "the arm is on its way home already"
            return response
        self._answer = answer = Future()
        self._cancelled.clear()
        self._wanted.set()
        response.success, response.message = await answer
        return response

    def _on_cancel(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._answer is not None
        response.message = "the arm stops" if response.success else "the arm is not on its way home"
        self._cancelled.set()
        return response

    def _report(self) -> None:
        result, answer = self._result, self._answer
        if self._stage == "moving":
            self._homing.publish(Bool(data=True))
        if result is not None and answer is not None:
            self._result = self._answer = None
            answer.set_result(result)

    def _health(self) -> Health:
        return Health(Level.OK, self._stage or f"at rest, last: {self._last}")

    # -- the arm, in a thread of its own --------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._closing.is_set():
                return
            try:
                self._bring_home()
                result = (True, "the arm is home")
            except (PlanError, _StoppedError) as error:
                result = (False, str(error))
            except Exception as error:
                self._diagnostics.count("internal_error", f"{type(error).__name__}: {error}")
                result = (False, f"failed: {type(error).__name__}: {error}")
            self._stage, self._last = "", result[1]
            self._homing.publish(Bool(data=False))
            self._result = result
            # The two must stand in lines of their own: a line of a program has one severity for rclpy.
            if result[0]:
                self.get_logger().info(f"homing: {result[1]}")
            else:
                self.get_logger().warning(f"homing: {result[1]}")

    def _bring_home(self) -> None:
        self._stage = "looking whether the arm may go"
        self._observe(self._limits.rest_s + self._limits.command_age_s)
        start = self._may_go()
        self._stage = "planning"
        legs = plan(start, self._home, self._ik, self._planner, self._collisions.touching)
        # Planning takes a while; the world went on.
        self._observe(self._limits.rest_s)
        if float(np.max(np.abs(self._may_go() - start))) > self._limits.arrived_rad:
            raise _StoppedError("the arm was moved while its way was planned")
        self._stage = "moving"
        try:
            for leg in legs:
                self._go(leg)
        except _StoppedError:
            self._hold()
            raise

    def _may_go(self) -> Vector:
        """Joint positions (7,) from which the arm may set out."""
        fault = refusal(self._watch.situation(time.monotonic()), self._limits)
        if fault:
            raise _StoppedError(fault)
        joints = self._watch.joints
        assert joints is not None  # it has an age
        return joints

    def _go(self, leg: Vector) -> None:
        ride = Ride(leg, self._ik, self._limits)
        before = due = time.monotonic()
        while not ride.is_over:
            now = time.monotonic()
            # A late step does not catch up with a jump.
            ahead = ride.step(min(now - before, 2.0 * PERIOD_S))
            before = now
            self._check(ahead)
            self._send(ahead)
            due = max(due + PERIOD_S, now)
            time.sleep(max(0.0, due - time.monotonic()))
        end = time.monotonic() + self._p.float("arrival_timeout_s")
        while self._distance(ride.end) > self._limits.arrived_rad:
            if time.monotonic() > end:
                raise _StoppedError(f"the arm does not arrive; {self._distance(ride.end):.2f} rad are missing")
            self._check(ride.end)
            self._send(ride.end)
            time.sleep(PERIOD_S)

    def _check(self, ahead: Vector) -> None:
        """Raise when the arm must not go on towards joint positions (7,)."""
        self._listen()
        fault = interruption(self._watch.situation(time.monotonic()), self._limits)
        if self._cancelled.is_set():
            fault = "cancelled"
        elif not fault and self._distance(ahead) > self._limits.tracking_rad:
            fault = "the arm does not follow"
        if fault:
            raise _StoppedError(f"stopped on the way: {fault}")

    def _hold(self) -> None:
        """Stay where the arm was measured when it had to stop."""
        self._listen()
        here = self._watch.joints
        for _ in range(_HOLD_STEPS):
            if here is not None:
                self._send(here)
            time.sleep(PERIOD_S)

    def _distance(self, there: Vector) -> float:
        here = self._watch.joints
        return float("inf") if here is None else float(np.max(np.abs(here - there)))

    def _observe(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._cancelled.is_set():
                raise _StoppedError("cancelled before the arm moved")
            self._listen()
            time.sleep(PERIOD_S)

    def _listen(self) -> None:
        now = time.monotonic()
        for joints in self._joint_states.take():
            try:
                self._watch.on_joints(joint_positions(joints), now)
            except MessageError as error:
                self._diagnostics.count("bad_joint_state", str(error))
        for command in self._commands.take():
            try:
                velocity = linear_velocity(command)
            except MessageError:
                # What cannot be read may be meant to move the arm.
                velocity = np.ones(3)
            self._watch.on_command(velocity, now)
        for status in self._statuses.take():
            self._watch.on_monitor(_MONITOR.get(status.state, Monitor.UNKNOWN), now)
        for state in self._tasks.take():
            self._watch.on_episode(_EPISODE.get(state.phase, Episode.NONE))

    def _send(self, positions: Vector) -> None:
        self._trajectory.publish(target(positions, PERIOD_S))


def _planner(p: Parameters, urdf: str, srdf: str) -> Planner:
    if p.string("planner") == "joint":
        return JointPlanner()
    try:
        from fosp_arm.moveit_planner import MoveItPlanner
    except ImportError as error:
        raise ConfigurationError(
            f"planner moveit needs moveit_py, which is not installed ({error}); install it or use planner joint"
        ) from error
    return MoveItPlanner(urdf, srdf, p.float("planning_time_s"))


def main(args: list[str] | None = None) -> int:
    """Entry point of the executable ``homing_node``."""
    return runner.run(HomingNode, names.HOMING_NODE, args)


if __name__ == "__main__":
    sys.exit(main())
