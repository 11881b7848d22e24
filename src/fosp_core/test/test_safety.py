"""The rules of the safety monitor, one behaviour a test, and properties over arbitrary input sequences."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fosp_core.bundle import Thresholds
from fosp_core.safety import (
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
    Verdict,
    halt,
    judge_decision,
    observe_frame,
    reject_frame,
    reset,
    tick,
)
from fosp_core.task import limited_displacement

LIMITS = Limits()
THRESHOLDS = Thresholds(caution=0.3, halt=0.6, surprise=5.0)
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


def assessment(*risks: float, costs: tuple[float, ...] | None = None) -> Assessment:
    return Assessment(violation_probability=risks, q_cost=costs or risks)


SAFE = assessment(0.0, 0.0, 0.0)


def healthy(until: float = 0.0, start: float = -2.0) -> MonitorState:
    """A monitor that saw good frames at 10 Hz up to and including ``until``."""
    state = MonitorState()
    count = round((until - start) * 10)
    for i in range(count + 1):
        t = start + i / 10
        state = observe_frame(state, LIMITS, THRESHOLDS, frame(t), at(t + 0.001))
    return state


def decide(
    state: MonitorState, t: float = 0.0, made: Decision | None = None, judged: Assessment | None = SAFE
) -> tuple[MonitorState, Judged, Command]:
    state, verdict = judge_decision(state, LIMITS, THRESHOLDS, made or decision(t), judged, at(t + 0.003))
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


def test_first_frame_of_an_episode_cannot_be_surprising() -> None:
    state = healthy()
    for i in range(1, 6):
        state = observe_frame(
            state, LIMITS, THRESHOLDS, frame(i / 10, surprise=99.0, is_first=True), at(i / 10 + 0.001)
        )
    assert state.input_reasons == ()


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
    _, verdict, _ = decide(healthy(), judged=None)
    assert verdict.reasons == (Reason.OTHER_FRAME,)


@pytest.mark.parametrize("decided_at", [999.8, 1000.1, math.nan])
def test_decision_that_is_old_or_from_the_future_is_held(decided_at: float) -> None:
    state, verdict, command = decide(healthy(), made=decision(0.0, decided_at=decided_at))
    assert verdict.reasons == (Reason.STALE_DECISION,)
    assert command.action == ZERO
    assert state.state is SafetyState.NOMINAL


@pytest.mark.parametrize(
    "judged",
    [
        assessment(math.nan, 0.0, 0.0),
        assessment(0.0, math.nan, 0.0),
        assessment(0.0, 0.0, 1.5),
        assessment(0.0, 0.0),
        assessment(0.0, 0.0, 0.0, costs=(0.0, math.inf, 0.0)),
    ],
)
def test_senseless_assessment_halts(judged: Assessment) -> None:
    state, _, command = decide(healthy(), judged=judged)
    assert state.halt_reasons == (Reason.BAD_ASSESSMENT,)
    assert command.action == ZERO


def test_raised_risk_swaps_to_the_least_cost_candidate_and_slows_down() -> None:
    state, verdict, command = decide(healthy(), judged=assessment(0.4, 0.4, 0.35))
    assert verdict.verdict is Verdict.REPLACED
    assert command.action == (0.0, 0.25, 0.0)
    assert state.state is SafetyState.CAUTION


def test_raised_risk_without_a_better_candidate_slows_down() -> None:
    _, verdict, command = decide(healthy(), judged=assessment(0.35, 0.35, 0.5))
    assert verdict.verdict is Verdict.SLOWED
    assert command.action == (0.25, 0.0, 0.0)


def test_candidate_above_the_halt_threshold_is_never_chosen_however_cheap() -> None:
    _, verdict, _ = decide(healthy(), judged=assessment(0.4, 0.4, 0.9, costs=(1.0, 1.0, 0.0)))
    assert verdict.action == (0.25, 0.0, 0.0)


def test_risk_above_the_halt_threshold_everywhere_halts_and_latches() -> None:
    state, verdict, command = decide(healthy(), judged=assessment(0.6, 0.7, 0.8))
    assert verdict.reasons == (Reason.RISK_HALT,)
    assert verdict.violation_probability == 0.6
    assert command.action == ZERO
    state = observe_frame(state, LIMITS, THRESHOLDS, frame(0.1), at(0.101))
    state, _, command = decide(state, 0.1)
    assert command.action == ZERO
    assert state.state is SafetyState.HALTED


def test_risky_action_with_a_safe_candidate_is_replaced() -> None:
    _, verdict, command = decide(healthy(), judged=assessment(0.9, 0.9, 0.1))
    assert verdict.verdict is Verdict.REPLACED
    assert command.action == (0.0, 0.25, 0.0)


def test_caution_ends_with_the_risk() -> None:
    state, _, _ = decide(healthy(), judged=assessment(0.4, 0.4, 0.4))
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
        state, _, _ = decide(state, t + 0.01, judged=assessment(risk, risk, risk))
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
RISKS = st.one_of(st.floats(0.0, 1.0), st.sampled_from([math.nan, 1.5, -0.5]))
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("frame"), st.floats(-0.3, 0.3), NUMBERS, RISKS, st.floats(0.0, 9.0)),
        st.tuples(
            st.just("decision"), st.floats(-0.2, 0.2), st.tuples(NUMBERS, NUMBERS, NUMBERS), RISKS, st.booleans()
        ),
        st.tuples(st.just("good_frame")),
        st.tuples(st.just("good_decision"), st.floats(0.0, 0.9)),
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
    state, t = healthy(), 0.0
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
            _, offset, action, risk, match = event
            stamp = state.frame.stamp if match and state.frame else 1000.0 + t
            made = Decision(stamp, now.stamp + offset, action, (SIDE,))
            state, _ = judge_decision(state, LIMITS, THRESHOLDS, made, assessment(risk, risk), now)
        elif kind == "good_decision" and state.frame:
            made = Decision(state.frame.stamp, now.stamp, FORWARD, (SIDE,))
            state, _ = judge_decision(state, LIMITS, THRESHOLDS, made, assessment(event[1], event[1]), now)
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
            assert all(math.isfinite(v) and -1.0 <= v <= 1.0 for v in command.action)
            tool = np.asarray(state.frame.tool)
            moved = tool + limited_displacement(np.asarray(command.action))
            low, high = np.asarray(LIMITS.workspace.low), np.asarray(LIMITS.workspace.high)
            further = np.maximum(np.maximum(low - moved, moved - high), 0.0)
            already = np.maximum(np.maximum(low - tool, tool - high), 0.0)
            # A decision may outlive the frame it was made on by one frame; the tool is judged where it was then.
            if state.approved_stamp == state.frame.stamp:
                assert np.all(further <= already + 1e-9)
