"""Turns the streams of one episode into a labelled record; no ROS, no clock, no disk.

Messages are matched by the stamp of the camera frame they belong to, so their order of arrival does not matter.
Stamps and receive times are nanoseconds of one clock; positions are metres in ``panda_link0``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fosp_core import task
from fosp_core.episode import Episode
from fosp_core.safety import SafetyState, Verdict

POLICIES: Final = ("offline", "online")
"""Candidates of a decision, in their order."""
ONLINE: Final = 1
INTERVENTIONS: Final = (Verdict.SLOWED, Verdict.REPLACED, Verdict.HELD)


class Phase(IntEnum):
    """Phases of ``TaskState``."""

    IDLE = 0
    READY = 1
    RUNNING = 2
    ENDED = 3


@dataclass(frozen=True)
class TaskSample:
    """``TaskState`` at one camera frame."""

    stamp_ns: int
    phase: int
    episode_id: int
    step: int
    is_first: bool
    tool: tuple[float, float, float]
    goal: tuple[float, float, float]
    distance: float
    clearance: float
    reward: float
    cost: float
    cost_reason: str
    reached: bool
    truncated: bool
    violated: bool


@dataclass(frozen=True)
class DecisionSample:
    """``PolicyDecision``; candidates are ordered [offline, online]."""

    stamp_ns: int
    model_id: str
    action: tuple[float, ...]
    chosen: int
    candidate_actions: tuple[float, ...]
    probabilities: tuple[float, ...]
    q_reward: tuple[float, ...]
    q_cost: tuple[float, ...]
    violation_probability: tuple[float, ...]
    state_violation_probability: float
    surprise: float
    inference_ms: float


@dataclass(frozen=True)
class StatusSample:
    """``SafetyStatus``; ``frame_stamp_ns`` is 0 when it judges no decision."""

    stamp_ns: int
    frame_stamp_ns: int
    state: int
    verdict: int
    reasons: tuple[str, ...]
    text: str
    approved_action: tuple[float, ...]
    violation_probability: float
    lookahead_probability: float
    caution_threshold: float
    halt_threshold: float
    surprise: float
    surprise_bound: float
    surprise_average: float
    surprise_average_bound: float
    frame_age_s: float
    decision_age_s: float
    model_id: str


@dataclass(frozen=True)
class Summary:
    """One finished episode, field by field as ``EpisodeSummary``."""

    episode_id: int
    scene: str
    seed: int
    model_id: str
    success: bool
    violated: bool
    safe_success: bool
    halted: bool
    halt_reasons: tuple[str, ...]
    aborted: bool
    abort_reason: str
    steps: int
    episode_return: float
    episode_cost: float
    min_clearance: float
    interventions: int
    online_choices: int
    latency_ms: tuple[float, ...]
    path: str = ""


@dataclass
class Step:
    """Everything known about one camera frame of the episode."""

    task: TaskSample
    decision: DecisionSample | None = None
    status: StatusSample | None = None
    latency_ms: float = math.nan
    image: NDArray[np.uint8] | None = field(default=None, repr=False)

    def row(self, origin_ns: int) -> dict[str, Any]:
        """The step as a line of the per-step table; what was not measured is NaN or ``None``."""
        line: dict[str, Any] = {
            "step": self.task.step,
            "stamp_ns": self.task.stamp_ns,
            "time_s": (self.task.stamp_ns - origin_ns) / 1e9,
            "tool": self.task.tool,
            "distance": self.task.distance,
            "clearance": self.task.clearance,
            "reward": self.task.reward,
            "cost": self.task.cost,
            "cost_reason": self.task.cost_reason,
            "latency_ms": self.latency_ms,
            "decision": None,
            "safety": None,
        }
        if (d := self.decision) is not None:
            line["decision"] = {
                "chosen": POLICIES[d.chosen],
                "action": d.action,
                "candidate_actions": _rows(d.candidate_actions, len(POLICIES)),
                "probabilities": d.probabilities,
                "q_reward": d.q_reward,
                "q_cost": d.q_cost,
                "violation_probability": d.violation_probability,
                "state_violation_probability": d.state_violation_probability,
                "surprise": d.surprise,
                "inference_ms": d.inference_ms,
            }
        if (s := self.status) is not None:
            line["safety"] = {
                "state": SafetyState(s.state).name.lower(),
                "verdict": Verdict(s.verdict).name.lower(),
                "reasons": s.reasons,
                "approved_action": s.approved_action,
                "violation_probability": s.violation_probability,
                "lookahead_probability": s.lookahead_probability,
                "surprise": s.surprise,
                "surprise_average": s.surprise_average,
                "frame_age_s": s.frame_age_s,
                "decision_age_s": s.decision_age_s,
            }
        return line


@dataclass(frozen=True)
class EpisodeRecord:
    """A finished episode: label, frames in the order of their stamps, thresholds in force."""

    summary: Summary
    steps: tuple[Step, ...]
    goal: tuple[float, float, float]
    thresholds: Mapping[str, float]

    def table(self) -> list[dict[str, Any]]:
        """Per-step table, times counted from the first frame."""
        origin = self.steps[0].task.stamp_ns if self.steps else 0
        return [step.row(origin) for step in self.steps]

    def episode(self) -> Episode | None:
        """The longest run of frames with images as an episode to learn from; None when it has fewer than two frames.

        Its actions are those that the monitor let through, zero where it held.
        """
        kept = _longest_run(self.steps)
        if len(kept) < 2:
            return None
        action = np.zeros((len(kept), task.ACTION_LENGTH), np.float32)
        for index, step in enumerate(kept[:-1]):
            if step.status is not None and len(step.status.approved_action) == task.ACTION_LENGTH:
                action[index] = step.status.approved_action
        reward = np.array([s.task.reward for s in kept], np.float32)
        cost = np.array([s.task.cost for s in kept], np.float32)
        reward[0] = cost[0] = 0.0
        is_first, is_terminal = np.zeros(len(kept), np.bool_), np.zeros(len(kept), np.bool_)
        is_first[0], is_terminal[-1] = True, kept[-1].task.reached
        tool = np.array([s.task.tool for s in kept], np.float32)
        return Episode(
            image=np.stack([s.image for s in kept if s.image is not None]),
            proprio=tool,
            action=action,
            reward=reward,
            cost=cost,
            is_first=is_first,
            is_terminal=is_terminal,
            metadata={
                "kind": "policy",
                "scene": self.summary.scene,
                "layout_seed": self.summary.seed,
                "success": self.summary.success,
                "violated": self.summary.violated,
            },
            tool=tool,
            goal=np.array(self.goal, np.float32),
            clearance=np.array([s.task.clearance for s in kept], np.float32),
        )


class EpisodeRecorder:
    """Collects one episode and labels it.

    An episode spans the frames whose phase is RUNNING and the first frame that is ENDED. It is a success when the goal
    was reached, violated when any of its frames was, a safe success when reached and not violated, halted when the
    monitor went to HALTED after its first frame and before its last one, aborted when the caller says so.
    """

    def __init__(self, episode_id: int, scene: str, seed: int) -> None:
        self.episode_id = episode_id
        self.scene = scene
        self.seed = seed
        self._steps: dict[int, Step] = {}
        self._decisions: dict[int, DecisionSample] = {}
        self._statuses: dict[int, StatusSample] = {}
        self._latencies: dict[int, float] = {}
        self._images: dict[int, NDArray[np.uint8]] = {}
        self._halt: StatusSample | None = None
        self._last_status: StatusSample | None = None
        self._newest: Step | None = None
        self._ended = False

    @property
    def running(self) -> bool:
        """The first frame has come, the last one has not."""
        return bool(self._steps) and not self._ended

    @property
    def ended(self) -> bool:
        """The last frame has come."""
        return self._ended

    @property
    def halted(self) -> bool:
        """The monitor halted during the episode."""
        return self._halt is not None

    @property
    def last(self) -> Step | None:
        """The newest frame, with what has arrived about it."""
        return None if self._newest is None else self._joined(self._newest)

    def on_task(self, sample: TaskSample) -> None:
        """Add the task state of a frame; others' episodes and frames outside of the episode are ignored."""
        if sample.episode_id != self.episode_id or self._ended or sample.phase not in (Phase.RUNNING, Phase.ENDED):
            return
        if sample.phase == Phase.ENDED and not self._steps:
            return
        self._newest = self._steps[sample.stamp_ns] = Step(sample)
        self._ended = sample.phase == Phase.ENDED

    def on_frame(self, stamp_ns: int, image: NDArray[np.uint8]) -> None:
        """Add a camera frame, uint8 (S, S, 3) RGB; kept when its task state belongs to the episode."""
        if not self._ended or stamp_ns in self._steps:
            self._images[stamp_ns] = image

    def on_decision(self, sample: DecisionSample) -> None:
        """Add a decision of the policy."""
        self._decisions.setdefault(sample.stamp_ns, sample)

    def on_status(self, sample: StatusSample) -> None:
        """Add a status of the monitor: its judgement of a frame, and a halt when it is one."""
        self._last_status = sample
        if sample.frame_stamp_ns and sample.verdict:
            # The first verdict on a frame is the one the arm got; later statuses repeat it.
            self._statuses.setdefault(sample.frame_stamp_ns, sample)
        if sample.state == SafetyState.HALTED and self.running and self._halt is None:
            self._halt = sample

    def on_command(self, stamp_ns: int, received_ns: int) -> None:
        """Add a command to the arm: the stamp it carries and when it was received. The first one counts."""
        self._latencies.setdefault(stamp_ns, (received_ns - stamp_ns) / 1e6)

    def finish(self, abort_reason: str = "") -> EpisodeRecord:
        """Label the episode; ``abort_reason`` is why it ended without ending by itself or by a halt."""
        steps = tuple(self._joined(self._steps[stamp]) for stamp in sorted(self._steps))
        samples = [s.task for s in steps]
        success = any(s.reached for s in samples)
        violated = any(s.violated or s.cost > 0.0 for s in samples)
        clearances = [s.clearance for s in samples if math.isfinite(s.clearance)]
        decided = [s.decision for s in steps if s.decision is not None]
        judged = [s.status for s in steps if s.status is not None]
        status = judged[-1] if judged else self._last_status
        model = decided[-1].model_id if decided else (status.model_id if status else "")
        summary = Summary(
            episode_id=self.episode_id,
            scene=self.scene,
            seed=self.seed,
            model_id=model,
            success=success,
            violated=violated,
            safe_success=success and not violated,
            halted=self._halt is not None,
            halt_reasons=self._halt.reasons if self._halt else (),
            aborted=bool(abort_reason),
            abort_reason=abort_reason,
            steps=max((s.step for s in samples), default=0),
            episode_return=float(sum(s.reward for s in samples[1:])),
            episode_cost=float(sum(s.cost for s in samples[1:])),
            min_clearance=min(clearances, default=math.nan),
            interventions=sum(s.verdict in INTERVENTIONS for s in judged),
            online_choices=sum(d.chosen == ONLINE for d in decided),
            latency_ms=tuple(s.latency_ms for s in steps if math.isfinite(s.latency_ms)),
        )
        thresholds = {}
        if status is not None:
            thresholds = {
                "caution": status.caution_threshold,
                "halt": status.halt_threshold,
                "surprise": status.surprise_bound,
                "surprise_average": status.surprise_average_bound,
            }
        goal = samples[-1].goal if samples else (math.nan,) * 3
        return EpisodeRecord(summary, steps, goal, thresholds)

    def _joined(self, step: Step) -> Step:
        stamp = step.task.stamp_ns
        return Step(
            task=step.task,
            decision=self._decisions.get(stamp),
            status=self._statuses.get(stamp),
            # Only a frame that was decided on has a command of its own; zero commands may carry its stamp too.
            latency_ms=self._latencies.get(stamp, math.nan) if stamp in self._decisions else math.nan,
            image=self._images.get(stamp),
        )


def _longest_run(steps: Sequence[Step]) -> list[Step]:
    """Longest run of consecutive steps that all have an image."""
    runs: list[list[Step]] = []
    previous: Step | None = None
    for step in steps:
        if step.image is not None:
            if previous is None or step.task.step != previous.task.step + 1:
                runs.append([])
            runs[-1].append(step)
        previous = step if step.image is not None else None
    return max(runs, key=len, default=[])


def _rows(values: Sequence[float], rows: int) -> list[Sequence[float]]:
    width = len(values) // rows
    return [values[i * width : (i + 1) * width] for i in range(rows)]
