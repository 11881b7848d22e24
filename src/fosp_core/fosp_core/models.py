"""The models folder as a catalogue: bundles in use, rounds that wait or were refused, the way back.

``<root>/<task>/<id>`` are bundles that may run; the newest one is what a graph starts with.
``<root>/<task>/.rounds/<id>`` are bundles of fine-tune rounds that were refused, wait for an operator, or were taken
back. A bundle moves between the two by one rename, so that it is in one of them, complete, at any time.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fosp_core import task as _task
from fosp_core.bundle import MANIFEST, Bundle, BundleError, created, load_bundle

ROUNDS: Final = ".rounds"
KEPT: Final = 5


@dataclass(frozen=True)
class Entry:
    """One folder of the catalogue."""

    id: str
    path: Path
    created: str
    """ISO 8601, UTC."""
    in_use: bool
    """Whether graphs may start with it; False for what lies under ``.rounds``."""
    bundle: Bundle | None
    fault: str = ""
    """Why it does not load."""

    @property
    def gate(self) -> dict[str, Any]:
        """The gate's verdict, where there is one."""
        return dict(self.bundle.manifest.evaluation.get("gate", {})) if self.bundle else {}

    @property
    def parent(self) -> str:
        """Identity of the bundle that it was fine-tuned from; empty for others."""
        return str(self.bundle.manifest.provenance.get("parent", "")) if self.bundle else ""

    @property
    def state(self) -> str:
        """``in use``, ``refused``, ``waiting`` or ``damaged``."""
        if self.fault:
            return "damaged"
        if self.in_use:
            return "in use"
        return "waiting" if self.gate.get("promoted") else "refused"


def catalogue(root: Path | str, task: str = _task.TASK) -> list[Entry]:
    """Everything in the models folder of a task, oldest first; what is damaged is listed with its fault."""
    folder = Path(root) / task
    entries = []
    for parent, in_use in ((folder, True), (folder / ROUNDS, False)):
        for manifest in parent.glob(f"*/{MANIFEST}"):
            path = manifest.parent
            if path.name.startswith("."):
                continue
            try:
                bundle, fault = load_bundle(path, task), ""
            except BundleError as error:
                bundle, fault = None, str(error)
            entries.append(Entry(path.name, path, created(path), in_use, bundle, fault))
    return sorted(entries, key=lambda e: (e.created, e.id))


def find(root: Path | str, name: str, task: str = _task.TASK) -> Entry:
    """The entry ``name``; raises ``BundleError`` that lists what is there."""
    entries = catalogue(root, task)
    for entry in entries:
        if entry.id == name:
            return entry
    known = ", ".join(entry.id for entry in entries) or "none"
    raise BundleError(f"{Path(root) / task}: holds no bundle {name!r}; there are: {known}")


def promote(root: Path | str, name: str, task: str = _task.TASK) -> Path:
    """Move a bundle from the rounds to where graphs find it; raises ``BundleError`` unless it is whole."""
    folder = Path(root) / task
    source, target = folder / ROUNDS / name, folder / name
    load_bundle(source, task)
    return _move(source, target)


def retire(root: Path | str, name: str, task: str = _task.TASK) -> Path:
    """Move a bundle away from where graphs find it; raises ``BundleError`` when it is not there."""
    folder = Path(root) / task
    source = folder / name
    if not (source / MANIFEST).is_file():
        raise BundleError(f"{source}: no such bundle")
    (folder / ROUNDS).mkdir(exist_ok=True)
    return _move(source, folder / ROUNDS / name)


def rollback(root: Path | str, task: str = _task.TASK) -> tuple[Entry, Entry]:
    """Retire the newest bundle that came from a round, so that graphs start with the one before it.

    Returns:
        What was retired, and what is the newest now.

    Raises:
        BundleError: the newest bundle did not come from a round, or there is none before it.
    """
    usable = [entry for entry in catalogue(root, task) if entry.in_use and not entry.fault]
    if not usable:
        raise BundleError(f"{Path(root) / task}: holds no bundle")
    if not usable[-1].parent:
        raise BundleError(f"{usable[-1].path}: is a released bundle, not the result of a round; there is no way back")
    if len(usable) < 2:
        raise BundleError(f"{usable[-1].path}: is the only bundle; there is none to go back to")
    retire(root, usable[-1].id, task)
    return usable[-1], usable[-2]


def discard(root: Path | str, name: str, task: str = _task.TASK) -> None:
    """Delete a bundle of a round that is not in use; nothing happens when it is not there."""
    shutil.rmtree(Path(root) / task / ROUNDS / name, ignore_errors=True)


def prune(root: Path | str, keep: int = KEPT, protect: tuple[str, ...] = (), task: str = _task.TASK) -> list[str]:
    """Delete the oldest bundles of rounds, all but ``keep`` in use and ``keep`` others. Returns what went.

    Bundles without a parent (released ones), those in ``protect`` and the newest in use always stay.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    rounds = [e for e in catalogue(root, task) if (e.parent or not e.in_use) and e.id not in protect]
    old = [entry for in_use in (True, False) for entry in [e for e in rounds if e.in_use == in_use][:-keep]]
    for entry in old:
        shutil.rmtree(entry.path)
    return [entry.id for entry in old]


def clean(root: Path | str, task: str = _task.TASK) -> list[Path]:
    """Delete what a writer that was killed left under ``.rounds``: folders that begin with a dot."""
    rounds = Path(root) / task / ROUNDS
    left = [path for path in rounds.glob(".*") if path.is_dir()]
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return left


def _move(source: Path, target: Path) -> Path:
    if target.exists():
        raise BundleError(f"{target}: exists already")
    os.replace(source, target)
    return target
