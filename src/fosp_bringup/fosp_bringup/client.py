"""The demo's side of the graph: waits for it, runs episodes, and kills the monitor to show what happens."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
import rclpy
from numpy.typing import NDArray
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.action.client import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState

import fosp_description
from fosp_bringup.discovery import missing_services
from fosp_bringup.holding import Killed, ToolSample
from fosp_core.task import ARM_JOINTS
from fosp_interfaces.action import FineTune, RunEpisodes
from fosp_ros import names, qos, stamps
from fosp_ros.errors import MessageError
from fosp_ros.kinematics import Chain
from fosp_ros.messages import joint_positions

Check = Callable[[], None]
"""Called ten times a second while waiting; raises to end the wait."""

MOVING_SPEED: Final = 0.1
"""Tool speed in m/s from which on the arm is in the middle of a motion."""
SILENCE_S: Final = 120.0
"""Longest wait for a sign of life; a scene reset or a dataset of many episodes takes a while."""
ASK_AGAIN_S = 5.0
"""How long the answer to a request that may be repeated is waited for."""
_HISTORY: Final = 1500
_STEP_S: Final = 1e-3
_Joints: TypeAlias = "tuple[float, NDArray[np.float64], NDArray[np.float64]]"
_AFTER_KILL_S: Final = 1.2
_CANCEL_WAIT_S: Final = 5.0


class SilenceError(Exception):
    """A part of the graph does not answer; the message says which."""


class GraphClient:
    """A node in this process, spun in a thread. A context manager."""

    def __init__(self) -> None:
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node("fosp_demo", enable_rosout=False, start_parameter_services=False)
        self._joints: deque[_Joints] = deque(maxlen=_HISTORY)
        self._chain = Chain.from_urdf(fosp_description.urdf_path())
        profile = QoSProfile(depth=50, reliability=qos.JOINT_STATES.reliability)
        self.node.create_subscription(JointState, names.JOINT_STATES, self._on_joints, profile)
        self._episodes: ActionClient[Any, Any, Any] = ActionClient(self.node, RunEpisodes, names.RUN_EPISODES)
        self.trainer: ActionClient[Any, Any, Any] = ActionClient(self.node, FineTune, names.FINE_TUNE)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._open = True
        self._heard_at = 0.0
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._spin, name="demo-executor", daemon=True)
        self._thread.start()

    def __enter__(self) -> GraphClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        self._executor.wake()
        self._thread.join(timeout=5.0)
        self.node.destroy_node()
        rclpy.try_shutdown()

    def missing(self, services: list[str]) -> list[str]:
        """Those of ``services`` that nobody offers yet."""
        return missing_services(self.node, services)

    def run_episodes(
        self,
        goal: RunEpisodes.Goal,
        on_feedback: Callable[[RunEpisodes.Feedback], None],
        check: Check,
    ) -> RunEpisodes.Result:
        """Run episodes and wait for the result; cancels them when ``check`` raises."""
        return self._carry_out(self._episodes, goal, on_feedback, check, "the episode node")

    def fine_tune(
        self, goal: FineTune.Goal, on_feedback: Callable[[FineTune.Feedback], None], check: Check
    ) -> FineTune.Result:
        """Run a fine-tune round and wait for the result; cancels it when ``check`` raises."""
        return self._carry_out(self.trainer, goal, on_feedback, check, "the trainer node")

    def set_parameter(self, node: str, name: str, value: int | float, check: Check) -> None:
        """Set a number of a node; raises ``SilenceError`` with its answer when it refuses."""
        if isinstance(value, int):
            content = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=value)
        else:
            content = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
        request = SetParameters.Request(parameters=[Parameter(name=name, value=content)])
        client = self.node.create_client(SetParameters, f"/{node}/set_parameters")
        asked: list[Any] = []
        ask_at = -math.inf

        def answered() -> bool:
            # A server is known before its answers find their way back: the first one may be lost.
            nonlocal ask_at
            if time.monotonic() >= ask_at:
                asked.append(client.call_async(request))
                ask_at = time.monotonic() + ASK_AGAIN_S
            return any(future.done() for future in asked)

        try:
            self._wait(client.service_is_ready, check, f"the parameters of {node}")
            self._wait(answered, check, f"the parameters of {node}")
            answer = next(future.result() for future in asked if future.done())
        finally:
            self.node.destroy_client(client)
        if not answer.results[0].successful:
            raise SilenceError(f"{node} did not take {name} = {value}: {answer.results[0].reason}")

    def kill_in_motion(
        self, goal: RunEpisodes.Goal, pid: int, at_step: int, on_feedback: Callable[[Any], None], check: Check
    ) -> Killed | None:
        """Run an episode, kill process ``pid`` when the arm moves at or after step ``at_step``, and watch the arm.

        Returns:
            None when the arm never moved then.
        """
        newest: list[RunEpisodes.Feedback] = []

        def remember(feedback: RunEpisodes.Feedback) -> None:
            newest[:] = [feedback]
            on_feedback(feedback)

        handle = self._send(self._episodes, goal, remember, check, "the episode node")
        result = handle.get_result_async()
        killed: Killed | None = None
        try:
            while not result.done():
                check()
                if self._failure is not None:
                    raise RuntimeError("the client's executor failed") from self._failure
                step = newest[0].step if newest and not newest[0].finished else -1
                if step >= at_step and self._tool(self._joints[-1]).speed >= MOVING_SPEED:
                    # On the clock of the stamps, and rather too early than too late.
                    at_s = self._joints[-1][0]
                    os.kill(pid, signal.SIGKILL)
                    time.sleep(_AFTER_KILL_S)
                    watched = tuple(self._tool(joints) for joints in self._joints.copy() if joints[0] >= at_s - 1.0)
                    killed = Killed(at_s, int(step), watched)
                    break
                time.sleep(0.01)
        finally:
            self._settle(handle.cancel_goal_async(), _CANCEL_WAIT_S)
            self._settle(result, _CANCEL_WAIT_S)
        return killed

    def _on_joints(self, message: JointState) -> None:
        try:
            positions = joint_positions(message)
        except MessageError:
            return
        rates = dict(zip(message.name, message.velocity, strict=False))
        velocities = np.array([rates.get(name, math.nan) for name in ARM_JOINTS])
        self._joints.append((stamps.to_seconds(message.header.stamp), positions, velocities))

    def _tool(self, joints: _Joints) -> ToolSample:
        time_s, positions, velocities = joints
        here = self._chain.position(positions)
        ahead = self._chain.position(positions + velocities * _STEP_S)
        x, y, z = (float(v) for v in here)
        return ToolSample(time_s, (x, y, z), float(np.linalg.norm(ahead - here)) / _STEP_S)

    def _carry_out(
        self, client: ActionClient[Any, Any, Any], goal: Any, on_feedback: Callable[[Any], None], check: Check, who: str
    ) -> Any:
        """Result of a goal; the goal is cancelled when ``check`` raises."""
        handle = self._send(client, goal, on_feedback, check, who)
        result = handle.get_result_async()
        try:
            return self._wait(result.done, check, who, result.result).result
        except BaseException:
            cancelled = handle.cancel_goal_async()
            self._settle(cancelled, _CANCEL_WAIT_S)
            self._settle(result, _CANCEL_WAIT_S)
            raise

    def _send(
        self, client: ActionClient[Any, Any, Any], goal: Any, on_feedback: Callable[[Any], None], check: Check, who: str
    ) -> Any:
        """Handle of an accepted goal."""

        def heard(message: Any) -> None:
            self._heard_at = time.monotonic()
            on_feedback(message.feedback)

        # That a server exists is known before it can be talked to; what is sent in between would be lost.
        self._wait(client.server_is_ready, check, f"the action server of {who}")
        future = client.send_goal_async(goal, feedback_callback=heard)
        return self._wait(future.done, check, who, future.result)

    def _spin(self) -> None:
        try:
            while self._open and rclpy.ok():
                self._executor.spin_once(timeout_sec=0.5)
        except BaseException as error:
            self._failure = error

    def _wait(
        self, condition: Callable[[], bool], check: Check, what: str, value: Callable[[], Any] = lambda: None
    ) -> Any:
        """Wait for a condition, then give a value; raises ``SilenceError`` when nothing is heard for long."""
        self._heard_at = time.monotonic()
        while not condition():
            check()
            if self._failure is not None:
                raise RuntimeError("the client's executor failed") from self._failure
            if time.monotonic() - self._heard_at > SILENCE_S:
                raise SilenceError(f"nothing was heard of {what} for {SILENCE_S:g} s")
            time.sleep(0.05)
        return value()

    @staticmethod
    def _settle(future: Any, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while not future.done() and time.monotonic() < end:
            time.sleep(0.05)
