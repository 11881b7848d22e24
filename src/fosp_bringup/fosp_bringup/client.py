"""The demo's side of the graph: waits for it, runs episodes, and kills the monitor to show what happens."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import rclpy
from rclpy.action.client import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState

from fosp_bringup.discovery import missing_services
from fosp_bringup.holding import JointSample, Killed
from fosp_interfaces.action import RunEpisodes
from fosp_ros import names, qos, stamps

Check = Callable[[], None]
"""Called ten times a second while waiting; raises to end the wait."""

MOVING_SPEED: Final = 0.1
"""rad/s of the fastest joint from which on the arm is in the middle of a motion."""
_JOINT_HISTORY: Final = 1500
_AFTER_KILL_S: Final = 1.2
_CANCEL_WAIT_S: Final = 5.0


class GraphClient:
    """A node in this process, spun in a thread. A context manager."""

    def __init__(self) -> None:
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node("fosp_demo", enable_rosout=False, start_parameter_services=False)
        self._joints: deque[JointSample] = deque(maxlen=_JOINT_HISTORY)
        profile = QoSProfile(depth=50, reliability=qos.JOINT_STATES.reliability)
        self._node.create_subscription(JointState, names.JOINT_STATES, self._on_joints, profile)
        self._episodes: ActionClient[Any, Any, Any] = ActionClient(self._node, RunEpisodes, names.RUN_EPISODES)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._open = True
        self._thread = threading.Thread(target=self._spin, name="demo-executor", daemon=True)
        self._thread.start()

    def __enter__(self) -> GraphClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        self._executor.wake()
        self._thread.join(timeout=5.0)
        self._node.destroy_node()
        rclpy.try_shutdown()

    def missing(self, services: list[str]) -> list[str]:
        """Those of ``services`` that nobody offers yet."""
        return missing_services(self._node, services)

    def run_episodes(
        self,
        goal: RunEpisodes.Goal,
        on_feedback: Callable[[RunEpisodes.Feedback], None],
        check: Check,
    ) -> RunEpisodes.Result:
        """Run episodes and wait for the result; cancels them when ``check`` raises."""
        future = self._episodes.send_goal_async(goal, feedback_callback=lambda m: on_feedback(m.feedback))
        handle = self._wait(future, check)
        result = handle.get_result_async()
        try:
            return self._wait(result, check).result
        except BaseException:
            cancelled = handle.cancel_goal_async()
            self._settle(cancelled, _CANCEL_WAIT_S)
            self._settle(result, _CANCEL_WAIT_S)
            raise

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

        future = self._episodes.send_goal_async(goal, feedback_callback=lambda m: remember(m.feedback))
        handle = self._wait(future, check)
        result = handle.get_result_async()
        killed: Killed | None = None
        try:
            while not result.done():
                check()
                moving = bool(self._joints) and self._joints[-1].speed >= MOVING_SPEED
                if newest and not newest[0].finished and newest[0].step >= at_step and moving:
                    # On the clock of the stamps, and rather too early than too late.
                    at_s = self._joints[-1].time_s
                    os.kill(pid, signal.SIGKILL)
                    time.sleep(_AFTER_KILL_S)
                    window = tuple(s for s in self._joints if s.time_s >= at_s - 1.0)
                    killed = Killed(at_s, int(newest[0].step), window)
                    break
                time.sleep(0.01)
        finally:
            self._settle(handle.cancel_goal_async(), _CANCEL_WAIT_S)
            self._settle(result, _CANCEL_WAIT_S)
        return killed

    def _on_joints(self, message: JointState) -> None:
        speed = max((abs(v) for v in message.velocity if math.isfinite(v)), default=math.nan)
        self._joints.append(JointSample(stamps.to_seconds(message.header.stamp), speed))

    def _spin(self) -> None:
        while self._open and rclpy.ok():
            self._executor.spin_once(timeout_sec=0.5)

    @staticmethod
    def _wait(future: Any, check: Check) -> Any:
        while not future.done():
            check()
            time.sleep(0.05)
        return future.result()

    @staticmethod
    def _settle(future: Any, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while not future.done() and time.monotonic() < end:
            time.sleep(0.05)
