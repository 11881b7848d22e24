"""``fosp-train inspect``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fosp_trainer.errors import UserError


@dataclass
class Inspect:
    """Show what a trained run knows: probes, open-loop prediction, values and reachability against the truth."""

    run: Path
    """Run folder of ``fosp-train pretrain``."""
    data: tuple[str, ...]
    """The run's Minari datasets; the plots are about their held-out episodes."""
    output: Path | None = None
    """Folder for plots, video and figures.json; by default ``inspect`` in the run's folder."""


def run(command: Inspect) -> None:
    """Load, look, write, print the figures."""
    from fosp_trainer.data import concatenate, read_dataset, split
    from fosp_trainer.inspection import inspect
    from fosp_trainer.progress import console
    from fosp_trainer.provenance import provenance
    from fosp_trainer.runs import load_run

    agent, saved = load_run(command.run)
    train, held_out = split(concatenate([read_dataset(source) for source in command.data]), agent.config.data.held_out)
    if held_out.episodes == 0:
        raise UserError("the run holds nothing out (data.held_out is 0); there is nothing to look at")
    folder = command.output or command.run / "inspect"
    figures = inspect(agent, train, held_out, folder)
    text = json.dumps({**figures, "round": saved.state.get("round", 0), "provenance": provenance()}, indent=1)
    (folder / "figures.json").write_text(text + "\n")
    for name, value in figures.items():
        if not isinstance(value, list):
            console.print(f"{name}: {_text(value)}", soft_wrap=True)
    console.print(f"written to {folder}", soft_wrap=True)


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(part)}" for key, part in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
