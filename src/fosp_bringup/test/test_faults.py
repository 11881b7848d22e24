"""What the fault suite measures and spoils, without a graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import Image

from fosp_bringup.faults import catalogue
from fosp_bringup.faults.measure import CommandSample, Held, TargetSample, ToolSample, hold_after, largest_gap_s
from fosp_bringup.faults.relay import blue, of_brightness, repeated_stamp, shifted, swapped, thinned, with_fields
from fosp_bringup.faults.rig import RigError
from fosp_bringup.faults.suite import Outcome
from fosp_bringup.faults.trial import Fault, Trial
from fosp_ros.stamps import from_nanoseconds, to_nanoseconds

TRIGGER, STOPS, END = 10.0, 10.1, 11.0


def commands(silent: bool = False) -> list[CommandSample]:
    times = np.arange(9.0, END, 0.02)
    return [CommandSample(t, t < STOPS, 0.05) for t in times if not silent or t < STOPS]


def targets() -> list[TargetSample]:
    moving = [TargetSample(t, np.full(7, t)) for t in np.arange(9.0, STOPS + 0.01, 0.02)]
    held = np.full(7, 10.09)
    return [*moving, *(TargetSample(STOPS + 0.02 * i, held) for i in range(1, 6))]


def tools(rests_at: float = 10.2) -> list[ToolSample]:
    return [
        ToolSample(t, np.array([min(t, rests_at) - 9.0, 0.0, 0.0]), 0.2 if t < rests_at else 0.0)
        for t in np.arange(9.0, END, 0.02)
    ]


def test_times_to_the_hold_command_the_held_target_and_the_rest() -> None:
    held = hold_after(TRIGGER, commands(), targets(), tools(), END)
    assert held.command_ms == pytest.approx(100, abs=21)
    assert held.arm_ms == pytest.approx(120, abs=21)
    assert held.rest_ms == pytest.approx(200, abs=21)
    assert held.travel_m == pytest.approx(0.2, abs=0.03)


def test_an_arm_that_held_already_is_not_timed() -> None:
    assert hold_after(TRIGGER, commands(), targets(), tools(), END).moving
    assert not hold_after(STOPS + 0.05, commands(), targets(), tools(), END).moving


def test_a_silent_monitor_counts_from_its_last_moving_command() -> None:
    held = hold_after(TRIGGER, commands(silent=True), targets(), tools(), END)
    assert held.command_ms == pytest.approx(80, abs=21)


def test_an_arm_that_goes_on_has_not_held() -> None:
    on = [CommandSample(t, True, 0.05) for t in np.arange(9.0, END, 0.02)]
    moving = [TargetSample(t, np.full(7, t)) for t in np.arange(9.0, END, 0.02)]
    held = hold_after(TRIGGER, on, moving, tools(rests_at=99.0), END)
    assert held == Held(None, None, None, None, moving=True) and not held.holds


def test_motion_after_a_pause_is_no_hold() -> None:
    again = [*commands(), CommandSample(END - 0.05, True, 0.05)]
    assert hold_after(TRIGGER, again, targets(), tools(), END).command_ms is None


def test_a_robot_that_is_gone_has_no_measured_rest() -> None:
    gone = [t for t in tools() if t.received < TRIGGER + 0.05]
    assert hold_after(TRIGGER, commands(), targets(), gone, END).rest_ms is None


def test_the_longest_silence_counts_its_ends() -> None:
    assert largest_gap_s([1.0, 1.1, 1.5], 0.8, 1.6) == pytest.approx(0.4)
    assert largest_gap_s([], 0.8, 1.6) == pytest.approx(0.8)


def passed_through(spoil: object, count: int = 4) -> list[Image]:
    out: list[Image] = []
    for i in range(count):
        message = Image(height=2, width=2, encoding="rgb8", step=6)
        message.header.stamp = from_nanoseconds((5 + i) * 1_000_000_000)
        spoil(message, out.append)  # type: ignore[operator]
    return out


def seconds(messages: list[Image]) -> list[float]:
    return [to_nanoseconds(m.header.stamp) / 1e9 for m in messages]


def test_relays_spoil_stamps_and_order() -> None:
    assert seconds(passed_through(shifted(-1.5))) == [3.5, 4.5, 5.5, 6.5]
    assert seconds(passed_through(repeated_stamp())) == [5, 5, 5, 5]
    assert seconds(passed_through(swapped())) == [6, 5, 8, 7]
    assert seconds(passed_through(thinned(2, 3), 6)) == [5, 7, 8, 10]
    assert {m.encoding for m in passed_through(with_fields(encoding="other"))} == {"other"}


def test_paints_have_the_brightness_and_the_colour_they_say() -> None:
    image = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    for level in (0.5, 0.66, 0.69):
        assert of_brightness(level)(image).mean() / 255 == pytest.approx(level, abs=0.01)
    assert blue(image)[..., 2].mean() > blue(image)[..., 0].mean() + 100


def outcome(*trials: Trial, limit_ms: float | None = 100.0) -> Outcome:
    return Outcome(Fault("name", "what", "expected", lambda rig: Trial(), limit_ms), list(trials))


def test_a_fault_passes_only_when_every_trial_held_in_time_and_without_a_problem() -> None:
    good = Trial(held=Held(20.0, 40.0, 90.0, 0.01))
    assert outcome(good, good).passed
    assert outcome(good, good).holds_ms == [20.0, 20.0]
    late = Trial(held=Held(120.0, 140.0, None, None))
    assert outcome(good, late).late == 1 and not outcome(good, late).passed
    assert outcome(good, Trial()).late == 1
    at_rest = Trial(held=Held(0.0, 0.0, 0.0, 0.0, moving=False))
    assert outcome(good, at_rest).passed and outcome(good, at_rest).holds_ms == [20.0]
    assert not outcome(at_rest).passed
    assert not outcome(good, Trial(held=good.held, problems=["broken"])).passed
    assert not outcome().passed
    assert not good.disturbed and Trial(stall_ms=50.0).disturbed
    assert outcome(Trial(), limit_ms=None).passed
    assert outcome(good, late).figures()["hold_arm_ms"]["max"] == 140.0


class MovingRig:
    """An arm that crosses the workspace in three seconds after each start, on a clock of its own."""

    CROSSING_S = 3.0

    def __init__(self, answers_s: list[float], stops: bool = False) -> None:
        """``answers_s``: how long each answer takes; ``stops``: whether a request stops the arm."""
        self.now, self.starts, self._end = 100.0, 0, 0.0
        self._answers_s, self._stops = answers_s, stops
        self.commands: list[CommandSample] = []
        self.tools: list[ToolSample] = []

    def begin(self) -> None:
        self.starts += 1
        self._end = self.now + self.CROSSING_S
        self.advance(0.3)

    def end(self) -> None:
        self._end = self.now

    def moves(self) -> bool:
        return self.now < self._end

    def client(self, kind: type, name: str) -> None:
        self.advance(5.0)

    def ask(self, rig: Any, trial: Trial) -> None:
        self.advance(self._answers_s.pop(0))
        if self._stops:
            self.end()

    def advance(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.01)):
            self.now += 0.01
            self.commands.append(CommandSample(self.now, self.moves(), 0.05))
            self.tools.append(ToolSample(self.now, np.zeros(3), 0.18 if self.moves() else 0.0))

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 20.0, pause_s: float = 0.01) -> Any:
        end = self.now + timeout_s
        while not (value := condition()):
            if self.now > end:
                raise RigError(what)
            self.advance(pause_s)
        return value

    def reasons_since(self, start: float) -> list[str]:
        return []


@pytest.mark.parametrize(
    ("answers_s", "stops", "starts", "problem"),
    [
        ([0.1], False, 1, None),
        # The arm is at the end of its way when the answer comes: that says nothing, and is tried again.
        ([4.0, 4.0, 0.1], False, 3, None),
        ([4.0] * catalogue.ASK_ATTEMPTS, False, catalogue.ASK_ATTEMPTS, "did not answer"),
        ([0.1], True, 1, "does not move on"),
    ],
)
def test_what_is_refused_in_motion_is_asked_in_motion_and_must_not_end_it(
    monkeypatch: pytest.MonkeyPatch, answers_s: list[float], stops: bool, starts: int, problem: str | None
) -> None:
    rig = MovingRig(answers_s, stops)
    monkeypatch.setattr(catalogue, "time", SimpleNamespace(monotonic=lambda: rig.now, sleep=rig.advance))
    trial = catalogue._in_motion((object, "/service", rig.ask))(rig)
    assert rig.starts == starts
    assert trial.problems == [] if problem is None else [problem in p for p in trial.problems] == [True]


def test_every_rule_of_the_contract_that_cannot_be_injected_names_a_test_that_exists() -> None:
    root = next(p for p in Path(__file__).resolve().parents if (p / "Makefile").exists())
    for tests in catalogue.ELSEWHERE.values():
        for test in tests.split(", "):
            assert (root / test).is_file(), test
