"""Camera images: the one crop and resize that training, simulation and every node share."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


class ImageError(ValueError):
    """An image that cannot be used; the message says what was expected and what was found."""


_CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}
_TO_RGB = {
    "bgr8": cv2.COLOR_BGR2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
    "mono8": cv2.COLOR_GRAY2RGB,
}


def decode(encoding: str, height: int, width: int, step: int, data: bytes | bytearray | memoryview) -> Image:
    """Turn raw image bytes into RGB.

    Args:
        encoding: one of rgb8, bgr8, rgba8, bgra8, mono8 (names of ``sensor_msgs/image_encodings``).
        height: rows, > 0.
        width: columns, > 0.
        step: bytes per row, >= width x channels; the excess is padding.
        data: at least ``height * step`` bytes.

    Returns:
        uint8 (height, width, 3), contiguous.

    Raises:
        ImageError: unknown encoding, empty image, or a size that does not fit the data.
    """
    channels = _CHANNELS.get(encoding)
    if channels is None:
        raise ImageError(f"image encoding {encoding!r} is not supported; use one of {', '.join(_CHANNELS)}")
    if height <= 0 or width <= 0:
        raise ImageError(f"image is empty: {width} x {height} pixels")
    if step < width * channels:
        raise ImageError(f"image row step is {step} bytes; {width} pixels of {encoding} need {width * channels}")
    if len(data) < height * step:
        raise ImageError(f"image is truncated: {len(data)} bytes; {height} rows of {step} bytes need {height * step}")
    rows = np.frombuffer(data, dtype=np.uint8, count=height * step).reshape(height, step)
    pixels = np.ascontiguousarray(rows[:, : width * channels].reshape(height, width, channels))
    if encoding == "rgb8":
        return pixels
    return np.asarray(cv2.cvtColor(pixels, _TO_RGB[encoding]), dtype=np.uint8)


def contrast(rgb: Image) -> float:
    """Standard deviation over the pixels of an image (H, W, 3), grey levels of 255; that of the liveliest channel."""
    return float(np.asarray(cv2.meanStdDev(rgb)[1]).max())


def crop_resize(rgb: Image, size: int) -> Image:
    """Centre square crop, then area resize.

    Args:
        rgb: uint8 (height, width, 3).
        size: side of the result in pixels, > 0.

    Returns:
        uint8 (size, size, 3); the input itself when it already has that shape.

    Raises:
        ImageError: not a non-empty RGB uint8 image.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise ImageError(f"expected a uint8 image (height, width, 3), got {rgb.dtype} {rgb.shape}")
    height, width = rgb.shape[:2]
    if (height, width) == (size, size):
        return rgb
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = rgb[top : top + side, left : left + side]
    interpolation = cv2.INTER_AREA if side >= size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (size, size), interpolation=interpolation), dtype=np.uint8)
