"""``fosp-camera-check``: how far a camera's view is from the training view."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import cv2
import numpy as np
import tyro

from fosp_camera.alignment import Alignment, AlignmentError, align, overlay
from fosp_camera.sources import PictureError, SourceError, open_source
from fosp_core import task
from fosp_core.images import Image

TRAINING_VIEW: Final = Path(__file__).parent / "training_view.png"
_TOPIC_WAIT_S: Final = 10.0


class CheckError(Exception):
    """The check cannot be made; the message says why."""


@dataclass(frozen=True)
class Options:
    """Compare a camera's view with the view that policies were trained on.

    Looks for the white outline on the table, says by how much it is displaced and where the camera is, and writes an
    overlay: the view blended with the training view, the training view's outline green, the view's own red. Exit code 0
    within the limit, 2 beyond it, 1 when the outline is not found.
    """

    source: Annotated[str, tyro.conf.Positional] = "/camera/image_raw"
    """Image topic, picture file, video device, video file or image folder."""
    fovy: float = task.CAMERA_FOVY_DEG
    """Vertical field of view of the camera, degrees."""
    limit_pixels: float = 1.0
    """Largest displacement of a corner of the outline, in pixels of the policy's picture."""
    output: Path = Path("camera_check.png")
    """Where the overlay goes."""
    watch: bool = False
    """Look again every second until Ctrl-C, for adjusting the camera."""
    as_json: bool = False
    """Print JSON."""


def describe(found: Alignment, limit_pixels: float) -> str:
    """The result in words."""
    x, y, z = 100.0 * found.shift_m
    verdict = "within" if found.pixels <= limit_pixels else "BEYOND"
    return (
        f"outline displaced by up to {found.pixels:.2f} px of {task.IMAGE_SIZE} "
        f"({verdict} the limit of {limit_pixels:g}); "
        f"camera shifted by x {x:+.1f}, y {y:+.1f}, z {z:+.1f} cm and turned by {found.rotation_deg:.1f} degrees; "
        f"{100 * found.found:.0f} % of the outline seen"
    )


def check(picture: Image, options: Options) -> int:
    """Compare one picture, print the result, write the overlay; returns the exit code."""
    training = read(TRAINING_VIEW)
    try:
        found = align(picture, options.fovy)
    except AlignmentError as error:
        write(options.output, overlay(picture, training, None))
        print(f"fosp-camera-check: {error}; overlay: {options.output}", file=sys.stderr)
        return 1
    write(options.output, overlay(picture, training, found.camera))
    if options.as_json:
        values = {
            "pixels": found.pixels,
            "shift_m": found.shift_m.tolist(),
            "rotation_deg": found.rotation_deg,
            "found": found.found,
            "overlay": str(options.output),
        }
        print(json.dumps(values), flush=True)
    else:
        print(f"{describe(found, options.limit_pixels)}; overlay: {options.output}", flush=True)
    return 0 if found.pixels <= options.limit_pixels else 2


def read(path: Path) -> Image:
    """Picture file as RGB (H, W, 3); raises ``CheckError``."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise CheckError(f"{path}: not a picture")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def write(path: Path, rgb: Image) -> None:
    """Write a picture; raises ``CheckError``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)):
        raise CheckError(f"{path}: cannot be written")


def grab(source: str) -> Image:
    """One picture of a topic, file, device or folder; raises ``CheckError``."""
    if Path(source).is_file() and Path(source).suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp"):
        return read(Path(source))
    if source.startswith("/") and not Path(source).exists():
        return _from_topic(source)
    try:
        opened = open_source(source, loop=False)
        try:
            picture = opened.read()
        finally:
            opened.close()
    except (SourceError, PictureError) as error:
        raise CheckError(str(error)) from error
    if picture is None:
        raise CheckError(f"{source}: no picture")
    return picture.rgb


def _from_topic(topic: str) -> Image:
    import rclpy
    from sensor_msgs.msg import Image as ImageMessage

    from fosp_ros import qos
    from fosp_ros.images import from_message

    received: list[ImageMessage] = []
    rclpy.init()
    node = rclpy.create_node("fosp_camera_check", enable_rosout=False, start_parameter_services=False)
    try:
        node.create_subscription(ImageMessage, topic, received.append, qos.IMAGE)
        end = time.monotonic() + _TOPIC_WAIT_S
        while not received and time.monotonic() < end:
            rclpy.spin_once(node, timeout_sec=0.2)
    finally:
        node.destroy_node()
        rclpy.shutdown()
    if not received:
        raise CheckError(f"no image on {topic} within {_TOPIC_WAIT_S:g} s")
    return from_message(received[-1])


def main() -> None:
    """Entry point of ``fosp-camera-check``."""
    options = tyro.cli(Options, prog="fosp-camera-check")
    try:
        code = check(grab(options.source), options)
        while options.watch:
            time.sleep(1.0)
            code = check(grab(options.source), options)
    except CheckError as error:
        print(f"fosp-camera-check: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        pass
    sys.exit(code)


if __name__ == "__main__":
    main()
