"""``fosp-train compare``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fosp_trainer.errors import UserError
from fosp_trainer.variants import VARIANTS


@dataclass
class Compare:
    """Train the rows of the comparison on one run's frozen world model, with the same data and updates, and evaluate
    them on the same layouts without the monitor. Finished parts stay in the work folder: the same command goes on.
    """

    run: Path
    """Folder of a pretrained run; only its world model and its configuration are used."""
    data: tuple[str, ...]
    """Minari datasets: folders or installed ids."""
    json: Path
    """File for the table; the plot is written beside it."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Rows."""
    seeds: tuple[int, ...] = (0,)
    """Training seeds."""
    scene: str = "standard"
    """Scene of the evaluation."""
    episodes: int = 200
    """Evaluation layouts, the same for every row."""
    critic_steps: int | None = None
    """Updates of the critics before the actor's; by default as the run's configuration says."""
    actor_steps: int | None = None
    """Updates of the actor; the critics get as many more beside it."""
    sample: int | None = None
    """Train on that many random episodes of each dataset only."""
    flip: bool | None = None
    """Whether mirrored episodes are trained on too; by default as the run's configuration says."""
    few_shot: str | None = None
    """Also fine-tune every row in this scene, and evaluate it there before and after."""
    few_shot_episodes: int = 20
    """Own episodes to fine-tune on."""
    work: Path | None = None
    """Folder for trained agents, bundles and finished rows; by default runs/compare/NAME, as the JSON file is named."""
    workers: int = 2
    """Processes of the evaluation."""
    quiet: bool = False
    """No progress, no table."""


def run(command: Compare) -> None:
    """Finish the rows, write the file and the plot, print the table."""
    from fosp_core.bundle import BundleError
    from fosp_trainer.compare import Comparison, Plan, draw

    plan = Plan(
        command.run, command.data, command.work or Path("runs/compare") / command.json.stem, command.variants,
        command.seeds, command.scene, command.episodes, command.critic_steps, command.actor_steps, command.sample,
        command.flip, command.few_shot, command.few_shot_episodes, command.workers, command.quiet,
    )  # fmt: skip
    try:
        result = Comparison(plan).run(command.json)
        draw(result, command.json.with_suffix(".svg"))
    except (BundleError, ValueError, OSError) as error:
        raise UserError(str(error)) from error
    if not command.quiet:
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
