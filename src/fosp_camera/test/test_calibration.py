"""Intrinsics of what is published."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fosp_camera.calibration import Calibration, CalibrationError

FILE = """image_width: 640
image_height: 480
camera_name: camera
camera_matrix: {rows: 3, cols: 3, data: [500.0, 0, 330.0, 0, 510.0, 235.0, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0.1, -0.2, 0.001, 0.002, 0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [490.0, 0, 331.0, 0, 0, 500.0, 236.0, 0, 0, 0, 1, 0]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "camera.yaml"
    path.write_text(FILE)
    return path


def test_field_of_view_spans_the_image() -> None:
    c = Calibration.from_field_of_view(90.0, 64)
    assert c.k == pytest.approx((32.0, 0, 32.0, 0, 32.0, 32.0, 0, 0, 1))
    assert len(c.p) == 12


def test_cropped_and_resized_intrinsics_project_to_where_the_pixels_went(file: Path) -> None:
    whole = Calibration.from_file(file)
    small = whole.crop_resized(120)
    assert (small.width, small.height, small.d) == (120, 120, whole.d)
    point = np.array([[0.1, -0.05, 1.0]])
    zero = np.zeros(3)

    def pixel(c: Calibration) -> np.ndarray:
        projected, _ = cv2.projectPoints(point, zero, zero, np.reshape(c.k, (3, 3)), np.array(c.d))
        return projected.ravel()

    # 480 x 480 pixels from column 80 on, then a quarter of the size; pixel centres are whole numbers.
    expected = (pixel(whole) - [80, 0] + 0.5) / 4 - 0.5
    np.testing.assert_allclose(pixel(small), expected, atol=1e-9)


def test_an_image_of_the_right_size_keeps_its_intrinsics() -> None:
    c = Calibration.from_field_of_view(42.0, 64)
    assert c.crop_resized(64) == c


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_width: [", "unreadable"),
        ("image_width: 640", "'image_height' is missing"),
        (FILE.replace("640", "0"), "image size"),
        (FILE.replace("330.0, ", ""), "9 finite numbers"),
        (FILE.replace("330.0", ".nan"), "finite numbers"),
        ("just text", "string indices"),
    ],
)
def test_a_calibration_that_cannot_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(CalibrationError, match=r"broken\.yaml.*" + message):
        Calibration.from_file(path)
    with pytest.raises(CalibrationError, match=r"absent\.yaml: unreadable"):
        Calibration.from_file(tmp_path / "absent.yaml")
