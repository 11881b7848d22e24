"""Messages of the running episode on disk, so that an episode whose node was killed is kept and marked.

A spool is one file beside the episodes: a line of JSON that names the episode, then one block a message. Its writer
holds a lock on it, so that a spool without one was left by a process that is gone.
"""

from __future__ import annotations

import fcntl
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import cv2
import numpy as np
from geometry_msgs.msg import TwistStamped
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from fosp_core.images import ImageError, crop_resize
from fosp_core.task import IMAGE_SIZE
from fosp_episodes import messages
from fosp_episodes.mcap_log import LoggedMessage
from fosp_episodes.recorder import EpisodeRecorder, Summary
from fosp_episodes.storage import write_episode
from fosp_interfaces.msg import PolicyDecision, SafetyStatus, TaskState
from fosp_ros import images, names, stamps

SUFFIX: Final = ".spool"
KILLED: Final = "the episode node ended in the middle of the episode"
_BLOCK: Final = struct.Struct("<HHIqq")
_KINDS: Final[dict[str, type]] = {
    names.TASK_STATE: TaskState,
    names.POLICY_DECISION: PolicyDecision,
    names.SAFETY_STATUS: SafetyStatus,
    names.ARM_COMMAND: TwistStamped,
    names.CAMERA_IMAGE: Image,
    f"{names.CAMERA_IMAGE}/compressed": CompressedImage,
}


class Spool:
    """The spool of one episode, open for writing."""

    def __init__(self, folder: Path, episode_id: int, scene: str, seed: int, metadata: dict[str, Any]) -> None:
        """Create it in the folder of the run; raises ``OSError``."""
        self.path = folder / f".episode_{episode_id:04d}{SUFFIX}"
        self._stream = self.path.open("wb")
        fcntl.flock(self._stream, fcntl.LOCK_EX)
        header = {"episode_id": episode_id, "scene": scene, "seed": seed, "metadata": metadata}
        self._stream.write(json.dumps(header).encode() + b"\n")

    def add(self, message: LoggedMessage) -> None:
        """Append a message; raises ``OSError``."""
        texts = message.topic.encode(), message.type_name.encode()
        sizes = len(texts[0]), len(texts[1]), len(message.data)
        self._stream.write(_BLOCK.pack(*sizes, message.received_ns, message.published_ns))
        self._stream.write(texts[0] + texts[1] + bytes(message.data))
        # past this process, which may be killed; not past the machine
        self._stream.flush()

    def discard(self) -> None:
        """The episode is stored, or there is nothing to store."""
        self._stream.close()
        self.path.unlink(missing_ok=True)


def read_spool(stream: IO[bytes]) -> tuple[dict[str, Any], list[LoggedMessage]]:
    """Header and messages; what was being written last may be cut short and is left out. Raises ``ValueError``."""
    header = json.loads(stream.readline())
    return header, list(_blocks(stream))


def _blocks(stream: IO[bytes]) -> Iterator[LoggedMessage]:
    while len(head := stream.read(_BLOCK.size)) == _BLOCK.size:
        *sizes, received, published = _BLOCK.unpack(head)
        parts = [stream.read(size) for size in sizes]
        if [len(part) for part in parts] != sizes:
            return
        yield LoggedMessage(parts[0].decode(), parts[1].decode(), parts[2], received, published)


def recover(root: Path) -> list[tuple[Path, Summary | None]]:
    """Turn spools that nobody writes any more into episodes, marked as aborted; empty ones just go.

    Args:
        root: folder of the runs.

    Returns:
        Each spool with the summary of its episode; None where there was no frame, or the episode was stored already.

    Raises:
        StorageError: an episode cannot be written; its spool stays.
    """
    found = []
    for path in sorted(root.glob(f"*/.episode_*{SUFFIX}")):
        with path.open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            found.append((path, _store(path, stream)))
            path.unlink(missing_ok=True)
    return found


def _store(path: Path, stream: IO[bytes]) -> Summary | None:
    try:
        header, log = read_spool(stream)
        recorder = EpisodeRecorder(int(header["episode_id"]), str(header["scene"]), int(header["seed"]))
        metadata = dict(header["metadata"])
    except (ValueError, KeyError, TypeError):
        return None
    for message in sorted(log, key=lambda m: m.received_ns):
        feed(recorder, message)
    if recorder.last is None or (path.parent / f"episode_{recorder.episode_id:04d}").exists():
        return None
    return write_episode(path.parent, recorder.finish(KILLED), log, metadata)


def feed(recorder: EpisodeRecorder, logged: LoggedMessage) -> None:
    """Give a recorded message to a recorder; an image that cannot be read is left out."""
    kind = _KINDS.get(logged.topic)
    if kind is None:
        return
    message: Any = deserialize_message(logged.data, kind)
    if kind is TaskState:
        recorder.on_task(messages.task_sample(message))
    elif kind is PolicyDecision:
        recorder.on_decision(messages.decision_sample(message))
    elif kind is SafetyStatus:
        recorder.on_status(messages.status_sample(message))
    elif kind is TwistStamped:
        recorder.on_command(stamps.to_nanoseconds(message.header.stamp), logged.received_ns)
    else:
        try:
            image = _decoded(message) if kind is CompressedImage else images.from_message(message)
            recorder.on_frame(stamps.to_nanoseconds(message.header.stamp), crop_resize(image, IMAGE_SIZE))
        except ImageError:
            return


def _decoded(message: CompressedImage) -> Any:
    decoded = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    if decoded is None:
        raise ImageError("the image cannot be decoded")
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
