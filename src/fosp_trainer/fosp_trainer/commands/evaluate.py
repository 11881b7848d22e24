"""``fosp-train evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fosp_trainer.errors import UserError


@dataclass
class Evaluate:
    """Run a bundle in the simulated environment, without ROS, and count successes and violations."""

    bundle: Path
    """Folder of the bundle, for example models/safereach/NAME."""
    scene: str = "standard"
    """Scene name."""
    episodes: int = 200
    """How many layouts."""
    seed: int = 0
    """First layout within the evaluation range."""
    monitor: Literal["on", "off"] = "on"
    """Whether the safety monitor stands in the way."""
    mode: Literal["manifest", "greedy", "sample", "offline", "online"] = "manifest"
    """Which candidate acts."""
    json: Path | None = None
    """File for the figures and the record of every episode."""
    workers: int = 2
    """Processes."""
    quiet: bool = False
    """No progress bar, no table."""


def run(command: Evaluate) -> None:
    """Evaluate, print a table, write the file."""
    from fosp_core.bundle import BundleError
    from fosp_trainer.evaluation import evaluate
    from fosp_trainer.provenance import write_result

    try:
        result = evaluate(
            command.bundle, command.scene, command.episodes, command.seed, command.monitor == "on", command.workers,
            command.quiet, None if command.mode == "manifest" else command.mode,
        )  # fmt: skip
    except BundleError as error:
        raise UserError(str(error)) from error
    if command.json is not None:
        write_result(command.json, result)
    if not command.quiet:
        show(result)


def show(result: dict[str, Any]) -> None:
    """Print the figures of one evaluation."""
    from rich.table import Table

    from fosp_trainer.progress import console

    watched = "on" if result["monitor"] else "off"
    table = Table(title=f"{result['model_id']} in {result['scene']}, monitor {watched}, {result['episodes']} episodes")
    for heading in ("", "rate", "95 % interval"):
        table.add_column(heading)
    for name in ("success", "violation", "safe_success"):
        low, high = result[f"{name}_rate_interval"]
        table.add_row(
            name.replace("_", " "), f"{100 * result[f'{name}_rate']:.1f} %", f"{100 * low:.1f} to {100 * high:.1f} %"
        )
    console.print(table)
    halts = ", ".join(f"{name} {count}" for name, count in result["halts"].items()) or "none"
    console.print(f"mean return {result['mean_return']:.2f}, steps {result['mean_steps']:.1f}; halts: {halts}")
