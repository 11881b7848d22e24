"""Chooses how MuJoCo draws without a display. Import this before mujoco."""

from __future__ import annotations

import ctypes.util
import os
from typing import Final

ADVICE: Final = (
    "Install libegl1 and libgl1-mesa-dri (or libosmesa6), for example: apt-get install libegl1 libgl1-mesa-dri"
)
_LIBRARIES: Final = {"egl": "EGL", "osmesa": "OSMesa"}
_DISABLED: Final = "disable"


class GraphicsError(RuntimeError):
    """No way to draw on this machine; the message says what to install."""


def prepare() -> str:
    """Choose ``MUJOCO_GL`` (``egl`` before ``osmesa``) unless the user did, and return it.

    Where the library is missing it is ``disable``: physics works, and the first picture raises ``GraphicsError``.
    """
    # Pictures are too small to gain from several threads, which other processes can use.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    if chosen and chosen not in _LIBRARIES:
        return chosen
    for backend in [chosen] if chosen else list(_LIBRARIES):
        if ctypes.util.find_library(_LIBRARIES[backend]):
            os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = backend
            return backend
    os.environ["MUJOCO_GL"] = _DISABLED
    return _DISABLED


def check() -> None:
    """Raise ``GraphicsError`` when there is no library to draw with."""
    if os.environ.get("MUJOCO_GL") == _DISABLED:
        raise GraphicsError(f"cannot draw: no OpenGL library for drawing without a display. {ADVICE}")
