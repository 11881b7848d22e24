"""The few-shot experiment in scenes of transfer with several seeds: one table and one plot of before and after.

Rows are those of ``fosp-train few-shot``; finished ones are kept and not run again. Differences are paired by layout.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tyro
from recording import RESULTS, record
from rich.console import Console
from rich.table import Table

from fosp_core.bundle import load_bundle
from fosp_core.task import TRANSFER_SCENES
from fosp_trainer.compare import RATES, rates
from fosp_trainer.errors import UserError
from fosp_trainer.few_shot import few_shot, figures_before
from fosp_trainer.plots import draw_rates
from fosp_trainer.provenance import write_result

Record = dict[str, Any]
STAGES: Final = ("zero_shot", "fine_tuned")


@dataclass
class Options:
    """What is run."""

    bundle: Path
    """Bundle to start from."""
    data: tuple[str, ...]
    """Minari datasets of earlier episodes to mix in."""
    scenes: tuple[str, ...] = TRANSFER_SCENES
    """Scenes, each with every seed."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the rounds; each explores layouts of its own."""
    episodes: int = 20
    """Own episodes of a round."""
    rounds: int = 1
    """Rounds, one after the other."""
    evaluation_episodes: int = 200
    """Layouts evaluated before and after."""
    workers: int = 2
    """Processes."""
    rows: Path = RESULTS / "few_shot"
    """Folder of the rows, a file each."""
    name: str = "few_shot"
    """Name of the result and of the plot."""


def row(options: Options, model: str, scene: str, seed: int) -> Record:
    """The row, run unless its file is there; raises ``UserError`` when that is of another model."""
    file = options.rows / f"{scene}_{seed}.json"
    if file.is_file():
        found: Record = json.loads(file.read_text(encoding="utf-8"))
        kind = (found["model_id"], found["zero_shot"]["episodes"], len(found.get("rounds", ())))
        if kind != (model, options.evaluation_episodes, options.rounds):
            raise UserError(f"{file} is of another model, number of layouts or of rounds; choose another --rows")
        return found
    before = RESULTS / f"evaluate_{scene}_zero_shot.json"
    expected = {"model_id": model, "scene": scene, "episodes": options.evaluation_episodes, "seed": 0, "monitor": False}
    try:
        figures_before(before, expected)
        known = True
    except UserError:
        known = False
    found = few_shot(
        options.bundle, scene, options.episodes, seed=seed, data=options.data, workers=options.workers,
        evaluation_episodes=options.evaluation_episodes, before=before if known else None, rounds=options.rounds,
    )  # fmt: skip
    write_result(file, found)
    return found


def pooled(rows: Sequence[Record]) -> dict[str, Any]:
    """Rates over a scene's rows before and after, those after with their paired differences to those before; and the
    rates after each round, one list a row.
    """
    before, after = ([{**row[stage], "training_seed": row["seed"]} for row in rows] for stage in STAGES)
    return {
        "rows": len(rows),
        "seconds": [[done["report"]["duration_s"] for done in row["rounds"]] for row in rows],
        "after_each": {
            name: [[done["evaluated"][f"{name}_rate"] for done in row["rounds"]] for row in rows] for name in RATES
        },
        "zero_shot": rates(before, []), "fine_tuned": rates(after, before),
    }  # fmt: skip


def table(scenes: dict[str, dict[str, Any]]) -> Table:
    """A line a scene."""
    shown = Table("scene", "rows", *(name.replace("_", " ") for name in RATES), "violation, change")
    for scene, told in scenes.items():
        cells = [" to ".join(f"{100 * told[stage][f'{name}_rate']:.1f}" for stage in STAGES) + " %" for name in RATES]
        after = told["fine_tuned"]
        low, high = after["violation_difference_interval"]
        change = f"{100 * after['violation_difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) %"
        shown.add_row(scene, str(told["rows"]), *cells, change)
    return shown


def main(options: Options) -> int:
    """Run what is missing, print the table, write result and plot; returns the exit code."""
    scenes: dict[str, dict[str, Any]] = {}
    try:
        model = load_bundle(options.bundle).id
        for scene in options.scenes:
            scenes[scene] = pooled([row(options, model, scene, seed) for seed in options.seeds])
            figures = {"model_id": model, "seeds": list(options.seeds), "scenes": scenes}
            record(options.name, figures)
    except KeyboardInterrupt:
        print("stopped; finished rows are kept", file=sys.stderr)
        return 130
    except UserError as error:
        print(f"few_shot: {error}", file=sys.stderr)
        return 1
    rows = {scene: [told[stage] for stage in STAGES] for scene, told in scenes.items()}
    title = f"before (hollow) and after (filled) {options.rounds} round{'s' * (options.rounds > 1)}"
    draw_rates(rows, title, RESULTS / f"{options.name}.svg")
    Console().print(table(scenes))
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
