"""How long the arm takes to hold after its commands stopped, seen in the measured joint velocities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

HOLD_LIMIT_S: Final = 0.2
"""From the death of the monitor to a holding arm."""
REST_SPEED: Final = 0.02
"""Joint speed in rad/s below which the arm holds: about 1 cm/s at the tool, stretched out."""


@dataclass(frozen=True)
class JointSample:
    """Time in seconds, and the fastest joint's speed in rad/s."""

    time_s: float
    speed: float


@dataclass(frozen=True)
class Killed:
    """The moment the monitor was killed, and the joints around it; times on the clock of the stamps."""

    at_s: float
    at_step: int
    samples: tuple[JointSample, ...]


@dataclass(frozen=True)
class Hold:
    """What happened after the commands stopped."""

    speed_before: float
    """Fastest joint when the commands stopped, rad/s."""
    hold_s: float | None
    """Seconds until the arm held and kept holding; None when it was still moving at the end."""

    @property
    def within_limit(self) -> bool:
        """Whether the arm held in time."""
        return self.hold_s is not None and self.hold_s <= HOLD_LIMIT_S


def measure_hold(samples: Sequence[JointSample], stopped_at_s: float, rest_speed: float = REST_SPEED) -> Hold:
    """Time from ``stopped_at_s`` to the first sample from which on every joint rests.

    Args:
        samples: in the order of their times, reaching from before the stop to well after it.
        stopped_at_s: when the commands stopped, on the clock of the samples.
        rest_speed: rad/s below which a joint rests.

    Raises:
        ValueError: there are no samples before or after the stop, or the arm was not moving then.
    """
    before = [s for s in samples if s.time_s <= stopped_at_s]
    after = [s for s in samples if s.time_s > stopped_at_s]
    if not before or not after:
        raise ValueError("joint states do not span the moment the commands stopped")
    speed = before[-1].speed
    if speed < rest_speed:
        raise ValueError("the arm was not moving when the commands stopped")
    moving = [s.time_s for s in after if s.speed >= rest_speed]
    if moving and moving[-1] == after[-1].time_s:
        return Hold(speed, None)
    first_rest = min(s.time_s for s in after if not moving or s.time_s > moving[-1])
    return Hold(speed, first_rest - stopped_at_s)
