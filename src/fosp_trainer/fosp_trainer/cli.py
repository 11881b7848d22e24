"""``fosp-train``: everything that learns, from collecting episodes to exported and evaluated bundles."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Union

import tyro

from fosp_trainer import config as configuration
from fosp_trainer import process
from fosp_trainer.commands import (
    calibrate,
    collect,
    compare,
    evaluate,
    export,
    few_shot,
    inspect,
    models,
    online,
    pretrain,
    refit,
    shifts,
)
from fosp_trainer.config import Config
from fosp_trainer.errors import UserError

COMMANDS: Final[dict[str, tuple[type, Callable[[Any], None]]]] = {
    "collect": (collect.Collect, collect.run),
    "pretrain": (pretrain.Pretrain, pretrain.run),
    "online": (online.Online, online.run),
    "inspect": (inspect.Inspect, inspect.run),
    "export": (export.Export, export.run),
    "evaluate": (evaluate.Evaluate, evaluate.run),
    "compare": (compare.Compare, compare.run),
    "few-shot": (few_shot.FewShot, few_shot.run),
    "models": (models.Models, models.run),
    "refit": (refit.Refit, refit.run),
    "calibrate": (calibrate.Calibrate, calibrate.run),
    "shifts": (shifts.Shifts, shifts.run),
}


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
    defaults = {
        "pretrain": pretrain.Pretrain(data=tyro.MISSING, run=tyro.MISSING, config=_chosen_preset(arguments)),
    }
    options = []
    for name, (kind, _) in COMMANDS.items():
        default: dict[str, Any] = {"default": defaults[name]} if name in defaults else {}
        options.append(Annotated[kind, tyro.conf.subcommand(name, **default)])
    commands: Any = Union[tuple(options)]  # noqa: UP007 (the alternatives are values)
    return tyro.cli(commands, args=list(arguments), prog="fosp-train", description=__doc__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. What the user can mend is one line on stderr."""
    process.prepare()
    command = parse(sys.argv[1:] if arguments is None else arguments)
    runners = dict(COMMANDS.values())
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
