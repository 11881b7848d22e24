"""Episodes on disk."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path

import pytest

from fosp_episodes import storage
from fosp_episodes.mcap_log import LoggedMessage, message_definition, read_mcap
from fosp_episodes.recorder import EpisodeRecord, EpisodeRecorder, Phase
from fosp_episodes.storage import Retention, StorageError
from fosp_episodes.testing import feed_step


def episode(number: int = 0) -> EpisodeRecord:
    recorder = EpisodeRecorder(number, "standard", 7)
    for step in range(3):
        feed_step(recorder, step, clearance=math.nan)
    feed_step(recorder, 3, phase=Phase.ENDED, reached=True)
    return recorder.finish()


def test_written_episode_is_read_back(tmp_path: Path) -> None:
    summary = storage.write_episode(tmp_path, episode())
    assert storage.episode_folders(tmp_path) == [Path(summary.path)]
    assert storage.read_summary(Path(summary.path)) == summary
    content = storage.read_episode(Path(summary.path))
    assert len(content["steps"]) == 4 and content["steps"][0]["clearance"] is None
    frames = storage.read_frames(Path(summary.path))
    assert frames is not None and frames.image.shape == (4, 4, 4, 3) and frames.success


def test_run_becomes_a_minari_dataset(tmp_path: Path) -> None:
    minari = pytest.importorskip("minari")
    for number in range(2):
        storage.write_episode(tmp_path, episode(number))
    assert storage.write_minari(tmp_path, tmp_path / "dataset", "safereach/test-v0", {"seed": 7}) == 2
    dataset = minari.MinariDataset(tmp_path / "dataset" / "data")
    assert dataset.total_episodes == 2 and dataset.total_steps == 6


def test_run_without_frames_becomes_no_dataset(tmp_path: Path) -> None:
    assert storage.write_minari(tmp_path, tmp_path / "dataset", "safereach/test-v0", {}) == 0
    assert not (tmp_path / "dataset").exists()


def test_nothing_is_left_behind_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage, "write_json", full)
    with pytest.raises(StorageError, match="disk is full"):
        storage.write_episode(tmp_path, episode())
    assert list(tmp_path.iterdir()) == []


def test_little_space_is_noticed_before_an_episode(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="make room"):
        storage.check_space(tmp_path, needed=10**18)


def runs(root: Path, count: int = 3, size: int = 1_000_000) -> list[Path]:
    """Runs of one file each, the oldest first."""
    folders = [root / name for name in "cab"[:count]]
    for age, folder in enumerate(folders):
        folder.mkdir()
        (folder / "messages.mcap").write_bytes(bytes(size))
        os.utime(folder, (age, age))
    return folders


def room_for(count: float) -> int:
    """Quota that holds so many runs and one more episode."""
    return storage.MINIMUM_FREE_BYTES + round(count * 1_000_000)


def test_quota_refuses_more_episodes_and_deletes_nothing_by_default(tmp_path: Path) -> None:
    folders = runs(tmp_path)
    assert storage.make_room(tmp_path, Retention(room_for(3)), folders[-1]) == []
    with pytest.raises(StorageError, match=r"quota_gb.*delete_oldest"):
        storage.make_room(tmp_path, Retention(room_for(2.5)), folders[-1])
    assert all(folder.exists() for folder in folders)


def test_oldest_runs_make_room_where_that_is_allowed(tmp_path: Path) -> None:
    oldest, older, running = runs(tmp_path)
    assert storage.make_room(tmp_path, Retention(room_for(2.5), delete_oldest=True), running) == [oldest]
    assert not oldest.exists() and older.exists() and running.exists()


def test_running_and_marked_runs_are_never_deleted(tmp_path: Path) -> None:
    marked, older, running = runs(tmp_path)
    (marked / storage.KEEP_FILE).touch()
    os.utime(marked, (0, 0))
    with pytest.raises(StorageError, match="quota_gb"):
        storage.make_room(tmp_path, Retention(room_for(0.5), delete_oldest=True), running)
    assert marked.exists() and running.exists() and not older.exists()


def test_run_stops_before_the_episode_that_would_exceed_the_quota(tmp_path: Path) -> None:
    store = storage.FolderStore(tmp_path / "run", retention=Retention(room_for(0.5)))
    store.check()
    (store.folder / "messages.mcap").write_bytes(bytes(1_000_000))
    with pytest.raises(StorageError, match="quota_gb"):
        store.check()


def test_existing_episode_is_not_overwritten(tmp_path: Path) -> None:
    storage.write_episode(tmp_path, episode())
    with pytest.raises(StorageError, match="exists already"):
        storage.write_episode(tmp_path, episode())
    assert len(list(tmp_path.iterdir())) == 1


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        storage.make_folder(tmp_path / "file" / "records")


def test_damaged_episode_file_is_named(tmp_path: Path) -> None:
    folder = Path(storage.write_episode(tmp_path, episode()).path)
    (folder / storage.EPISODE_FILE).write_text("{")
    with pytest.raises(StorageError, match=storage.EPISODE_FILE):
        storage.read_summary(folder)


def test_unfinished_episodes_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / "episode_0000").mkdir()
    (tmp_path / ".episode_0001-abc").mkdir()
    assert storage.episode_folders(tmp_path) == []


def test_messages_are_readable_with_their_definitions(tmp_path: Path) -> None:
    serialization = pytest.importorskip("rclpy.serialization")
    from geometry_msgs.msg import TwistStamped

    sent = TwistStamped()
    sent.header.frame_id, sent.twist.linear.x = "panda_link0", 0.25
    data = serialization.serialize_message(sent)
    logged = LoggedMessage("/fosp/arm/command", "geometry_msgs/msg/TwistStamped", data, 20, 10)
    folder = Path(storage.write_episode(tmp_path, episode(), [logged]).path)
    ((topic, received, message),) = read_mcap(folder / storage.MESSAGES_FILE)
    assert (topic, received) == ("/fosp/arm/command", 20)
    assert (message.header.frame_id, message.twist.linear.x) == ("panda_link0", 0.25)


def test_definition_holds_every_type_a_message_is_made_of() -> None:
    pytest.importorskip("sensor_msgs")
    text = message_definition("sensor_msgs/msg/CameraInfo")
    for part in ("std_msgs/Header", "builtin_interfaces/Time", "sensor_msgs/RegionOfInterest"):
        assert f"MSG: {part}\n" in text


def test_definition_of_an_unknown_type_names_it() -> None:
    with pytest.raises(LookupError, match="no_such_msgs"):
        message_definition("no_such_msgs/msg/Thing")
