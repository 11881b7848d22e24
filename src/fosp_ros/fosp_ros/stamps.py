"""Message stamps as numbers.

A stamp that identifies a frame is compared as nanoseconds (exact); ages and durations are seconds.
"""

from __future__ import annotations

from builtin_interfaces.msg import Time

_BILLION = 1_000_000_000


def to_nanoseconds(stamp: Time) -> int:
    """Nanoseconds since the epoch of the clock in use."""
    return int(stamp.sec) * _BILLION + int(stamp.nanosec)


def from_nanoseconds(nanoseconds: int) -> Time:
    """Stamp of a time >= 0 in nanoseconds; ``ValueError`` for what a stamp cannot hold."""
    seconds, rest = divmod(int(nanoseconds), _BILLION)
    if not 0 <= seconds < 2**31:
        raise ValueError(f"{nanoseconds} ns is no time that a stamp can hold")
    return Time(sec=seconds, nanosec=rest)


def to_seconds(stamp: Time) -> float:
    """Seconds since the epoch of the clock in use (resolution about 0.2 microseconds)."""
    return to_nanoseconds(stamp) * 1e-9


def from_seconds(seconds: float) -> Time:
    """Stamp of a time >= 0 in seconds."""
    return from_nanoseconds(round(seconds * 1e9))


def age_s(stamp: Time, now_ns: int) -> float:
    """Seconds from the stamp to now; negative when the stamp lies in the future."""
    return (now_ns - to_nanoseconds(stamp)) * 1e-9
