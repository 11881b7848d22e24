"""Episodes that outlive the process that recorded them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from geometry_msgs.msg import TwistStamped
from rclpy.serialization import serialize_message

from fosp_episodes import storage
from fosp_episodes.mcap_log import LoggedMessage, read_mcap
from fosp_episodes.messages import compressed
from fosp_episodes.spool import KILLED, Spool, read_spool, recover
from fosp_interfaces.msg import PolicyDecision, SafetyStatus, TaskState
from fosp_ros import names
from fosp_ros.images import to_message
from fosp_ros.stamps import from_nanoseconds

PERIOD_NS = 100_000_000


def logged(topic: str, message: Any, at_ns: int) -> LoggedMessage:
    kind = type(message)
    return LoggedMessage(
        topic, f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}", serialize_message(message), at_ns, at_ns
    )


def step(number: int, large: bool = False) -> list[LoggedMessage]:
    """What the graph says of one frame of episode 2."""
    at_ns = (number + 1) * PERIOD_NS
    stamp = from_nanoseconds(at_ns)
    task = TaskState(phase=TaskState.RUNNING, episode_id=2, scene="standard", step=number, cost=float(number == 2))
    decision = PolicyDecision(model_id="v1", action=[0.1, 0.2, 0.3], candidate_actions=[0.0] * 6)
    decision.probabilities = decision.q_reward = decision.q_cost = decision.violation_probability = [0.5, 0.5]
    status = SafetyStatus(verdict=SafetyStatus.FORWARDED, state=SafetyStatus.NOMINAL, model_id="v1")
    status.frame_stamp, status.approved_action = stamp, [0.1, 0.2, 0.3]
    command = TwistStamped()
    for message in (task, decision, status, command):
        message.header.stamp = stamp
    image = to_message(np.full((64, 64, 3), 40 * number, np.uint8), stamp, "camera")
    shown = (f"{names.CAMERA_IMAGE}/compressed", compressed(image)) if large else (names.CAMERA_IMAGE, image)
    sent = [
        (names.TASK_STATE, task), (names.POLICY_DECISION, decision), (names.SAFETY_STATUS, status),
        (names.ARM_COMMAND, command), shown,
    ]  # fmt: skip
    return [logged(topic, message, at_ns + 1_000_000 * (i + 1)) for i, (topic, message) in enumerate(sent)]


def abandoned(folder: Path, frames: int, large: bool = False) -> Spool:
    """A spool whose writer is gone: its lock is free, and the file is there."""
    folder.mkdir(parents=True, exist_ok=True)
    spool = Spool(folder, 2, "standard", 7, {"mode": "explore"})
    for number in range(frames):
        for message in step(number, large):
            spool.add(message)
    spool._stream.close()
    return spool


@pytest.mark.parametrize("large", [False, True])
def test_episode_of_a_killed_node_is_kept_with_its_frames_and_marked(tmp_path: Path, large: bool) -> None:
    spool = abandoned(tmp_path / "run", 4, large)
    ((path, summary),) = recover(tmp_path)
    assert path == spool.path and not path.exists() and summary is not None
    assert (summary.aborted, summary.abort_reason, summary.model_id) == (True, KILLED, "v1")
    assert (summary.episode_id, summary.scene, summary.seed, summary.steps, summary.violated) == (
        2, "standard", 7, 3, True,
    )  # fmt: skip
    folder = tmp_path / "run" / "episode_0002"
    frames = storage.read_frames(folder)
    assert frames is not None and frames.action[0].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert frames.image[:, 0, 0, 0].tolist() == [0, 40, 80, 120]
    assert storage.read_episode(folder)["mode"] == "explore"
    assert len(list(read_mcap(folder / storage.MESSAGES_FILE))) == 20
    assert recover(tmp_path) == []


def test_message_that_was_being_written_is_left_out(tmp_path: Path) -> None:
    spool = abandoned(tmp_path / "run", 2)
    spool.path.write_bytes(spool.path.read_bytes()[:-5])
    with spool.path.open("rb") as stream:
        assert len(read_spool(stream)[1]) == 9
    assert recover(tmp_path)[0][1] is not None


def test_spool_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path_run(tmp_path), 0, "standard", 0, {})
    assert recover(tmp_path) == [] and spool.path.exists()
    spool.discard()
    assert not spool.path.exists()


def test_spool_without_frames_of_a_stored_episode_or_of_nonsense_goes(tmp_path: Path) -> None:
    empty = abandoned(tmp_path / "empty", 0)
    stored = abandoned(tmp_path / "stored", 2)
    (tmp_path / "stored" / "episode_0002").mkdir()
    torn = tmp_path_run(tmp_path) / ".episode_0001.spool"
    torn.write_bytes(b"{")
    assert dict(recover(tmp_path)) == {empty.path: None, stored.path: None, torn: None}
    assert not list(tmp_path.glob("*/.episode_*"))


def tmp_path_run(folder: Path) -> Path:
    run = folder / "run"
    run.mkdir(exist_ok=True)
    return run
