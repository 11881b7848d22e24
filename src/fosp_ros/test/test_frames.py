"""What belongs to a frame, gathered over DDS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState

import fosp_description
from fosp_core.images import ImageError
from fosp_interfaces.msg import TaskState
from fosp_ros import names, qos
from fosp_ros.errors import MessageError
from fosp_ros.frames import FrameReader, ModelFrame
from fosp_ros.images import to_message
from fosp_ros.kinematics import Chain
from fosp_ros.stamps import from_nanoseconds
from fosp_ros.testing import ABOVE_THE_TABLE, Bench, plain_image


class ReaderNode(Node):
    """Keeps the images it hears; the reader works when a test asks it to."""

    def __init__(self) -> None:
        super().__init__("reader")
        self.reader = FrameReader(self, joint_tolerance_s=0.05)
        self.images: list[Image] = []
        self.create_subscription(Image, names.CAMERA_IMAGE, self.images.append, qos.IMAGE)


class ReaderBench(Bench[ReaderNode]):
    def read(self, **frame: Any) -> ModelFrame:
        """Send one frame and read it."""
        self.node.images.clear()
        self.send_frame(**frame)
        self.until(lambda: self.node.images, "the image")
        return self.node.reader.read(self.node.images[0], 64)


@pytest.fixture
def bench() -> Iterator[ReaderBench]:
    with ReaderBench(ReaderNode) as bench:
        bench.connect()
        yield bench


def test_a_frame_joins_pixels_tool_and_task(bench: ReaderBench) -> None:
    frame = bench.read(image=plain_image(0.9, 0.1, 0.1, size=128), is_first=True, episode=3)
    assert frame.image.shape == (64, 64, 3) and frame.image[0, 0, 0] == 229
    expected = Chain.from_urdf(fosp_description.urdf_path()).position(np.array(ABOVE_THE_TABLE))
    np.testing.assert_allclose(frame.tool, expected)
    assert frame.is_first and frame.running and frame.state is not None and frame.state.episode_id == 3
    assert bench.node.reader.running
    assert frame.others_may_move
    second = bench.read(episode=3)
    assert not second.is_first and not second.others_may_move
    ended = bench.read(episode=3, phase=TaskState.ENDED)
    assert not ended.running and not ended.others_may_move
    assert bench.read(episode=4, phase=TaskState.READY).others_may_move


def test_equal_images_have_equal_digests_and_others_do_not(bench: ReaderBench) -> None:
    image = plain_image()
    first = bench.read(image=image).digest
    assert bench.read(image=image).digest == first
    image[3, 4, 1] += 1
    assert bench.read(image=image).digest != first


def test_a_frame_without_joint_states_is_refused(bench: ReaderBench) -> None:
    with pytest.raises(MessageError, match="no joint state"):
        bench.read(joints=None)
    bench.send_joints(bench.now_ns - 10**9)
    with pytest.raises(MessageError, match="from the frame"):
        bench.read(joints=None)


def test_joint_states_that_cannot_be_used_are_refused_and_good_ones_after_them_are_not(bench: ReaderBench) -> None:
    publisher = bench.client.create_publisher(JointState, names.JOINT_STATES, qos.JOINT_STATES)
    bench.until(lambda: publisher.get_subscription_count() > 0, "the reader")
    publisher.publish(JointState(name=["wheel"], position=[1.0]))
    with pytest.raises(MessageError, match="panda_joint1"):
        bench.read(joints=None)
    assert bench.read().tool.shape == (3,)


def test_a_frame_of_an_unknown_task_is_no_running_one(bench: ReaderBench) -> None:
    stamp = bench.now_ns
    bench.send_joints(stamp)
    bench.send_image(to_message(plain_image(), from_nanoseconds(stamp), "camera"))
    bench.until(lambda: bench.node.images, "the image")
    frame = bench.node.reader.read(bench.node.images[0], 64)
    assert frame.state is None and not frame.running and not frame.is_first


def test_a_malformed_image_is_refused(bench: ReaderBench) -> None:
    with pytest.raises(ImageError, match="empty"):
        bench.node.reader.read(Image(encoding="rgb8"), 64)
