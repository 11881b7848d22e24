"""Priorities of processes, and what is left of them where the system forbids some."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fosp_bringup import priority
from fosp_bringup.priority import Priority, claim, prefix, realtime_allowed

SCHEDULE = "import os; print(os.sched_getscheduler(0), os.sched_getparam(0).sched_priority, os.nice(0))"


def schedule(command: list[str], claimed: Priority = Priority.NORMAL) -> list[int]:
    """Scheduler, real-time priority and niceness of a program started so."""
    program = [*command, sys.executable, "-c", SCHEDULE]
    told = subprocess.run(program, capture_output=True, text=True, check=True, preexec_fn=lambda: claim(claimed))
    return [int(word) for word in told.stdout.split()]


@pytest.mark.parametrize("each", Priority)
def test_a_command_line_gives_the_priority_that_a_process_claims(each: Priority) -> None:
    assert schedule(prefix(each)) == schedule([], each)


@pytest.mark.skipif(not realtime_allowed(), reason="this user may not run processes in real time")
def test_safety_comes_before_control_and_both_before_the_rest() -> None:
    ranks = [schedule(prefix(each))[1] for each in Priority]
    assert ranks[0] > ranks[1] > 0
    assert ranks[2:] == [0, 0, 0]


def test_without_permission_niceness_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(priority, "_granted", lambda *_: False)
    assert prefix(Priority.SAFETY) == []
    assert prefix(Priority.BACKGROUND) == ["nice", "-n", "10"]
    assert not realtime_allowed()

    def forbid(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbid)
    claim(Priority.SAFETY)
