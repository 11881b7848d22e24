"""What happened after a fault, from what was received. No ROS, no clock of its own; times are steady seconds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

REST_SPEED: Final = 0.01
"""Tool speed in m/s below which the arm rests."""
_SAME_TARGET_RAD: Final = 1e-9


@dataclass(frozen=True)
class CommandSample:
    """A command as the arm receives it."""

    received: float
    moves: bool
    age_s: float
    """Age of the frame it belongs to, on the clock of the stamps."""


@dataclass(frozen=True)
class TargetSample:
    """A joint target that the arm was sent: positions (7,) in rad."""

    received: float
    positions: NDArray[np.float64]


@dataclass(frozen=True)
class ToolSample:
    """The measured tool: position (3,) in metres, speed in m/s."""

    received: float
    position: NDArray[np.float64]
    speed: float


@dataclass(frozen=True)
class Held:
    """Milliseconds from the trigger; None where it did not happen or could not be seen."""

    command_ms: float | None
    """To the hold command of the monitor, or to its last moving command when it fell silent."""
    arm_ms: float | None
    """To the hold target that the arm node sent."""
    rest_ms: float | None
    """To the measured rest of the tool."""
    travel_m: float | None
    """Way of the tool from the trigger to its rest."""
    moving: bool = True
    """Whether the arm was told to move right before the trigger; otherwise the times say nothing."""

    @property
    def holds(self) -> bool:
        """Whether the arm was told to hold, by the monitor or by its own watchdog."""
        return self.command_ms is not None


def hold_after(
    trigger: float,
    commands: Sequence[CommandSample],
    targets: Sequence[TargetSample],
    tools: Sequence[ToolSample],
    until: float,
    quiet_s: float = 0.3,
) -> Held:
    """When the arm held, and kept holding up to ``until``.

    Args:
        trigger: when the fault began.
        commands: of the monitor, in order of reception.
        targets: of the arm node, likewise.
        tools: measured, likewise.
        until: when the watching ended.
        quiet_s: the arm must have held for so long at the end.
    """
    return Held(
        _command_ms(trigger, commands, until, quiet_s),
        _target_ms(trigger, targets, until, quiet_s),
        *_rest(trigger, tools, until, quiet_s),
        moving=_moving(trigger, commands),
    )


def largest_gap_s(times: Sequence[float], start: float, until: float) -> float:
    """Longest silence between ``start`` and ``until``."""
    inside = [start, *(t for t in times if start < t < until), until]
    return max(after - before for before, after in itertools.pairwise(inside))


def _moving(trigger: float, commands: Sequence[CommandSample]) -> bool:
    before = [c for c in commands if c.received <= trigger]
    return bool(before) and before[-1].moves


def _command_ms(trigger: float, commands: Sequence[CommandSample], until: float, quiet_s: float) -> float | None:
    last = max((c.received for c in commands if c.moves), default=-math.inf)
    if last > until - quiet_s:
        return None
    held = next((c.received for c in commands if c.received > last and c.received >= trigger), None)
    return (max(last, trigger) - trigger if held is None else held - trigger) * 1e3


def _target_ms(trigger: float, targets: Sequence[TargetSample], until: float, quiet_s: float) -> float | None:
    """The hold target is repeated: the first of the equal ones at the end is when the arm node held."""
    seen = [t for t in targets if t.received <= until]
    if len(seen) < 2 or seen[-1].received < trigger:
        return None
    first = seen[-1]
    for sample in reversed(seen[:-1]):
        if np.max(np.abs(sample.positions - first.positions)) > _SAME_TARGET_RAD:
            break
        first = sample
    if first is seen[-1] or first.received > until - quiet_s:
        return None
    return max(first.received - trigger, 0.0) * 1e3


def _rest(
    trigger: float, tools: Sequence[ToolSample], until: float, quiet_s: float
) -> tuple[float | None, float | None]:
    after = [t for t in tools if trigger <= t.received <= until]
    if not after or after[-1].received < until - quiet_s:
        # Nobody measures any more.
        return None, None
    moving = max((t.received for t in after if t.speed >= REST_SPEED), default=trigger)
    rests = next((t for t in after if t.received > moving), None)
    if rests is None or moving > until - quiet_s:
        return None, None
    start = min(tools, key=lambda t: abs(t.received - trigger))
    return (moving - trigger) * 1e3, float(np.linalg.norm(rests.position - start.position))
