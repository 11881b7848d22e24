"""The task evaluator: reward, cost and success on a real table, without a simulation's truth.

It serves what the simulation serves. The goal is the operator's (a clicked point, or the tool put there by hand);
contact comes from joint effort or the operator; a new scene is there when the operator says so.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import PointStamped
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger

from fosp_core import task
from fosp_interfaces.msg import TaskState
from fosp_interfaces.srv import ResetScene
from fosp_ros import names, qos, runner
from fosp_ros.diagnostics import Diagnostics, Health, Level
from fosp_ros.errors import MessageError
from fosp_ros.messages import joint_positions
from fosp_ros.parameters import Parameter, Parameters
from fosp_sim.messages import task_state
from fosp_sim.operated import EffortContact, OperatedWorld
from fosp_sim.session import Phase, PhaseError, Session

PARAMETERS = (
    Parameter(
        "effort_threshold_nm",
        6.0,
        "Sudden change of a joint's effort that counts as contact; 0: only the operator says what touched.",
        "N m",
        low=0.0,
        high=100.0,
        read_only=True,
    ),
    Parameter(
        "effort_time_constant_s", 0.5, "How fast slow changes of effort are accepted.", "s", 0.05, 10.0, read_only=True
    ),
    Parameter("operator_timeout_s", 240.0, "Longest wait for the operator to lay out a scene.", "s", 1.0, 3600.0),
    Parameter("goal_topic", "/clicked_point", "Topic with the goal's place in panda_link0.", read_only=True),
)


class EvaluatorNode(Node):
    """Wires a ``Session`` over an ``OperatedWorld`` to camera, arm and operator."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(names.TASK_EVALUATOR, **kwargs)
        self._p = p = Parameters(self, PARAMETERS)
        contact = EffortContact(p.float("effort_threshold_nm"), p.float("effort_time_constant_s"))
        self._world = OperatedWorld(contact)
        self._session = Session(self._world)
        self._goal: np.ndarray | None = None
        self._laid_out: Future[bool] | None = None
        self._task = self.create_publisher(TaskState, names.TASK_STATE, qos.TASK_STATE)
        self.create_subscription(JointState, names.JOINT_STATES, self._on_joints, qos.JOINT_STATES)
        self.create_subscription(Image, names.CAMERA_IMAGE, self._on_image, qos.IMAGE)
        self.create_subscription(PointStamped, p.string("goal_topic"), self._on_goal, 1)
        # A reset waits for the operator while frames and joint states go on.
        self._group = ReentrantCallbackGroup()
        self.create_service(ResetScene, names.SCENE_RESET, self._on_reset, callback_group=self._group)
        for name, action in (
            (names.SCENE_START, self._start),
            (names.SCENE_STOP, self._stop),
            (names.TASK_READY, self._ready),
            (names.TASK_CONTACT, self._mark_contact),
            (names.TASK_FALLEN, self._mark_fallen),
            (names.TASK_TEACH_GOAL, self._teach_goal),
        ):
            self.create_service(Trigger, name, self._answering(action))
        self._diagnostics = Diagnostics(self, self._health, hardware_id="operator")

    def _on_joints(self, message: JointState) -> None:
        try:
            positions = joint_positions(message)
        except MessageError as error:
            self._diagnostics.count("bad_joint_state", str(error))
            return
        efforts = dict(zip(message.name, message.effort, strict=False))
        known = [efforts[name] for name in task.ARM_JOINTS if name in efforts]
        self._world.on_joints(positions, np.array(known), time.monotonic())

    def _on_image(self, message: Image) -> None:
        if not np.all(np.isfinite(self._world.tool)):
            return
        self._session.tick(None)
        self._task.publish(task_state(self._session.frame(), message.header.stamp))

    def _on_goal(self, message: PointStamped) -> None:
        point = message.point
        if message.header.frame_id != task.BASE_FRAME:
            self.get_logger().warning(f"goal refused: it is in {message.header.frame_id!r}, not {task.BASE_FRAME!r}")
            return
        fault = self._set_goal(np.array([point.x, point.y, point.z]))
        if fault:
            self.get_logger().warning(f"goal refused: {fault}")

    def _set_goal(self, goal: np.ndarray) -> str:
        """Take a goal (3,); says what is wrong with it, or nothing."""
        box = task.WORKSPACE
        inside = all(low <= v <= high for v, low, high in zip(goal[:2], box.low[:2], box.high[:2], strict=True))
        if not np.all(np.isfinite(goal)) or not inside:
            return f"({goal[0]:.3f}, {goal[1]:.3f}) is outside of the workspace"
        self._goal = goal
        self.get_logger().info(f"goal at x {goal[0]:.3f}, y {goal[1]:.3f}")
        return ""

    async def _on_reset(self, request: ResetScene.Request, response: ResetScene.Response) -> ResetScene.Response:
        response.success = False
        if self._laid_out is not None:
            response.message = "another reset waits for the operator"
            return response
        self._laid_out = laid_out = Future()
        self.get_logger().warning(
            f"OPERATOR: lay out scene {request.scene}, put the arm at its start, set the goal, "
            f"then call {names.TASK_READY}"
        )
        timer = self.create_timer(
            self._p.float("operator_timeout_s"),
            lambda: None if laid_out.done() else laid_out.set_result(False),
            callback_group=self._group,
        )
        try:
            ready = await laid_out
        finally:
            self._laid_out = None
            self.destroy_timer(timer)
        if not ready or self._goal is None:
            response.message = "the operator did not lay out the scene in time"
            return response
        layout = self._world.layout(request.scene, int(request.seed), self._goal)
        self._session.reset(layout, int(request.episode_id))
        response.success, response.message = True, f"scene {request.scene} as the operator laid it out"
        return response

    def _ready(self) -> str:
        if self._laid_out is None:
            raise PhaseError("nobody waits for a scene")
        if self._goal is None:
            raise PhaseError(f"there is no goal yet; publish it or call {names.TASK_TEACH_GOAL}")
        if not np.all(np.isfinite(self._world.tool)):
            raise PhaseError("there are no joint states")
        if not task.WORKSPACE.contains(self._world.tool):
            raise PhaseError("the tool is outside of the workspace")
        if not self._laid_out.done():
            self._laid_out.set_result(True)
        return "scene laid out"

    def _teach_goal(self) -> str:
        tool = self._world.tool
        if not np.all(np.isfinite(tool)):
            raise PhaseError("there are no joint states")
        fault = self._set_goal(tool)
        if fault:
            raise PhaseError(fault)
        return f"goal at x {tool[0]:.3f}, y {tool[1]:.3f}"

    def _mark_contact(self) -> str:
        self._world.mark_contact()
        return "contact noted"

    def _mark_fallen(self) -> str:
        self._world.mark_fallen()
        return "fallen obstacle noted"

    def _start(self) -> str:
        self._session.start()
        return Phase(self._session.phase).name

    def _stop(self) -> str:
        self._session.stop()
        return Phase(self._session.phase).name

    def _answering(self, action: Callable[[], str]) -> Any:
        def answer(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            try:
                response.message, response.success = action(), True
            except PhaseError as error:
                response.message, response.success = str(error), False
            return response

        return answer

    def _health(self) -> Health:
        values = {
            "phase": self._session.phase.name.lower(),
            "goal": "none" if self._goal is None else f"{self._goal[0]:.3f}, {self._goal[1]:.3f}",
        }
        if any(map(math.isnan, self._world.tool)):
            return Health(Level.ERROR, "no joint states", values)
        if self._laid_out is not None:
            return Health(Level.WARN, f"waiting for the operator to lay out the scene; {names.TASK_READY}", values)
        return Health(Level.OK, values["phase"], values)


def main(args: list[str] | None = None) -> int:
    """Entry point of the executable ``task_evaluator``."""
    return runner.run(EvaluatorNode, names.TASK_EVALUATOR, args)


if __name__ == "__main__":
    sys.exit(main())
