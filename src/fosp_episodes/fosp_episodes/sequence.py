"""A run of episodes as a sequence of steps; the graph is passed in, so that this is tested without one.

Per episode: lay out the scene, wait for its frames, bring the monitor out of a halt if that was asked for, start,
follow the episode until it ends, is halted or loses a part of the graph, then store it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from fosp_core.safety import SafetyState
from fosp_core.task import check_scene
from fosp_episodes.mcap_log import LoggedMessage
from fosp_episodes.recorder import (
    DecisionSample,
    EpisodeRecord,
    EpisodeRecorder,
    Phase,
    StatusSample,
    Summary,
    TaskSample,
)
from fosp_episodes.storage import StorageError

MAX_COUNT = 10_000
MAX_SEED = 2**64 - 1


class RunError(Exception):
    """The run cannot go on; the message says why and what to do."""


class _StaysHalted(RunError):
    """The monitor refuses to be reset in a layout."""


class Interrupted(Exception):
    """Somebody asked the run to end; the message says who."""


@dataclass(frozen=True)
class Reply:
    """Answer of a service; a service that does not answer is an unsuccessful one."""

    success: bool
    message: str


@dataclass
class View:
    """The newest of each stream, and when it was received (steady clock, seconds)."""

    task: TaskSample | None = None
    decision: DecisionSample | None = None
    status: StatusSample | None = None
    task_at: float = 0.0
    status_at: float = 0.0
    decision_at: float = 0.0
    frame_stamp_ns: int = 0


class Graph(Protocol):
    """What a run needs of the graph."""

    view: View

    def reset_scene(self, scene: str, seed: int, episode_id: int) -> Reply:
        """Lay out a scene; its task is READY afterwards."""

    def start_scene(self) -> Reply:
        """READY to RUNNING."""

    def stop_scene(self) -> Reply:
        """RUNNING to ENDED."""

    def reset_monitor(self) -> Reply:
        """Leave HALTED."""

    def explore(self, on: bool) -> Reply:
        """Let the policy sample its candidates instead of taking the best one."""

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until the condition holds, False when it did not in time; raises ``Interrupted``."""

    def record(self, recorder: EpisodeRecorder) -> None:
        """Feed a recorder from now on."""

    def stop_recording(self) -> Sequence[LoggedMessage]:
        """Stop feeding the recorder and give the messages received meanwhile."""


@dataclass(frozen=True)
class Settings:
    """Waiting times, seconds, and attempts."""

    ready_timeout_s: float = 15.0
    episode_timeout_s: float = 60.0
    silence_s: float = 3.0
    """A part of the graph that says nothing for so long in a running episode is lost."""
    halt_tail_s: float = 0.5
    """Recorded after a halt, so that a violation while stopping counts."""
    reset_attempts: int = 10
    reset_pause_s: float = 0.5
    refused_layouts: int = 3
    """Layouts in a row in which the monitor may stay halted before the run ends."""


@dataclass(frozen=True)
class Goal:
    """What was asked for; ``ValueError`` when it makes no sense."""

    scene: str
    count: int
    seed: int
    explore: bool = False
    reset_after_halt: bool = False

    def __post_init__(self) -> None:
        check_scene(self.scene)
        if not 1 <= self.count <= MAX_COUNT:
            raise ValueError(f"count must be in [1, {MAX_COUNT}], got {self.count}")
        if not 0 <= self.seed <= MAX_SEED - self.count:
            raise ValueError(f"seed must be in [0, 2^64 - count), got {self.seed}")


@dataclass(frozen=True)
class Progress:
    """Where the run is."""

    episode: int
    """Index in the run, from 0."""
    recorder: EpisodeRecorder
    finished: Sequence[Summary]


@dataclass(frozen=True)
class Outcome:
    """How the run ended."""

    success: bool
    message: str
    episodes: list[Summary] = field(default_factory=list)
    interrupted: bool = False


class Store(Protocol):
    """Where the episodes of one run go; both methods raise ``StorageError``."""

    def check(self) -> None:
        """Whether there is room for one more episode."""

    def write(self, record: EpisodeRecord, messages: Sequence[LoggedMessage]) -> Summary:
        """Store an episode; gives its summary with the path."""


class EpisodeRun:
    """Runs the episodes of one goal, in the thread that calls ``run``."""

    def __init__(
        self,
        goal: Goal,
        graph: Graph,
        store: Store,
        settings: Settings | None = None,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._goal = goal
        self._graph = graph
        self._store = store
        self._settings = settings or Settings()
        self._on_progress = on_progress
        self._clock = clock
        self._finished: list[Summary] = []
        self._refusals: list[str] = []

    def run(self) -> Outcome:
        """Run all episodes; what was recorded is kept however the run ends."""
        try:
            if self._goal.explore:
                self._demand(self._graph.explore(True), "the policy did not change to exploring")
            self._run_all()
        except Interrupted as interruption:
            return Outcome(False, f"stopped: {interruption}", self._finished, interrupted=True)
        except (RunError, StorageError) as error:
            return Outcome(False, str(error), self._finished)
        finally:
            if self._goal.explore:
                self._graph.explore(False)
        note = f"; {len(self._refusals)} did not start: {self._refusals[-1]}" if self._refusals else ""
        return Outcome(True, f"{len(self._finished)} episodes recorded{note}", self._finished)

    def _run_all(self) -> None:
        refused = 0
        for index in range(self._goal.count):
            self._store.check()
            try:
                self._run_one(index)
            except _StaysHalted as error:
                # it may be this layout alone: a start beside an obstacle is a risk already
                refused += 1
                self._refusals.append(str(error))
                if refused >= min(self._settings.refused_layouts, self._goal.count):
                    raise
            else:
                refused = 0

    def _run_one(self, index: int) -> None:
        seed = self._goal.seed + index
        recorder = EpisodeRecorder(index, self._goal.scene, seed)
        self._graph.record(recorder)
        failure: Exception | None = None
        try:
            self._lay_out(recorder, seed)
            self._wake_monitor()
            self._demand(self._graph.start_scene(), "the episode did not start")
            self._follow(index, recorder)
        except (RunError, Interrupted) as error:
            failure = error
            self._graph.stop_scene()
        messages = self._graph.stop_recording()
        if recorder.last is not None:
            record = recorder.finish(str(failure) if failure else "")
            self._finished.append(self._store.write(record, messages))
            self._on_progress(Progress(index, recorder, self._finished))
        if failure is not None:
            raise failure

    def _lay_out(self, recorder: EpisodeRecorder, seed: int) -> None:
        """Reset the scene and wait for two frames of it."""
        reply = self._graph.reset_scene(self._goal.scene, seed, recorder.episode_id)
        self._demand(reply, f"scene {self._goal.scene} could not be laid out")
        view = self._graph.view
        frames: set[int] = set()

        def ready() -> bool:
            if view.task is None or view.task.phase != Phase.READY or view.task.episode_id != recorder.episode_id:
                return False
            if view.frame_stamp_ns >= view.task.stamp_ns:
                frames.add(view.frame_stamp_ns)
            return len(frames) >= 2

        if not self._graph.wait(ready, self._settings.ready_timeout_s):
            raise RunError(f"no camera frames of the new scene within {self._settings.ready_timeout_s:g} s")

    def _wake_monitor(self) -> None:
        """Wait for an active monitor and bring it out of a halt if the goal says so."""
        view, limit = self._graph.view, self._settings.ready_timeout_s

        def state() -> SafetyState | None:
            return None if view.status is None else SafetyState(view.status.state)

        if not self._graph.wait(lambda: state() not in (None, SafetyState.INACTIVE), limit):
            detail = "it has published no status" if view.status is None else f"it is inactive: {view.status.text}"
            raise RunError(f"the safety monitor is not ready, {detail}")
        if state() != SafetyState.HALTED:
            return
        if not self._goal.reset_after_halt:
            reasons = ", ".join(view.status.reasons) if view.status else ""
            raise RunError(
                f"the safety monitor is halted ({reasons}); reset it, or ask for the episodes with reset_after_halt"
            )
        reply = Reply(False, "")
        for _ in range(self._settings.reset_attempts):
            reply = self._graph.reset_monitor()
            if reply.success and self._graph.wait(lambda: state() != SafetyState.HALTED, limit):
                return
            self._graph.wait(lambda: False, self._settings.reset_pause_s)
        attempts = self._settings.reset_attempts
        raise _StaysHalted(f"the safety monitor stays halted after {attempts} attempts to reset it: {reply.message}")

    def _follow(self, index: int, recorder: EpisodeRecorder) -> None:
        """Wait until the episode is over; raises ``RunError`` when a part of the graph is lost."""
        begin = self._clock()
        shown = -1
        while not recorder.ended:
            self._graph.wait(partial(self._has_news, recorder, shown), 0.2)
            shown = self._step(recorder)
            self._on_progress(Progress(index, recorder, self._finished))
            if recorder.halted:
                self._graph.wait(lambda: recorder.ended, self._settings.halt_tail_s)
                if not recorder.ended:
                    reply = self._graph.stop_scene()
                    # it may have ended by itself just before, and then there was nothing to stop
                    if not self._graph.wait(lambda: recorder.ended, self._settings.silence_s):
                        self._demand(reply, "the halted episode could not be ended")
                self._on_progress(Progress(index, recorder, self._finished))
                return
            self._check_alive(begin)

    def _check_alive(self, begin: float) -> None:
        now, view, limit = self._clock(), self._graph.view, self._settings.silence_s
        for name, received in (
            ("the task state", view.task_at),
            ("the safety monitor", view.status_at),
            ("the policy", view.decision_at),
        ):
            if now - max(received, begin) > limit:
                raise RunError(f"nothing was heard of {name} for {limit:g} s")
        if now - begin > self._settings.episode_timeout_s:
            raise RunError(f"the episode did not end within {self._settings.episode_timeout_s:g} s")

    def _has_news(self, recorder: EpisodeRecorder, shown: int) -> bool:
        return recorder.ended or recorder.halted or self._step(recorder) != shown

    @staticmethod
    def _step(recorder: EpisodeRecorder) -> int:
        last = recorder.last
        return -1 if last is None else last.task.step

    @staticmethod
    def _demand(reply: Reply, what: str) -> None:
        if not reply.success:
            raise RunError(f"{what}: {reply.message}")
