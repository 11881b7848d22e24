"""``fosp-train collect``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fosp_trainer.errors import UserError


@dataclass
class Collect:
    """Collect episodes with scripted controllers into a Minari dataset."""

    output: Path
    """Folder of the dataset; must not exist."""
    scene: str = "standard"
    """Scene name."""
    episodes: int = 600
    """How many."""
    seed_index: int = 0
    """First layout seed within the data range."""
    mix: dict[str, float] | None = None
    """Share of each kind of episode, for example ``--mix planner 0.4 straight 0.3 noisy 0.2 random 0.1``."""
    image_size: int = 64
    """Side of the images in pixels."""
    workers: int = 2
    """Processes."""
    visual_randomization: bool = True
    """Small changes of light, colours and camera pose."""
    quiet: bool = False
    """No progress bar."""
    collector: str = "safereach"
    """Name within the entry point group ``fosp.collectors``."""


def run(command: Collect) -> None:
    """Run the installed collector."""
    from fosp_trainer.collecting import collector

    collect = collector(command.collector)
    try:
        collect(
            command.output, scene=command.scene, episodes=command.episodes,
            seed_index=command.seed_index, mix=command.mix,
            image_size=command.image_size, workers=command.workers, visual_randomization=command.visual_randomization,
            quiet=command.quiet,
        )  # fmt: skip
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
