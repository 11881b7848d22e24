"""What belongs to a camera frame: the task's state and the tool position at its stamp."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

from fosp_interfaces.msg import TaskState
from fosp_ros.errors import MessageError
from fosp_ros.kinematics import Chain, Matrix
from fosp_ros.stamps import to_nanoseconds

_POLL_S = 0.0005


class TaskStates:
    """The last few task states, by the stamp of their frame. Safe to use from several threads.

    ``take`` gives the states that arrived since it was called last.
    """

    def __init__(self, take: Callable[[], Sequence[TaskState]], kept: int = 20) -> None:
        self._take = take
        self._kept = kept
        self._lock = threading.Lock()
        self._states: OrderedDict[int, TaskState] = OrderedDict()
        self._latest: TaskState | None = None

    @property
    def latest(self) -> TaskState | None:
        """The state received last."""
        self._update()
        return self._latest

    def of_frame(self, stamp_ns: int, timeout_s: float) -> TaskState | None:
        """State of the frame with this stamp; waits for it at most ``timeout_s``, then ``None``.

        Does not wait while no state was ever received: then nobody publishes the task.
        """
        end = time.monotonic() + timeout_s
        while True:
            self._update()
            state = self._states.get(stamp_ns)
            if state is not None or self._latest is None or time.monotonic() >= end:
                return state
            time.sleep(_POLL_S)

    def _update(self) -> None:
        with self._lock:
            for state in self._take():
                self._states[to_nanoseconds(state.header.stamp)] = state
                self._latest = state
            while len(self._states) > self._kept:
                self._states.popitem(last=False)


class EpisodeTracker:
    """Says whether a frame starts an episode, also when the frame or state that said so was lost."""

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None

    def is_first(self, state: TaskState) -> bool:
        """Whether the latent state must be reset on the frame of ``state``; call once per processed frame."""
        episode, phase = int(state.episode_id), int(state.phase)
        last, self._last = self._last, (episode, phase)
        if state.is_first or last is None or episode != last[0]:
            return True
        return phase == TaskState.RUNNING and last[1] != TaskState.RUNNING


class ToolTracker:
    """Tool position at a stamp, from joint positions. Safe to use from several threads."""

    def __init__(self, chain: Chain, tolerance_s: float, kept: int = 50) -> None:
        """``tolerance_s``: how far the nearest joint state may be from the stamp asked for."""
        self._chain = chain
        self._tolerance_s = tolerance_s
        self._samples: deque[tuple[int, Matrix]] = deque(maxlen=kept)
        self._lock = threading.Lock()

    def add(self, stamp_ns: int, positions: Matrix) -> None:
        """Take in joint positions (N,) in rad."""
        with self._lock:
            # A clock that went back would leave samples from the future behind.
            if self._samples and stamp_ns < self._samples[-1][0]:
                self._samples.clear()
            self._samples.append((stamp_ns, positions))

    def at(self, stamp_ns: int) -> Matrix:
        """Tool position (3,) in metres, from the joint positions nearest to the stamp.

        Raises:
            MessageError: no joint states, or none near the stamp.
        """
        with self._lock:
            nearest = min(self._samples, key=lambda sample: abs(sample[0] - stamp_ns), default=None)
        if nearest is None:
            raise MessageError("no joint state was received yet")
        gap_s = abs(nearest[0] - stamp_ns) * 1e-9
        if gap_s > self._tolerance_s:
            raise MessageError(
                f"nearest joint state is {gap_s * 1e3:.0f} ms from the frame, limit {self._tolerance_s * 1e3:.0f} ms"
            )
        return self._chain.position(nearest[1])
