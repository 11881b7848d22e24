"""One decoder and one crop for every camera."""

from __future__ import annotations

import numpy as np
import pytest

from fosp_core.images import ImageError, contrast, crop_resize, decode

PIXEL = {
    "rgb8": [10, 20, 30],
    "bgr8": [30, 20, 10],
    "rgba8": [10, 20, 30, 255],
    "bgra8": [30, 20, 10, 255],
}


@pytest.mark.parametrize("encoding", PIXEL)
def test_colour_encodings_become_rgb(encoding: str) -> None:
    data = bytes(PIXEL[encoding] * 6)
    rgb = decode(encoding, 2, 3, 3 * len(PIXEL[encoding]), data)
    assert rgb.shape == (2, 3, 3)
    assert np.all(rgb == [10, 20, 30])


def test_grey_becomes_rgb() -> None:
    assert np.all(decode("mono8", 1, 2, 2, bytes([7, 7])) == 7)


def test_row_padding_is_skipped() -> None:
    rows = [bytes([1, 2, 3, 99]), bytes([4, 5, 6, 99])]
    assert decode("rgb8", 2, 1, 4, b"".join(rows)).reshape(2, 3).tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("encoding", "height", "width", "step", "size", "message"),
    [
        ("yuv422", 2, 2, 4, 8, "'yuv422' is not supported"),
        ("rgb8", 0, 2, 6, 0, "empty"),
        ("rgb8", 2, 2, 5, 12, "row step is 5"),
        ("rgb8", 2, 2, 6, 11, "truncated: 11 bytes"),
    ],
)
def test_malformed_image_is_refused_by_name(
    encoding: str, height: int, width: int, step: int, size: int, message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        decode(encoding, height, width, step, bytes(size))


def test_image_of_the_right_size_is_untouched() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert crop_resize(image, 64) is image


def test_crop_keeps_the_centre_square() -> None:
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:6] = 200
    assert np.all(crop_resize(image, 2) == 200)


def test_shrinking_averages_areas() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[::2] = 100
    assert np.all(crop_resize(image, 2) == 50)


def test_contrast_is_that_of_the_liveliest_channel_whatever_the_brightness() -> None:
    image = np.full((4, 4, 3), 200, np.uint8)
    assert contrast(image) == 0.0
    image[:2, :, 1] = 180
    assert contrast(image) == pytest.approx(10.0)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ImageError):
        crop_resize(image, 2)
