"""The safety rules: pure functions over a small, immutable state.

Nothing moves unless every rule consents: each function starts from "hold" and only a fresh frame, a fresh decision on
that very frame, an action within bounds and a violation probability below the thresholds turn it into motion.

Two clocks are read. ``Now.stamp`` is the clock of the message stamps (it may be simulated, jump or stand still);
``Now.steady`` is the computer's monotonic clock, so that silence is noticed when the other clock stops.

This is a research-grade protective hold, not a certified emergency stop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fosp_core.bundle import Thresholds
from fosp_core.task import ACTION_LENGTH, ACTION_SCALE_M, WORKSPACE, Box, limited_displacement

Vector = tuple[float, ...]
ZERO: Vector = (0.0,) * ACTION_LENGTH
TURNS_RAD: Final = tuple(map(math.radians, (-60.0, -30.0, 30.0, 60.0)))
"""Angles about the vertical by which the monitor turns a proposal that it does not let through."""
SURPRISE_RATE: Final = 0.2
"""Weight of the newest frame in the average surprise. No limit to choose: bounds are calibrated for it."""


class SafetyState(IntEnum):
    """State of the monitor; HALTED latches."""

    INACTIVE = 0
    NOMINAL = 1
    CAUTION = 2
    HALTED = 3


class Verdict(IntEnum):
    """What became of the last decision."""

    NONE = 0
    FORWARDED = 1
    SLOWED = 2
    REPLACED = 3
    HELD = 4


class Reason(IntEnum):
    """Why the monitor holds, slows or halts; the larger number is the more severe one."""

    NO_DECISION = 1
    NO_FRAME = 2
    STALE_DECISION = 3
    OTHER_FRAME = 4
    WORKSPACE = 10
    RISK_CAUTION = 11
    STALE_FRAME = 20
    STALE_JOINTS = 21
    BAD_IMAGE = 22
    CLOCK = 23
    FROZEN_CAMERA = 24
    UNIFORM_IMAGE = 25
    LOW_RATE = 26
    BAD_ACTION = 30
    BAD_ASSESSMENT = 31
    OUT_OF_DISTRIBUTION = 32
    RISK_HALT = 33
    OUTSIDE_WORKSPACE = 34
    ARM_MOVES = 35
    SECOND_PUBLISHER = 40
    MODEL = 41
    OPERATOR = 42
    DEACTIVATED = 43
    INTERNAL_ERROR = 50

    @property
    def text(self) -> str:
        """One clause for people."""
        return _REASON_TEXT[self]


_REASON_TEXT = {
    Reason.NO_DECISION: "no decision from the policy",
    Reason.NO_FRAME: "no camera frame yet",
    Reason.STALE_DECISION: "the decision is too old",
    Reason.OTHER_FRAME: "the decision was not made on the newest judged frame",
    Reason.WORKSPACE: "the action was shortened to stay inside the workspace",
    Reason.RISK_CAUTION: "the predicted risk is raised",
    Reason.STALE_FRAME: "camera frames stopped",
    Reason.STALE_JOINTS: "joint states are missing or too old",
    Reason.BAD_IMAGE: "the camera image is malformed",
    Reason.CLOCK: "frame stamps lie in the future, go backwards or repeat",
    Reason.FROZEN_CAMERA: "the camera image does not change although the arm moves",
    Reason.UNIFORM_IMAGE: "the camera image shows nothing: all its pixels are alike",
    Reason.LOW_RATE: "camera frames arrive too seldom",
    Reason.BAD_ACTION: "the action is not finite, has the wrong length or leaves [-1, 1]",
    Reason.BAD_ASSESSMENT: "the risk estimate is not a finite probability",
    Reason.OUT_OF_DISTRIBUTION: "the scene is unlike anything the model was calibrated on",
    Reason.RISK_HALT: "the proposed action and every way out are predicted to violate",
    Reason.OUTSIDE_WORKSPACE: "the tool is outside of the workspace",
    Reason.ARM_MOVES: "the arm moves although it was told to hold",
    Reason.SECOND_PUBLISHER: "somebody else publishes arm commands",
    Reason.MODEL: "the model cannot be used",
    Reason.OPERATOR: "halted by the operator",
    Reason.DEACTIVATED: "the monitor was deactivated",
    Reason.INTERNAL_ERROR: "internal error in the monitor",
}


class Now(NamedTuple):
    """Both clocks, seconds."""

    stamp: float
    steady: float


@dataclass(frozen=True)
class Limits:
    """What is tolerated. All values are finite and positive unless said otherwise."""

    frame_age_s: float = 0.2
    decision_age_s: float = 0.15
    joint_age_s: float = 0.2
    future_s: float = 0.02
    """How far a stamp may lie ahead of the clock (transport and clock rounding)."""
    frozen_travel_m: float = 0.03
    """Tool travel without any change in the image that counts as a frozen camera."""
    image_contrast: float = 3.0
    """Smallest standard deviation of the pixels, grey levels of 255; less is an image of nothing."""
    frame_rate_hz: float = 7.0
    """Fewest frames a second, on average over ``frame_window_s``."""
    frame_window_s: float = 1.0
    surprise_frames: int = 3
    """Consecutive frames above the surprise bound that count as out of distribution."""
    motion_memory_s: float = 0.5
    """How long after a forwarded motion a loss of input is a halt and not only a hold."""
    healthy_s: float = 1.0
    """Uninterrupted fresh healthy input that a reset needs."""
    caution_scale: float = 0.5
    """Factor on the action in CAUTION, in (0, 1]."""
    caution_release: float = 0.8
    """CAUTION ends below this part of the caution threshold, in (0, 1], so that it does not flap around it."""
    settle_s: float = 0.5
    """How long a moving arm may take to come to rest after the last command that moved it."""
    hold_drift_m: float = 0.03
    """Tool travel, once settled, that counts as an arm that moves although it was told to hold."""
    outside_tolerance_m: float = 0.03
    """How far the tool may stray outside of the workspace before the monitor halts."""
    workspace: Box = WORKSPACE

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = getattr(self, spec.name)
            if isinstance(value, int | float) and not (math.isfinite(value) and value > 0):
                raise ValueError(f"limit {spec.name} must be finite and > 0, got {value}")
        for name in ("caution_scale", "caution_release"):
            if getattr(self, name) > 1.0:
                raise ValueError(f"limit {name} must be in (0, 1], got {getattr(self, name)}")


@dataclass(frozen=True)
class Frame:
    """One camera frame as the monitor's own filter saw it."""

    stamp: float
    """Seconds, clock of the stamps."""
    digest: int
    """Any hash of the pixels; equal digests mean equal images."""
    contrast: float
    """Standard deviation of the pixels, grey levels of 255; see ``fosp_core.images.contrast``."""
    tool: Vector
    """Tool position (3,), metres, from joint states."""
    joint_age_s: float
    surprise: float
    """Nats; ignored on the first frame of an episode, where there is no past to be surprised by."""
    violation_probability: float
    """p(s) in [0, 1]."""
    is_first: bool = False
    others_may_move: bool = False
    """Whether the arm may be moved without this monitor: a scene is being laid out, or there is no task at all."""


@dataclass(frozen=True)
class Decision:
    """A proposed action and the candidates it was chosen from."""

    stamp: float
    """Stamp of the frame it was made on."""
    decided_at: float
    """Clock of the stamps, seconds."""
    action: Vector
    candidates: tuple[Vector, ...] = ()


class Judgement(Protocol):
    """What a model says of N actions; ``fosp_core.runtime.Judgement`` is one."""

    @property
    def violation_probability(self) -> NDArray[np.floating]:
        """(N,) p(s, a)."""

    @property
    def lookahead(self) -> NDArray[np.floating]:
        """(N, H) p after 1..H imagined steps."""

    @property
    def worst(self) -> NDArray[np.floating]:
        """(N,) largest of both."""

    @property
    def q_cost(self) -> NDArray[np.floating]:
        """(N,)."""


Judge = Callable[[NDArray[np.float32]], Judgement]
"""Judges actions (N, A) in the state after the frame seen last."""


@dataclass(frozen=True)
class Assessment:
    """The monitor's own judgement of a proposed action and, where it is not let through, of the ways out."""

    options: tuple[Vector, ...]
    """The proposed action, then every way out exactly as it would be executed."""
    violation_probability: Vector
    """Of each option, the largest of p(s, a) and the imagined steps, in [0, 1]."""
    q_cost: Vector
    """Of each option."""
    immediate: float = math.nan
    """p(s, a) of the proposed action."""
    lookahead: float = math.nan
    """Largest p over the imagined steps after it."""


@dataclass(frozen=True)
class MonitorState:
    """Everything the monitor remembers."""

    state: SafetyState = SafetyState.NOMINAL
    halt_reasons: tuple[Reason, ...] = ()
    halt_count: int = 0
    frame: Frame | None = None
    frame_received: float = -math.inf
    """Steady clock."""
    arrivals: Vector = ()
    """Steady clock of the frames within the last ``frame_window_s`` and of the last one before it."""
    image_changed_at: Vector | None = None
    """Tool position when the image last changed."""
    held_at: Vector | None = None
    """Tool position that a settled arm is expected to keep."""
    surprised_frames: int = 0
    surprise_average: float = 0.0
    """Nats; see ``average_surprise``."""
    input_reasons: tuple[Reason, ...] = (Reason.NO_FRAME,)
    healthy_since: float = math.inf
    """Steady clock; infinite while the input is not healthy."""
    approved: Vector = ZERO
    approved_stamp: float = -math.inf
    """Stamp of the frame the approved action belongs to."""
    decided_at: float = -math.inf
    decision_received: float = -math.inf
    """Steady clock."""
    last_motion: float = -math.inf
    """Steady clock of the last command that moved the arm."""
    decision_reasons: tuple[Reason, ...] = (Reason.NO_DECISION,)


@dataclass(frozen=True)
class Judged:
    """Outcome of a decision. ``action`` is what may be executed, zero when held."""

    verdict: Verdict
    action: Vector = ZERO
    reasons: tuple[Reason, ...] = ()
    violation_probability: float = math.nan


@dataclass(frozen=True)
class Command:
    """What to send to the arm now: an action in [-1, 1], zero for hold, and every reason in force, worst first."""

    action: Vector
    reasons: tuple[Reason, ...] = field(default=())

    @property
    def moves(self) -> bool:
        """Whether the command is anything but a hold."""
        return any(self.action)


def halt(state: MonitorState, *reasons: Reason) -> MonitorState:
    """Latch HALTED; the reasons of the first halt stay in front."""
    added = tuple(r for r in reasons if r not in state.halt_reasons)
    return replace(
        state,
        state=SafetyState.HALTED,
        halt_reasons=state.halt_reasons + added,
        halt_count=state.halt_count + (state.state is not SafetyState.HALTED),
        approved=ZERO,
        approved_stamp=-math.inf,
    )


def average_surprise(average: float, surprise: float) -> float:
    """The running average (nats) after one more frame: exponential, over about half a second. It begins at 0 on the
    first frame of an episode.
    """
    return average + SURPRISE_RATE * (surprise - average)


def reject_frame(
    state: MonitorState, limits: Limits, reason: Reason, now: Now, stamp: float | None = None
) -> MonitorState:
    """A frame that cannot be used (malformed image, no joint states): a halt in motion, else a hold.

    With its ``stamp`` given, a wrong one is named instead: nothing else can fit to a frame of another time.
    """
    last = -math.inf if state.frame is None else state.frame.stamp
    if stamp is not None and not last < stamp <= now.stamp + limits.future_s:
        reason = Reason.CLOCK
    return _unhealthy(state, limits, (reason,), now)


def observe_frame(state: MonitorState, limits: Limits, thresholds: Thresholds, frame: Frame, now: Now) -> MonitorState:
    """Take in one frame and every check that needs no decision."""
    state = _watch_frame(state, limits, now)
    reasons: list[Reason] = []
    age = now.stamp - frame.stamp
    if not math.isfinite(frame.stamp) or age < -limits.future_s:
        # The frame is not remembered: a stamp from the future must not outlaw the honest ones that follow.
        return _unhealthy(state, limits, (Reason.CLOCK,), now)
    previous = state.frame
    if previous is not None and frame.stamp <= previous.stamp:
        if now.stamp + limits.future_s >= previous.stamp:
            return _unhealthy(state, limits, (Reason.CLOCK,), now)
        # The clock itself went backwards (a simulation restarted): start over, halted if it was moving.
        state = _unhealthy(replace(state, frame=None, image_changed_at=None), limits, (Reason.CLOCK,), now)
        previous = None
    if age > limits.frame_age_s:
        reasons.append(Reason.STALE_FRAME)
    finite_tool = len(frame.tool) == 3 and all(math.isfinite(v) for v in frame.tool)
    if not finite_tool or not 0.0 <= frame.joint_age_s <= limits.joint_age_s:
        reasons.append(Reason.STALE_JOINTS)
    elif _outside_by(frame.tool, limits.workspace) > limits.outside_tolerance_m:
        reasons.append(Reason.OUTSIDE_WORKSPACE)

    if not frame.contrast >= limits.image_contrast:
        reasons.append(Reason.UNIFORM_IMAGE)
    window_start = now.steady - limits.frame_window_s
    arrivals = (*state.arrivals[sum(t <= window_start for t in state.arrivals[1:]) :], now.steady)
    if arrivals[0] <= window_start and len(arrivals) - 1 < limits.frame_rate_hz * (now.steady - arrivals[0]):
        reasons.append(Reason.LOW_RATE)

    changed_at = state.image_changed_at
    if previous is None or frame.is_first or frame.digest != previous.digest or changed_at is None:
        changed_at = frame.tool if finite_tool else None
    elif finite_tool and math.dist(frame.tool, changed_at) > limits.frozen_travel_m:
        reasons.append(Reason.FROZEN_CAMERA)

    surprised, average = 0, 0.0 if frame.is_first else state.surprise_average
    if not _is_probability(frame.violation_probability) or not math.isfinite(frame.surprise):
        reasons.append(Reason.BAD_ASSESSMENT)
    elif not frame.is_first:
        surprised = state.surprised_frames + 1 if frame.surprise > thresholds.surprise else 0
        average = average_surprise(average, frame.surprise)
        strange = thresholds.surprise_average is not None and average > thresholds.surprise_average
        if strange or surprised >= limits.surprise_frames:
            reasons.append(Reason.OUT_OF_DISTRIBUTION)
    state = replace(
        state,
        frame=frame,
        frame_received=now.steady,
        arrivals=arrivals,
        image_changed_at=changed_at,
        surprised_frames=surprised,
        surprise_average=average,
    )
    if finite_tool:
        state, disobeyed = _watch_hold(state, limits, frame, now)
        if disobeyed:
            reasons.append(Reason.ARM_MOVES)
            state = halt(state, Reason.ARM_MOVES)
    if reasons:
        return _unhealthy(state, limits, tuple(reasons), now)
    at_risk = surprised > 0 or frame.violation_probability >= thresholds.halt
    since = math.inf if at_risk else min(state.healthy_since, now.steady)
    return replace(state, input_reasons=(), healthy_since=since)


def ways_out(proposal: Vector, candidates: Sequence[Vector], tool: Vector, limits: Limits) -> tuple[Vector, ...]:
    """What may be done instead of a risky proposal, exactly as it would be executed; standing still is always last.

    The proposal and the candidates slowed down, and the slowed proposal turned to either side; inside the workspace.

    Args:
        proposal: action in [-1, 1].
        candidates: actions in [-1, 1].
        tool: its position, (3,), metres.
        limits: of the monitor.
    """
    slowed = [_scaled(action, limits.caution_scale) for action in (proposal, *candidates)]
    options = (*slowed, *(_turned(slowed[0], angle) for angle in TURNS_RAD))
    moving = dict.fromkeys(_inside_workspace(tool, option, limits.workspace) for option in options)
    moving.pop(ZERO, None)
    return (*moving, ZERO)


def assess(
    state: MonitorState, limits: Limits, thresholds: Thresholds, decision: Decision, judge: Judge
) -> Assessment | None:
    """Judge a proposed action, and only if it may not be let through as it is, the ways out.

    Returns:
        None for what cannot be judged: malformed actions, or a decision on another frame than the one seen last.
    """
    frame = state.frame
    if frame is None or decision.stamp != frame.stamp or not all(map(math.isfinite, frame.tool)):
        return None
    if not all(map(_valid_action, (decision.action, *decision.candidates))):
        return None
    first = judge(np.asarray([decision.action], np.float32))
    options: tuple[Vector, ...] = (decision.action,)
    risks, costs = _numbers(first.worst), _numbers(first.q_cost)
    if risks and risks[0] >= _caution_level(state, limits, thresholds):
        others = ways_out(decision.action, decision.candidates, frame.tool, limits)
        judged = judge(np.asarray(others, np.float32))
        options, risks, costs = options + others, risks + _numbers(judged.worst), costs + _numbers(judged.q_cost)
    immediate, ahead = _numbers(first.violation_probability[:1]), _numbers(first.lookahead[:1].ravel())
    return Assessment(options, risks, costs, max(immediate, default=math.nan), max(ahead, default=0.0))


def judge_decision(
    state: MonitorState,
    limits: Limits,
    thresholds: Thresholds,
    decision: Decision,
    assessment: Assessment | None,
    now: Now,
) -> tuple[MonitorState, Judged]:
    """Decide what of a proposed action may be executed.

    ``assessment``: see ``assess``.
    """
    state = _watch_frame(state, limits, now)
    if not _valid_action(decision.action):
        return _refuse(halt(state, Reason.BAD_ACTION), Reason.BAD_ACTION)
    if any(not _valid_action(c) for c in decision.candidates):
        return _refuse(halt(state, Reason.BAD_ACTION), Reason.BAD_ACTION)
    if state.state in (SafetyState.HALTED, SafetyState.INACTIVE):
        return _refuse(state, *(state.halt_reasons or (Reason.DEACTIVATED,)))
    if state.input_reasons:
        return _refuse(state, *state.input_reasons)
    frame = state.frame
    if frame is None:
        return _refuse(state, Reason.NO_FRAME)
    if assessment is None or decision.stamp != frame.stamp:
        return _refuse(state, Reason.OTHER_FRAME)
    age = now.stamp - decision.decided_at
    if not -limits.future_s <= age <= limits.decision_age_s or decision.decided_at < decision.stamp - limits.future_s:
        return _refuse(state, Reason.STALE_DECISION)
    if not _well_formed(assessment, decision):
        return _refuse(halt(state, Reason.BAD_ASSESSMENT), Reason.BAD_ASSESSMENT)

    reasons: list[Reason] = []
    action, verdict, risk = decision.action, Verdict.FORWARDED, assessment.violation_probability[0]
    if risk >= _caution_level(state, limits, thresholds):
        way_out = _way_out(assessment, thresholds)
        if way_out is None and risk >= thresholds.halt:
            halted, judged = _refuse(halt(state, Reason.RISK_HALT), Reason.RISK_HALT)
            return halted, replace(judged, violation_probability=risk)
        reasons.append(Reason.RISK_CAUTION)
        slowed = _inside_workspace(frame.tool, _scaled(decision.action, limits.caution_scale), limits.workspace)
        # Without any way out that is no riskier, wait for another frame.
        action = way_out or ZERO
        verdict = Verdict.HELD if action == ZERO else Verdict.SLOWED if action == slowed else Verdict.REPLACED

    inside = _inside_workspace(frame.tool, action, limits.workspace)
    if inside != action:
        action = inside
        verdict = max(verdict, Verdict.SLOWED)
        reasons.append(Reason.WORKSPACE)

    state = replace(
        state,
        state=SafetyState.CAUTION if Reason.RISK_CAUTION in reasons else SafetyState.NOMINAL,
        approved=action,
        approved_stamp=decision.stamp,
        decided_at=decision.decided_at,
        decision_received=now.steady,
        decision_reasons=_ranked(reasons),
    )
    return state, Judged(verdict, action, _ranked(reasons), risk)


def tick(state: MonitorState, limits: Limits, now: Now) -> tuple[MonitorState, Command]:
    """What the arm gets now; called by the monitor's own timer and after every judged decision."""
    state = _watch_frame(state, limits, now)
    if state.state in (SafetyState.HALTED, SafetyState.INACTIVE):
        return state, Command(ZERO, _ranked((*state.halt_reasons, *state.input_reasons)))
    if state.input_reasons:
        return state, Command(ZERO, _ranked(state.input_reasons))
    if state.decision_received == -math.inf:
        return state, Command(ZERO, (Reason.NO_DECISION,))
    age = max(now.stamp - state.decided_at, now.steady - state.decision_received)
    if not -limits.future_s <= age <= limits.decision_age_s:
        # Silence of the policy is a hold, not a halt: episodes end that way.
        settled = replace(
            state,
            state=SafetyState.NOMINAL,
            approved=ZERO,
            approved_stamp=-math.inf,
            decision_received=-math.inf,
            decision_reasons=(Reason.NO_DECISION,),
        )
        return settled, Command(ZERO, (Reason.NO_DECISION,))
    if state.approved_stamp == -math.inf:
        return state, Command(ZERO, _ranked(state.decision_reasons))
    if any(state.approved):
        state = replace(state, last_motion=now.steady)
    return state, Command(state.approved, _ranked(state.decision_reasons))


def reset(state: MonitorState, limits: Limits, now: Now) -> tuple[MonitorState, bool, str]:
    """Leave HALTED on an operator's word; refused, with the reason, unless the input has been healthy long enough."""
    state = _watch_frame(state, limits, now)
    if state.state is SafetyState.INACTIVE:
        return state, False, "refused: the monitor is not active"
    if state.input_reasons:
        texts = "; ".join(r.text for r in _ranked(state.input_reasons))
        return state, False, f"refused: {texts}"
    healthy_for = now.steady - state.healthy_since
    if healthy_for < limits.healthy_s:
        if state.healthy_since == math.inf:
            return state, False, "refused: the scene itself is judged risky or unfamiliar"
        return state, False, f"refused: input healthy for {healthy_for:.2f} s, {limits.healthy_s:.2f} s are needed"
    cleared = replace(
        state,
        state=SafetyState.NOMINAL,
        halt_reasons=(),
        approved=ZERO,
        approved_stamp=-math.inf,
        decision_received=-math.inf,
        last_motion=-math.inf,
        decision_reasons=(Reason.NO_DECISION,),
    )
    return cleared, True, "reset" if state.state is SafetyState.HALTED else "nothing to reset"


def _watch_frame(state: MonitorState, limits: Limits, now: Now) -> MonitorState:
    """Notice that frames stopped, on either clock, or that the stamps' clock left the last frame behind."""
    if state.frame is None:
        return state
    age = max(now.stamp - state.frame.stamp, now.steady - state.frame_received)
    if age <= limits.frame_age_s or Reason.STALE_FRAME in state.input_reasons:
        return state
    # A pause is a fault of its own; the rate is that of the frames after it.
    return _unhealthy(replace(state, arrivals=()), limits, (*state.input_reasons, Reason.STALE_FRAME), now)


def _watch_hold(state: MonitorState, limits: Limits, frame: Frame, now: Now) -> tuple[MonitorState, bool]:
    """Whether the arm moves although commands have held for longer than it needs to come to rest."""
    if frame.others_may_move or now.steady - state.last_motion <= limits.settle_s:
        return replace(state, held_at=None), False
    moved = state.held_at is not None and math.dist(frame.tool, state.held_at) > limits.hold_drift_m
    # Where it is now is where it has to stay: once it rests again, a reset is possible.
    held_at = frame.tool if moved or state.held_at is None else state.held_at
    return replace(state, held_at=held_at), moved


def _unhealthy(state: MonitorState, limits: Limits, reasons: Sequence[Reason], now: Now) -> MonitorState:
    # An approval that nobody took back: the monitor itself was stopped in motion.
    moving = any(state.approved) or now.steady - state.last_motion <= limits.motion_memory_s
    state = replace(
        state,
        input_reasons=tuple(reasons),
        healthy_since=math.inf,
        approved=ZERO,
        approved_stamp=-math.inf,
    )
    return halt(state, *reasons) if moving and state.state is not SafetyState.INACTIVE else state


def _refuse(state: MonitorState, *reasons: Reason) -> tuple[MonitorState, Judged]:
    ranked = _ranked(reasons)
    held = replace(state, approved=ZERO, approved_stamp=-math.inf, decision_reasons=ranked)
    return held, Judged(Verdict.HELD, ZERO, ranked)


def _caution_level(state: MonitorState, limits: Limits, thresholds: Thresholds) -> float:
    """Risk from which on a proposal is not let through as it is."""
    return thresholds.caution * (limits.caution_release if state.state is SafetyState.CAUTION else 1.0)


def _way_out(assessment: Assessment, thresholds: Thresholds) -> Vector | None:
    """The way out of least cost that is neither riskier than the proposal nor at the halt threshold, if there is one.

    Standing still, which leads nowhere, only where no motion is one.
    """
    risk = assessment.violation_probability[0]
    others = zip(assessment.options[1:], assessment.q_cost[1:], assessment.violation_probability[1:], strict=True)
    found = [
        (option == ZERO, cost, probability, index)
        for index, (option, cost, probability) in enumerate(others, start=1)
        if probability < thresholds.halt and probability <= risk
    ]
    return assessment.options[min(found)[-1]] if found else None


def _well_formed(assessment: Assessment, decision: Decision) -> bool:
    options, risks, costs = assessment.options, assessment.violation_probability, assessment.q_cost
    return (
        len(options) == len(risks) == len(costs) > 0
        and options[0] == decision.action
        and all(map(_valid_action, options))
        and all(map(_is_probability, risks))
        and all(map(math.isfinite, costs))
    )


def _valid_action(action: Vector) -> bool:
    return len(action) == ACTION_LENGTH and all(math.isfinite(v) and -1.0 <= v <= 1.0 for v in action)


def _is_probability(value: float) -> bool:
    return math.isfinite(value) and 0.0 <= value <= 1.0


def _numbers(values: NDArray[np.floating]) -> Vector:
    return tuple(float(v) for v in values)


def _turned(action: Vector, angle_rad: float) -> Vector:
    """The action (3,) turned about the vertical; slowed ones stay within [-1, 1]."""
    x, y, z = action
    cosine, sine = math.cos(angle_rad), math.sin(angle_rad)
    return tuple(min(max(v, -1.0), 1.0) for v in (cosine * x - sine * y, sine * x + cosine * y, z))


def _scaled(action: Vector, factor: float) -> Vector:
    return tuple(factor * v for v in action)


def _ranked(reasons: Sequence[Reason]) -> tuple[Reason, ...]:
    return tuple(sorted(set(reasons), reverse=True))


def _outside_by(tool: Vector, box: Box) -> float:
    return max(max(lo - v, v - hi, 0.0) for v, lo, hi in zip(tool, box.low, box.high, strict=True))


def _inside_workspace(tool: Vector, action: Vector, box: Box) -> Vector:
    """The action with each axis shortened so that the predicted tool position stays inside the box.

    A tool that is already outside on some axis may move back towards the box on it, never further away.
    """
    displacement = limited_displacement(np.asarray(action))
    allowed = [
        min(max(float(step), min(0.0, low - position)), max(0.0, high - position))
        for step, position, low, high in zip(displacement, tool, box.low, box.high, strict=True)
    ]
    if allowed == displacement.tolist():
        return action
    # Within the speed limit by construction, so that no other axis grows when one is shortened.
    return tuple(step / ACTION_SCALE_M for step in allowed)
