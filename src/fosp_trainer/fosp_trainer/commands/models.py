"""``fosp-train models``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from fosp_trainer.errors import UserError

if TYPE_CHECKING:
    from fosp_core.models import Entry


@dataclass
class Models:
    """List the models folder, show or compare bundles, promote one that waits, or go back to the one before.

    A running graph keeps its model: ask its trainer node (/fosp/models/promote, /fosp/models/rollback) instead.
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
                print(json.dumps(entries[0].facts, indent=1))
            else:
                print("\n".join(models.differences(*entries)))
    except BundleError as error:
        raise UserError(str(error)) from error


def _list(entries: list[Entry]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for heading in ("id", "state", "created", "from", "gate"):
        table.add_column(heading)
    for entry in entries:
        told = "; ".join(entry.reasons) or ("passed" if entry.gate else "")
        table.add_row(entry.id, entry.state, entry.created, entry.parent, told)
    Console(highlight=False).print(table)
