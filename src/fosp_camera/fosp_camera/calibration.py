"""Intrinsics of the published image: from a calibration file, or from the field of view. No ROS."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml


class CalibrationError(Exception):
    """A calibration that cannot be used; the message says what is wrong with it."""


@dataclass(frozen=True)
class Calibration:
    """What ``sensor_msgs/CameraInfo`` holds, in pixels of an image of ``width`` x ``height``."""

    width: int
    height: int
    k: tuple[float, ...]  # 3 x 3, row-major
    distortion_model: str = "plumb_bob"
    d: tuple[float, ...] = (0.0,) * 5
    r: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    p: tuple[float, ...] = ()  # 3 x 4, row-major

    @staticmethod
    def from_field_of_view(fovy_deg: float, size: int) -> Calibration:
        """Ideal pinhole behind a square image of ``size`` pixels with a vertical field of view in degrees."""
        focal = 0.5 * size / math.tan(0.5 * math.radians(fovy_deg))
        return _pinhole(size, size, focal, focal, 0.5 * size, 0.5 * size)

    @staticmethod
    def from_file(path: Path | str) -> Calibration:
        """Read the YAML that ROS's ``camera_calibration`` writes; raises ``CalibrationError``."""
        try:
            raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise CalibrationError(f"{path}: unreadable: {error}") from error
        try:
            return Calibration(
                width=_size(raw["image_width"]),
                height=_size(raw["image_height"]),
                distortion_model=str(raw.get("distortion_model", "plumb_bob")),
                k=_numbers(raw["camera_matrix"], 9),
                d=_numbers(raw["distortion_coefficients"], None),
                r=_numbers(raw["rectification_matrix"], 9),
                p=_numbers(raw["projection_matrix"], 12),
            )
        except KeyError as error:
            raise CalibrationError(f"{path}: field {error.args[0]!r} is missing") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise CalibrationError(f"{path}: {error}") from error

    def crop_resized(self, size: int) -> Calibration:
        """Intrinsics after ``fosp_core.images.crop_resize``: centre square crop, then resize to ``size``."""
        side = min(self.width, self.height)
        left, top, scale = (self.width - side) // 2, (self.height - side) // 2, size / side
        k, p = list(self.k), list(self.p)
        for matrix, columns in ((k, 3), (p, 4)):
            matrix[0] *= scale
            matrix[columns + 1] *= scale
            # The centre of the first pixel is at 0.
            matrix[2] = (matrix[2] - left + 0.5) * scale - 0.5
            matrix[columns + 2] = (matrix[columns + 2] - top + 0.5) * scale - 0.5
        p[3] *= scale
        p[7] *= scale
        return replace(self, width=size, height=size, k=tuple(k), p=tuple(p))


def _pinhole(width: int, height: int, fx: float, fy: float, cx: float, cy: float) -> Calibration:
    k = (fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0)
    return Calibration(width, height, k, p=(fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0))


def _size(value: Any) -> int:
    if not isinstance(value, int) or value <= 0:
        raise ValueError(f"image size must be a positive whole number, got {value!r}")
    return value


def _numbers(matrix: Any, count: int | None) -> tuple[float, ...]:
    values = tuple(float(v) for v in matrix["data"])
    if (count is not None and len(values) != count) or not all(map(math.isfinite, values)):
        raise ValueError(f"expected {count or 'some'} finite numbers, got {list(values)}")
    return values
