"""Samples, steps and a graph without ROS, for tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fosp_core.safety import SafetyState, Verdict
from fosp_episodes.mcap_log import LoggedMessage
from fosp_episodes.recorder import DecisionSample, EpisodeRecorder, Phase, StatusSample, TaskSample
from fosp_episodes.sequence import Interrupted, Reply, View

PERIOD_NS = 100_000_000
START_NS = 1_000_000_000_000
POINT = (0.4, 0.0, 0.1)


def task_sample(step: int, phase: Phase = Phase.RUNNING, episode: int = 0, **changes: Any) -> TaskSample:
    """Task state of a step, 10 a second from ``START_NS``."""
    base = TaskSample(
        stamp_ns=START_NS + step * PERIOD_NS,
        phase=phase,
        episode_id=episode,
        step=step,
        is_first=step == 0,
        tool=POINT,
        goal=(0.6, 0.1, 0.05),
        distance=0.3 - 0.02 * step,
        clearance=0.1,
        reward=0.0 if step == 0 else 0.2,
        cost=0.0,
        cost_reason="",
        reached=False,
        truncated=False,
        violated=False,
    )
    return replace(base, **changes)


def decision_sample(step: int, **changes: Any) -> DecisionSample:
    """Decision on the frame of a step; the online candidate is chosen."""
    base = DecisionSample(
        stamp_ns=START_NS + step * PERIOD_NS,
        model_id="model",
        action=(0.1, 0.2, 0.3),
        chosen=1,
        candidate_actions=(0.0, 0.0, 0.0, 0.1, 0.2, 0.3),
        probabilities=(0.25, 0.75),
        q_reward=(1.0, 2.0),
        q_cost=(0.1, 0.2),
        violation_probability=(0.05, 0.08),
        state_violation_probability=0.07,
        surprise=0.5,
        inference_ms=0.3,
    )
    return replace(base, **changes)


def status_sample(step: int, **changes: Any) -> StatusSample:
    """Verdict on the frame of a step: forwarded."""
    stamp = START_NS + step * PERIOD_NS
    base = StatusSample(
        stamp_ns=stamp + 3_000_000,
        frame_stamp_ns=stamp,
        state=SafetyState.NOMINAL,
        verdict=Verdict.FORWARDED,
        reasons=(),
        text="",
        approved_action=(0.1, 0.2, 0.3),
        violation_probability=0.08,
        lookahead_probability=0.1,
        caution_threshold=0.3,
        halt_threshold=0.6,
        surprise=0.5,
        surprise_bound=5.0,
        surprise_average=0.4,
        surprise_average_bound=4.0,
        frame_age_s=0.003,
        decision_age_s=0.001,
        model_id="model",
    )
    return replace(base, **changes)


def image(step: int) -> NDArray[np.uint8]:
    """A picture (4, 4, 3) that tells the step."""
    return np.full((4, 4, 3), step, np.uint8)


def feed_step(recorder: EpisodeRecorder, step: int, **changes: Any) -> None:
    """A normal step: state, frame, decision, verdict and a command 4 ms after the frame."""
    sample = task_sample(step, episode=recorder.episode_id, **changes)
    recorder.on_task(sample)
    recorder.on_frame(sample.stamp_ns, image(step))
    if sample.phase == Phase.RUNNING:
        recorder.on_decision(decision_sample(step))
        recorder.on_status(status_sample(step))
        recorder.on_command(sample.stamp_ns, sample.stamp_ns + 4_000_000)


class FakeGraph:
    """A graph in one thread: ``wait`` moves the time on by steps of 0.1 s and feeds the recorder."""

    def __init__(self, length: int = 3) -> None:
        self.view = View()
        self.length = length
        self.now = 0.0
        self.phase = Phase.IDLE
        self.step = 0
        self.episode = 0
        self.recorder: EpisodeRecorder | None = None
        self.state = SafetyState.NOMINAL
        self.halt_at: int | None = None
        self.silent: set[str] = set()
        self.monitor_resets: list[Reply] = []
        self.calls: list[str] = []
        self.interrupt_at: float = math.inf
        self.scene_reply = Reply(True, "")

    def clock(self) -> float:
        """Simulated seconds."""
        return self.now

    def reset_scene(self, scene: str, seed: int, episode_id: int) -> Reply:
        """READY, unless ``scene_reply`` says no."""
        self.calls.append(f"reset {scene} {seed}")
        if self.scene_reply.success:
            self.phase, self.step, self.episode = Phase.READY, 0, episode_id
        return self.scene_reply

    def start_scene(self) -> Reply:
        """RUNNING from the next frame on."""
        self.calls.append("start")
        self.phase, self.step = Phase.RUNNING, -1
        return Reply(True, "")

    def stop_scene(self) -> Reply:
        """ENDED."""
        self.calls.append("stop")
        if self.phase == Phase.RUNNING:
            self.phase = Phase.ENDED
        return Reply(True, "")

    def reset_monitor(self) -> Reply:
        """NOMINAL when the next of ``monitor_resets`` says so."""
        self.calls.append("reset monitor")
        reply = self.monitor_resets.pop(0) if self.monitor_resets else Reply(True, "")
        if reply.success:
            self.state = SafetyState.NOMINAL
        return reply

    def explore(self, on: bool) -> Reply:
        """Noted only."""
        self.calls.append(f"explore {on}")
        return Reply(True, "")

    def record(self, recorder: EpisodeRecorder) -> None:
        """Feed a recorder."""
        self.recorder = recorder

    def stop_recording(self) -> Sequence[LoggedMessage]:
        """Nothing is logged."""
        self.recorder = None
        return ()

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Let simulated time pass."""
        end = self.now + timeout_s
        while not condition():
            if self.now >= self.interrupt_at:
                raise Interrupted("cancelled")
            if self.now >= end - 1e-9:
                return False
            self._tick()
        return True

    def _tick(self) -> None:
        self.now += 0.1
        if self.phase == Phase.RUNNING or (self.phase == Phase.ENDED and self.recorder and not self.recorder.ended):
            self.step += 1
            if self.step >= self.length:
                self.phase = Phase.ENDED
        if self.halt_at is not None and self.phase == Phase.RUNNING and self.step == self.halt_at:
            self.state, self.halt_at = SafetyState.HALTED, None
        if "task" not in self.silent and self.phase != Phase.IDLE:
            stamp = START_NS + round(self.now * 1e9)
            sample = task_sample(self.step, self.phase, self.episode, stamp_ns=stamp)
            if self.phase == Phase.ENDED:
                sample = replace(sample, reached=True)
            self.view.task, self.view.task_at, self.view.frame_stamp_ns = sample, self.now, stamp
            if self.recorder is not None:
                self.recorder.on_task(sample)
        if "policy" not in self.silent and self.phase == Phase.RUNNING:
            self.view.decision_at = self.now
        if "monitor" not in self.silent:
            status = status_sample(self.step, state=self.state, reasons=("RISK_HALT",) if self.state == 3 else ())
            self.view.status, self.view.status_at = status, self.now
            if self.recorder is not None:
                self.recorder.on_status(status)
