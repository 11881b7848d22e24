"""SafeReach in Gazebo: the same services and topics as the MuJoCo simulation, on top of Gazebo's own.

Gazebo moves and draws. This node lays out scenes through the world's create, remove and set_pose services, brings the
arm to its start, and describes every camera frame with the task's rules. Needs ``ros_gz_interfaces`` (ROS 2 Jazzy or
newer) and the bridges of ``sdf.bridge_arguments``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from geometry_msgs.msg import Pose, PoseStamped
from numpy.typing import NDArray
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.task import Future
from ros_gz_interfaces.msg import Contacts, Entity
from ros_gz_interfaces.srv import DeleteEntity, SetEntityPose, SpawnEntity
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from fosp_core import task
from fosp_interfaces.msg import TaskState
from fosp_interfaces.srv import ResetScene
from fosp_ros import names, qos, runner
from fosp_ros.diagnostics import Diagnostics, Health, Level
from fosp_ros.errors import MessageError
from fosp_ros.messages import joint_positions
from fosp_ros.parameters import Parameter, Parameters
from fosp_sim import sdf
from fosp_sim.layout import CAMERA_FOVY_DEG, MAX_CLUTTER, Item, Layout
from fosp_sim.messages import CAMERA_FRAME, camera_info, task_state
from fosp_sim.observed import OBSTACLES, ObservedWorld
from fosp_sim.session import Phase, PhaseError, Session
from fosp_sim.world import Intrinsics

PARAMETERS = (
    Parameter("service_timeout_s", 5.0, "Longest wait for an answer of Gazebo.", "s", low=0.5, high=60.0),
    Parameter("homing_timeout_s", 10.0, "Longest way of the arm to its start.", "s", low=1.0, high=60.0),
    Parameter("homing_tolerance_rad", 0.02, "Joint error at which the arm is there.", "rad", low=0.001, high=0.2),
)
CLUTTER: Final = tuple(f"clutter{i}" for i in range(MAX_CLUTTER))


class GazeboError(Exception):
    """Gazebo does not do what it is asked; the message says what."""


class GazeboNode(Node):
    """Wires a ``Session`` over an ``ObservedWorld`` to Gazebo."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(names.SIMULATION_NODE, **kwargs)
        self._p = Parameters(self, PARAMETERS)
        self._world = ObservedWorld(sdf.ARM)
        self._session = Session(self._world)
        self._standing: dict[str, Item] = {}
        self._target: NDArray[np.float64] | None = None
        self._arrival: Future[bool] | None = None
        self._is_resetting = False

        self._task = self.create_publisher(TaskState, names.TASK_STATE, qos.TASK_STATE)
        self._image = self.create_publisher(Image, names.CAMERA_IMAGE, qos.IMAGE)
        self._info = self.create_publisher(CameraInfo, names.CAMERA_INFO, qos.IMAGE)
        self._overview = self.create_publisher(Image, names.OVERVIEW_IMAGE, qos.IMAGE)
        self._trajectory = self.create_publisher(JointTrajectory, names.JOINT_TRAJECTORY, qos.TRAJECTORY)
        self.create_subscription(JointState, names.JOINT_STATES, self._on_joints, qos.JOINT_STATES)
        self.create_subscription(Image, sdf.IMAGE_TOPIC, self._on_image, qos.IMAGE)
        self.create_subscription(Image, sdf.OVERVIEW_TOPIC, self._overview.publish, qos.IMAGE)
        for name in OBSTACLES:
            self.create_subscription(PoseStamped, sdf.pose_topic(name), self._pose_listener(name), 10)
            self.create_subscription(Contacts, sdf.contact_topic(name), self._on_contacts, 10)
        # A reset waits for Gazebo and the arm while their messages go on arriving.
        group = ReentrantCallbackGroup()
        world = f"/world/{sdf.WORLD}"
        self._create = self.create_client(SpawnEntity, f"{world}/create", callback_group=group)
        self._remove = self.create_client(DeleteEntity, f"{world}/remove", callback_group=group)
        self._set_pose = self.create_client(SetEntityPose, f"{world}/set_pose", callback_group=group)
        self._group = group
        self.create_service(ResetScene, names.SCENE_RESET, self._on_reset, callback_group=group)
        self.create_service(Trigger, names.SCENE_START, self._on_start)
        self.create_service(Trigger, names.SCENE_STOP, self._on_stop)
        self._diagnostics = Diagnostics(self, self._health, hardware_id="gazebo")

    # -- what Gazebo reports --------------------------------------------------------------------------------

    def _on_joints(self, message: JointState) -> None:
        try:
            positions = joint_positions(message)
        except MessageError as error:
            self._diagnostics.count("bad_joint_state", str(error))
            return
        self._world.on_joints(positions)
        if self._target is not None and self._arrival is not None and not self._arrival.done():
            error_rad = float(np.max(np.abs(positions - self._target)))
            if error_rad <= self._p.float("homing_tolerance_rad"):
                self._arrival.set_result(True)

    def _pose_listener(self, name: str) -> Any:
        def listen(message: PoseStamped) -> None:
            q = message.pose.orientation
            self._world.on_pose(name, np.array([q.w, q.x, q.y, q.z]))

        return listen

    def _on_contacts(self, message: Contacts) -> None:
        for contact in message.contacts:
            self._world.on_contact(contact.collision1.name, contact.collision2.name)

    def _on_image(self, image: Image) -> None:
        if self._world.joints is None or self._is_resetting:
            return
        self._session.tick(None)
        state = self._session.frame()
        stamp = image.header.stamp
        # The task's state goes first, so that whoever sees the frame can know what it belongs to.
        self._task.publish(task_state(state, stamp))
        image.header.frame_id = CAMERA_FRAME
        self._image.publish(image)
        self._info.publish(camera_info(intrinsics(image.width, image.height), stamp))

    # -- what the graph asks --------------------------------------------------------------------------------

    async def _on_reset(self, request: ResetScene.Request, response: ResetScene.Response) -> ResetScene.Response:
        if self._is_resetting:
            response.success, response.message = False, "another reset is under way"
            return response
        try:
            layout = self._session.sample(request.scene, int(request.seed))
            reason = sdf.unsupported(layout)
            if reason:
                raise GazeboError(f"scene {request.scene} cannot be had here: {reason}")
            self._is_resetting = True
            await self._lay_out(layout)
            self._session.reset(layout, int(request.episode_id))
        except (ValueError, GazeboError) as error:
            response.success, response.message = False, str(error)
        else:
            response.success, response.message = True, f"scene {request.scene}, seed {request.seed}"
        finally:
            self._is_resetting = False
        return response

    async def _lay_out(self, layout: Layout) -> None:
        way = self._world.homing(np.asarray(layout.start))
        # Obstacles go first: nothing is in the arm's way then. A pose set by service keeps the velocity that a falling
        # obstacle has, so they are made anew every time.
        for name in [name for name in self._standing if name in OBSTACLES]:
            await self._remove_item(name)
        await self._home(way)
        wanted = {"goal": layout.goal, **dict(zip(CLUTTER, layout.clutter, strict=False))}
        for name in [name for name in self._standing if name not in wanted]:
            await self._remove_item(name)
        for name, item in wanted.items():
            await self._put(name, item)
        for name, item in zip(OBSTACLES, layout.obstacles, strict=False):
            await self._spawn(name, item, physical=True)
        await self._move(sdf.CAMERA, sdf.camera_pose(layout.look))

    async def _home(self, way: Sequence[tuple[NDArray[np.float64], float]]) -> None:
        trajectory = JointTrajectory(joint_names=list(task.ARM_JOINTS))
        for joints, at_s in way:
            point = JointTrajectoryPoint(positions=joints.tolist())
            point.time_from_start = Duration(seconds=at_s).to_msg()
            trajectory.points.append(point)
        self._target, self._arrival = way[-1][0], Future()
        self._trajectory.publish(trajectory)
        if not await self._within(self._arrival, self._p.float("homing_timeout_s")):
            raise GazeboError("the arm did not come to its start; is panda_arm_controller active?")

    async def _put(self, name: str, item: Item) -> None:
        before = self._standing.get(name)
        if before is not None and (before.shape, before.size, before.rgb) == (item.shape, item.size, item.rgb):
            await self._move(name, item.pose())
            self._standing[name] = item
            return
        if before is not None:
            await self._remove_item(name)
        await self._spawn(name, item, physical=False)

    async def _spawn(self, name: str, item: Item, physical: bool) -> None:
        request = SpawnEntity.Request()
        request.entity_factory.name = name
        request.entity_factory.sdf = sdf.item_sdf(name, item, physical)
        request.entity_factory.pose = _pose(item.pose())
        await self._ask(self._create, request, f"create {name}")
        self._standing[name] = item

    async def _remove_item(self, name: str) -> None:
        await self._ask(self._remove, DeleteEntity.Request(entity=_model(name)), f"remove {name}")
        del self._standing[name]

    async def _move(self, name: str, pose: NDArray[np.float64]) -> None:
        await self._ask(self._set_pose, SetEntityPose.Request(entity=_model(name), pose=_pose(pose)), f"move {name}")

    async def _ask(self, client: Any, request: Any, what: str) -> None:
        if not client.service_is_ready():
            raise GazeboError(f"Gazebo cannot {what}: {client.srv_name} is not there; is ros_gz_bridge running?")
        answer = client.call_async(request)
        if not await self._within(answer, self._p.float("service_timeout_s")):
            raise GazeboError(f"Gazebo did not answer when asked to {what}")
        if not answer.result().success:
            raise GazeboError(f"Gazebo refused to {what}")

    async def _within(self, future: Any, seconds: float) -> bool:
        """Wait for a future, but not for ever; whether it was done in time."""
        either: Future[bool] = Future()

        def settle(done: bool) -> None:
            if not either.done():
                either.set_result(done)

        future.add_done_callback(lambda _: settle(True))
        timer = self.create_timer(seconds, lambda: settle(False), callback_group=self._group)
        try:
            return bool(await either)
        finally:
            self.destroy_timer(timer)

    def _on_start(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if not self._world.ready:
            response.success, response.message = False, "Gazebo does not report the pose of every obstacle yet"
            return response
        return self._phase_change(self._session.start, response)

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._phase_change(self._session.stop, response)

    def _phase_change(self, change: Any, response: Trigger.Response) -> Trigger.Response:
        try:
            change()
        except PhaseError as error:
            response.success, response.message = False, str(error)
        else:
            response.success, response.message = True, Phase(self._session.phase).name
        return response

    def _health(self) -> Health:
        values = {"phase": self._session.phase.name.lower(), "scene": self._session.scene}
        if self._world.joints is None:
            return Health(Level.ERROR, "no joint states from Gazebo", values)
        return Health(Level.OK, f"simulating, {values['phase']}", values)


def intrinsics(width: int, height: int) -> Intrinsics:
    """Intrinsics of the world's camera for a picture size."""
    focal = 0.5 * height / math.tan(0.5 * math.radians(CAMERA_FOVY_DEG))
    return Intrinsics(width, height, focal, focal, 0.5 * width, 0.5 * height)


def _model(name: str) -> Entity:
    return Entity(name=name, type=Entity.MODEL)


def _pose(pose: NDArray[np.float64]) -> Pose:
    """Message of a position and quaternion (w, x, y, z)."""
    message = Pose()
    p, q = message.position, message.orientation
    p.x, p.y, p.z, q.w, q.x, q.y, q.z = (float(v) for v in pose)
    return message


def main(args: list[str] | None = None) -> int:
    """Entry point of the executable ``gazebo_node``."""
    return runner.run(GazeboNode, names.SIMULATION_NODE, args)


if __name__ == "__main__":
    sys.exit(main())
