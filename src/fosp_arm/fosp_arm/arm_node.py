"""The arm node: tool velocities in, joint trajectories out, and a hold whenever something is missing."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

import fosp_description
from fosp_arm.backend import IkBackend, Vector
from fosp_arm.controller import REFUSALS, ArmController, HoldReason, Mode, Settings
from fosp_arm.mink_backend import MinkBackend
from fosp_arm.targets import target
from fosp_core.task import COMMAND_HZ, TOOL_SPEED_LIMIT
from fosp_ros import names, qos, runner
from fosp_ros.diagnostics import Diagnostics, Health, Level
from fosp_ros.errors import ConfigurationError, MessageError
from fosp_ros.homing import HomingWord
from fosp_ros.loop import SteadyLoop
from fosp_ros.messages import joint_positions, linear_velocity
from fosp_ros.parameters import Parameter, Parameters
from fosp_ros.polling import PolledSubscription
from fosp_ros.stamps import age_s

PARAMETERS = (
    Parameter("urdf", "", "Robot description file; empty: the one this project ships.", read_only=True),
    Parameter("srdf", "", "MoveIt's description of the robot; empty: the one this project ships.", read_only=True),
    Parameter(
        "backend",
        "mink",
        "Inverse kinematics that moves the arm.",
        choices=("mink", "moveit", "servo"),
        read_only=True,
    ),
    Parameter(
        "dry_run",
        False,
        f"Everything but motion: joint targets go to {names.ARM_DRY_RUN} instead of the robot's controller.",
        read_only=True,
    ),
    Parameter(
        "command_timeout_s",
        0.05,
        "Silence on the command topic after which the arm holds its measured position, found out within 20 ms.",
        unit="s",
        low=0.03,
        high=0.3,
        read_only=True,
    ),
    Parameter(
        "joint_timeout_s",
        0.2,
        "Age of the joint states beyond which the arm holds.",
        unit="s",
        low=0.03,
        high=1.0,
        read_only=True,
    ),
    Parameter(
        "command_age_s",
        0.5,
        "Oldest camera frame, by the stamp of the command, that may still move the arm.",
        unit="s",
        low=0.1,
        high=2.0,
        read_only=True,
    ),
    Parameter(
        "speed_limit_m_s",
        TOOL_SPEED_LIMIT,
        "Largest tool speed, along any direction.",
        unit="m/s",
        low=0.01,
        high=TOOL_SPEED_LIMIT,
        read_only=True,
    ),
    Parameter(
        "lead_m",
        0.03,
        "How far the set-point may run ahead of the measured tool.",
        unit="m",
        low=0.005,
        high=0.1,
        read_only=True,
    ),
    Parameter(
        "joint_margin_rad",
        0.05,
        "Distance that joints keep from their limits.",
        unit="rad",
        low=0.01,
        high=0.5,
        read_only=True,
    ),
    Parameter(
        "joint_speed_fraction",
        0.9,
        "Part of the joint speed limits that is used.",
        low=0.05,
        high=1.0,
        read_only=True,
    ),
    Parameter(
        "hold_drift_limit_m",
        0.03,
        "Tool travel during a hold beyond which the arm is reported as not obeying.",
        unit="m",
        low=0.005,
        high=0.2,
        read_only=True,
    ),
)

_PERIOD_S = 1.0 / COMMAND_HZ
_BAD_HOLDS = (
    HoldReason.STALE_JOINTS,
    HoldReason.BAD_COMMAND,
    HoldReason.OLD_COMMAND,
    *REFUSALS.values(),
    HoldReason.SILENCE,
    HoldReason.SECOND_PUBLISHER,
)


class ArmNode(Node):
    """Wires the controller to its topics."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(names.ARM_NODE, **kwargs)
        p = Parameters(self, PARAMETERS)
        settings = Settings(
            command_timeout_s=p.float("command_timeout_s"),
            joint_timeout_s=p.float("joint_timeout_s"),
            command_age_s=p.float("command_age_s"),
            speed_m_s=p.float("speed_limit_m_s"),
            lead_m=p.float("lead_m"),
            joint_margin_rad=p.float("joint_margin_rad"),
            joint_speed_fraction=p.float("joint_speed_fraction"),
        )
        self._drift_limit_m = p.float("hold_drift_limit_m")
        self._controller = ArmController(_backend(self, p, settings), settings)
        self._reported = HoldReason.NO_COMMAND
        dry_run = p.boolean("dry_run")
        topic = names.ARM_DRY_RUN if dry_run else names.JOINT_TRAJECTORY
        self._trajectory = self.create_publisher(JointTrajectory, topic, qos.TRAJECTORY)
        if dry_run:
            self.get_logger().warning(f"dry run: the arm is not moved, joint targets go to {topic}")
        self._diagnostics = Diagnostics(self, self._health, hardware_id="panda_arm")
        self._joint_states = PolledSubscription(self, JointState, names.JOINT_STATES, qos.JOINT_STATES)
        self._commands = PolledSubscription(self, TwistStamped, names.ARM_COMMAND, qos.COMMAND)
        self._homing = HomingWord(self)
        self._lock = threading.Lock()  # guards the controller
        self._loop = SteadyLoop(_PERIOD_S, self._step, self._on_error, name="control")
        self._loop.start()

    def close(self) -> None:
        """Hold the measured position if the arm is moving."""
        self._loop.close()
        positions = self._controller.stop()
        if positions is not None:
            self._send(positions)

    def _step(self) -> None:
        now = time.monotonic()
        with self._lock:
            for state in self._joint_states.take():
                try:
                    self._controller.on_joints(joint_positions(state), now)
                except MessageError as error:
                    self._diagnostics.count("bad_joint_state", str(error))
            for command in self._commands.take():
                self._on_command(command, now)
            if self._homing.holds():
                self._controller.release()
            self._controller.on_publishers(self.count_publishers(names.ARM_COMMAND))
            output = self._controller.step(now)
        if output.positions is not None:
            self._send(output.positions)
        if output.mode is not Mode.WAITING and output.reason is not self._reported:
            self._report(output.reason)

    def _on_command(self, message: TwistStamped, now: float) -> None:
        try:
            velocity = linear_velocity(message)
        except MessageError as error:
            if self._diagnostics.count("bad_command", str(error)) == 1:
                self.get_logger().error(f"bad command: {error}")
            self._controller.on_bad_command(now)
        else:
            age = age_s(message.header.stamp, self.get_clock().now().nanoseconds)
            self._controller.on_command(velocity, age, now)

    def _on_error(self, error: Exception) -> None:
        # No step means no new target, and the arm's own controller holds the last one.
        if self._diagnostics.count("internal_error", f"{type(error).__name__}: {error}") == 1:
            self.get_logger().error(f"control step failed: {type(error).__name__}: {error}")

    def _report(self, reason: HoldReason) -> None:
        previous, self._reported = self._reported, reason
        if reason in _BAD_HOLDS:
            if reason is not HoldReason.BAD_COMMAND:  # counted with what was wrong with it
                self._diagnostics.count(reason.name.lower(), reason.value)
            self.get_logger().warning(f"holding: {reason.value}")
        elif previous in _BAD_HOLDS:
            self.get_logger().info("moving again" if reason is HoldReason.NONE else "at rest")

    def _send(self, positions: Vector) -> None:
        self._trajectory.publish(target(positions, _PERIOD_S))

    def _health(self) -> Health:
        controller = self._controller
        with self._lock:
            drift = controller.hold_drift_m()
            values = {
                "mode": controller.mode.name.lower(),
                "reason": controller.reason.value,
                "tracking_error_rad": controller.tracking_error_rad(),
                "hold_drift_m": drift,
                "late_steps": self._loop.late_steps,
            }
        if drift > self._drift_limit_m:
            return Health(Level.ERROR, f"the arm moved {drift * 100:.1f} cm although it should hold", values)
        if controller.mode is Mode.WAITING or controller.reason is HoldReason.STALE_JOINTS:
            return Health(Level.ERROR, controller.reason.value, values)
        if controller.reason in _BAD_HOLDS:
            return Health(Level.WARN, f"holding: {controller.reason.value}", values)
        message = "moving" if controller.mode is Mode.MOVING else f"holding: {controller.reason.value}"
        return Health(Level.OK, message, values)


def _backend(node: Node, p: Parameters, settings: Settings) -> IkBackend:
    urdf = p.string("urdf") or str(fosp_description.urdf_path())
    margin, fraction = settings.joint_margin_rad, settings.joint_speed_fraction
    backend = p.string("backend")
    if backend == "mink":
        return MinkBackend(urdf, margin, fraction)
    needed = {"moveit": "moveit_py", "servo": "moveit_msgs"}[backend]
    try:
        if backend == "servo":
            from fosp_arm.servo_backend import ServoBackend

            return ServoBackend(node, urdf)
        from fosp_arm.moveit_backend import MoveItBackend
    except ImportError as error:
        raise ConfigurationError(
            f"backend {backend} needs {needed}, which is not installed ({error}); install it or use backend mink"
        ) from error
    return MoveItBackend(urdf, p.string("srdf") or str(fosp_description.srdf_path()), margin, fraction)


def main(args: list[str] | None = None) -> int:
    """Entry point of the executable ``arm_node``."""
    return runner.run(ArmNode, names.ARM_NODE, args)


if __name__ == "__main__":
    sys.exit(main())
