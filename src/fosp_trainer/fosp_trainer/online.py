"""Rounds of the policy's own episodes in simulation: run, encode, refit critics and reachability, extract again.

The paper's online phase in small steps (FOSP, section 4.3). The critics of the offline data do not know the states
that the policy itself reaches; after a round they do. The world model stays as pretraining left it, so that the
offline latents are encoded once.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from fosp_core import task
from fosp_core.bundle import Thresholds
from fosp_core.episode import Episode, write_dataset
from fosp_trainer.agent import Agent
from fosp_trainer.config import OnlineConfig
from fosp_trainer.data import Frames, concatenate, from_episodes, read_dataset
from fosp_trainer.errors import UserError
from fosp_trainer.evaluation import Drive, kept_episodes, summarize
from fosp_trainer.export import export_bundle
from fosp_trainer.pretrain import Latents, Trainer, flips_of
from fosp_trainer.progress import Log, console
from fosp_trainer.provenance import provenance

FIRST_SEED_INDEX: Final = 10_000_000
"""Of the data range; scripted collection stays below."""
SUMMARY: Final = "summary.json"
_UNWATCHED: Final = Thresholds(caution=0.5, halt=0.9, surprise=1e6, method="none", data_hash="")


def plan(config: OnlineConfig, number: int, actor: str, constrained: str) -> list[tuple[str, Drive, list[int]]]:
    """Who drives which layouts in round ``number`` (>= 1): kind, drive, layout seeds. ``actor`` and ``constrained``
    are bundles.
    """
    greedy, noisy = round(config.greedy_share * config.episodes), round(config.noisy_share * config.episodes)
    counts = {"greedy": greedy, "noisy": noisy, "constrained": config.episodes - greedy - noisy}
    first = FIRST_SEED_INDEX + (number - 1) * config.episodes
    drives = []
    for kind, count in counts.items():
        varied = round(config.varied_share * count)
        for scene, part in (("standard", count - varied), ("varied", varied)):
            drive = Drive(
                constrained if kind == "constrained" else actor, scene, monitor=False, mode="offline",
                noise=config.noise if kind == "noisy" else 0.0, visual_randomization=True, keep=True,
            )  # fmt: skip
            drives.append((kind, drive, [task.data_seed(first + i) for i in range(part)]))
            first += part
    return [(kind, drive, seeds) for kind, drive, seeds in drives if seeds]


def run_round(agent: Agent, number: int, workers: int, quiet: bool) -> tuple[list[Episode], dict[str, Any]]:
    """Run one round's episodes with the agent as it is. Returns the episodes in the order of their seeds and the
    rates of each kind.
    """
    config = agent.config
    with tempfile.TemporaryDirectory() as scratch:
        folders = []
        for name, count in (("actor", 1), ("constrained", config.proposals.count)):
            variant = Agent(config.proposing(count))
            variant.load_state_dict(agent.state_dict())
            folder = Path(scratch) / name
            export_bundle(variant, folder, bundle_id=name, frames=None, thresholds=_UNWATCHED)
            folders.append(str(folder))
        planned = plan(config.online, number, *folders)
        named = [(f"{kind} {drive.scene}", drive, seeds) for kind, drive, seeds in planned]
        episodes, records = kept_episodes(named, workers, quiet, f"round {number}")
    return episodes, {name: summarize(rows) for name, rows in sorted(records.items())}


def online(trainer: Trainer, rounds: int, workers: int = 2) -> None:
    """Bring a pretrained run to ``rounds`` rounds. Finished rounds are kept in ``online/round-N`` of the run's folder
    and are not repeated.

    Raises:
        UserError: pretraining is not finished, or counts that make no sense.
        Interrupted: stopped by a signal, after saving.
    """
    if rounds <= 0 or workers <= 0:
        raise UserError(f"rounds and workers must be > 0, got {rounds} and {workers}")
    if trainer.round == 0 and trainer.stage != "done":
        raise UserError(
            f"{trainer.folder} stopped in stage {trainer.stage}; finish it with `fosp-train pretrain --resume` first"
        )
    config = trainer.config
    trainer.set_totals(critics=config.online.critic_steps, actor=config.online.actor_steps)
    trainer.stages = ("critics", "actor", "done")
    if trainer.stage == "done":
        trainer.round += 1
        if trainer.round <= rounds:
            _begin(trainer)
    known = 0
    while trainer.round <= rounds:
        fresh = [_episodes_of(trainer, number, workers) for number in range(known + 1, trainer.round + 1)]
        known = trainer.round
        latents = Latents(trainer.agent, concatenate(fresh), flips_of(config))
        if trainer.extra is None:
            trainer.extra = latents
        else:
            trainer.extra.extend(latents)
        trainer.run()
        trainer.round += 1
        if trainer.round <= rounds:
            _begin(trainer)


def _begin(trainer: Trainer) -> None:
    trainer.stage, trainer.step = "critics", 0
    for name in ("critics", "behaviour", "offline"):
        trainer.restart(name)


def _episodes_of(trainer: Trainer, number: int, workers: int) -> Frames:
    """The episodes of round ``number``, run now unless they are there."""
    folder = trainer.folder / "online" / f"round-{number}"
    if folder.exists():
        return read_dataset(folder)
    episodes, rates = run_round(trainer.agent, number, workers, trainer.quiet)
    shares = [f"{kind}: {_percentages(rate)}" for kind, rate in rates.items()]
    description = f"# Own episodes of round {number}\n\n" + "\n".join(f"- {share}" for share in shares) + "\n"
    write_dataset(folder, episodes, f"safereach/round-{number}-v0", description, provenance(round=number))
    (folder / SUMMARY).write_text(json.dumps(rates, indent=1) + "\n", encoding="utf-8")
    log = Log(trainer.folder)
    for kind, rate in rates.items():
        values = {name: rate[f"{name}_rate"] for name in ("success", "violation", "safe_success")}
        log.scalars(f"online/{kind.replace(' ', '_')}", values, number)
    log.close()
    if not trainer.quiet:
        console.print(f"round {number}, before it: " + "; ".join(shares), soft_wrap=True)
    return from_episodes(episodes)


def _percentages(rate: dict[str, Any]) -> str:
    names: Sequence[str] = ("success", "violation", "safe_success")
    return " / ".join(f"{100 * rate[f'{name}_rate']:.0f}" for name in names) + f" % of {rate['episodes']}"
