"""Changing the model of several nodes as one transaction: all of them or none, also when this process is killed.

The change is written down before the first node loads, and is in force with one rename in the models folder after the
last one has. A process that is killed in between leaves the note, and the next one brings all nodes to one model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fosp_core import models
from fosp_core.bundle import BundleError, newest


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


def change(root: Path, loaders: Sequence[Loader], new: str, old: str, commit: Callable[[], object]) -> Swapped:
    """Bring all nodes from the model ``old`` to ``new`` (identities), then put the change in force with ``commit``.

    ``commit`` makes ``new`` the newest bundle by one rename; where it fails, the nodes go back.

    Raises:
        BundleError: one of the two is not in the models folder.
        OSError: the models folder cannot be written; nothing was changed.
    """
    paths = [_relative(root, name) for name in (new, old)]
    models.begin_swap(root, models.Swap(new, old))
    done = swap(loaders, *paths)
    if done.success:
        try:
            commit()
        except (BundleError, OSError) as error:
            back = swap(loaders, paths[1], paths[0])
            told = f"{new} could not be put in force: {error}"
            done = Swapped(False, f"{told}; {back.message}", consistent=back.success)
        else:
            done = replace(done, message=f"{new} is in use")
    if done.consistent:
        models.end_swap(root)
    return done


def finish_interrupted(root: Path, loaders: Sequence[Loader], active: str) -> str:
    """End a change that a killed process began: all nodes go to the model that graphs start with now.

    Args:
        root: the models folder.
        loaders: the nodes.
        active: identity that the monitor runs; a graph that was started with a third model since is left alone.

    Returns:
        What was done, for people; empty when there was nothing to do.

    Raises:
        BundleError: a node does not load, or there is nothing to load; to be tried again.
    """
    left = models.unfinished_swap(root)
    if left is None:
        return ""
    if active not in (left.new, left.old):
        models.end_swap(root)
        return f"a change from {left.old} to {left.new} was interrupted; {active} runs now and stays"
    target = left.new if newest(root).name == left.new else left.old
    path = _relative(root, target)
    for loader in loaders:
        reply = loader.load(path)
        if not reply.success:
            raise BundleError(f"{loader.name} did not load {path}: {reply.message}")
    models.end_swap(root)
    return f"a change from {left.old} to {left.new} was interrupted; {target} is in use"


def _relative(root: Path, name: str) -> str:
    return str(models.find(root, name).path.relative_to(root))
