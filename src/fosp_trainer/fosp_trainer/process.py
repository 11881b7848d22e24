"""How a process that trains treats processor and memory."""

from __future__ import annotations

import ctypes
import os
from typing import Final

_TRIM_THRESHOLD: Final = -1  # numbers of mallopt(3)
_MMAP_MAX: Final = -4
_ARENA_MAX: Final = -8


def prepare() -> bool:
    """To be called before torch is first imported and before threads are started; returns whether freed memory is kept.

    Waiting threads sleep: spinning ones starve each other on a busy machine. Freed memory is kept for the next update
    instead of going back to the system, whose fresh pages are a quarter of an update's time; that works with the GNU
    C library only.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_ARENA_MAX, 1))
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    done = [mallopt(ctypes.c_int(name), ctypes.c_int(value)) for name, value in settings]
    return all(done)
