"""``fosp-train pretrain``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fosp_trainer.config import Config


@dataclass
class Pretrain:
    """Train on datasets: world model, critics with reachability, actors. Ctrl-C saves; ``--resume`` continues."""

    data: tuple[str, ...]
    """Minari datasets: folders or installed ids."""
    run: Path
    """Run folder: configuration, checkpoints, TensorBoard."""
    resume: bool = False
    """Continue this run folder's newest checkpoint with its own configuration."""
    until: str = "done"
    """Stop before this stage (critics, actor)."""
    quiet: bool = False
    """No progress."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


def run(command: Pretrain) -> None:
    """Train in a run folder."""
    from fosp_trainer.data import concatenate, read_dataset
    from fosp_trainer.pretrain import prepare_folder, pretrain
    from fosp_trainer.provenance import provenance

    frames = concatenate([read_dataset(source) for source in command.data])
    config = prepare_folder(command.run, command.config, command.resume, provenance(data=list(command.data)))
    trainer = pretrain(frames, command.run, config, command.resume, command.quiet, command.until)
    if not command.quiet:
        from fosp_trainer.progress import console

        console.print(
            f"trained for {trainer.duration_s / 60:.1f} minutes; checkpoints in {command.run / 'checkpoints'}"
        )
