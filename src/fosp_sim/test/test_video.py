"""Videos of scripted episodes."""

from pathlib import Path

import cv2
import pytest

from fosp_sim.video import record


def test_a_video_shows_every_frame_of_the_episode(tmp_path: Path) -> None:
    path = tmp_path / "episode.mp4"
    frames = record(path, seed=3, size=128)
    video = cv2.VideoCapture(str(path))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == frames > 8
    assert video.get(cv2.CAP_PROP_FPS) == 10
    ok, picture = video.read()
    assert ok and picture.shape == (128, 128, 3) and picture.std() > 20


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown kind"):
        record(tmp_path / "a.mp4", 0, kind="magic")
    with pytest.raises(OSError, match="cannot write"):
        record(tmp_path / "no" / "such" / "a.mp4", 0)
