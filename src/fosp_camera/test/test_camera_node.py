"""The camera node over DDS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image

from fosp_camera import camera_node
from fosp_camera.camera_node import CameraNode
from fosp_camera.sources import Picture, Source, SourceError
from fosp_ros import names, qos
from fosp_ros.errors import ConfigurationError
from fosp_ros.images import from_message
from fosp_ros.stamps import to_nanoseconds
from fosp_ros.testing import Bench


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Green, with a red square in the middle; wider than high."""
    path = tmp_path / "clip.mp4"
    frame = np.zeros((96, 160, 3), np.uint8)
    frame[..., 1] = 120
    frame[32:64, 64:96] = (0, 0, 220)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (160, 96))
    for _ in range(3):
        writer.write(frame)
    writer.release()
    return path


def run(source: Path | str, **parameters: Any) -> Bench[CameraNode]:
    return Bench(CameraNode, {"source": str(source), "rate_hz": 50.0, **parameters})


def test_a_video_becomes_stamped_images_with_camera_info(video: Path) -> None:
    with run(video) as bench:
        images: list[Image] = bench.listen(Image, names.CAMERA_IMAGE, qos.IMAGE)
        infos: list[CameraInfo] = bench.listen(CameraInfo, names.CAMERA_INFO, qos.IMAGE)
        # More than the file holds: it starts again.
        bench.until(lambda: len(images) > 8 and len(infos) > 8, "images")
        now = bench.now_ns
    stamps = [to_nanoseconds(m.header.stamp) for m in images]
    assert stamps == sorted(set(stamps)) and stamps[-1] <= now
    picture = from_message(images[-1])
    assert picture.shape == (64, 64, 3)
    assert picture[32, 32, 0] > 150 > 60 > picture[32, 32, 1]
    assert picture[5, 5, 1] > 80 > 60 > picture[5, 5, 0]
    by_stamp = {to_nanoseconds(m.header.stamp): m for m in infos}
    common = set(stamps) & set(by_stamp)
    assert common
    info = by_stamp[common.pop()]
    assert (info.width, info.height, info.header.frame_id) == (64, 64, images[-1].header.frame_id)
    assert info.k[0] == info.k[4] == pytest.approx(32 / np.tan(np.radians(21)))


def test_the_end_of_a_video_is_said(video: Path) -> None:
    with run(video, loop=False) as bench:
        bench.until(lambda: bench.node._health().message == "ended", "the end")
        assert bench.node._frames == 3


class Flaky:
    """A source that gives some pictures and is gone then."""

    def __init__(self, pictures: int) -> None:
        self._left = pictures

    def read(self) -> Picture:
        if self._left == 0:
            raise SourceError("device: gives no pictures any more")
        self._left -= 1
        return Picture(np.zeros((10, 10, 3), np.uint8), 0.0)

    def close(self) -> None:
        pass


def test_a_source_that_goes_away_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []

    def reopen(name: str, loop: bool) -> Source:
        opened.append(1)
        if len(opened) in (2, 3):
            raise SourceError("device: cannot be opened")
        return Flaky(2)

    monkeypatch.setattr(camera_node, "open_source", reopen)
    monkeypatch.setattr(camera_node, "RETRY_S", (0.02, 0.04))
    with run("device") as bench:
        bench.until(lambda: bench.node._frames >= 6, "pictures after the losses")
        assert len(opened) >= 5
        assert bench.node._diagnostics.counts["source_lost"] >= 4


def test_an_unreadable_image_of_a_folder_is_named_and_left_out(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "b.png").write_bytes(b"no image")
    cv2.imwrite(str(tmp_path / "c.png"), np.zeros((8, 8, 3), np.uint8))
    with run(tmp_path) as bench:
        bench.until(lambda: bench.node._frames >= 4, "pictures")
        assert "b.png" in bench.node._diagnostics.last_fault


CALIBRATION = """image_width: {width}
image_height: 96
camera_matrix: {{data: [100.0, 0, 80.0, 0, 100.0, 48.0, 0, 0, 1]}}
distortion_coefficients: {{data: [0.1, 0, 0, 0, 0]}}
rectification_matrix: {{data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}}
projection_matrix: {{data: [100.0, 0, 80.0, 0, 0, 100.0, 48.0, 0, 0, 0, 1, 0]}}
"""


@pytest.fixture
def calibration(tmp_path: Path) -> Callable[[int], str]:
    def write(width: int) -> str:
        path = tmp_path / "calibration.yaml"
        path.write_text(CALIBRATION.format(width=width))
        return str(path)

    return write


def test_a_calibration_is_fitted_to_the_published_image(video: Path, calibration: Callable[[int], str]) -> None:
    with run(video, calibration=calibration(160), image_size=48) as bench:
        infos: list[CameraInfo] = bench.listen(CameraInfo, names.CAMERA_INFO, qos.IMAGE)
        bench.until(lambda: infos, "camera_info")
    assert (infos[0].width, infos[0].d[0]) == (48, 0.1)
    assert infos[0].k[0] == pytest.approx(50.0)


def test_a_calibration_of_another_picture_size_is_named_and_not_published(
    video: Path, calibration: Callable[[int], str]
) -> None:
    with run(video, calibration=calibration(640)) as bench:
        images: list[Image] = bench.listen(Image, names.CAMERA_IMAGE, qos.IMAGE)
        infos: list[CameraInfo] = bench.listen(CameraInfo, names.CAMERA_INFO, qos.IMAGE)
        bench.until(lambda: len(images) > 3, "images")
        assert "pictures are 160 x 96, the calibration is for 640 x 96" in bench.node._health().message
        assert not infos


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"source": ""}, "no source given"),
        ({"source": "/nowhere.mp4"}, "/nowhere.mp4: no such"),
        ({"source": "/dev/video987"}, "plugged in"),
        ({"rate_hz": 0.0}, "rate_hz"),
        ({"image_size": 100000}, "image_size"),
        ({"calibration": "/nowhere.yaml"}, "/nowhere.yaml"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(video: Path, parameters: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named), Bench(CameraNode, {"source": str(video), **parameters}):
        pass
