"""``fosp-train compare``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fosp_trainer.errors import UserError
from fosp_trainer.variants import Plan


@dataclass
class Compare:
    """Train the rows of the comparison on one run's frozen world model, with the same data and updates, and evaluate
    them on the same layouts without the monitor. Finished parts stay in the work folder: the same command goes on.
    """

    plan: Annotated[Plan, tyro.conf.arg(name="")]
    json: Path
    """File for the table; the plot is written beside it."""
    work: Path | None = None
    """Folder for trained agents, bundles and finished rows; by default runs/compare/NAME, as the JSON file is named."""


def run(command: Compare) -> None:
    """Finish the rows, write the file and the plot, print the table."""
    from fosp_core.bundle import BundleError
    from fosp_trainer.compare import Comparison, draw

    work = command.work or Path("runs/compare") / command.json.stem
    try:
        result = Comparison(command.plan, work).run(command.json)
        draw(result, command.json.with_suffix(".svg"))
    except (BundleError, ValueError, OSError) as error:
        raise UserError(str(error)) from error
    if not command.plan.quiet:
        show(result)


def show(result: dict[str, Any]) -> None:
    """Print the rows."""
    from rich.table import Table

    from fosp_trainer.progress import console

    names = ("success", "violation", "safe_success")
    table = Table(title=f"{result['scene']}, monitor off, % with 95 % intervals")
    for heading in ("", *(name.replace("_", " ") for name in names), "safe success against fosp"):
        table.add_column(heading)
    for variant, row in result["rows"].items():
        cells = [_told(row[f"{name}_rate"], row[f"{name}_rate_interval"]) for name in names]
        difference = ""
        if "safe_success_difference" in row:
            difference = _told(row["safe_success_difference"], row["safe_success_difference_interval"], "+.0f")
        table.add_row(variant, *cells, difference)
    console.print(table)


def _told(value: float, interval: list[float], form: str = ".0f") -> str:
    low, high = interval
    return f"{100 * value:{form}} ({100 * low:{form}} to {100 * high:{form}})"
