"""Where the camera is, seen from the white outline of the workspace in its picture. No ROS.

The outline is the only thing of known place in every picture. Its thin bright lines are brought to agree with the
outline projected through an assumed camera, by least squares on the distance to the nearest line pixel; what hides a
part of the outline (arm, obstacles) costs no more than a bounded distance. Straight lines through the pixels of each
side then give the corners, and these the camera.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from fosp_core import task
from fosp_core.images import Image, crop_resize

Array = NDArray[np.float64]

WORKING_SIZE: Final = 480
"""Pictures are looked at as squares of this side, in pixels."""
LINE_WIDTH_M: Final = 0.015
_FAR_PX: Final = 40.0
_POINTS_A_SIDE: Final = 60
_SPREADS_PX: Final = (24.0, 8.0, 3.0)
"""Distances beyond which a point counts little, from coarse to fine."""
_SIDE_PX: Final = 7.0
_SIDE_PIXELS: Final = 150
_FOUND_PX: Final = 2.0
_FOUND_PART: Final = 0.5


class AlignmentError(Exception):
    """The outline is not found; the message says what to do."""


@dataclass(frozen=True)
class Camera:
    """Pose in ``panda_link0`` and vertical field of view of a camera with square pictures."""

    position: Array
    """(3,) metres."""
    rotation: Array
    """(3, 3), columns right, down and forward."""
    fovy_deg: float = task.CAMERA_FOVY_DEG

    @staticmethod
    def training() -> Camera:
        """The view that policies are trained on."""
        position = np.array(task.CAMERA_POSITION)
        forward = np.array(task.CAMERA_TARGET) - position
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        return Camera(position, np.stack([right, np.cross(forward, right), forward], axis=1))

    def project(self, points: Array, size: int) -> Array:
        """Pixels (N, 2) of points (N, 3) in a picture of side ``size``; the first pixel's centre is at 0."""
        seen = (points - self.position) @ self.rotation
        focal = 0.5 * size / math.tan(0.5 * math.radians(self.fovy_deg))
        return np.asarray(focal * seen[:, :2] / np.maximum(seen[:, 2:], 1e-3) + 0.5 * size - 0.5)

    def moved(self, change: Array) -> Camera:
        """This camera turned by a rotation vector (3,) in its own frame and shifted by (3,) m: ``change`` (6,)."""
        turned = self.rotation @ Rotation.from_rotvec(change[3:]).as_matrix()
        return Camera(self.position + change[:3], turned, self.fovy_deg)


@dataclass(frozen=True)
class Alignment:
    """How a picture's view differs from the training view."""

    camera: Camera
    """Where the picture was taken from."""
    pixels: float
    """Largest shift of a corner of the outline, in pixels of the policy's picture."""
    shift_m: Array
    """(3,) of the camera, in ``panda_link0``."""
    rotation_deg: float
    found: float
    """Part of the outline that was found, 0 to 1."""


def outline(count: int = _POINTS_A_SIDE) -> Array:
    """Points (4 count, 3) along the outline's lines, metres."""
    corners = outline_corners()
    along = np.linspace(0.0, 1.0, count, endpoint=False)[:, None]
    return np.concatenate([a + along * (b - a) for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)])


def outline_corners() -> Array:
    """The outline's corners (4, 3), metres."""
    low, high = task.WORKSPACE.low, task.WORKSPACE.high
    return np.array(
        [[x, y, 0.0] for x, y in ((low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1]))]
    )


def line_pixels(rgb: Image) -> NDArray[np.bool_]:
    """Pixels (H, W) of thin, bright, colourless lines in a square picture."""
    darkest = rgb.min(axis=2)
    # The widest the line appears, at the near side, and some.
    focal = 0.5 * len(rgb) / math.tan(0.5 * math.radians(task.CAMERA_FOVY_DEG))
    side = 2 * math.ceil(0.5 * LINE_WIDTH_M * focal / 0.8 + 1.0) + 3
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    thin = cv2.morphologyEx(darkest, cv2.MORPH_TOPHAT, kernel)
    return np.asarray(thin > max(30.0, 0.4 * float(np.percentile(thin, 99.8))))


def align(picture: Image, fovy_deg: float = task.CAMERA_FOVY_DEG) -> Alignment:
    """Find the camera of a picture.

    Args:
        picture: RGB uint8 (H, W, 3); its central square is used, as the policy does.
        fovy_deg: vertical field of view of that square.

    Raises:
        AlignmentError: less than half of the outline is found.
    """
    square = crop_resize(picture, WORKING_SIZE)
    lines = line_pixels(square)
    if not lines.any():
        raise AlignmentError("no bright lines in the picture; is the outline on the table and in view?")
    outside = np.asarray(cv2.distanceTransform((~lines).astype(np.uint8), cv2.DIST_L2, 5))
    # Also within a line, whose middle is the place to be.
    inside = np.asarray(cv2.distanceTransform(lines.astype(np.uint8), cv2.DIST_L2, 5))
    distance = np.minimum(outside, _FAR_PX) + float(np.percentile(inside[lines], 90)) - inside
    start = Camera(**{**vars(Camera.training()), "fovy_deg": fovy_deg})
    points = outline()
    scale = np.array([0.1, 0.1, 0.1, 0.1, 0.1, 0.1])

    def misses(change: Array) -> Array:
        return _sampled(distance, start.moved(change * scale).project(points, WORKING_SIZE))

    change = np.zeros(6)
    for spread in _SPREADS_PX:
        change = least_squares(misses, change, loss="cauchy", f_scale=spread, diff_step=1e-4, max_nfev=60).x
    found = float(np.mean(_sampled(outside, start.moved(change * scale).project(points, WORKING_SIZE)) < _FOUND_PX))
    if found < _FOUND_PART:
        raise AlignmentError(
            f"only {100 * found:.0f} % of the outline was found; clear the table and bring the camera nearer to the "
            "training view (see the overlay)"
        )
    camera = _refined(start.moved(change * scale), lines)
    training = Camera.training()
    corners = outline_corners()
    shifts = camera.project(corners, task.IMAGE_SIZE) - training.project(corners, task.IMAGE_SIZE)
    turned = Rotation.from_matrix(training.rotation.T @ camera.rotation).magnitude()
    return Alignment(
        camera,
        float(np.linalg.norm(shifts, axis=1).max()),
        camera.position - training.position,
        math.degrees(float(turned)),
        found,
    )


def overlay(picture: Image, training_view: Image, found: Camera | None) -> Image:
    """The picture blended with the training view; the training view's outline in green, the picture's own in red."""
    square, reference = (crop_resize(image, WORKING_SIZE) for image in (picture, training_view))
    blended = cv2.addWeighted(square, 0.6, reference, 0.4, 0.0)
    for camera, colour in ((found, (255, 60, 60)), (Camera.training(), (60, 255, 60))):
        if camera is not None:
            pixels = np.round(camera.project(outline_corners(), WORKING_SIZE)).astype(np.int32)
            cv2.polylines(blended, [pixels.reshape(-1, 1, 2)], True, colour, 1, cv2.LINE_AA)
    return np.asarray(blended, dtype=np.uint8)


def _refined(camera: Camera, lines: NDArray[np.bool_]) -> Camera:
    """The camera that puts the outline's corners where straight lines through the pixels of each side meet."""
    rows, columns = np.nonzero(lines)
    pixels = np.stack([columns, rows], axis=1).astype(np.float64)
    corners = camera.project(outline_corners(), WORKING_SIZE)
    sides: list[tuple[Array, Array]] = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        along = (b - a) / np.linalg.norm(b - a)
        offset = pixels - a
        place, away = offset @ along / np.linalg.norm(b - a), offset @ np.array([-along[1], along[0]])
        near = pixels[(np.abs(away) < _SIDE_PX) & (place > 0.05) & (place < 0.95)]
        if len(near) < _SIDE_PIXELS:
            return camera
        dx, dy, x, y = (float(v) for v in cv2.fitLine(near.astype(np.float32), cv2.DIST_HUBER, 0, 0.01, 0.01).ravel())
        sides.append((np.array([x, y]), np.array([dx, dy])))
    # A corner lies between the side before it and its own.
    met = np.array([_crossing(sides[i - 1], sides[i]) for i in range(4)])
    focal = 0.5 * WORKING_SIZE / math.tan(0.5 * math.radians(camera.fovy_deg))
    middle = 0.5 * WORKING_SIZE - 0.5
    matrix = np.array([[focal, 0.0, middle], [0.0, focal, middle], [0.0, 0.0, 1.0]])
    # OpenCV turns and moves points into the camera's frame.
    turn = Rotation.from_matrix(camera.rotation.T).as_rotvec()
    move = -camera.rotation.T @ camera.position
    guess = turn.reshape(3, 1), move.reshape(3, 1)
    turned, shifted = cv2.solvePnPRefineLM(outline_corners(), met, matrix, None, *guess)
    rotation = Rotation.from_rotvec(np.ravel(turned)).as_matrix().T
    return Camera(np.asarray(-rotation @ np.ravel(shifted)), rotation, camera.fovy_deg)


def _crossing(first: tuple[Array, Array], second: tuple[Array, Array]) -> Array:
    (p, u), (q, v) = first, second
    s, _ = np.linalg.solve(np.stack([u, -v], axis=1), q - p)
    return np.asarray(p + s * u)


def _sampled(distance: NDArray[Any], pixels: Array) -> Array:
    """Distance at pixels (N, 2), bilinear and bounded; outside of the picture it is the bound."""
    x, y = (pixels[:, i : i + 1].astype(np.float32) for i in (0, 1))
    values = cv2.remap(
        distance.astype(np.float32, copy=False),
        x,
        y,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=_FAR_PX,
    )
    return np.minimum(np.asarray(values, dtype=np.float64).ravel(), _FAR_PX)
