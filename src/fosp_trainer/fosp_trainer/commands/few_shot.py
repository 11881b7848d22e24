"""``fosp-train few-shot``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fosp_trainer.errors import UserError


@dataclass
class FewShot:
    """Own episodes in a scene with policy expansion, fine-tune rounds on them, and the figures before and after."""

    bundle: Path
    """Folder of the bundle, for example models/safereach/NAME."""
    scene: str = "new_objects"
    """Scene name."""
    episodes: int = 20
    """Own episodes of a round."""
    rounds: int = 1
    """Rounds, each on the own episodes so far."""
    steps: int | None = None
    """Gradient steps of a round; by default what the bundle's configuration says (40)."""
    seed: int = 0
    """Of the round, and of its layouts within the data range."""
    data: tuple[str, ...] = ()
    """Minari datasets of earlier episodes to mix in; without them the round sees the new scene only."""
    output: Path | None = None
    """Folder for the new bundle; must not exist. By default it is thrown away after the evaluation."""
    evaluation_episodes: int = 200
    """Layouts of the evaluation range before and after."""
    monitor: Literal["on", "off"] = "off"
    """Whether the safety monitor stands in the way in the evaluations."""
    expansion: Literal["configured", "on", "off"] = "configured"
    """Whether pi_on stands beside the frozen pi_off; off fine-tunes the one policy. By default as the bundle says."""
    noise: float = 0.2
    """Standard deviation of the action noise in every other own episode."""
    before: Path | None = None
    """File that ``fosp-train evaluate --json`` wrote of this bundle, scene, monitor and number of layouts: its figures
    are taken for those before the round.
    """
    json: Path | None = None
    """File for the figures and the record of every episode."""
    workers: int = 2
    """Processes, and threads of the gradient steps."""
    quiet: bool = False
    """No progress bars, no table."""


def run(command: FewShot) -> None:
    """Run the experiment, print a table, write the file."""
    from fosp_core.bundle import BundleError
    from fosp_trainer.few_shot import few_shot
    from fosp_trainer.provenance import write_result

    try:
        result = few_shot(
            command.bundle, command.scene, command.episodes, command.steps, command.seed, command.data,
            command.output, command.evaluation_episodes, command.monitor == "on", command.noise, command.workers,
            command.quiet, None if command.expansion == "configured" else command.expansion == "on",
            command.before, command.rounds,
        )  # fmt: skip
    except (BundleError, ValueError) as error:
        raise UserError(str(error)) from error
    if command.json is not None:
        write_result(command.json, result)
    if not command.quiet:
        show(result)


def show(result: dict[str, Any]) -> None:
    """Print the figures before and after every round."""
    from rich.table import Table

    from fosp_trainer.progress import console

    watched = "on" if result["monitor"] else "off"
    count = result["zero_shot"]["episodes"]
    table = Table(title=f"{result['model_id']} in {result['scene']}, monitor {watched}, {count} episodes (95 %)")
    stages = {"zero-shot": result["zero_shot"]}
    stages |= {f"round {i}": done["evaluated"] for i, done in enumerate(result["rounds"], 1)}
    for heading in ("", *stages):
        table.add_column(heading)
    for name in ("success", "violation", "safe_success"):
        cells = []
        for part in stages.values():
            low, high = part[f"{name}_rate_interval"]
            cells.append(f"{100 * part[f'{name}_rate']:.1f} % ({100 * low:.0f} to {100 * high:.0f})")
        table.add_row(name.replace("_", " "), *cells)
    console.print(table)
    for number, done in enumerate(result["rounds"], 1):
        told = done["report"]
        console.print(
            f"round {number}: {told['steps']} gradient steps on {told['own_episodes']} own episodes in "
            f"{told['duration_s']:.0f} s"
        )
    if not result["rounds"][0]["report"]["old_episodes"]:
        console.print("no earlier episodes were mixed in (--data): the rounds saw this scene only")
