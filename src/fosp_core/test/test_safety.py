"""The rules of the safety monitor, one behaviour a test, and properties over arbitrary input sequences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fosp_core.bundle import Thresholds
from fosp_core.safety import (
    TURNS_RAD,
    ZERO,
    Assessment,
    Command,
    Decision,
    Frame,
    Judged,
    Limits,
    MonitorState,
    Now,
    Reason,
    SafetyState,
    Vector,
    Verdict,
    assess,
    halt,
    judge_decision,
    observe_frame,
    reject_frame,
    reset,
    tick,
    ways_out,
)
from fosp_core.task import limited_displacement

LIMITS = Limits()
THRESHOLDS = Thresholds(caution=0.3, halt=0.6, surprise=5.0, surprise_average=4.5)
FORWARD = (0.5, 0.0, 0.0)
SIDE = (0.0, 0.5, 0.0)


def at(seconds: float) -> Now:
    """Both clocks agree, with different origins."""
    return Now(stamp=1000.0 + seconds, steady=50.0 + seconds)


def frame(seconds: float, **changes: object) -> Frame:
    values: dict[str, object] = {
        "stamp": 1000.0 + seconds,
        "digest": hash(seconds),
        "contrast": 60.0,
        "tool": (0.5, 0.0, 0.1),
        "joint_age_s": 0.01,
        "surprise": 1.0,
        "violation_probability": 0.0,
    }
    return Frame(**{**values, **changes})  # type: ignore[arg-type]


def decision(seconds: float, action: tuple[float, ...] = FORWARD, **changes: object) -> Decision:
    made = Decision(
        stamp=1000.0 + seconds, decided_at=1000.0 + seconds + 0.002, action=action, candidates=(FORWARD, SIDE)
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@dataclass
class Risks:
    """What the model says of some actions."""

    worst: NDArray[np.float32]
    q_cost: NDArray[np.float32]

    @property
    def violation_probability(self) -> NDArray[np.float32]:
        return self.worst

    @property
    def lookahead(self) -> NDArray[np.float32]:
        return self.worst[:, None]


@dataclass
class Model:
    """Stands for the judge graph: risk and cost of an action by a rule; remembers what was asked."""

    risk: Callable[[Vector], float]
    cost: Callable[[Vector], float] | None = None
    asked: list[Vector] = field(default_factory=list)

    def __call__(self, actions: NDArray[np.float32]) -> Risks:
        rows = [tuple(float(v) for v in row) for row in actions]
        self.asked += rows
        return Risks(
            np.asarray([self.risk(row) for row in rows], np.float32),
            np.asarray([(self.cost or self.risk)(row) for row in rows], np.float32),
        )


def even(risk: float) -> Model:
    """Whatever is done, the risk is the same."""
    return Model(lambda action: risk)


def rule(known: dict[Vector, float], otherwise: float) -> Callable[[Vector], float]:
    """Some number for some actions, and another one for the rest."""
    return lambda action: next((v for a, v in known.items() if np.allclose(a, action, atol=1e-6)), otherwise)


SLOWED = (0.25, 0.0, 0.0)
SLOWED_SIDE = (0.0, 0.25, 0.0)
SAFE = even(0.0)


def healthy(until: float = 0.0, start: float = -2.0) -> MonitorState:
    """A monitor that saw good frames at 10 Hz up to and including ``until``."""
    state = MonitorState()
    count = round((until - start) * 10)
    for i in range(count + 1):
        t = start + i / 10
        state = observe_frame(state, LIMITS, THRESHOLDS, frame(t), at(t + 0.001))
    return state


def decide(
    state: MonitorState, t: float = 0.0, made: Decision | None = None, model: Model = SAFE
) -> tuple[MonitorState, Judged, Command]:
    made = made or decision(t)
    assessment = assess(state, LIMITS, THRESHOLDS, made, model)
    state, verdict = judge_decision(state, LIMITS, THRESHOLDS, made, assessment, at(t + 0.003))
    state, command = tick(state, LIMITS, at(t + 0.003))
    return state, verdict, command


def moving() -> MonitorState:
    state, _, command = decide(healthy())
    assert command.action == FORWARD
    return state


def test_safe_decision_on_a_fresh_frame_is_forwarded() -> None:
    state, verdict, command = decide(healthy())
    assert verdict.verdict is Verdict.FORWARDED
    assert command == Command(FORWARD)
    assert state.state is SafetyState.NOMINAL


def test_nothing_moves_before_the_first_frame() -> None:
    _, verdict, command = decide(MonitorState())
    assert verdict.verdict is Verdict.HELD
    assert command == Command(ZERO, (Reason.NO_FRAME,))


def test_nothing_moves_without_a_decision() -> None:
    _, command = tick(healthy(), LIMITS, at(0.01))
    assert command == Command(ZERO, (Reason.NO_DECISION,))


def test_approved_action_is_repeated_while_valid_and_zero_afterwards() -> None:
    state = moving()
    state, early = tick(state, LIMITS, at(0.15))
    assert early.action == FORWARD
    state, late = tick(state, LIMITS, at(0.16))
    assert late.action == ZERO
    assert Reason.NO_DECISION in late.reasons
    assert state.state is SafetyState.NOMINAL


def test_silence_of_the_policy_is_noticed_when_the_stamp_clock_stands_still() -> None:
    state = moving()
    _, command = tick(state, LIMITS, Now(stamp=1000.003, steady=50.2))
    assert command.action == ZERO


def test_frames_that_stop_in_motion_halt_and_latch() -> None:
    state = moving()
    state, command = tick(state, LIMITS, at(0.25))
    assert command.action == ZERO
    assert state.state is SafetyState.HALTED
    assert state.halt_reasons == (Reason.STALE_FRAME,)
    state = observe_frame(state, LIMITS, THRESHOLDS, frame(0.3), at(0.301))
    _, _, command = decide(state, 0.3)
    assert command.action == ZERO


def test_frames_that_stop_at_rest_hold_without_a_halt() -> None:
    state, command = tick(healthy(), LIMITS, at(5.0))
    assert command.action == ZERO
    assert Reason.STALE_FRAME in command.reasons
    assert state.state is SafetyState.NOMINAL
    state = observe_frame(state, LIMITS, THRESHOLDS, frame(5.1), at(5.101))
    assert decide(state, 5.1)[2].action == FORWARD


def test_frames_that_stop_are_noticed_when_the_stamp_clock_stands_still() -> None:
    state, _ = tick(moving(), LIMITS, Now(stamp=1000.003, steady=50.25))
    assert state.state is SafetyState.HALTED


def test_a_monitor_that_was_suspended_in_motion_halts_when_it_wakes_up() -> None:
    asleep = moving()
    assert tick(asleep, LIMITS, at(60.0))[0].state is SafetyState.HALTED
    assert observe_frame(asleep, LIMITS, THRESHOLDS, frame(60.0), at(60.001)).state is SafetyState.HALTED
    assert decide(asleep, 60.0)[2].action == ZERO


def test_old_frame_is_refused() -> None:
    state = observe_frame(healthy(-0.3), LIMITS, THRESHOLDS, frame(0.0), at(0.21))
    assert state.input_reasons == (Reason.STALE_FRAME,)


@pytest.mark.parametrize("offset", [0.05, 3600.0, math.inf, math.nan])
def test_frame_from_the_future_is_refused_and_not_remembered(offset: float) -> None:
    state = observe_frame(healthy(-0.1), LIMITS, THRESHOLDS, frame(offset), at(0.0))
    assert state.input_reasons == (Reason.CLOCK,)
    state = observe_frame(state, LIMITS, THRESHOLDS, frame(0.1), at(0.101))
    assert state.input_reasons == ()


@pytest.mark.parametrize("stamp", [0.0, -0.1])
def test_repeated_or_backward_stamp_halts_in_motion(stamp: float) -> None:
    state = observe_frame(moving(), LIMITS, THRESHOLDS, frame(stamp), at(0.05))
    assert state.state is SafetyState.HALTED
    assert Reason.CLOCK in state.halt_reasons


def test_clock_that_restarts_at_rest_is_accepted_again() -> None:
    state = observe_frame(healthy(), LIMITS, THRESHOLDS, frame(-900.0), Now(stamp=100.0, steady=60.0))
    assert state.state is SafetyState.NOMINAL
    assert state.frame is not None and state.frame.stamp == 100.0


def test_unchanging_image_while_the_arm_travels_is_a_frozen_camera() -> None:
    state = moving()
    for i, x in enumerate((0.52, 0.54, 0.56), start=1):
        t = i / 10
        state = observe_frame(state, LIMITS, THRESHOLDS, frame(t, digest=hash(0.0), tool=(x, 0.0, 0.1)), at(t + 0.001))
        state, _, _ = decide(state, t)
    assert Reason.FROZEN_CAMERA in state.halt_reasons


def test_unchanging_image_of_a_resting_arm_is_fine() -> None:
    state = MonitorState()
    for i in range(50):
        state = observe_frame(state, LIMITS, THRESHOLDS, frame(i / 10, digest=1), at(i / 10 + 0.001))
    assert state.input_reasons == ()


@pytest.mark.parametrize("contrast", [0.0, 2.9, math.nan])
def test_an_image_without_contrast_halts_in_motion_and_bars_the_reset(contrast: float) -> None:
    state = observe_frame(moving(), LIMITS, THRESHOLDS, frame(0.1, contrast=contrast), at(0.101))
    assert state.halt_reasons == (Reason.UNIFORM_IMAGE,)
    _, done, message = reset(state, LIMITS, at(0.102))
    assert not done and Reason.UNIFORM_IMAGE.text in message


def drive(state: MonitorState, start: float, period: float, seconds: float) -> tuple[MonitorState, float]:
    """Frames and decisions every ``period``; returns the time of the last one."""
    t = start
    while t + period <= start + seconds + 1e-9 and state.state is not SafetyState.HALTED:
        t += period
        state = observe_frame(state, LIMITS, THRESHOLDS, frame(t), at(t + 0.001))
        state, _, _ = decide(state, t)
    return state, t


def test_frames_that_come_too_seldom_halt_within_a_window_although_none_is_too_late() -> None:
    state, t = drive(moving(), 0.0, 0.18, 3.0)
    assert state.halt_reasons == (Reason.LOW_RATE,)
    assert t <= LIMITS.frame_window_s + 2 * 0.18


@pytest.mark.parametrize("period", [0.02, 0.1, 0.13])
def test_frames_that_come_often_enough_go_on(period: float) -> None:
    assert drive(moving(), 0.0, period, 3.0)[0].state is SafetyState.NOMINAL


def test_a_single_lost_frame_is_no_low_rate() -> None:
    state, t = drive(moving(), 0.0, 0.1, 1.0)
    state, _ = drive(state, t + 0.09, 0.1, 2.0)
    assert state.state is SafetyState.NOMINAL


def test_the_rate_is_counted_anew_after_a_pause() -> None:
    state, _ = tick(healthy(), LIMITS, at(5.0))
    state = observe_frame(state, LIMITS, THRESHOLDS, frame(5.1), at(5.101))
    assert drive(state, 5.1, 0.1, 3.0)[0].state is SafetyState.NOMINAL


def held_still(**changes: object) -> MonitorState:
    """An arm that was halted in motion and has come to rest."""
    state = halt(moving(), Reason.OPERATOR)
    for i in range(1, 8):
        state = observe_frame(state, LIMITS, THRESHOLDS, frame(i / 10, **changes), at(i / 10 + 0.001))
    return state


def test_an_arm_that_goes_on_although_it_was_told_to_hold_is_named_and_bars_the_reset() -> None:
    state = held_still()
    assert state.halt_reasons == (Reason.OPERATOR,)
    for i, x in ((8, 0.52), (9, 0.54)):
        state = observe_frame(state, LIMITS, THRESHOLDS, frame(i / 10, tool=(x, 0.0, 0.1)), at(i / 10 + 0.001))
    assert Reason.ARM_MOVES in state.halt_reasons
    _, done, message = reset(state, LIMITS, at(0.95))
    assert not done and Reason.ARM_MOVES.text in message
    for i in range(10, 22):
        state = observe_frame(state, LIMITS, THRESHOLDS, frame(i / 10, tool=(0.54, 0.0, 0.1)), at(i / 10 + 0.001))
    assert reset(state, LIMITS, at(2.15))[1]


def test_an_arm_that_moves_before_any_command_halts() -> None:
    state = observe_frame(healthy(), LIMITS, THRESHOLDS, frame(0.1, tool=(0.54, 0.0, 0.1)), at(0.101))
    assert state.halt_reasons == (Reason.ARM_MOVES,)


def test_an_arm_may_coast_to_rest_and_may_be_moved_while_a_scene_is_laid_out() -> None:
    state = halt(moving(), Reason.OPERATOR)
    for i, x in enumerate((0.52, 0.54, 0.55, 0.55, 0.55, 0.55, 0.55, 0.55), start=1):
        state = observe_frame(state, LIMITS, THRESHOLDS, frame(i / 10, tool=(x, 0.0, 0.1)), at(i / 10 + 0.001))
    away = frame(0.9, tool=(0.3, 0.2, 0.1), others_may_move=True)
    state = observe_frame(state, LIMITS, THRESHOLDS, away, at(0.901))
    state = observe_frame(state, LIMITS, THRESHOLDS, frame(1.0, tool=(0.3, 0.2, 0.1)), at(1.001))
    assert state.halt_reasons == (Reason.OPERATOR,)


def test_surprise_must_last_before_it_halts() -> None:
    state = moving()
    for i in (1, 2):
        state = observe_frame(state, LIMITS, THRESHOLDS, frame(i / 10, surprise=9.0), at(i / 10 + 0.001))
        state, _, command = decide(state, i / 10)
        assert command.action == FORWARD
    state = observe_frame(state, LIMITS, THRESHOLDS, frame(0.3, surprise=9.0), at(0.301))
    assert state.halt_reasons == (Reason.OUT_OF_DISTRIBUTION,)


def test_a_little_surprise_in_every_frame_halts_by_its_average() -> None:
    state = moving()
    for i in range(1, 11):
        state = observe_frame(state, LIMITS, THRESHOLDS, frame(i / 10, surprise=4.9), at(i / 10 + 0.001))
        state, _, command = decide(state, i / 10)
        assert command.action == FORWARD, "no single frame is above its bound"
    assert 4.3 < state.surprise_average < 4.5
    state = observe_frame(state, LIMITS, THRESHOLDS, frame(1.1, surprise=4.9), at(1.101))
    assert state.halt_reasons == (Reason.OUT_OF_DISTRIBUTION,)
    for i in range(12, 23):
        state = observe_frame(state, LIMITS, THRESHOLDS, frame(i / 10), at(i / 10 + 0.001))
    state, done, _ = reset(state, LIMITS, at(2.202))
    assert done, "the average falls again"


def test_a_single_burst_below_the_average_bound_is_forgotten() -> None:
    state = moving()
    for i in range(1, 20):
        surprise = 9.0 if i == 5 else 1.0
        state = observe_frame(state, LIMITS, THRESHOLDS, frame(i / 10, surprise=surprise), at(i / 10 + 0.001))
        state, _, command = decide(state, i / 10)
        assert command.action == FORWARD
    assert state.surprise_average < 1.5


def test_without_a_bound_the_average_is_not_judged() -> None:
    state, thresholds = moving(), replace(THRESHOLDS, surprise_average=None)
    for i in range(1, 30):
        state = observe_frame(state, LIMITS, thresholds, frame(i / 10, surprise=4.9), at(i / 10 + 0.001))
        assert state.input_reasons == ()


def test_first_frame_of_an_episode_cannot_be_surprising() -> None:
    state = replace(healthy(), surprise_average=4.4)
    for i in range(1, 6):
        state = observe_frame(
            state, LIMITS, THRESHOLDS, frame(i / 10, surprise=99.0, is_first=True), at(i / 10 + 0.001)
        )
    assert state.input_reasons == () and state.surprise_average == 0.0


@pytest.mark.parametrize("risk", [math.nan, -0.1, 1.1, math.inf])
def test_senseless_state_risk_is_refused(risk: float) -> None:
    state = observe_frame(moving(), LIMITS, THRESHOLDS, frame(0.1, violation_probability=risk), at(0.101))
    assert Reason.BAD_ASSESSMENT in state.halt_reasons


@pytest.mark.parametrize(
    "changes",
    [{"joint_age_s": 0.3}, {"joint_age_s": math.nan}, {"tool": (math.nan, 0.0, 0.1)}, {"tool": ()}],
)
def test_missing_or_old_joint_states_halt_in_motion(changes: dict[str, object]) -> None:
    state = observe_frame(moving(), LIMITS, THRESHOLDS, frame(0.1, **changes), at(0.101))
    assert Reason.STALE_JOINTS in state.halt_reasons


def test_malformed_image_halts_in_motion_and_only_holds_at_rest() -> None:
    assert reject_frame(moving(), LIMITS, Reason.BAD_IMAGE, at(0.1)).state is SafetyState.HALTED
    resting = reject_frame(healthy(), LIMITS, Reason.BAD_IMAGE, at(0.1))
    assert resting.state is SafetyState.NOMINAL
    assert tick(resting, LIMITS, at(0.1))[1].action == ZERO


@pytest.mark.parametrize(
    ("stamp", "reason"), [(0.1, Reason.STALE_JOINTS), (5.0, Reason.CLOCK), (-5.0, Reason.CLOCK), (0.0, Reason.CLOCK)]
)
def test_a_frame_of_another_time_is_named_although_no_joint_states_fit_it(stamp: float, reason: Reason) -> None:
    state = reject_frame(moving(), LIMITS, Reason.STALE_JOINTS, at(0.1), 1000.0 + stamp)
    assert state.halt_reasons == (reason,)


@pytest.mark.parametrize(
    "action",
    [(math.nan, 0.0, 0.0), (math.inf, 0.0, 0.0), (1.01, 0.0, 0.0), (0.0, 0.0), (0.0, 0.0, 0.0, 0.0), ()],
)
def test_bad_action_halts(action: tuple[float, ...]) -> None:
    state, verdict, command = decide(healthy(), made=decision(0.0, action))
    assert state.state is SafetyState.HALTED
    assert verdict.reasons == (Reason.BAD_ACTION,)
    assert command.action == ZERO


def test_bad_candidate_halts() -> None:
    state, _, _ = decide(healthy(), made=decision(0.0, candidates=(FORWARD, (math.nan, 0.0, 0.0))))
    assert state.halt_reasons == (Reason.BAD_ACTION,)


def test_decision_on_another_frame_is_held() -> None:
    _, verdict, command = decide(healthy(), made=decision(-0.1, decided_at=1000.0))
    assert verdict.reasons == (Reason.OTHER_FRAME,)
    assert command.action == ZERO


def test_unjudged_decision_is_held() -> None:
    _, verdict = judge_decision(healthy(), LIMITS, THRESHOLDS, decision(0.0), None, at(0.003))
    assert verdict.reasons == (Reason.OTHER_FRAME,)


@pytest.mark.parametrize("decided_at", [999.8, 1000.1, math.nan])
def test_decision_that_is_old_or_from_the_future_is_held(decided_at: float) -> None:
    state, verdict, command = decide(healthy(), made=decision(0.0, decided_at=decided_at))
    assert verdict.reasons == (Reason.STALE_DECISION,)
    assert command.action == ZERO
    assert state.state is SafetyState.NOMINAL


@pytest.mark.parametrize("value", [math.nan, math.inf, 1.5, -0.1])
@pytest.mark.parametrize("action", [FORWARD, SLOWED_SIDE])
def test_senseless_risk_of_any_option_halts(value: float, action: Vector) -> None:
    state, _, command = decide(healthy(), model=Model(rule({action: value}, 0.4)))
    assert state.halt_reasons == (Reason.BAD_ASSESSMENT,)
    assert command.action == ZERO


@pytest.mark.parametrize(
    "changes",
    [
        {"q_cost": (math.inf, 0.0)},
        {"q_cost": (0.0,)},
        {"violation_probability": (0.4,)},
        {"options": (SIDE, SLOWED)},
        {"options": (FORWARD, (math.nan, 0.0, 0.0))},
        {"options": (), "violation_probability": (), "q_cost": ()},
    ],
)
def test_senseless_assessment_halts(changes: dict[str, Any]) -> None:
    assessment = replace(Assessment((FORWARD, SLOWED), (0.4, 0.4), (0.0, 0.0)), **changes)
    state, verdict = judge_decision(healthy(), LIMITS, THRESHOLDS, decision(0.0), assessment, at(0.003))
    assert state.halt_reasons == (Reason.BAD_ASSESSMENT,)
    assert verdict.verdict is Verdict.HELD


@pytest.mark.parametrize(
    "made",
    [
        decision(-0.1),
        decision(0.0, (math.nan, 0.0, 0.0)),
        decision(0.0, (0.5, 0.0)),
        decision(0.0, candidates=(FORWARD, (2.0, 0.0, 0.0))),
    ],
)
def test_what_cannot_be_judged_does_not_reach_the_model(made: Decision) -> None:
    model = even(0.0)
    assert assess(healthy(), LIMITS, THRESHOLDS, made, model) is None
    assert model.asked == []


def test_nothing_is_judged_before_the_first_frame() -> None:
    assert assess(MonitorState(), LIMITS, THRESHOLDS, decision(0.0), even(0.0)) is None


def test_ways_out_are_judged_only_where_the_proposal_is_not_let_through() -> None:
    calm, raised = even(0.29), even(0.3)
    decide(healthy(), model=calm)
    assert calm.asked == [FORWARD]
    decide(healthy(), model=raised)
    others = ways_out(FORWARD, (FORWARD, SIDE), (0.5, 0.0, 0.1), LIMITS)
    np.testing.assert_allclose(raised.asked, [FORWARD, *others], atol=1e-6)


def test_in_caution_ways_out_are_judged_until_caution_ends() -> None:
    state, _, _ = decide(healthy(), model=even(0.3))
    model = even(0.25)
    state = observe_frame(state, LIMITS, THRESHOLDS, frame(0.1), at(0.101))
    state, _, _ = decide(state, 0.1, model=model)
    assert state.state is SafetyState.CAUTION and len(model.asked) > 1


def test_ways_out_are_slow_go_to_either_side_stay_in_the_workspace_and_end_with_standing_still() -> None:
    tool = (0.795, 0.0, 0.1)
    options = ways_out((1.0, 0.0, 0.0), (SIDE, (0.0, 0.0, -1.0)), tool, LIMITS)
    assert options[-1] == ZERO and len(set(options)) == len(options)
    assert (0.0, 0.25, 0.0) in options and (0.0, 0.0, -0.5) in options
    assert min(y for _, y, _ in options) < -0.2 and max(y for _, y, _ in options) > 0.2
    for option in options:
        assert math.hypot(*option) <= 0.5 + 1e-9
        assert tool[0] + limited_displacement(np.asarray(option))[0] <= 0.8 + 1e-9


def test_a_turned_proposal_may_be_the_way_out() -> None:
    turned = (0.25 * math.cos(math.radians(30)), 0.25 * math.sin(math.radians(30)), 0.0)
    state, verdict, command = decide(healthy(), model=Model(rule({turned: 0.1}, 0.9)))
    assert verdict.verdict is Verdict.REPLACED and state.state is SafetyState.CAUTION
    assert command.action == pytest.approx(turned)


def test_standing_still_is_the_way_out_only_when_no_motion_is_one() -> None:
    _, verdict, command = decide(healthy(), model=Model(rule({ZERO: 0.0, SLOWED: 0.34}, 0.35)))
    assert verdict.verdict is Verdict.SLOWED and command.action == SLOWED
    state, verdict, command = decide(healthy(), model=Model(rule({ZERO: 0.1}, 0.9)))
    assert (verdict.verdict, command.action) == (Verdict.HELD, ZERO)
    assert state.state is SafetyState.CAUTION and command.reasons == (Reason.RISK_CAUTION,)
    # It does not latch: the next frame may show a way.
    state = observe_frame(state, LIMITS, THRESHOLDS, frame(0.1), at(0.101))
    assert decide(state, 0.1)[2].action == FORWARD


def test_when_every_way_out_is_riskier_than_the_proposal_the_arm_waits() -> None:
    state, verdict, command = decide(healthy(), model=Model(rule({FORWARD: 0.4}, 0.5)))
    assert (verdict.verdict, command.action, state.state) == (Verdict.HELD, ZERO, SafetyState.CAUTION)


def test_raised_risk_swaps_to_the_way_out_of_least_cost_and_slows_down() -> None:
    model = Model(lambda action: 0.4, cost=rule({SLOWED_SIDE: 0.1}, 0.2))
    state, verdict, command = decide(healthy(), model=model)
    assert verdict.verdict is Verdict.REPLACED
    assert command.action == SLOWED_SIDE
    assert state.state is SafetyState.CAUTION


def test_raised_risk_without_a_better_candidate_slows_down() -> None:
    _, verdict, command = decide(healthy(), model=Model(rule({FORWARD: 0.35, SLOWED: 0.35}, 0.5)))
    assert verdict.verdict is Verdict.SLOWED
    assert command.action == SLOWED


def test_a_way_out_riskier_than_the_proposal_is_never_chosen_however_cheap() -> None:
    model = Model(rule({FORWARD: 0.4, SLOWED: 0.4}, 0.5), cost=rule({SLOWED: 1.0}, 0.0))
    assert decide(healthy(), model=model)[1].action == SLOWED


def test_risk_above_the_halt_threshold_everywhere_halts_and_latches() -> None:
    state, verdict, command = decide(healthy(), model=Model(rule({FORWARD: 0.9}, 0.6)))
    assert verdict.reasons == (Reason.RISK_HALT,)
    assert verdict.violation_probability == pytest.approx(0.9)
    assert command.action == ZERO
    state = observe_frame(state, LIMITS, THRESHOLDS, frame(0.1), at(0.101))
    state, _, command = decide(state, 0.1)
    assert command.action == ZERO
    assert state.state is SafetyState.HALTED


def test_risky_action_with_a_safe_candidate_is_replaced() -> None:
    _, verdict, command = decide(healthy(), model=Model(rule({SLOWED_SIDE: 0.1}, 0.9)))
    assert verdict.verdict is Verdict.REPLACED
    assert command.action == SLOWED_SIDE


def test_caution_ends_with_the_risk() -> None:
    state, _, _ = decide(healthy(), model=even(0.4))
    state = observe_frame(state, LIMITS, THRESHOLDS, frame(0.1), at(0.101))
    state, _, command = decide(state, 0.1)
    assert state.state is SafetyState.NOMINAL
    assert command.action == FORWARD


def test_caution_does_not_flap_around_its_threshold() -> None:
    state = healthy()
    verdicts = []
    for i, risk in enumerate((0.29, 0.31, 0.29, 0.31, 0.25, 0.23, 0.29)):
        t = i / 10
        state = observe_frame(state, LIMITS, THRESHOLDS, frame(t + 0.01), at(t + 0.011))
        state, _, _ = decide(state, t + 0.01, model=even(risk))
        verdicts.append(state.state)
    caution, nominal = SafetyState.CAUTION, SafetyState.NOMINAL
    assert verdicts == [nominal, caution, caution, caution, caution, nominal, nominal]


def test_action_is_shortened_at_the_edge_of_the_workspace() -> None:
    placed = frame(0.0, tool=(0.795, 0.0, 0.1), others_may_move=True)
    state = observe_frame(healthy(-0.1), LIMITS, THRESHOLDS, placed, at(0.001))
    _, verdict, command = decide(state, made=decision(0.0, (1.0, 0.5, 0.0)))
    assert Reason.WORKSPACE in verdict.reasons
    assert 0.795 + limited_displacement(np.asarray(command.action))[0] <= 0.8 + 1e-9


def test_tool_far_outside_of_the_workspace_halts_in_motion() -> None:
    state = observe_frame(moving(), LIMITS, THRESHOLDS, frame(0.1, tool=(0.84, 0.0, 0.1)), at(0.101))
    assert Reason.OUTSIDE_WORKSPACE in state.halt_reasons


def test_reset_needs_an_uninterrupted_healthy_window() -> None:
    state = halt(healthy(-2.0), Reason.OPERATOR)
    state = observe_frame(state, LIMITS, THRESHOLDS, frame(0.0), at(0.001))
    for i in range(1, 12):
        _, done, message = reset(state, LIMITS, at(i / 10 - 0.05))
        if i < 11:
            assert not done
            assert message.startswith("refused")
        state = observe_frame(state, LIMITS, THRESHOLDS, frame(i / 10), at(i / 10 + 0.001))
    state, done, _ = reset(state, LIMITS, at(1.11))
    assert done
    assert state.state is SafetyState.NOMINAL
    assert state.halt_reasons == ()


def test_reset_with_bad_input_is_refused_with_the_reason() -> None:
    state = reject_frame(halt(healthy(), Reason.OPERATOR), LIMITS, Reason.BAD_IMAGE, at(0.05))
    state, done, message = reset(state, LIMITS, at(0.06))
    assert not done
    assert Reason.BAD_IMAGE.text in message
    assert state.state is SafetyState.HALTED


def test_reset_is_refused_while_the_state_is_judged_risky() -> None:
    state = halt(healthy(), Reason.RISK_HALT)
    for i in range(1, 30):
        state = observe_frame(state, LIMITS, THRESHOLDS, frame(i / 10, violation_probability=0.9), at(i / 10 + 0.001))
    _, done, message = reset(state, LIMITS, at(2.95))
    assert not done
    assert "risky" in message


def test_no_motion_right_after_a_reset_without_a_new_decision() -> None:
    state = halt(moving(), Reason.OPERATOR)
    for i in range(1, 15):
        state = observe_frame(state, LIMITS, THRESHOLDS, frame(i / 10), at(i / 10 + 0.001))
    state, done, _ = reset(state, LIMITS, at(1.41))
    assert done
    assert tick(state, LIMITS, at(1.42))[1].action == ZERO


def test_halts_are_counted_once_and_keep_the_first_reason_in_front() -> None:
    state = halt(halt(healthy(), Reason.OPERATOR), Reason.SECOND_PUBLISHER)
    assert state.halt_count == 1
    assert state.halt_reasons == (Reason.OPERATOR, Reason.SECOND_PUBLISHER)


@pytest.mark.parametrize(
    "changes", [{"frame_age_s": 0.0}, {"decision_age_s": math.nan}, {"caution_scale": 1.5}, {"caution_release": 2.0}]
)
def test_senseless_limits_are_refused_by_name(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        Limits(**changes)


NUMBERS = st.one_of(st.floats(-2.0, 2.0), st.sampled_from([math.nan, math.inf, -math.inf]))
PARTS = st.floats(-1.0, 1.0)
ACTIONS = st.tuples(PARTS, PARTS, PARTS)
RISKS = st.one_of(st.floats(0.0, 1.0), st.sampled_from([math.nan, 1.5, -0.5]))
POSITIONS = st.tuples(st.floats(0.15, 0.85), st.floats(-0.35, 0.35), st.floats(0.0, 0.2))
JUDGED = 1 + 3 + len(TURNS_RAD) + 1
"""Most options that are judged: the proposal, slowed ones of it and of two candidates, turned ones, none."""


def listed(risks: Sequence[float], costs: Sequence[float] = (0.0,)) -> Model:
    """Gives the n-th of these to the n-th action that it is asked about, and begins again after the last."""
    next_risk, next_cost = itertools.cycle(risks), itertools.cycle(costs)
    return Model(lambda action: next(next_risk), lambda action: next(next_cost))


@settings(max_examples=500, deadline=None)
@given(
    tool=POSITIONS,
    action=ACTIONS,
    candidates=st.tuples(ACTIONS, ACTIONS),
    risks=st.lists(st.floats(0.0, 1.0, width=32), min_size=JUDGED, max_size=JUDGED),
    costs=st.lists(st.floats(-1.0, 10.0, width=32), min_size=JUDGED, max_size=JUDGED),
    in_caution=st.booleans(),
)
def test_what_is_chosen_is_never_riskier_than_what_was_proposed(
    tool: Vector,
    action: Vector,
    candidates: tuple[Vector, Vector],
    risks: list[float],
    costs: list[float],
    in_caution: bool,
) -> None:
    placed = frame(0.0, tool=tool, others_may_move=True)
    state = observe_frame(healthy(-0.1), replace(LIMITS, outside_tolerance_m=1.0), THRESHOLDS, placed, at(0.001))
    if in_caution:
        state = replace(state, state=SafetyState.CAUTION)
    made = decision(0.0, action, candidates=candidates)
    assessment = assess(state, LIMITS, THRESHOLDS, made, listed(risks, costs))
    assert assessment is not None
    after, verdict = judge_decision(state, LIMITS, THRESHOLDS, made, assessment, at(0.003))

    proposed, *others = assessment.violation_probability
    level = THRESHOLDS.caution * (LIMITS.caution_release if in_caution else 1.0)
    if proposed < level:
        assert not others and after.state is SafetyState.NOMINAL
        return
    assert others
    if min(assessment.violation_probability) >= THRESHOLDS.halt:
        assert after.state is SafetyState.HALTED and verdict.action == ZERO
        return
    assert after.state is SafetyState.CAUTION
    fastest = max(math.hypot(*each) for each in (action, *candidates))
    assert math.hypot(*verdict.action) <= LIMITS.caution_scale * fastest + 1e-6
    ways = list(zip(assessment.options[1:], others, strict=True))
    fit = [option for option, risk in ways if risk <= proposed and risk < THRESHOLDS.halt]
    if any(verdict.action):
        assert any(np.allclose(option, verdict.action, atol=1e-6) for option in fit)
    else:
        assert all(option == ZERO for option in fit)


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("frame"), st.floats(-0.3, 0.3), NUMBERS, RISKS, st.floats(0.0, 9.0)),
        st.tuples(
            st.just("decision"),
            st.floats(-0.2, 0.2),
            st.tuples(NUMBERS, NUMBERS, NUMBERS),
            st.lists(RISKS, min_size=1, max_size=JUDGED),
            st.booleans(),
        ),
        st.tuples(st.just("good_frame")),
        st.tuples(
            st.just("good_decision"), st.lists(st.floats(0.0, 0.875, width=32), min_size=1, max_size=JUDGED), ACTIONS
        ),
        st.tuples(st.just("reject")),
        st.tuples(st.just("halt")),
        st.tuples(st.just("reset")),
        st.tuples(st.just("tick")),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(events=EVENTS, steps=st.lists(st.floats(0.0, 0.25), min_size=60, max_size=60))
def test_no_sequence_of_inputs_moves_the_arm_against_a_rule(events: list[tuple], steps: list[float]) -> None:
    state, t, assessment = healthy(), 0.0, None
    for event, step in zip(events, steps, strict=False):
        t += step
        now = at(t)
        before = state
        kind = event[0]
        if kind == "frame":
            _, offset, x, risk, surprise = event
            seen = frame(
                t + offset, tool=(x, 0.0, 0.1), violation_probability=risk, surprise=surprise, others_may_move=True
            )
            state = observe_frame(state, LIMITS, THRESHOLDS, seen, now)
        elif kind == "good_frame":
            state = observe_frame(state, LIMITS, THRESHOLDS, frame(t), now)
        elif kind == "decision":
            _, offset, action, risks, match = event
            stamp = state.frame.stamp if match and state.frame else 1000.0 + t
            made = Decision(stamp, now.stamp + offset, action, (SIDE,))
            assessment = assess(state, LIMITS, THRESHOLDS, made, listed(risks))
            state, _ = judge_decision(state, LIMITS, THRESHOLDS, made, assessment, now)
        elif kind == "good_decision" and state.frame:
            _, risks, action = event
            made = Decision(state.frame.stamp, now.stamp, action, (SIDE,))
            assessment = assess(state, LIMITS, THRESHOLDS, made, listed(risks))
            state, _ = judge_decision(state, LIMITS, THRESHOLDS, made, assessment, now)
        elif kind == "reject":
            state = reject_frame(state, LIMITS, Reason.BAD_IMAGE, now)
        elif kind == "halt":
            state = halt(state, Reason.OPERATOR)
        elif kind == "reset":
            state, done, _ = reset(state, LIMITS, now)
            if done:
                assert before.frame is not None
                assert now.steady - before.healthy_since >= LIMITS.healthy_s
        if kind != "reset" and before.state is SafetyState.HALTED:
            assert state.state is SafetyState.HALTED

        state, command = tick(state, LIMITS, now)
        if command.moves:
            assert state.state in (SafetyState.NOMINAL, SafetyState.CAUTION)
            assert state.frame is not None
            assert now.stamp - state.frame.stamp <= LIMITS.frame_age_s
            assert now.steady - state.frame_received <= LIMITS.frame_age_s
            assert now.stamp - state.decided_at <= LIMITS.decision_age_s
            assert now.steady - state.decision_received <= LIMITS.decision_age_s
            assert state.input_reasons == ()
            assert state.surprise_average <= THRESHOLDS.surprise_average
            assert all(math.isfinite(v) and -1.0 <= v <= 1.0 for v in command.action)
            # What moves the arm was judged: let through below caution, else slow and no riskier than the proposal.
            assert assessment is not None
            proposed, *others = assessment.violation_probability
            if state.state is SafetyState.NOMINAL:
                assert proposed < THRESHOLDS.caution
            else:
                ways = zip(assessment.options[1:], others, strict=True)
                fit = [option for option, risk in ways if risk <= proposed and risk < THRESHOLDS.halt]
                assert any(np.allclose(option, command.action, atol=1e-6) for option in fit)
            tool = np.asarray(state.frame.tool)
            moved = tool + limited_displacement(np.asarray(command.action))
            low, high = np.asarray(LIMITS.workspace.low), np.asarray(LIMITS.workspace.high)
            further = np.maximum(np.maximum(low - moved, moved - high), 0.0)
            already = np.maximum(np.maximum(low - tool, tool - high), 0.0)
            # A decision may outlive the frame it was made on by one frame; the tool is judged where it was then.
            if state.approved_stamp == state.frame.stamp:
                assert np.all(further <= already + 1e-9)
