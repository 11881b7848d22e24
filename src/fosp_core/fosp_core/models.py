"""The models folder as a catalogue: bundles in use, rounds that wait or were refused, the way back.

``<root>/<task>/<id>`` are bundles that may run; the newest one is what a graph starts with.
``<root>/<task>/.rounds/<id>`` are bundles of fine-tune rounds that were refused, wait for an operator, or were taken
back. A bundle moves between the two by one rename, so that it is in one of them, complete, at any time.
``<root>/<task>/.rounds/swap.json`` names a change of the model that has begun and not ended.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from fosp_core import task as _task
from fosp_core.bundle import MANIFEST, Bundle, BundleError, created, load_bundle

ROUNDS: Final = ".rounds"
SWAP: Final = "swap.json"
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
    def reasons(self) -> tuple[str, ...]:
        """What speaks against it: its fault, or what the gate found; empty when nothing does."""
        if self.fault:
            return (self.fault,)
        if not self.gate and not self.in_use:
            return ("the gate has not judged it",)
        return tuple(str(reason) for reason in self.gate.get("reasons", ()))

    @property
    def facts(self) -> dict[str, Any]:
        """JSON values for people: identity, path, standing, and the manifest or the fault."""
        told: dict[str, Any] = {"id": self.id, "path": str(self.path), "standing": self.state}
        return {**told, "fault": self.fault} if self.bundle is None else {**told, **self.bundle.manifest.to_json()}

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


def differences(first: Entry, second: Entry) -> list[str]:
    """What differs between two entries, ``field: value -> value`` each, values as JSON."""
    before, after = _flat(first.facts), _flat(second.facts)
    return [
        f"{name}: {json.dumps(before.get(name))} -> {json.dumps(after.get(name))}"
        for name in [*before, *(n for n in after if n not in before)]
        if before.get(name) != after.get(name)
    ]


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


def way_back(root: Path | str, task: str = _task.TASK) -> tuple[Entry, Entry]:
    """The newest bundle, which came from a round, and the one before it.

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
    return usable[-1], usable[-2]


def rollback(root: Path | str, task: str = _task.TASK) -> tuple[Entry, Entry]:
    """Retire the newest bundle that came from a round, so that graphs start with the one before it.

    Returns:
        What was retired, and what is the newest now.

    Raises:
        BundleError: there is no ``way_back``.
    """
    gone, now = way_back(root, task)
    retire(root, gone.id, task)
    return gone, now


@dataclass(frozen=True)
class Swap:
    """A change of the model of a running graph, from one identity to another."""

    new: str
    old: str


def begin_swap(root: Path | str, swap: Swap, task: str = _task.TASK) -> None:
    """Write down that a change begins, so that it can be ended by another process; raises ``OSError``."""
    folder = Path(root) / task / ROUNDS
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{SWAP}"
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(asdict(swap), stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, folder / SWAP)


def unfinished_swap(root: Path | str, task: str = _task.TASK) -> Swap | None:
    """The change that has begun and not ended; None when there is none, or what was written cannot be read."""
    try:
        raw = json.loads((Path(root) / task / ROUNDS / SWAP).read_text(encoding="utf-8"))
        return Swap(str(raw["new"]), str(raw["old"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def end_swap(root: Path | str, task: str = _task.TASK) -> None:
    """The change has ended, one way or the other."""
    (Path(root) / task / ROUNDS / SWAP).unlink(missing_ok=True)


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


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for name, part in value.items() for k, v in _flat(part, f"{prefix}.{name}".lstrip(".")).items()}
    return {prefix: value}
