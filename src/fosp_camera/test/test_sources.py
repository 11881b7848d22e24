"""Sources of pictures, and what they say when there is none."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fosp_camera.sources import DeviceSource, PictureError, SourceError, open_source

RED = np.zeros((48, 64, 3), np.uint8)
RED[..., 2] = 200  # OpenCV's order


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    for _ in range(5):
        writer.write(RED)
    writer.release()
    return path


def test_video_gives_rgb_pictures_and_ends(video: Path) -> None:
    source = open_source(str(video), loop=False)
    pictures = []
    while (picture := source.read()) is not None:
        pictures.append(picture)
    assert len(pictures) == 5
    assert pictures[0].rgb.shape == (48, 64, 3)
    assert pictures[0].rgb[..., 0].mean() > 150 > 50 > pictures[0].rgb[..., 2].mean()
    assert pictures[0].taken_s <= pictures[1].taken_s <= time.monotonic()


def test_looped_video_starts_again(video: Path) -> None:
    source = open_source(str(video), loop=True)
    assert all(source.read() is not None for _ in range(12))


def test_folder_goes_by_name(tmp_path: Path) -> None:
    for i in (2, 0, 1):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((8, 8, 3), 10 * i, np.uint8))
    source = open_source(str(tmp_path), loop=False)
    pictures = [source.read() for _ in range(4)]
    assert [int(p.rgb[0, 0, 0]) for p in pictures[:3] if p is not None] == [0, 10, 20]
    assert pictures[3] is None


@pytest.mark.parametrize(
    ("name", "message"), [("", "no source"), ("/nowhere.mp4", "no such"), ("987", "cannot be opened")]
)
def test_missing_source_is_named(name: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(name, loop=False)


def test_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no images"):
        open_source(str(tmp_path), loop=False)


def test_broken_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not a picture")
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((8, 8, 3), np.uint8))
    folder = open_source(str(tmp_path), loop=False)
    with pytest.raises(PictureError, match=r"a\.png"):
        folder.read()
    # The next one may be good.
    assert folder.read() is not None
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    with pytest.raises(SourceError, match=r"a\.mp4"):
        open_source(str(tmp_path / "a.mp4"), loop=False).read()


class FakeDevice:
    """What OpenCV gives for a device: delivers a picture whenever a test lets it."""

    def __init__(self, driver_clock_s: float | None = None) -> None:
        self.pictures = threading.Semaphore(0)
        self.taken = 0
        self.gone = False
        self.released = False
        self.age_s = driver_clock_s

    def isOpened(self) -> bool:
        return True

    def grab(self) -> bool:
        self.pictures.acquire()
        self.taken += 1
        return not self.gone

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.full((8, 8, 3), self.taken, np.uint8)

    def get(self, what: int) -> float:
        assert what == cv2.CAP_PROP_POS_MSEC
        return 0.0 if self.age_s is None else (time.monotonic() - self.age_s) * 1e3

    def release(self) -> None:
        self.released = True


def opened(device: FakeDevice) -> DeviceSource:
    return DeviceSource("0", opener=lambda name: device)


def deliver(device: FakeDevice, source: DeviceSource, count: int) -> None:
    """Let the device deliver pictures, and wait until the source has taken them."""
    goal = device.taken + count
    device.pictures.release(count)
    while device.taken < goal or source._newest is None:
        time.sleep(0.001)


def test_a_device_gives_its_newest_picture_and_never_an_old_one() -> None:
    device = FakeDevice()
    source = opened(device)
    for i in range(1, 6):
        deliver(device, source, 1)
        assert source._newest is not None
        while source._newest.rgb[0, 0, 0] != i:
            time.sleep(0.001)
    assert source.read().rgb[0, 0, 0] == 5
    waiting: list[Any] = []
    reader = threading.Thread(target=lambda: waiting.append(source.read()))
    reader.start()
    device.pictures.release()
    reader.join(10)
    assert waiting[0].rgb[0, 0, 0] == 6
    device.gone = True
    device.pictures.release()
    source.close()
    assert device.released


def test_pictures_of_a_device_carry_the_time_of_the_driver() -> None:
    device = FakeDevice(driver_clock_s=0.05)
    source = opened(device)
    device.pictures.release()
    age_s = time.monotonic() - source.read().taken_s
    assert age_s >= 0.04
    device.age_s = -3600.0  # the future: not the monotonic clock
    device.pictures.release()
    assert source.read().taken_s <= time.monotonic()


def test_a_device_that_goes_away_is_an_error() -> None:
    device = FakeDevice()
    source = opened(device)
    device.gone = True
    device.pictures.release()
    with pytest.raises(SourceError, match="0: gives no pictures any more"):
        source.read()
