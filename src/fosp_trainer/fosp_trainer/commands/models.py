"""``fosp-train models``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from fosp_trainer.errors import UserError

if TYPE_CHECKING:
    from fosp_core.models import Entry


@dataclass
class Models:
    """List the models folder, show or compare bundles, promote one that waits, or go back to the one before.

    A running graph keeps its model until it is told to load another (menu, console or the load_model services).
    """

    action: tyro.conf.Positional[Literal["list", "show", "diff", "promote", "rollback"]] = "list"
    """What to do."""
    ids: tyro.conf.Positional[tuple[str, ...]] = ()
    """Bundles: one for show and promote, two for diff."""
    models_root: Path = Path("models")
    """Folder of the model bundles."""
    task: str = "safereach"
    """Task, a folder in it."""


def run(command: Models) -> None:
    """Do it; everything that is asked for goes to standard output."""
    from fosp_core import models
    from fosp_core.bundle import BundleError

    needed = {"show": 1, "promote": 1, "diff": 2}.get(command.action, 0)
    if len(command.ids) != needed:
        raise UserError(f"models {command.action} takes {needed} ids, got {len(command.ids)}")
    try:
        if command.action == "list":
            _list(models.catalogue(command.models_root, command.task))
        elif command.action == "promote":
            print(f"promoted to {models.promote(command.models_root, command.ids[0], command.task)}")
        elif command.action == "rollback":
            gone, now = models.rollback(command.models_root, command.task)
            print(
                f"{gone.id} taken back, the newest is {now.id}; a running graph keeps its model until it loads another"
            )
        else:
            entries = [models.find(command.models_root, name, command.task) for name in command.ids]
            if command.action == "show":
                print(json.dumps(_facts(entries[0]), indent=1))
            else:
                _diff(*(_flat(_facts(entry)) for entry in entries))
    except BundleError as error:
        raise UserError(str(error)) from error


def _list(entries: list[Entry]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for heading in ("id", "state", "created", "from", "gate"):
        table.add_column(heading)
    for entry in entries:
        reasons = entry.fault or "; ".join(entry.gate.get("reasons", ())) or ("passed" if entry.gate else "")
        table.add_row(entry.id, entry.state, entry.created, entry.parent, reasons)
    Console(highlight=False).print(table)


def _facts(entry: Entry) -> dict[str, Any]:
    facts: dict[str, Any] = {"id": entry.id, "path": str(entry.path), "standing": entry.state}
    if entry.bundle is None:
        return {**facts, "fault": entry.fault}
    return {**facts, **entry.bundle.manifest.to_json()}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for name, part in value.items() for k, v in _flat(part, f"{prefix}.{name}".lstrip(".")).items()}
    return {prefix: value}


def _diff(first: dict[str, Any], second: dict[str, Any]) -> None:
    for name in [*first, *(n for n in second if n not in first)]:
        if first.get(name) != second.get(name):
            print(f"{name}: {json.dumps(first.get(name))} -> {json.dumps(second.get(name))}")
