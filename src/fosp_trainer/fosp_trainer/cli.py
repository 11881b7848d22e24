"""``fosp-train``: collect, pretrain, online, export, evaluate."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from fosp_trainer import config as configuration
from fosp_trainer.config import Config
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


@dataclass
class Pretrain:
    """Train on a dataset: world model, critics with reachability, actors. Ctrl-C saves; ``--resume`` continues."""

    data: str
    """Minari dataset: a folder or an installed id."""
    run: Path
    """Run folder: configuration, checkpoints, TensorBoard."""
    resume: bool = False
    """Continue this run folder's newest checkpoint with its own configuration."""
    until: str = "done"
    """Stop before this stage (critics, actor)."""
    quiet: bool = False
    """No progress."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


def _chosen_preset(arguments: Sequence[str]) -> Config:
    """The preset named on the command line, so that its values are the defaults shown and used."""
    for i, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--preset":
            value = value or (arguments[i + 1] if i + 1 < len(arguments) else "")
            return configuration.preset(value) if value in configuration.PRESETS else Config()
    return Config()


def parse(arguments: Sequence[str]) -> Any:
    """The command that the arguments ask for. Prints help or a usage error and exits where they ask for none."""
    pretrain = Pretrain(data=tyro.MISSING, run=tyro.MISSING, config=_chosen_preset(arguments))
    commands = Union[  # noqa: UP007 (the alternatives are values)
        Annotated[Collect, tyro.conf.subcommand("collect")],
        Annotated[Pretrain, tyro.conf.subcommand("pretrain", default=pretrain)],
    ]
    return tyro.cli(commands, args=list(arguments), prog="fosp-train", description=__doc__)


def run_collect(command: Collect) -> None:
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


def run_pretrain(command: Pretrain) -> None:
    """Train in a run folder."""
    from fosp_trainer.data import read_dataset
    from fosp_trainer.pretrain import prepare_folder, pretrain

    frames = read_dataset(command.data)
    provenance = {"command": shlex.join(["fosp-train", *sys.argv[1:]]), "data": str(command.data), "commit": commit()}
    config = prepare_folder(command.run, command.config, command.resume, provenance)
    trainer = pretrain(frames, command.run, config, command.resume, command.quiet, command.until)
    if not command.quiet:
        from fosp_trainer.progress import console

        console.print(
            f"trained for {trainer.duration_s / 60:.1f} minutes; checkpoints in {command.run / 'checkpoints'}"
        )


def commit() -> str:
    """The checkout's commit, or an empty text."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. What the user can mend is one line on stderr."""
    # waiting threads that spin starve each other on a busy machine; read when torch is first imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    command = parse(sys.argv[1:] if arguments is None else arguments)
    runners: dict[type, Callable[[Any], None]] = {Collect: run_collect, Pretrain: run_pretrain}
    try:
        runners[type(command)](command)
    except UserError as error:
        print(f"fosp-train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fosp-train: stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
