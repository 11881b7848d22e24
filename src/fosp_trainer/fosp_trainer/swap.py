"""Changing the model of several nodes as one transaction: all of them or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Reply:
    """A node's answer to a request to load a bundle."""

    success: bool
    message: str = ""


@dataclass(frozen=True)
class Loader:
    """A node that loads bundles: its name, and how to ask it."""

    name: str
    load: Callable[[str], Reply]


@dataclass(frozen=True)
class Swapped:
    """How it ended. ``consistent`` is False when a node could not be brought back to the old bundle."""

    success: bool
    message: str
    consistent: bool = True


def swap(loaders: Sequence[Loader], new: str, old: str) -> Swapped:
    """Ask every node to load ``new``; where one refuses, those that had loaded it go back to ``old``.

    Bundles are named relative to the models folder.
    """
    changed: list[Loader] = []
    for loader in loaders:
        reply = loader.load(new)
        if reply.success:
            changed.append(loader)
            continue
        stuck = []
        # the one that refused is asked too: an answer that was lost may have come after the change
        for other in [*changed, loader]:
            back = other.load(old)
            if not back.success:
                stuck.append(f"{other.name} ({back.message})")
        told = f"{loader.name} did not load {new}: {reply.message}"
        if stuck:
            return Swapped(
                False, f"{told}; could not go back to {old}: {', '.join(stuck)}; halt and load by hand", False
            )
        return Swapped(False, f"{told}; {old} stays in use")
    return Swapped(True, f"{new} is in use")
