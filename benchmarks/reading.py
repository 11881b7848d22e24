"""How well a bundle reads the table in every scene: goal and map against the truth, on scripted episodes.

The layouts are of the data range, beyond those that anything is trained on.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from recording import record

from fosp_core import task
from fosp_sim.collect import collect
from fosp_trainer.data import read_dataset
from fosp_trainer.diagnostics import reading_errors, reading_grid, save_png
from fosp_trainer.export import load_agent

FIRST_SEED_INDEX = 30_000_000


@dataclass
class Options:
    """What is read."""

    bundle: Path
    """A bundle whose world model reads a table."""
    episodes: int = 40
    """Scripted episodes a scene."""
    scenes: tuple[str, ...] = (*task.TRAIN_SCENES, *task.TRANSFER_SCENES, "colors")
    """Scene names."""
    workers: int = 1
    """Processes that run the episodes."""
    pictures: Path | None = None
    """Folder for a picture of each scene: view, belief, truth, way."""
    output: Path | None = None
    """Result file; benchmarks/results/reading.json by default."""


def main() -> None:
    """Collect, read, print, write."""
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(1)
    model = load_agent(options.bundle).world_model
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for scene in options.scenes:
            target = Path(folder) / scene
            collect(target, scene, options.episodes, FIRST_SEED_INDEX, workers=options.workers, quiet=True)
            frames = read_dataset(target)
            rows[scene] = reading_errors(model, frames, options.episodes)
            print(scene, ", ".join(f"{name} {value:.3f}" for name, value in rows[scene].items()), flush=True)
            if options.pictures:
                save_png(reading_grid(model, frames), options.pictures / f"{scene}.png")
    figures = {"bundle": options.bundle.name, "episodes": options.episodes, "scenes": rows}
    print(f"written to {record('reading', figures, options.output)}")


if __name__ == "__main__":
    main()
