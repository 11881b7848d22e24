"""Where pictures come from: a video device, a video file, or a folder of images. No ROS."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from fosp_core.images import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


class SourceError(Exception):
    """A source that cannot be opened or read; the message says what to check."""


class Source(Protocol):
    """Pictures, one after the other."""

    def read(self) -> Image | None:
        """The next picture, uint8 RGB (height, width, 3); ``None`` at the end. Raises ``SourceError``."""

    def close(self) -> None:
        """Let go of the device or file."""


class VideoSource:
    """A video device (a number or /dev/video*) or a video file, through OpenCV."""

    def __init__(self, name: str, loop: bool) -> None:
        self._name, self._loop = name, loop
        self._is_device = name.isdigit() or name.startswith("/dev/")
        self._frames = 0
        if not self._is_device and not Path(name).is_file():
            raise SourceError(f"{name}: no such video file, image folder or device")
        self._capture = cv2.VideoCapture(int(name) if name.isdigit() else name)
        if not self._capture.isOpened():
            self._capture.release()
            what = "is it plugged in, and may this user read it?" if self._is_device else "is it a video?"
            raise SourceError(f"{name}: cannot be opened; {what}")
        if self._is_device:
            # Older pictures in the driver's queue would be stamped as new ones.
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)

    def read(self) -> Image | None:
        """See ``Source``."""
        ok, bgr = self._capture.read()
        if not ok and not self._is_device:
            if self._frames == 0:
                raise SourceError(f"{self._name}: holds no readable picture")
            if not self._loop:
                return None
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
            ok, bgr = self._capture.read()
        if not ok:
            raise SourceError(f"{self._name}: gives no pictures any more")
        self._frames += 1
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    def close(self) -> None:
        """See ``Source``."""
        self._capture.release()


class FolderSource:
    """The images of a folder, in the order of their names."""

    def __init__(self, folder: Path, loop: bool) -> None:
        self._files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not self._files:
            raise SourceError(f"{folder}: holds no images ({', '.join(IMAGE_SUFFIXES)})")
        self._loop = loop
        self._next = 0

    def read(self) -> Image | None:
        """See ``Source``."""
        if self._next >= len(self._files):
            if not self._loop:
                return None
            self._next = 0
        file = self._files[self._next]
        self._next += 1
        bgr = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if bgr is None:
            raise SourceError(f"{file}: not a readable image")
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    def close(self) -> None:
        """See ``Source``."""


def open_source(name: str, loop: bool) -> Source:
    """Open a device, file or folder; raises ``SourceError``."""
    if not name:
        raise SourceError("no source given; name a video device (0, /dev/video0), a video file or a folder of images")
    path = Path(name)
    return FolderSource(path, loop) if path.is_dir() else VideoSource(name, loop)
