"""When the kernel runs this process: in real time once its node is ready, where its starter asks for that."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Final

from fosp_ros.errors import ConfigurationError

REALTIME_VARIABLE: Final = "FOSP_REALTIME_PRIORITY"
"""Environment variable: priority under ``SCHED_RR`` in [1, 99]; empty or absent: none."""


def claim_real_time() -> None:
    """Give every thread of this process the priority that ``REALTIME_VARIABLE`` asks for.

    For a node that is ready to work: its start takes seconds of processor, which in real time it would take from
    nodes that work already. Where the system forbids it, nothing changes and ``describe`` says so.

    Raises:
        ConfigurationError: the variable holds something else than a priority.
    """
    text = os.environ.get(REALTIME_VARIABLE, "")
    if not text or sys.platform != "linux":
        return
    if not (text.isdecimal() and 1 <= int(text) <= 99):
        raise ConfigurationError(f"{REALTIME_VARIABLE} must be an integer in [1, 99], got {text!r}")
    parameters = os.sched_param(int(text))
    claimed: set[int] = set()
    # A thread begins as the one that started it was: once more round finds what began meanwhile.
    while threads := {int(task.name) for task in Path("/proc/self/task").iterdir()} - claimed:
        for thread in threads:
            with contextlib.suppress(OSError):  # forbidden, or the thread has ended
                os.sched_setscheduler(thread, os.SCHED_RR, parameters)
        claimed |= threads


def describe() -> str:
    """How the kernel schedules this process, in words."""
    if sys.platform == "linux":
        policy = os.sched_getscheduler(0)
        if policy in (os.SCHED_FIFO, os.SCHED_RR):
            return f"real time, priority {os.sched_getparam(0).sched_priority}"
        if policy == os.SCHED_IDLE:
            return "only while nothing else wants to run"
    return f"niceness {os.getpriority(os.PRIO_PROCESS, 0)}"
