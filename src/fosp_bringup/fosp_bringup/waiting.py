"""Waiting with an end, without blocking: for services that are not known yet, and for answers. No ROS, no threads.

Whoever owns the clock calls ``poll``. Every wait ends exactly once, with what was waited for or with a reason.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

Condition = Callable[[], bool]
Reason = Callable[[], str]
"""Why it makes no sense to wait any longer; empty: go on waiting."""


@dataclass(frozen=True)
class _Wait:
    ready: Condition
    then: Callable[[], None]
    over: Reason
    given_up: Callable[[str], None]

    def settled(self) -> Callable[[], None] | None:
        """What to do now that the wait has ended; None while it goes on."""
        if self.ready():
            return self.then
        reason = self.over()
        return (lambda: self.given_up(reason)) if reason else None


class Waits:
    """Everything that is waited for. Thread-safe; callbacks run in the thread that found the wait ended."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock`` gives seconds that never stand still or go back."""
        self._clock = clock
        self._lock = threading.Lock()
        self._waits: list[_Wait] = []

    def __len__(self) -> int:
        return len(self._waits)

    def add(
        self,
        ready: Condition,
        then: Callable[[], None],
        over: Reason,
        given_up: Callable[[str], None],
    ) -> None:
        """Call ``then`` when ``ready``, or ``given_up`` with the reason when ``over`` gives one before that."""
        wait = _Wait(ready, then, over, given_up)
        end = wait.settled()
        if end is not None:
            end()
            return
        with self._lock:
            self._waits.append(wait)

    def poll(self) -> None:
        """Look after every wait."""
        with self._lock:
            waits, self._waits = self._waits, []
        ends = []
        for wait in waits:
            end = wait.settled()
            if end is None:
                with self._lock:
                    self._waits.append(wait)
            else:
                ends.append(end)
        for end in ends:
            end()

    def after(self, seconds: float, reason: str) -> Reason:
        """Give up after a time."""
        end = self._clock() + seconds
        return lambda: reason if self._clock() >= end else ""

    def absent(self, present: Condition, seconds: float, reason: str) -> Reason:
        """Give up when something has not been present for a time."""
        seen = self._clock()

        def over() -> str:
            nonlocal seen
            now = self._clock()
            if present():
                seen = now
            return reason if now - seen >= seconds else ""

        return over


def any_of(*reasons: Reason) -> Reason:
    """The first of several reasons to give up."""
    return lambda: next((text for reason in reasons if (text := reason())), "")
