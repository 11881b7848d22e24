"""Where pictures come from: a video device, a video file, or a folder of images. No ROS."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from fosp_core.images import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
STALL_S = 2.0
"""A device that gives no picture for so long is taken for lost."""


class SourceError(Exception):
    """A source that cannot be opened or read any more; the message says what to check."""


class PictureError(Exception):
    """One picture that cannot be read; the next ones may be."""


@dataclass(frozen=True)
class Picture:
    """One picture and when it was taken."""

    rgb: Image  # (height, width, 3)
    taken_s: float
    """Seconds of ``time.monotonic``."""


class Source(Protocol):
    """Pictures, one after the other. Used by one thread."""

    def read(self) -> Picture | None:
        """The next picture; ``None`` at the end. Raises ``SourceError`` or ``PictureError``."""

    def close(self) -> None:
        """Let go of the device or file."""


class DeviceSource:
    """A video device (a number or /dev/video*), through OpenCV.

    A thread takes every picture that the device delivers and keeps the newest: a picture that waited in the driver's
    queue would be old before it is stamped.
    """

    def __init__(self, name: str, opener: Callable[[Any], Any] = cv2.VideoCapture) -> None:
        self._name = name
        self._capture = opener(int(name) if name.isdigit() else name)
        if not self._capture.isOpened():
            self._capture.release()
            raise SourceError(f"{name}: cannot be opened; is it plugged in, and may this user read it?")
        self._condition = threading.Condition()
        self._newest: Picture | None = None
        self._fault = ""
        self._closed = False
        self._thread = threading.Thread(target=self._grab, name="device", daemon=True)
        self._thread.start()

    def read(self) -> Picture:
        """The newest picture that was not read yet; waits for it."""
        with self._condition:
            self._condition.wait_for(lambda: self._newest is not None or self._fault, STALL_S)
            if self._newest is None:
                raise SourceError(f"{self._name}: {self._fault or 'gives no pictures any more'}")
            picture, self._newest = self._newest, None
            return picture

    def close(self) -> None:
        """See ``Source``."""
        self._closed = True
        self._thread.join(STALL_S)
        if not self._thread.is_alive():
            self._capture.release()

    def _grab(self) -> None:
        while not self._closed:
            grabbed = self._capture.grab()
            taken_s = _taken_s(self._capture, time.monotonic())
            ok, bgr = self._capture.retrieve() if grabbed else (False, None)
            with self._condition:
                if ok:
                    self._newest = Picture(_rgb(bgr), taken_s)
                else:
                    self._fault = "gives no pictures any more"
                self._condition.notify()
            if not ok:
                return


class VideoSource:
    """A video file, through OpenCV; its pictures count as taken when they are read."""

    def __init__(self, path: str, loop: bool) -> None:
        self._path, self._loop = path, loop
        self._frames = 0
        if not Path(path).is_file():
            raise SourceError(f"{path}: no such video file, image folder or device")
        self._capture = cv2.VideoCapture(path)
        if not self._capture.isOpened():
            self._capture.release()
            raise SourceError(f"{path}: cannot be opened; is it a video?")

    def read(self) -> Picture | None:
        """See ``Source``."""
        ok, bgr = self._capture.read()
        if not ok:
            if self._frames == 0:
                raise SourceError(f"{self._path}: holds no readable picture")
            if not self._loop:
                return None
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
            ok, bgr = self._capture.read()
        if not ok:
            raise SourceError(f"{self._path}: cannot be read again; was it changed?")
        self._frames += 1
        return Picture(_rgb(bgr), time.monotonic())

    def close(self) -> None:
        """See ``Source``."""
        self._capture.release()


class FolderSource:
    """The images of a folder, in the order of their names; they count as taken when they are read."""

    def __init__(self, folder: Path, loop: bool) -> None:
        self._files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not self._files:
            raise SourceError(f"{folder}: holds no images ({', '.join(IMAGE_SUFFIXES)})")
        self._loop = loop
        self._next = 0

    def read(self) -> Picture | None:
        """See ``Source``."""
        if self._next >= len(self._files):
            if not self._loop:
                return None
            self._next = 0
        file = self._files[self._next]
        self._next += 1
        bgr = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if bgr is None:
            raise PictureError(f"{file}: not a readable image")
        return Picture(_rgb(bgr), time.monotonic())

    def close(self) -> None:
        """See ``Source``."""


def open_source(name: str, loop: bool) -> Source:
    """Open a device, file or folder; raises ``SourceError``."""
    if not name:
        raise SourceError("no source given; name a video device (0, /dev/video0), a video file or a folder of images")
    path = Path(name)
    if path.is_dir():
        return FolderSource(path, loop)
    return DeviceSource(name) if name.isdigit() or name.startswith("/dev/") else VideoSource(name, loop)


def _taken_s(capture: Any, now_s: float) -> float:
    """When the driver took the picture; ``now_s`` when it does not say or says what cannot be."""
    # Video4Linux stamps buffers with the monotonic clock when they are filled, before transfer and queueing.
    stamp_s = float(capture.get(cv2.CAP_PROP_POS_MSEC)) * 1e-3
    return stamp_s if 0.0 <= now_s - stamp_s <= 1.0 else now_s


def _rgb(bgr: Any) -> Image:
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)
