"""The node that speaks for Gazebo, over DDS, against a stand-in of Gazebo's services and topics."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ros_gz_interfaces", reason="ros_gz_interfaces comes with an installed ROS 2, not with wheels")

from geometry_msgs.msg import PoseStamped
from ros_gz_interfaces.msg import Contact, Contacts, Entity
from ros_gz_interfaces.srv import DeleteEntity, SetEntityPose, SpawnEntity
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from fosp_interfaces.msg import TaskState
from fosp_interfaces.srv import ResetScene
from fosp_ros import names, qos
from fosp_ros.images import to_message
from fosp_ros.stamps import from_nanoseconds, to_nanoseconds
from fosp_ros.testing import Bench, plain_image
from fosp_sim import sdf
from fosp_sim.gazebo_node import GazeboNode
from fosp_sim.layout import sample_layout
from fosp_sim.observed import OBSTACLES
from fosp_sim.world import HOME, ArmKinematics


class StandIn(Bench[GazeboNode]):
    """Keeps what it is told to create, remove and move; its arm is at once where a trajectory ends."""

    def __enter__(self) -> StandIn:
        super().__enter__()
        self.models: dict[str, tuple[str, Any]] = {sdf.CAMERA: ("", None)}
        self.calls: list[str] = []
        self.arm_obeys = True
        self.positions = list(HOME)
        world = f"/world/{sdf.WORLD}"
        self.client.create_service(SpawnEntity, f"{world}/create", self._create)
        self.client.create_service(DeleteEntity, f"{world}/remove", self._remove)
        self.client.create_service(SetEntityPose, f"{world}/set_pose", self._set_pose)
        self.client.create_subscription(JointTrajectory, names.JOINT_TRAJECTORY, self._follow, qos.TRAJECTORY)
        self.frames = self.client.create_publisher(Image, sdf.IMAGE_TOPIC, 1)
        self.contacts = {n: self.client.create_publisher(Contacts, sdf.contact_topic(n), 10) for n in OBSTACLES}
        self.poses = {n: self.client.create_publisher(PoseStamped, sdf.pose_topic(n), 10) for n in OBSTACLES}
        self.states = self.listen(TaskState, names.TASK_STATE, qos.TASK_STATE)
        self.images = self.listen(Image, names.CAMERA_IMAGE, qos.IMAGE)
        self.infos = self.listen(CameraInfo, names.CAMERA_INFO, qos.IMAGE)
        for publisher in (self.frames, *self.contacts.values(), *self.poses.values()):
            self.until(lambda p=publisher: p.get_subscription_count() > 0, publisher.topic_name)
        self.node_clients = (self.node._create, self.node._remove, self.node._set_pose)
        self.until(lambda: all(c.service_is_ready() for c in self.node_clients), "Gazebo's services")
        self._stamp = 1_000_000_000
        self.client.create_timer(0.02, self._report)
        self.until(lambda: self.node._world.joints is not None, "the arm")
        return self

    def _create(self, request: Any, response: Any) -> Any:
        factory = request.entity_factory
        self.calls.append(f"create {factory.name}")
        response.success = factory.name not in self.models
        self.models[factory.name] = (factory.sdf, factory.pose)
        return response

    def _remove(self, request: Any, response: Any) -> Any:
        self.calls.append(f"remove {request.entity.name}")
        response.success = (
            request.entity.type == Entity.MODEL and self.models.pop(request.entity.name, None) is not None
        )
        return response

    def _set_pose(self, request: Any, response: Any) -> Any:
        name = request.entity.name
        self.calls.append(f"move {name}")
        response.success = name in self.models
        if response.success:
            self.models[name] = (self.models[name][0], request.pose)
        return response

    def _follow(self, message: JointTrajectory) -> None:
        if self.arm_obeys:
            self.positions = list(message.points[-1].positions)

    def _report(self) -> None:
        self.send_joints(self._stamp, self.positions)
        for name, publisher in self.poses.items():
            if name in self.models:
                publisher.publish(PoseStamped(pose=self.models[name][1]))

    def frame(self) -> TaskState:
        """The state of the next camera frame."""
        self._stamp += 100_000_000
        count = len(self.states)
        self.frames.publish(to_message(plain_image(), from_nanoseconds(self._stamp), "gazebo"))
        self.until(lambda: len(self.states) > count and self.images and self.images[-1].header.stamp, "a frame")
        return self.states[-1]

    def reset(self, scene: str = "standard", seed: int = 3) -> ResetScene.Response:
        return self.call(ResetScene, names.SCENE_RESET, ResetScene.Request(scene=scene, seed=seed, episode_id=7))

    def touch(self, first: str, second: str) -> None:
        contact = Contact(collision1=Entity(name=first), collision2=Entity(name=second))
        self.contacts["obstacle0"].publish(Contacts(contacts=[contact]))
        self.until(lambda: self.node._world._touched, "the touch")


@pytest.fixture
def gazebo() -> Iterator[StandIn]:
    with StandIn(GazeboNode, {"homing_timeout_s": 2.0}) as it:
        yield it


def position(pose: Any) -> list[float]:
    return [pose.position.x, pose.position.y, pose.position.z]


def test_reset_lays_out_the_scene_and_brings_the_arm_to_its_start(gazebo: StandIn) -> None:
    answer = gazebo.reset(seed=3)
    assert answer.success, answer.message
    layout = sample_layout("standard", 3)
    assert set(gazebo.models) == {sdf.CAMERA, "goal", "obstacle0", "obstacle1"}
    for name, item in (("goal", layout.goal), ("obstacle0", layout.obstacles[0]), ("obstacle1", layout.obstacles[1])):
        text, pose = gazebo.models[name]
        assert ET.fromstring(text).find("model").get("name") == name
        np.testing.assert_allclose(position(pose), item.pose()[:3], atol=1e-9)
    np.testing.assert_allclose(ArmKinematics().tool(np.array(gazebo.positions)), layout.start, atol=2e-3)
    state = gazebo.frame()
    assert (state.phase, state.episode_id, state.scene, state.seed) == (TaskState.READY, 7, "standard", 3)
    assert state.is_first


def test_second_reset_moves_what_looks_the_same_and_makes_obstacles_anew(gazebo: StandIn) -> None:
    assert gazebo.reset(seed=3).success
    gazebo.calls.clear()
    assert gazebo.reset(seed=4).success
    assert gazebo.calls[:2] == ["remove obstacle0", "remove obstacle1"]
    assert "move goal" in gazebo.calls and "remove goal" not in gazebo.calls
    np.testing.assert_allclose(position(gazebo.models["goal"][1]), sample_layout("standard", 4).goal.pose()[:3])
    gazebo.calls.clear()
    assert gazebo.reset(scene="new_objects", seed=4).success
    assert {"remove goal", "create goal", "create obstacle2"} <= set(gazebo.calls)


def test_touch_in_an_episode_costs_once_and_every_frame_has_its_state(gazebo: StandIn) -> None:
    assert gazebo.reset().success
    gazebo.until(lambda: gazebo.node._world.ready, "the obstacles")
    assert gazebo.call(Trigger, names.SCENE_START, Trigger.Request()).success
    assert gazebo.frame().is_first
    gazebo.touch("panda::panda_hand::collision0", "obstacle0::link::collision")
    state = gazebo.frame()
    assert (state.phase, state.cost, state.cost_reason, state.violated) == (TaskState.RUNNING, 1.0, "contact", True)
    state = gazebo.frame()
    assert (state.cost, state.violated) == (0.0, True)
    gazebo.until(lambda: to_nanoseconds(gazebo.images[-1].header.stamp) == gazebo._stamp, "the frame's image")
    gazebo.until(lambda: to_nanoseconds(gazebo.infos[-1].header.stamp) == gazebo._stamp, "the frame's camera info")
    assert to_nanoseconds(state.header.stamp) == gazebo._stamp
    assert gazebo.infos[-1].k[0] == pytest.approx(32.0 / np.tan(np.deg2rad(21.0)))
    assert gazebo.call(Trigger, names.SCENE_STOP, Trigger.Request()).success
    assert gazebo.frame().phase == TaskState.ENDED


def test_what_cannot_be_done_is_said_and_the_node_goes_on(gazebo: StandIn) -> None:
    answer = gazebo.reset(scene="kitchen")
    assert not answer.success and "unknown scene 'kitchen'" in answer.message
    answer = gazebo.reset(scene="lights_off")
    assert not answer.success and "ambient" in answer.message
    gazebo.arm_obeys = False
    answer = gazebo.reset()
    assert not answer.success and "the arm did not come to its start" in answer.message
    gazebo.arm_obeys = True
    gazebo.models.pop(sdf.CAMERA)
    answer = gazebo.reset()
    assert not answer.success and answer.message == "Gazebo refused to move camera"
    gazebo.models[sdf.CAMERA] = ("", None)
    assert gazebo.reset().success
    assert gazebo.frame().phase == TaskState.READY
