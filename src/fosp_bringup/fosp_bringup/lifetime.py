"""Processes that end with the one that started them, even when that one is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Final

from fosp_bringup.priority import Priority, claim

_PR_SET_PDEATHSIG: Final = 1
# Loaded here: between fork and exec nothing may be imported or allocated that a lock could guard.
_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent(parent: int, number: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent ends (Linux).

    Args:
        parent: the process id of the parent; when it is gone already, the signal is sent at once.
        number: the signal.
    """
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def child_setup(number: signal.Signals, priority: Priority = Priority.NORMAL) -> Callable[[], None]:
    """A ``preexec_fn`` that ties a child to the process that calls this, and gives it a priority."""
    parent = os.getpid()

    def setup() -> None:
        die_with_parent(parent, number)
        claim(priority)

    return setup
