"""Which nodes of a graph run before which, where two of them want the same processor."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
from enum import Enum
from typing import Final

NO_REALTIME: Final = (
    "this user may not run processes in real time: on a busy machine commands come later (docs/safety.md#scheduling)"
)


class Priority(Enum):
    """From what never waits to what always does: real-time priority (0 for none), niceness, and whether it runs only
    while nothing else wants to.

    Where the system forbids real time or the idle class, niceness has to do.
    """

    SAFETY = (20, 0, False)
    """What consents and what holds the arm."""
    CONTROL = (10, 0, False)
    """What else lies on the way from camera to command."""
    NORMAL = (0, 0, False)
    RELAXED = (0, 5, False)
    """What the control loop need not wait for."""
    BACKGROUND = (0, 10, True)

    @property
    def realtime(self) -> int:
        """Priority under ``SCHED_RR``; 0 for none. Low, so that interrupts of a real-time kernel (50) come first."""
        return self.value[0]

    @property
    def niceness(self) -> int:
        """Added to the niceness."""
        return self.value[1]

    @property
    def idle(self) -> bool:
        """Whether it belongs to ``SCHED_IDLE``."""
        return self.value[2]


def claim(priority: Priority) -> None:
    """Give this process a priority. Calls the kernel only, so that it may stand between fork and exec."""
    if priority.niceness:
        os.nice(priority.niceness)
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError):
        if priority.realtime:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(priority.realtime))
        elif priority.idle:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def prefix(priority: Priority) -> list[str]:
    """Words before a command that give it a priority, for who starts processes by their command line only."""
    words = ["nice", "-n", str(priority.niceness)] if priority.niceness else []
    scheduler = ["--rr", str(priority.realtime)] if priority.realtime else ["--idle", "0"] if priority.idle else []
    return [*words, *(["chrt", *scheduler] if scheduler and _granted(*scheduler) else [])]


def realtime_allowed() -> bool:
    """Whether this user may run processes in real time here."""
    return sys.platform == "linux" and _granted("--rr", str(Priority.SAFETY.realtime))


@functools.cache  # asked for every node
def _granted(*scheduler: str) -> bool:
    """Whether ``chrt`` may do so here; a sandbox, or a missing limit ``rtprio``, may forbid it."""
    if shutil.which("chrt") is None:
        return False
    return subprocess.run(["chrt", *scheduler, "true"], capture_output=True, check=False).returncode == 0
