"""Episodes on disk: one folder each, complete or not there at all."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from fosp_core.episode import FRAMES_FILE as FRAMES_FILE
from fosp_core.episode import RECORD_FILE, Episode, EpisodeError, read_record, write_dataset
from fosp_episodes.mcap_log import LoggedMessage, write_mcap
from fosp_episodes.recorder import EpisodeRecord, Summary

EPISODE_FILE: Final = RECORD_FILE
MESSAGES_FILE: Final = "messages.mcap"
SCHEMA_VERSION: Final = 1
_ARRAYS: Final = tuple(f.name for f in fields(Episode) if f.name != "metadata")
MINIMUM_FREE_BYTES: Final = 50_000_000
KEEP_FILE: Final = "KEEP"


class StorageError(Exception):
    """Records cannot be written or read; the message says where, why and what to do."""


def check_space(folder: Path, needed: int = MINIMUM_FREE_BYTES) -> None:
    """Raise ``StorageError`` when the disk of an existing folder has fewer than ``needed`` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(
            f"{folder}: only {free / 1e6:.0f} MB are free, {needed / 1e6:.0f} MB are needed for an episode; make room"
        )


def make_folder(folder: Path) -> Path:
    """Create a folder for records; raises ``StorageError`` when that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _explained(folder, error) from error
    return folder


def write_episode(
    folder: Path,
    record: EpisodeRecord,
    messages: Sequence[LoggedMessage] = (),
    metadata: Mapping[str, Any] | None = None,
) -> Summary:
    """Write ``<folder>/episode_<number>/`` in one step.

    It holds ``episode.json`` (summary, thresholds, per-step table), ``episode.npz`` (the arrays of
    ``EpisodeRecord.episode``, when there is one) and ``messages.mcap`` (when there are messages).

    Returns:
        The summary with its ``path``.

    Raises:
        StorageError: the disk is full or the folder cannot be written; nothing is left behind then.
    """
    target = folder / f"episode_{record.summary.episode_id:04d}"
    summary = replace(record.summary, path=str(target))
    content = {
        "schema_version": SCHEMA_VERSION,
        "summary": {**asdict(summary), "path": target.name},
        "goal": record.goal,
        "thresholds": record.thresholds,
        "steps": record.table(),
        **(metadata or {}),
    }
    staging: Path | None = None
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=folder))
        staging.chmod(0o755)
        learnable = record.episode()
        if learnable is not None:
            arrays = {name: value for name in _ARRAYS if (value := getattr(learnable, name)) is not None}
            np.savez_compressed(staging / FRAMES_FILE, **arrays)
        if messages:
            write_mcap(staging / MESSAGES_FILE, messages)
        write_json(staging / EPISODE_FILE, content)
        if target.exists():
            raise StorageError(f"{target}: exists already")
        os.replace(staging, target)
    except OSError as error:
        raise _explained(target, error) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return summary


@dataclass(frozen=True)
class Retention:
    """How much the runs of a folder may take, and what happens then."""

    quota_bytes: int = 0
    """Of all runs together; 0: no limit but the disk."""
    delete_oldest: bool = False
    """Whether the oldest runs make room. Otherwise nothing is ever deleted, and no more episodes are run."""


def make_room(root: Path, retention: Retention, running: Path) -> list[Path]:
    """Keep the runs of a folder within the quota: whole runs go, the oldest first, never the running one.

    A run that has a file named ``KEEP`` stays. Returns the runs that were deleted.

    Raises:
        StorageError: the quota is reached, and nothing may be deleted, or nothing is left that may be.
    """
    if retention.quota_bytes <= 0:
        return []
    sizes = {run: _size(run) for run in sorted(root.iterdir(), key=_age) if run.is_dir() and not run.is_symlink()}
    total, gone = sum(sizes.values()), []
    for run, size in sizes.items():
        if total + MINIMUM_FREE_BYTES <= retention.quota_bytes or not retention.delete_oldest:
            break
        if run == running or (run / KEEP_FILE).exists():
            continue
        shutil.rmtree(run, ignore_errors=True)
        gone.append(run)
        total -= size
    if total + MINIMUM_FREE_BYTES > retention.quota_bytes:
        raise StorageError(
            f"{root}: the runs take {total / 1e9:.2f} of {retention.quota_bytes / 1e9:.2f} GB (quota_gb); "
            "remove some, raise quota_gb, or set retention to delete_oldest"
        )
    return gone


def _age(run: Path) -> tuple[float, str]:
    return run.stat().st_mtime, run.name


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


class FolderStore:
    """Stores the episodes of one run in a folder."""

    def __init__(
        self, folder: Path, metadata: Mapping[str, Any] | None = None, retention: Retention | None = None
    ) -> None:
        """``metadata`` is added to every ``episode.json``; raises ``StorageError`` when the folder cannot be made.

        ``retention`` is about all runs beside this one.
        """
        self.folder = make_folder(folder)
        self.metadata = dict(metadata or {})
        self._retention = retention or Retention()

    def check(self) -> None:
        """Make room as the retention rule says; raise ``StorageError`` when there is none for one more episode."""
        make_room(self.folder.parent, self._retention, self.folder)
        check_space(self.folder)

    def write(self, record: EpisodeRecord, messages: Sequence[LoggedMessage]) -> Summary:
        """Write one episode, see ``write_episode``."""
        return write_episode(self.folder, record, messages, self.metadata)


def read_episode(folder: Path) -> dict[str, Any]:
    """Content of an episode's ``episode.json``; raises ``StorageError`` that names the file."""
    file = folder / EPISODE_FILE
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if content["schema_version"] != SCHEMA_VERSION:
            raise StorageError(f"{file}: schema version {content['schema_version']}, expected {SCHEMA_VERSION}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{file}: unreadable: {error}") from error
    return content


def read_summary(folder: Path) -> Summary:
    """Summary of an episode's folder; raises ``StorageError`` that names the file."""
    raw = dict(read_episode(folder)["summary"], path=str(folder))
    try:
        values: dict[str, Any] = {
            f.name: tuple(v) if isinstance(v := raw[f.name], list) else v for f in fields(Summary)
        }
        values["min_clearance"] = math.nan if values["min_clearance"] is None else values["min_clearance"]
        return Summary(**values)
    except KeyError as error:
        raise StorageError(f"{folder / EPISODE_FILE}: summary lacks {error.args[0]!r}") from error


def read_frames(folder: Path) -> Episode | None:
    """The frames of an episode's folder, None when it has none; raises ``StorageError`` that names the file."""
    try:
        return read_record(folder)
    except EpisodeError as error:
        raise StorageError(str(error)) from error


def write_minari(run: Path, folder: Path, name: str, provenance: Mapping[str, Any]) -> int:
    """Write the episodes of a run as a Minari dataset into a new folder.

    Returns:
        Number of episodes in it; nothing is written when that is 0.

    Raises:
        StorageError: an episode cannot be read or the dataset not be written.
        ImportError: minari is not installed.
    """
    episodes = [e for path in episode_folders(run) if (e := read_frames(path)) is not None]
    if episodes:
        description = f"{len(episodes)} episodes recorded on the ROS graph; actions as the monitor let them through."
        try:
            write_dataset(folder, episodes, name, description, provenance)
        except OSError as error:
            raise _explained(folder, error) from error
    return len(episodes)


def episode_folders(folder: Path) -> list[Path]:
    """Complete episodes in a folder, in the order of their numbers."""
    return sorted(p.parent for p in folder.glob(f"episode_*/{EPISODE_FILE}"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically; numbers that are not finite become null."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            json.dump(_plain(content), stream, indent=1, allow_nan=False)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _plain(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    return value


def _explained(path: Path, error: OSError) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"{path}: the disk is full; make room, the finished episodes are kept")
    return StorageError(f"{path}: cannot be written: {error.strerror or error}")
