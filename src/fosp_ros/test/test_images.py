import array

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image

from fosp_core.images import ImageError
from fosp_ros.images import from_message, to_message


def pixels() -> np.ndarray:
    return np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def test_round_trip_keeps_pixels_stamp_and_frame():
    message = to_message(pixels(), Time(sec=3, nanosec=4), "camera")
    assert (message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id) == (3, 4, "camera")
    assert (message.width, message.height, message.step, message.encoding) == (6, 4, 18, "rgb8")
    np.testing.assert_array_equal(from_message(message), pixels())


def test_bgr_is_swapped():
    message = to_message(pixels(), Time(), "camera")
    message.encoding = "bgr8"
    np.testing.assert_array_equal(from_message(message), pixels()[:, :, ::-1])


def test_padding_at_the_end_of_rows_is_ignored():
    padded = np.zeros((4, 20), np.uint8)
    padded[:, :18] = pixels().reshape(4, 18)
    message = Image(height=4, width=6, step=20, encoding="rgb8", data=array.array("B", padded.tobytes()))
    np.testing.assert_array_equal(from_message(message), pixels())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"encoding": "bayer_rggb8"}, "encoding 'bayer_rggb8'"),
        ({"encoding": ""}, "encoding ''"),
        ({"width": 0}, "empty"),
        ({"height": 9}, "truncated"),
        ({"step": 17}, "row step is 17"),
        ({"data": array.array("B")}, "truncated: 0 bytes"),
    ],
)
def test_malformed_message_is_named(change, expected):
    message = to_message(pixels(), Time(), "camera")
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(ImageError, match=expected):
        from_message(message)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_only_rgb_bytes_become_a_message(image):
    with pytest.raises(ImageError):
        to_message(image, Time(), "camera")
