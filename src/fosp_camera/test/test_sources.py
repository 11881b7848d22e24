"""Sources of pictures, and what they say when there is none."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fosp_camera.sources import SourceError, open_source

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
    assert pictures[0].shape == (48, 64, 3)
    assert pictures[0][..., 0].mean() > 150 > 50 > pictures[0][..., 2].mean()


def test_looped_video_starts_again(video: Path) -> None:
    source = open_source(str(video), loop=True)
    assert all(source.read() is not None for _ in range(12))


def test_folder_goes_by_name(tmp_path: Path) -> None:
    for i in (2, 0, 1):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((8, 8, 3), 10 * i, np.uint8))
    source = open_source(str(tmp_path), loop=False)
    pictures = [source.read() for _ in range(4)]
    assert [int(p[0, 0, 0]) for p in pictures[:3] if p is not None] == [0, 10, 20]
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
    with pytest.raises(SourceError, match=r"a\.png"):
        open_source(str(tmp_path), loop=False).read()
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    with pytest.raises(SourceError, match=r"a\.mp4"):
        open_source(str(tmp_path / "a.mp4"), loop=False).read()
