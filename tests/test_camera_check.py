"""The camera check on cameras of known pose, in the simulated world."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fosp_camera import check
from fosp_camera.alignment import AlignmentError, Camera, align, outline_corners
from fosp_core import task
from fosp_sim.layout import Item, Layout, Look, sample_layout
from fosp_sim.world import World

EMPTY = Layout("standard", 0, (0.35, 0.0, 0.12), Item("cylinder", (0.05, 0.05, 0.05), (3.0, 0.0), (0.0, 0.0, 0.0)), ())
"""Nothing on the table: what the shipped training view shows."""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as made:
        yield made


def picture(world: World, layout: Layout, size: tuple[int, int] = (640, 480), **look: Any) -> np.ndarray:
    world.reset(replace(layout, look=replace(layout.look, **look)))
    return world.render(*size)


def moved(shift: np.ndarray) -> tuple[float, float, float]:
    x, y, z = np.array(task.CAMERA_POSITION) + shift
    return float(x), float(y), float(z)


def test_shipped_training_view_is_the_simulations(world: World) -> None:
    drawn = picture(world, EMPTY, (256, 256)).astype(int)
    shipped = check.read(check.TRAINING_VIEW).astype(int)
    assert shipped.shape == drawn.shape
    # Drivers differ in single pixels at edges.
    assert np.abs(shipped - drawn).mean() < 1.0


def test_training_camera_projects_as_the_simulation_does(world: World) -> None:
    world.reset(EMPTY)
    data, corners = world.data, outline_corners()
    seen = (corners - data.cam_xpos[0]) @ data.cam_xmat[0].reshape(3, 3)  # right, up, back
    camera = world.intrinsics(64, 64)
    expected = np.stack([seen[:, 0], -seen[:, 1]], axis=1) * camera.fx / -seen[:, 2:] + camera.cx - 0.5
    np.testing.assert_allclose(Camera.training().project(corners, 64), expected, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_unmoved_camera_is_within_the_limit(world: World, seed: int) -> None:
    found = align(picture(world, sample_layout("standard", seed)))
    assert found.pixels < 0.3
    np.testing.assert_allclose(found.shift_m, 0.0, atol=0.01)
    assert found.rotation_deg < 0.6


@pytest.mark.parametrize("seed", range(6))
def test_moved_camera_is_found_where_it_is(world: World, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shift, target = rng.uniform(-0.06, 0.06, 3), np.array(task.CAMERA_TARGET) + rng.uniform(-0.03, 0.03, 3)
    layout = sample_layout("standard", seed)
    image = picture(
        world,
        layout,
        camera_position=moved(shift),
        camera_target=tuple(float(v) for v in target),
        camera_roll=float(rng.uniform(-0.04, 0.04)),
    )
    found = align(image)
    np.testing.assert_allclose(found.shift_m, shift, atol=0.01)
    right, up, back = world.data.cam_xmat[0].reshape(3, 3).T
    truth = np.stack([right, -up, -back], axis=1)
    assert np.degrees(Rotation.from_matrix(truth.T @ found.camera.rotation).magnitude()) < 0.6
    corners = outline_corners()
    true_camera = Camera(np.array(world.data.cam_xpos[0]), truth)
    shifts = true_camera.project(corners, 64) - Camera.training().project(corners, 64)
    assert found.pixels == pytest.approx(float(np.linalg.norm(shifts, axis=1).max()), abs=0.3)


def test_table_without_an_outline_is_said(world: World) -> None:
    with pytest.raises(AlignmentError, match="outline"):
        align(picture(world, EMPTY, line=Look().table))


def test_command_reports_and_writes_the_overlay(world: World, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "view.png"
    check.write(file, picture(world, sample_layout("standard", 1), camera_position=moved(np.array([0.0, 0.05, 0.0]))))
    options = check.Options(str(file), output=tmp_path / "overlay.png", as_json=True)
    assert check.check(check.grab(options.source), options) == 2
    reported = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(reported["shift_m"], [0.0, 0.05, 0.0], atol=0.01)
    drawn = cv2.imread(str(tmp_path / "overlay.png"))
    assert drawn.shape == (480, 480, 3)
    for camera, channel in ((Camera.training(), 1),):
        x, y = np.round(camera.project(outline_corners(), 480)[2:].mean(axis=0)).astype(int)
        patch = drawn[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).astype(int)
        assert (patch[:, channel] - patch[:, [0, 2]].max(axis=1)).max() > 50


def test_source_that_is_no_picture_is_named(tmp_path: Path) -> None:
    file = tmp_path / "view.png"
    file.write_text("not a picture")
    with pytest.raises(check.CheckError, match=r"view\.png: not a picture"):
        check.grab(str(file))
