"""The Servo backend against a stand-in of MoveIt Servo: in one process everywhere, over DDS where moveit_msgs is."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import mujoco
import numpy as np
import pytest
from geometry_msgs.msg import TwistStamped
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

import fosp_description
from fosp_arm.backend import REST_POSTURE, IkError, Refusal
from fosp_arm.controller import ArmController, HoldReason, Mode, Settings
from fosp_arm.servo import StatusCode
from fosp_core.task import ARM_JOINTS, BASE_FRAME, TOOL_FRAME, TOOL_SPEED_LIMIT, WORKSPACE
from fosp_ros import names, qos
from fosp_ros.kinematics import Chain

PERIOD = 0.02
SERVO_PERIOD = 0.01
INSTALLED = importlib.util.find_spec("moveit_msgs") is not None


class Servo:
    """What MoveIt Servo does: integrates twists by the inverse Jacobian, one period of its loop behind."""

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_path(str(fosp_description.urdf_path()))
        self.data = mujoco.MjData(self.model)
        self.takes_twists = False
        self.code = StatusCode.NO_WARNING
        self.twist: TwistStamped | None = None
        self.twist_age = 1.0
        self.window: deque[np.ndarray] = deque(maxlen=2)

    def on_twist(self, message: TwistStamped) -> None:
        assert message.header.frame_id == BASE_FRAME
        self.twist, self.twist_age = message, 0.0

    def step(self, measured: np.ndarray) -> JointTrajectory | None:
        """One period; what it publishes. The newest point of its window is never among them."""
        self.twist_age += SERVO_PERIOD
        if not self.takes_twists or self.twist is None or self.twist_age > 0.1:
            self.window.clear()
            return None
        before = self.window[-1] if self.window else measured
        self.data.qpos[:] = before
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        jacobian = np.zeros((6, 7))
        mujoco.mj_jacBody(self.model, self.data, jacobian[:3], jacobian[3:], self.model.body(TOOL_FRAME).id)
        linear, angular = self.twist.twist.linear, self.twist.twist.angular
        twist = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
        self.window.append(before + np.linalg.pinv(jacobian) @ twist * SERVO_PERIOD)
        if len(self.window) < 2:
            return None
        # Servo names the joints in an order of its own.
        order = list(ARM_JOINTS)[::-1]
        return JointTrajectory(
            joint_names=order, points=[JointTrajectoryPoint(positions=self.window[0][::-1].tolist())]
        )


class Loopback:
    """A node whose messages stay in the process, and a clock that the test turns."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sent: dict[str, list[Any]] = {}
        self.queues: dict[str, deque[Any]] = {}
        self.requests: list[Any] = []
        self.timers: list[Callable[[], None]] = []
        self.listeners = 1
        self.accepts = True

    def monotonic(self) -> float:
        return self.now

    def create_publisher(self, kind: Any, topic: str, profile: Any) -> Any:
        sent = self.sent.setdefault(topic, [])
        return SimpleNamespace(publish=sent.append, get_subscription_count=lambda: self.listeners)

    def create_client(self, kind: Any, name: str) -> Any:
        assert name == names.SERVO_COMMAND_TYPE
        return SimpleNamespace(service_is_ready=lambda: True, call_async=self._call)

    def _call(self, request: Any) -> Any:
        self.requests.append(request)
        answer = SimpleNamespace(result=lambda: SimpleNamespace(success=self.accepts))
        return SimpleNamespace(add_done_callback=lambda callback: callback(answer))

    def create_timer(self, period: float, callback: Callable[[], None], clock: Any) -> None:
        self.timers.append(callback)

    def get_clock(self) -> Any:
        stamp = SimpleNamespace(to_msg=lambda: TwistStamped().header.stamp)
        return SimpleNamespace(now=lambda: stamp)

    def polled(self, node: Any, kind: Any, topic: str, profile: Any) -> Any:
        queue = self.queues.setdefault(topic, deque(maxlen=profile.depth))

        def take() -> list[Any]:
            taken = list(queue)
            queue.clear()
            return taken

        return SimpleNamespace(take=take)

    def tend(self) -> None:
        for timer in self.timers:
            timer()


def message(**defaults: Any) -> Any:
    def make(**values: Any) -> SimpleNamespace:
        return SimpleNamespace(header=SimpleNamespace(frame_id=""), **{**defaults, **values})

    return make


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Loopback, Any]]:
    """A node in a loop, and the backend on it."""
    if not INSTALLED:
        collision = message(primitives=[], primitive_poses=[])
        collision.ADD = b"\x00"
        primitive = message()
        primitive.BOX = 1
        request = SimpleNamespace(Request=message())
        made = {
            "moveit_msgs": {},
            "moveit_msgs.msg": {"CollisionObject": collision, "ServoStatus": message()},
            "moveit_msgs.srv": {"ServoCommandType": request},
        }
        for name, members in made.items():
            module = ModuleType(name)
            vars(module).update(members)
            monkeypatch.setitem(sys.modules, name, module)
        for name in ("fosp_arm.moveit_messages", "fosp_arm.servo_backend"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        shapes = importlib.import_module("shape_msgs.msg")
        monkeypatch.setattr(shapes, "SolidPrimitive", primitive)
    module = importlib.import_module("fosp_arm.servo_backend")
    node = Loopback()
    monkeypatch.setattr(module, "time", node)
    monkeypatch.setattr(module, "PolledSubscription", node.polled)
    yield node, module.ServoBackend(node, fosp_description.urdf_path())
    if not INSTALLED:
        for name in ("fosp_arm.moveit_messages", "fosp_arm.servo_backend"):
            sys.modules.pop(name, None)


class Rig:
    """Arm controller, backend, stand-in of Servo and an arm that goes where it is told."""

    def __init__(self, node: Loopback, backend: Any) -> None:
        self.node, self.backend, self.servo = node, backend, Servo()
        self.controller = ArmController(backend, Settings())
        self.measured = REST_POSTURE.copy()
        self.heard = 0
        self.alive = True
        self.output: Any = None

    def tick(self, velocity: np.ndarray) -> None:
        for _ in range(2):
            self.node.now += SERVO_PERIOD
            twists = self.node.sent[names.SERVO_TWIST]
            if len(twists) > self.heard:
                self.heard = len(twists)
                self.servo.on_twist(twists[-1])
            target = self.servo.step(self.measured)
            if self.alive:
                self.node.queues[names.SERVO_STATUS].append(SimpleNamespace(code=int(self.servo.code)))
                if target is not None and self.servo.code is StatusCode.NO_WARNING:
                    self.node.queues[names.SERVO_TRAJECTORY].append(target)
        self.node.tend()
        self.servo.takes_twists = bool(self.node.requests)
        self.controller.on_joints(self.measured, self.node.now)
        self.controller.on_command(velocity, 0.05, self.node.now)
        self.output = self.controller.step(self.node.now)
        if self.output.positions is not None:
            self.measured = self.output.positions


@pytest.fixture
def rig(loop: tuple[Loopback, Any]) -> Rig:
    made = Rig(*loop)
    for _ in range(5):
        made.tick(np.zeros(3))
    return made


def test_servo_is_told_the_table_and_then_to_take_twists(loop: tuple[Loopback, Any]) -> None:
    node, _ = loop
    node.queues[names.SERVO_STATUS].append(SimpleNamespace(code=0))
    node.listeners = 0
    node.tend()
    assert node.requests == []
    node.listeners = 1
    node.tend()
    assert [request.command_type for request in node.requests] == [1]
    (table,) = node.sent[names.COLLISION_OBJECT]
    assert table.id == "table" and table.header.frame_id == BASE_FRAME


def test_servo_that_refuses_twists_holds_the_arm_and_is_asked_again(loop: tuple[Loopback, Any]) -> None:
    node, _ = loop
    node.accepts = False
    rig = Rig(*loop)
    for _ in range(5):
        rig.tick(np.array([0.1, 0.0, 0.0]))
    assert rig.output.reason is HoldReason.SOLVER_NOT_READY
    np.testing.assert_array_equal(rig.measured, REST_POSTURE)
    node.accepts = True
    for _ in range(60):
        rig.tick(np.array([0.1, 0.0, 0.0]))
    assert rig.output.mode is Mode.MOVING


@pytest.mark.parametrize("speed", [0.05, 0.15, TOOL_SPEED_LIMIT])
def test_tool_moves_with_the_commanded_speed_straight_and_with_the_gripper_down(rig: Rig, speed: float) -> None:
    chain = Chain.from_urdf(fosp_description.urdf_path())
    start, steps = rig.backend.tool(rig.measured), []
    ticks = round(0.1 / speed / PERIOD)
    for _ in range(ticks):
        before = rig.backend.tool(rig.measured)
        rig.tick(np.array([0.0, speed, 0.0]))
        assert rig.output.mode is Mode.MOVING
        steps.append(np.linalg.norm(rig.backend.tool(rig.measured) - before))
    travelled = rig.backend.tool(rig.measured) - start
    # Servo answers three of its periods late, and that is the whole delay.
    np.testing.assert_allclose(travelled, [0.0, 0.1, 0.0], atol=4 * PERIOD * speed)
    np.testing.assert_allclose(travelled[[0, 2]], 0.0, atol=2e-3)
    # Neither hurried nor halting: what a solver with a delay does when it is chased.
    np.testing.assert_allclose(steps[5:], speed * PERIOD, rtol=0.05)
    np.testing.assert_allclose(chain.pose(rig.measured)[:3, :3], np.diag([1.0, -1.0, -1.0]), atol=0.02)


def test_tool_stays_inside_the_workspace(rig: Rig) -> None:
    rng, velocity = np.random.default_rng(0), np.zeros(3)
    rig.measured = REST_POSTURE.copy()
    for _ in range(100):
        rig.tick(np.array([0.0, 0.0, -0.1]))
    for step in range(1000):
        if step % 40 == 0:
            velocity = rng.uniform(-0.25, 0.25, 3)
        rig.tick(velocity)
        tool = rig.backend.tool(rig.measured)
        outside = np.maximum(np.array(WORKSPACE.low) - tool, tool - np.array(WORKSPACE.high)).max()
        assert outside < 0.01


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (StatusCode.HALT_FOR_COLLISION, HoldReason.COLLISION),
        (StatusCode.HALT_FOR_SINGULARITY, HoldReason.SINGULARITY),
        (StatusCode.JOINT_BOUND, HoldReason.JOINT_LIMIT),
        (StatusCode.INVALID, HoldReason.NO_SOLUTION),
    ],
)
def test_halt_of_servo_holds_for_its_reason_until_it_is_over(rig: Rig, code: StatusCode, reason: HoldReason) -> None:
    forward = np.array([0.0, 0.1, 0.0])
    for _ in range(20):
        rig.tick(forward)
    rig.servo.code = code
    rig.tick(forward)
    held = rig.measured
    for _ in range(20):
        rig.tick(forward)
        assert (rig.output.mode, rig.output.reason) == (Mode.HOLDING, reason)
        np.testing.assert_array_equal(rig.measured, held)
    rig.servo.code = StatusCode.NO_WARNING
    for _ in range(5):
        rig.tick(forward)
    assert rig.output.mode is Mode.MOVING


def test_servo_that_dies_in_motion_holds_the_arm_and_one_that_comes_back_moves_it(rig: Rig) -> None:
    forward = np.array([0.0, 0.1, 0.0])
    for _ in range(20):
        rig.tick(forward)
    rig.alive = False
    for _ in range(20):
        rig.tick(forward)
    assert (rig.output.mode, rig.output.reason) == (Mode.HOLDING, HoldReason.SOLVER_NOT_READY)
    rig.alive = True
    for _ in range(10):
        rig.tick(forward)
    assert rig.output.mode is Mode.MOVING
    assert len(rig.node.requests) == 2


def test_trajectory_without_every_joint_is_not_followed(rig: Rig) -> None:
    from fosp_arm.servo_backend import last_positions

    point = JointTrajectoryPoint(positions=[0.1] * 7)
    assert last_positions(JointTrajectory(joint_names=list(ARM_JOINTS), points=[point])) is not None
    assert last_positions(JointTrajectory(joint_names=list(ARM_JOINTS))) is None
    assert last_positions(JointTrajectory(joint_names=["wheel"] * 7, points=[point])) is None
    point.positions[3] = float("nan")
    assert last_positions(JointTrajectory(joint_names=list(ARM_JOINTS), points=[point])) is None


def test_solver_alone_raises_before_servo_was_heard(loop: tuple[Loopback, Any]) -> None:
    with pytest.raises(IkError, match="silent") as error:
        loop[1].solve(REST_POSTURE, np.array([0.5, 0.0, 0.1]), PERIOD)
    assert error.value.refusal is Refusal.NOT_READY


@pytest.mark.skipif(not INSTALLED, reason="moveit_msgs comes with an installed MoveIt, not with the wheels")
def test_arm_node_moves_and_holds_with_servo_over_dds() -> None:
    from moveit_msgs.msg import CollisionObject, ServoStatus
    from moveit_msgs.srv import ServoCommandType

    from fosp_arm.arm_node import ArmNode
    from fosp_ros.messages import twist
    from fosp_ros.stamps import from_nanoseconds
    from fosp_ros.testing import Bench

    class Stand(Bench[ArmNode]):
        """Servo, arm and monitor around the arm node."""

        def __enter__(self) -> Stand:
            super().__enter__()
            self.servo, self.measured, self.objects = Servo(), REST_POSTURE.copy(), list[Any]()
            self.velocity = np.zeros(3)
            self._commands = self.client.create_publisher(TwistStamped, names.ARM_COMMAND, qos.COMMAND)
            self._status = self.client.create_publisher(ServoStatus, names.SERVO_STATUS, 10)
            self._targets = self.client.create_publisher(JointTrajectory, names.SERVO_TRAJECTORY, 10)
            self.client.create_subscription(TwistStamped, names.SERVO_TWIST, self.servo.on_twist, 10)
            self.client.create_subscription(CollisionObject, names.COLLISION_OBJECT, self.objects.append, 10)
            self.client.create_subscription(JointTrajectory, names.JOINT_TRAJECTORY, self._go, qos.TRAJECTORY)
            self.client.create_service(ServoCommandType, names.SERVO_COMMAND_TYPE, self._switch)
            self._ending = threading.Event()
            self._player = threading.Thread(target=self._play, daemon=True)
            self._player.start()
            return self

        def __exit__(self, *error: Any) -> None:
            self._ending.set()
            self._player.join()
            super().__exit__(*error)

        def _switch(self, request: Any, response: Any) -> Any:
            self.servo.takes_twists = response.success = request.command_type == ServoCommandType.Request.TWIST
            return response

        def _go(self, message: JointTrajectory) -> None:
            self.measured = np.array(message.points[0].positions)

        def _play(self) -> None:
            while not self._ending.wait(SERVO_PERIOD):
                self.send_joints(self.now_ns, self.measured.tolist())
                command = twist(self.velocity)
                command.header.stamp = from_nanoseconds(self.now_ns)
                self._commands.publish(command)
                target = self.servo.step(self.measured)
                if target is not None and self.servo.code is StatusCode.NO_WARNING:
                    self._targets.publish(target)
                self._status.publish(ServoStatus(code=int(self.servo.code)))

        def tool(self) -> np.ndarray:
            return self.node._controller._backend.tool(self.measured)

        def holds(self, reason: HoldReason) -> bool:
            return self.node._controller.mode is Mode.HOLDING and self.node._controller.reason is reason

    settings = {"backend": "servo", "command_timeout_s": 0.3, "joint_timeout_s": 1.0, "command_age_s": 2.0}
    with Stand(ArmNode, settings) as stand:
        stand.until(lambda: stand.servo.takes_twists, "the request to take twists")
        stand.until(lambda: stand.objects, "the table")
        start = stand.tool()
        stand.velocity = np.array([0.0, 0.1, 0.0])
        stand.until(lambda: stand.tool()[1] > start[1] + 0.03, "motion")
        np.testing.assert_allclose(stand.tool()[[0, 2]], start[[0, 2]], atol=0.005)
        stand.servo.code = StatusCode.HALT_FOR_COLLISION
        stand.until(lambda: stand.holds(HoldReason.COLLISION), "a hold")
        stand.servo.code = StatusCode.NO_WARNING
        stand.until(lambda: stand.node._controller.mode is Mode.MOVING, "motion again")
        stand.velocity = np.zeros(3)
        stand.until(lambda: stand.holds(HoldReason.ZERO), "rest")
        assert stand.client.count_publishers(names.JOINT_TRAJECTORY) == 1
