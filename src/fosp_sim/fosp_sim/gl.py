"""Chooses how MuJoCo draws without a display. Import this before mujoco."""

from __future__ import annotations

import ctypes.util
import os


class GraphicsError(RuntimeError):
    """No way to draw on this machine; the message says what to install."""


def prepare() -> str:
    """Set ``MUJOCO_GL`` when nobody has, and return it.

    Raises:
        GraphicsError: neither EGL nor OSMesa is installed.
    """
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    libraries = {"egl": "EGL", "osmesa": "OSMesa"}
    candidates = [chosen] if chosen in libraries else list(libraries)
    if chosen and chosen not in libraries:
        return chosen
    for backend in candidates:
        if ctypes.util.find_library(libraries[backend]):
            os.environ["MUJOCO_GL"] = backend
            os.environ["PYOPENGL_PLATFORM"] = backend
            return backend
    raise GraphicsError(
        f"cannot draw: no {' or '.join(libraries[b] for b in candidates)} library found. "
        "Install libegl1 and libgl1-mesa-dri (or libosmesa6), for example: "
        "apt-get install libegl1 libgl1-mesa-dri"
    )
