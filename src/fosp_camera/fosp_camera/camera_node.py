"""The camera node: pictures of a device, file or folder at a fixed rate, cropped and resized as everywhere."""

from __future__ import annotations

import sys
import time

from builtin_interfaces.msg import Time
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from fosp_camera.calibration import Calibration, CalibrationError
from fosp_camera.sources import PictureError, Source, SourceError, open_source
from fosp_core import task
from fosp_core.images import crop_resize
from fosp_ros import names, qos, runner
from fosp_ros.diagnostics import Diagnostics, Health, Level
from fosp_ros.errors import ConfigurationError
from fosp_ros.images import to_message
from fosp_ros.loop import SteadyLoop
from fosp_ros.parameters import Parameter, Parameters
from fosp_ros.stamps import from_nanoseconds

PARAMETERS = (
    Parameter("source", "", "Video device (0, /dev/video0), video file or folder of images.", read_only=True),
    Parameter("rate_hz", task.CONTROL_HZ, "Pictures a second.", "Hz", 1.0, 120.0, read_only=True),
    Parameter("image_size", task.IMAGE_SIZE, "Side of the published square image.", "px", 16, 1024, read_only=True),
    Parameter("loop", True, "Start files and folders again at their end.", read_only=True),
    Parameter("fovy_deg", 42.0, "Vertical field of view of the square crop.", "deg", 5.0, 170.0, read_only=True),
    Parameter(
        "calibration", "", "Calibration of the whole picture, as ROS writes it; replaces fovy_deg.", read_only=True
    ),
    Parameter("frame_id", "camera_optical_frame", "Frame of the pictures.", read_only=True),
)

RETRY_S = (0.5, 1.0, 2.0, 5.0)
"""Pauses before a lost source is opened again; the last one repeats."""


class CameraNode(Node):
    """Wires a source to its topics; a source that goes away is opened again with growing pauses."""

    def __init__(self) -> None:
        super().__init__(names.CAMERA_NODE)
        self._p = p = Parameters(self, PARAMETERS)
        self._size = p.integer("image_size")
        self._calibration: Calibration | None = None  # of the whole picture
        try:
            if p.string("calibration"):
                self._calibration = Calibration.from_file(p.string("calibration"))
            self._source: Source | None = open_source(p.string("source"), p.boolean("loop"))
        except CalibrationError as error:
            raise ConfigurationError(f"parameter 'calibration': {error}") from error
        except SourceError as error:
            raise ConfigurationError(f"parameter 'source': {error}") from error
        self._published = (
            self._calibration.crop_resized(self._size)
            if self._calibration is not None
            else Calibration.from_field_of_view(p.float("fovy_deg"), self._size)
        )
        self._fault = ""
        self._failures = 0
        self._retry_at = 0.0
        self._ended = False
        self._frames = 0
        self._image = self.create_publisher(Image, names.CAMERA_IMAGE, qos.IMAGE)
        self._info = self.create_publisher(CameraInfo, names.CAMERA_INFO, qos.IMAGE)
        self._loop = SteadyLoop(1.0 / p.float("rate_hz"), self._step, self._on_error, name="capture")
        self._diagnostics = Diagnostics(self, self._health, hardware_id=p.string("source"))
        self._loop.start()

    def close(self) -> None:
        """Stop and let go of the source."""
        self._loop.close()
        if self._source is not None:
            self._source.close()

    def _step(self) -> None:
        source = self._source or self._reopened()
        if source is None or self._ended:
            return
        try:
            picture = source.read()
        except SourceError as error:
            self._lost(error)
            return
        except PictureError as error:
            self._complain("unreadable_picture", str(error))
            return
        if picture is None:
            self._ended = True
            self.get_logger().info("the source has ended")
            return
        if self._failures:
            self.get_logger().info("the source is back")
        self._failures, self._fault = 0, ""
        self._frames += 1
        age_ns = round((time.monotonic() - picture.taken_s) * 1e9)
        stamp = from_nanoseconds(max(self.get_clock().now().nanoseconds - age_ns, 0))
        frame_id = self._p.string("frame_id")
        self._image.publish(to_message(crop_resize(picture.rgb, self._size), stamp, frame_id))
        height, width = picture.rgb.shape[:2]
        given = self._calibration
        if given is not None and (given.width, given.height) != (width, height):
            expected = f"{given.width} x {given.height}"
            self._complain("calibration", f"pictures are {width} x {height}, the calibration is for {expected}")
            return
        self._info.publish(camera_info(self._published, stamp, frame_id))

    def _complain(self, kind: str, text: str) -> None:
        self._fault = text
        if self._diagnostics.count(kind, text) == 1:
            self.get_logger().error(text)

    def _lost(self, error: SourceError) -> None:
        if self._source is not None:
            self._source.close()
        self._source = None
        self._diagnostics.count("source_lost", str(error))
        pause = RETRY_S[min(self._failures, len(RETRY_S) - 1)]
        if self._failures == 0:
            self.get_logger().error(f"{error}; trying again")
        self._failures += 1
        self._retry_at = time.monotonic() + pause

    def _reopened(self) -> Source | None:
        if time.monotonic() < self._retry_at:
            return None
        try:
            self._source = open_source(self._p.string("source"), self._p.boolean("loop"))
        except SourceError as error:
            self._lost(error)
            return None
        return self._source

    def _on_error(self, error: Exception) -> None:
        if self._diagnostics.count("internal_error", f"{type(error).__name__}: {error}") == 1:
            self.get_logger().error(f"capture failed: {type(error).__name__}: {error}")

    def _health(self) -> Health:
        values = {"frames": self._frames, "late_steps": self._loop.late_steps}
        if self._source is None:
            return Health(Level.ERROR, "the source is lost", values)
        if self._fault:
            return Health(Level.ERROR, self._fault, values)
        return Health(Level.OK, "ended" if self._ended else "capturing", values)


def camera_info(calibration: Calibration, stamp: Time, frame_id: str) -> CameraInfo:
    """Message of a calibration."""
    message = CameraInfo(
        width=calibration.width, height=calibration.height, distortion_model=calibration.distortion_model
    )
    message.header.stamp, message.header.frame_id = stamp, frame_id
    message.d, message.k = list(calibration.d), list(calibration.k)
    message.r, message.p = list(calibration.r), list(calibration.p)
    return message


def main(args: list[str] | None = None) -> int:
    """Entry point of the executable ``camera_node``."""
    return runner.run(CameraNode, names.CAMERA_NODE, args)


if __name__ == "__main__":
    sys.exit(main())
