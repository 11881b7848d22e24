"""The rows of the comparison: what each changes of a configuration. All else is shared, the training loop too."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fosp_trainer import config as configuration
from fosp_trainer.config import Config, FineTuneConfig, PlannerConfig, ProposalConfig
from fosp_trainer.errors import UserError

BASELINE: Final = "fosp"
"""The row that the others are compared with."""


@dataclass(frozen=True)
class Variant:
    """One row: what it is in a line, and its configuration, made from the baseline's."""

    summary: str
    change: Callable[[Config], Config]


def _with(config: Config, **parts: dict[str, Any]) -> Config:
    """The configuration with fields of some of its parts changed."""
    return dataclasses.replace(
        config, **{name: dataclasses.replace(getattr(config, name), **values) for name, values in parts.items()}
    )


def _dreamerv3(config: Config) -> Config:
    return _with(
        config,
        critic={"in_sample": False, "imagined_weight": 1.0},
        actor={"extraction": "returns", "feasibility": False, "imagined_cost": False},
    )


def _safedreamer(config: Config) -> Config:
    return _with(_dreamerv3(config), actor={"imagined_cost": True, "imagined_cost_ahead": True})


VARIANTS: Final[dict[str, Variant]] = {
    BASELINE: Variant("the run's own configuration, without proposals as bundles are released", lambda config: config),
    "dreamerv3": Variant("the most imagined reward, no safety", _dreamerv3),
    "safedreamer": Variant("the most imagined reward, imagined cost by an augmented Lagrangian", _safedreamer),
    "safedreamer-planning": Variant(
        "the same, and constrained planning in the world model at decision time",
        lambda config: _with(_safedreamer(config), planner={"enabled": True}),
    ),
    "no-in-sample": Variant(
        "values of the policy's own actions, not of the data's",
        lambda config: _with(config, critic={"in_sample": False}),
    ),
    "no-ref": Variant(
        "every state counts as feasible: u = 1", lambda config: _with(config, actor={"feasibility": False})
    ),
    "no-expansion": Variant(
        "fine-tuning changes the one policy there is; before that the same as fosp",
        lambda config: _with(config, fine_tune={"expansion": False}),
    ),
    "proposals": Variant(
        "the best of constrained proposals around the actor's action",
        lambda config: _with(config, proposals={"count": ProposalConfig().count}),
    ),
    "closed-form": Variant(
        "the paper's extraction by weighted regression", lambda config: _with(config, actor={"extraction": "awr"})
    ),
}


@dataclass(frozen=True)
class Plan:
    """What is compared, and how much is spent on it."""

    run: Path
    """Folder of a pretrained run; only its world model and its configuration are used."""
    data: tuple[str, ...]
    """Minari datasets: folders or installed ids."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Rows."""
    seeds: tuple[int, ...] = (0,)
    """Training seeds."""
    scene: str = "standard"
    """Scene of the evaluation."""
    episodes: int = 200
    """Evaluation layouts, the same for every row."""
    critic_steps: int | None = None
    """Updates of the critics before the actor's; by default as the run's configuration says."""
    actor_steps: int | None = None
    """Updates of the actor; the critics get as many more beside it."""
    sample: int | None = None
    """Train on that many random episodes of each dataset only."""
    flip: bool | None = None
    """Whether mirrored episodes are trained on too; by default as the run's configuration says."""
    few_shot: str | None = None
    """Also fine-tune every row in this scene, and evaluate it there before and after."""
    few_shot_episodes: int = 20
    """Own episodes to fine-tune on."""
    workers: int = 2
    """Processes of the evaluation."""
    quiet: bool = False
    """No progress, no table."""

    def __post_init__(self) -> None:
        for name in self.variants:
            configure(name, Config())
        for option in ("variants", "seeds"):
            values = getattr(self, option)
            if not values or len(set(values)) < len(values):
                raise UserError(f"--{option}: give each once, and at least one")
        if min(self.seeds) < 0:
            raise UserError("seeds must be >= 0")
        for option in ("episodes", "critic_steps", "actor_steps", "sample", "few_shot_episodes", "workers"):
            value = getattr(self, option)
            if value is not None and value <= 0:
                raise UserError(f"--{option.replace('_', '-')} must be > 0, got {value}")


def configure(name: str, base: Config) -> Config:
    """The configuration of the row ``name``; raises ``UserError`` that lists the rows there are."""
    if name not in VARIANTS:
        raise UserError(f"unknown variant {name!r}; there are {', '.join(VARIANTS)}")
    return VARIANTS[name].change(base)


def trained_like(config: Config) -> Config:
    """The configuration without what plays no part in training: rows that agree in the rest share their training."""
    return dataclasses.replace(
        config, planner=PlannerConfig(), proposals=ProposalConfig(), fine_tune=FineTuneConfig(), lookahead=1
    )


def differences(config: Config, base: Config) -> dict[str, Any]:
    """What a configuration has that ``base`` has not, by dotted name."""
    changed, known = _flat(configuration.to_dict(config)), _flat(configuration.to_dict(base))
    return {name: value for name, value in changed.items() if value != known[name]}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
