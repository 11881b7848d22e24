"""``fosp-train online``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fosp_trainer.errors import UserError


@dataclass
class Online:
    """Improve a pretrained run by rounds of its own episodes in simulation. Ctrl-C saves; the same command goes on."""

    run: Path
    """Run folder of ``fosp-train pretrain``."""
    data: tuple[str, ...]
    """The run's Minari datasets."""
    rounds: int = 3
    """Rounds in all, those already done included."""
    workers: int = 2
    """Processes that run episodes."""
    quiet: bool = False
    """No progress."""


def run(command: Online) -> None:
    """Resume the run and go through the rounds."""
    from fosp_trainer.data import concatenate, read_dataset, split
    from fosp_trainer.online import online
    from fosp_trainer.pretrain import Trainer
    from fosp_trainer.runs import load_config

    config = load_config(command.run)
    if config.stages.mode != "staged":
        raise UserError(f"{command.run} was trained in mode {config.stages.mode}; rounds need cached latents (staged)")
    train, held_out = split(concatenate([read_dataset(source) for source in command.data]), config.data.held_out)
    trainer = Trainer(config, train, held_out, command.run, command.quiet)
    if not trainer.resume():
        raise UserError(f"{command.run} holds no checkpoint; train first with fosp-train pretrain")
    online(trainer, command.rounds, command.workers)
