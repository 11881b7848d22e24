"""How long the arm takes to hold after its commands stopped, seen in its measured motion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fosp_core.task import TOOL_LEAD_M, TOOL_SPEED_LIMIT

HOLD_LIMIT_S: Final = 0.2
"""From the death of the monitor to a holding arm."""
TRAVEL_LIMIT_M: Final = TOOL_SPEED_LIMIT * HOLD_LIMIT_S + TOOL_LEAD_M
"""Farthest way of the tool then: at the largest speed for all of that time, and on to a target that was sent before."""
REST_SPEED: Final = 0.01
"""Tool speed in m/s below which the arm holds: 4 % of the fastest."""


@dataclass(frozen=True)
class ToolSample:
    """Measured tool at one time: seconds, position in metres, speed in m/s."""

    time_s: float
    position: tuple[float, float, float]
    speed: float


@dataclass(frozen=True)
class Killed:
    """The moment the monitor was killed, and the tool around it; times on the clock of the stamps."""

    at_s: float
    at_step: int
    samples: tuple[ToolSample, ...]


@dataclass(frozen=True)
class Hold:
    """What happened after the commands stopped."""

    speed_before: float
    """Tool speed when the commands stopped, m/s."""
    hold_s: float | None
    """Seconds until the arm held and kept holding; None when it was still moving at the end."""
    travel_m: float
    """Distance of the tool's last position from where it was when the commands stopped."""

    @property
    def within_travel(self) -> bool:
        """Whether the arm held, and not too far away, however busy the machine that watched it was."""
        return self.hold_s is not None and self.travel_m <= TRAVEL_LIMIT_M

    @property
    def within_limit(self) -> bool:
        """Whether the arm held in time, to the millisecond: the samples' stamps are no truer than that."""
        return self.hold_s is not None and round(self.hold_s, 3) <= HOLD_LIMIT_S


def measure_hold(samples: Sequence[ToolSample], stopped_at_s: float, rest_speed: float = REST_SPEED) -> Hold:
    """Time from ``stopped_at_s`` to the first sample from which on the tool rests.

    Args:
        samples: in the order of their times, reaching from before the stop to well after it.
        stopped_at_s: when the commands stopped, on the clock of the samples.
        rest_speed: m/s below which the tool rests.

    Raises:
        ValueError: there are no samples before or after the stop, or the arm was not moving then.
    """
    before = [s for s in samples if s.time_s <= stopped_at_s]
    after = [s for s in samples if s.time_s > stopped_at_s]
    if not before or not after:
        raise ValueError("the samples do not span the moment the commands stopped")
    speed = before[-1].speed
    if speed < rest_speed:
        raise ValueError("the arm was not moving when the commands stopped")
    travel = math.dist(before[-1].position, after[-1].position)
    moving = [s.time_s for s in after if s.speed >= rest_speed]
    if moving and moving[-1] == after[-1].time_s:
        return Hold(speed, None, travel)
    first_rest = min(s.time_s for s in after if not moving or s.time_s > moving[-1])
    return Hold(speed, first_rest - stopped_at_s, travel)
