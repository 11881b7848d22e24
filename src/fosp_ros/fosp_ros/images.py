"""Image messages to arrays and back."""

from __future__ import annotations

import array

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image

from fosp_core.images import Image as RgbImage
from fosp_core.images import ImageError, decode


def from_message(message: Image) -> RgbImage:
    """RGB pixels of an image message.

    Encodings rgb8, bgr8, rgba8, bgra8 and mono8; the row ``step`` is honoured.

    Returns:
        uint8 (height, width, 3), contiguous. May share memory with the message.

    Raises:
        ImageError: another encoding, an empty image, or data that do not fit the size; the message says which.
    """
    return decode(message.encoding, message.height, message.width, message.step, memoryview(message.data).cast("B"))


def to_message(rgb: RgbImage, stamp: Time, frame_id: str) -> Image:
    """Image message with encoding rgb8 from uint8 (height, width, 3); raises ``ImageError`` for anything else."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise ImageError(f"expected a uint8 image (height, width, 3), got {rgb.dtype} {rgb.shape}")
    message = Image()
    message.header.stamp = stamp
    message.header.frame_id = frame_id
    message.height, message.width = int(rgb.shape[0]), int(rgb.shape[1])
    message.encoding = "rgb8"
    message.step = message.width * 3
    # Anything but array.array goes through a check of every single byte.
    message.data = array.array("B", rgb.tobytes())
    return message
