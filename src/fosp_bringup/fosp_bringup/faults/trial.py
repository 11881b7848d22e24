"""One trial of a fault in motion: bring the arm to speed, inject, watch, mend, and bring the graph back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fosp_bringup.faults.measure import Held, largest_gap_s
from fosp_bringup.faults.rig import Rig, RigError
from fosp_core.safety import SafetyState

Trigger = Callable[[], "float | None"]
"""When the fault began, steady seconds; None while it has not."""

COMMAND_GAP_S: Final = 0.1
"""Silence of the monitor after which the arm holds by itself."""
STALL_LIMIT_MS: Final = 20.0
QUIET_S: Final = 0.3
LATCH_S: Final = 0.4
PATIENCE_S: Final = 8.0
"""Longest wait for what a fault should lead to; the limits of the contract are judged apart."""


@dataclass
class Trial:
    """What one injection led to."""

    held: Held | None = None
    reasons: list[str] = field(default_factory=list)
    halted: bool = False
    recovery: str = ""
    answers: list[str] = field(default_factory=list)
    """What services said."""
    problems: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    stall_ms: float = 0.0
    """Longest time that the measuring process waited for a processor during the trial."""

    @property
    def disturbed(self) -> bool:
        """Whether the machine was too busy with other things for the times to say anything of the graph."""
        return self.stall_ms > STALL_LIMIT_MS

    def demand(self, condition: object, problem: str) -> None:
        """Note a problem when the condition does not hold."""
        if not condition:
            self.problems.append(problem)


@dataclass(frozen=True)
class Fault:
    """A fault and what it must lead to."""

    name: str
    what: str
    expected: str
    run: Callable[[Rig], Trial]
    limit_ms: float | None = None
    """Longest time from the trigger to the hold; None: no hold is asked for."""
    timed_at_arm: bool = False
    """Whether the limit is for the hold target of the arm node, not for the hold command of the monitor."""
    spends_graph: bool = False
    """Whether the next trial needs a new graph."""
    runner_options: tuple[str, ...] = ()
    runner_prefix: tuple[str, ...] = ()


def holding(
    name: str,
    what: str,
    reasons: Sequence[str],
    limit_ms: float,
    inject: Callable[[Rig], Trigger],
    mend: Callable[[Rig], object] = lambda rig: None,
    halts: bool = True,
    dead: Sequence[str] = (),
    runner_options: tuple[str, ...] = (),
) -> Fault:
    """A fault in motion that must lead to a hold.

    Args:
        name: of the fault.
        what: happens, one clause.
        reasons: one of them must be published; empty: the monitor cannot or need not say anything.
        limit_ms: longest time from trigger to hold.
        inject: breaks something.
        mend: takes it back.
        halts: whether the hold must latch.
        dead: nodes that this kills; the graph cannot go on without them.
        runner_options: of the graph it needs.
    """

    def run(rig: Rig) -> Trial:
        rig.begin()
        started = time.monotonic()
        begun = inject(rig)
        trial = Trial()

        def watched() -> bool:
            trigger = begun()
            if trigger is None or time.monotonic() - trigger < QUIET_S:
                return False
            trial.held = rig.hold_since(trigger)
            trial.reasons = rig.reasons_since(trigger)
            trial.halted = rig.state is SafetyState.HALTED
            said = not reasons or any(r in trial.reasons for r in reasons)
            return trial.held.holds and said and (trial.halted or not halts)

        try:
            rig.until(watched, "a hold and its reason", PATIENCE_S, pause_s=0.05)
            # What is at rest must stay at rest.
            time.sleep(QUIET_S)
            watched()
        except RigError:
            pass
        try:
            _judge(rig, trial, reasons, halts, dead)
        finally:
            mend(rig)
        trigger = begun()
        if trigger is not None:
            # Whoever was silent may have something to say now.
            trial.reasons = rig.reasons_since(trigger)
            trial.halted = trial.halted or rig.state is SafetyState.HALTED
        if dead:
            trial.recovery = f"start {', '.join(dead)} again"
            return trial
        try:
            trial.recovery = bring_back(rig, trial)
        except RigError as error:
            trial.problems.append(str(error))
        trial.figures["seconds"] = round(time.monotonic() - started, 3)
        return trial

    says = " or ".join(reasons) or "hold by the arm's own watchdog"
    expected = f"{says}{', latched' if halts else ''}"
    return Fault(name, what, expected, run, limit_ms, not reasons, bool(dead), runner_options)


def bring_back(rig: Rig, trial: Trial) -> str:
    """Reset, as an operator would; says what was needed. Notes when the arm moved before."""
    if trial.halted:
        start = time.monotonic()
        time.sleep(LATCH_S)
        moved = any(c.moves and c.received >= start for c in list(rig.commands))
        trial.demand(not moved, "the arm moved before the reset")
    rig.end()
    message = rig.reset()
    return "reset" if trial.halted else f"by itself ({message})"


def _judge(rig: Rig, trial: Trial, reasons: Sequence[str], halts: bool, dead: Sequence[str]) -> None:
    held = trial.held
    trial.demand(held is not None and held.holds, "the arm was not told to hold")
    if reasons:
        trial.demand(
            any(r in trial.reasons for r in reasons),
            f"published {', '.join(trial.reasons) or 'no reason'} instead of {' or '.join(reasons)}",
        )
    if halts:
        trial.demand(trial.halted, "the hold did not latch")
    missing = {"simulation_node", "arm_node", "safety_monitor", "policy_node", "episode_node"} - rig.living()
    unexpected = missing - set(dead)
    trial.demand(not unexpected, f"also died: {', '.join(sorted(unexpected))}")
    trial.demand("Traceback" not in rig.logs(), "a node wrote a traceback")


def command_gap_ms(rig: Rig, start: float) -> float:
    """Longest silence of the monitor since then."""
    return 1e3 * largest_gap_s([c.received for c in list(rig.commands)], start, time.monotonic())
