import numpy as np
import pytest
from builtin_interfaces.msg import Time

from fosp_interfaces.msg import TaskState
from fosp_ros.errors import MessageError
from fosp_ros.tracking import EpisodeTracker, TaskStates, ToolTracker


def state(second: int, phase: int = TaskState.RUNNING, episode: int = 1, is_first: bool = False) -> TaskState:
    message = TaskState(phase=phase, episode_id=episode, is_first=is_first)
    message.header.stamp = Time(sec=second)
    return message


class Arriving:
    """States that arrive one reading after the other; each item is what one reading finds."""

    def __init__(self, *readings: list[TaskState]) -> None:
        self._readings = list(readings)

    def __call__(self) -> list[TaskState]:
        return self._readings.pop(0) if self._readings else []


def test_state_is_found_by_the_stamp_of_its_frame():
    states = TaskStates(Arriving([state(1), state(2, phase=TaskState.ENDED)]))
    found = states.of_frame(1_000_000_000, 0.0)
    assert found is not None
    assert found.phase == TaskState.RUNNING
    assert states.of_frame(3_000_000_000, 0.0) is None
    assert states.latest is not None
    assert states.latest.phase == TaskState.ENDED


def test_waits_for_a_state_that_comes_a_little_later():
    states = TaskStates(Arriving([state(1)], [], [], [state(2)]))
    assert states.of_frame(2_000_000_000, 60.0) is not None


def test_does_not_wait_when_nobody_publishes_the_task():
    assert TaskStates(Arriving()).of_frame(1, timeout_s=1e9) is None


def test_old_states_are_forgotten():
    states = TaskStates(Arriving([state(second) for second in range(1, 4)]), kept=2)
    assert states.of_frame(1_000_000_000, 0.0) is None
    assert states.of_frame(2_000_000_000, 0.0) is not None


def test_first_frames_of_episodes():
    tracker = EpisodeTracker()
    sequence = [
        (state(1, TaskState.READY, 1, is_first=True), True),
        (state(2, TaskState.READY, 1), False),
        (state(3, TaskState.RUNNING, 1, is_first=True), True),
        (state(4, TaskState.RUNNING, 1), False),
        (state(5, TaskState.ENDED, 1), False),
        (state(6, TaskState.ENDED, 1), False),
        (state(7, TaskState.READY, 2, is_first=True), True),
    ]
    for message, expected in sequence:
        assert tracker.is_first(message) is expected


def test_a_start_is_noticed_although_its_frame_was_lost():
    tracker = EpisodeTracker()
    tracker.is_first(state(1, TaskState.READY, 1, is_first=True))
    assert tracker.is_first(state(3, TaskState.RUNNING, 1))
    assert not tracker.is_first(state(4, TaskState.RUNNING, 1))
    assert tracker.is_first(state(9, TaskState.RUNNING, 2))


class FakeChain:
    def position(self, positions):
        return np.asarray(positions[:3])


def test_tool_position_comes_from_the_nearest_joint_state():
    tracker = ToolTracker(FakeChain(), tolerance_s=0.05)
    with pytest.raises(MessageError, match="no joint state"):
        tracker.at(0)
    for i in range(5):
        tracker.add(i * 20_000_000, np.full(7, float(i)))
    np.testing.assert_array_equal(tracker.at(41_000_000), [2, 2, 2])
    with pytest.raises(MessageError, match="120 ms from the frame"):
        tracker.at(200_000_000)


def test_joint_states_from_before_a_clock_jump_are_dropped():
    tracker = ToolTracker(FakeChain(), tolerance_s=0.05)
    tracker.add(10_000_000_000, np.zeros(7))
    tracker.add(1_000_000_000, np.ones(7))
    np.testing.assert_array_equal(tracker.at(1_010_000_000), [1, 1, 1])
    with pytest.raises(MessageError):
        tracker.at(10_000_000_000)
