"""The monitor's estimate once the policy is there: reachability refitted on the policy's own episodes in simulation.

Scripted data says how scripted hands get into trouble. What the monitor must foresee is the trouble of this policy: in
its own episodes, in scenes that it finds hard, and in noisy variants that get where it rarely goes. Nothing but the
reachability estimate changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch

from fosp_core import task
from fosp_core.episode import Episode
from fosp_trainer.agent import Agent
from fosp_trainer.config import OptimizerConfig, RefitConfig
from fosp_trainer.data import Frames
from fosp_trainer.evaluation import Drive, kept_episodes, summarize, without_records
from fosp_trainer.nets import Optimizer
from fosp_trainer.pretrain import Latents, flips_of, merge

FIRST_SEED_INDEX: Final = 40_000_000
"""Of the data range; collection, rounds and few-shot experiments stay below."""
SCENES: Final = ("standard", "varied")
OnStep = Callable[[int, dict[str, float]], None]


def plan(bundle: str, config: RefitConfig, seed: int) -> list[tuple[str, Drive, list[int]]]:
    """Who drives which layouts: kind, drive, layout seeds. Another ``seed`` gives other layouts."""
    drives = []
    first = FIRST_SEED_INDEX + 10_000 * seed
    for scene, own in zip(SCENES, config.own, strict=True):
        for noise, count in ((0.0, own), *((n, config.noisy) for n in config.noise)):
            drive = Drive(
                bundle, scene, monitor=False, mode="offline", noise=noise, visual_randomization=True, keep=True
            )
            kind = f"{scene}, noise {noise:g}" if noise else scene
            drives.append((kind, drive, [task.data_seed(first + i) for i in range(count)]))
            first += count
    return [(kind, drive, seeds) for kind, drive, seeds in drives if seeds]


def own_episodes(
    bundle: str, config: RefitConfig, seed: int, workers: int = 2, quiet: bool = False
) -> tuple[list[Episode], dict[str, Any]]:
    """Run the plan. Returns the episodes in the order of their layouts, and the rates of each kind."""
    episodes, records = kept_episodes(plan(bundle, config, seed), workers, quiet, "own episodes")
    return episodes, {kind: without_records(summarize(rows)) for kind, rows in records.items()}


def refit(
    agent: Agent, own: Frames, old: Frames | None, config: RefitConfig, seed: int, on_step: OnStep | None = None
) -> dict[str, list[float]]:
    """Train the reachability estimate of ``agent`` further; everything else stays as it is, to the last bit.

    Args:
        agent: of a bundle.
        own: the policy's own episodes.
        old: earlier episodes to mix in; without them ``config.share`` means nothing.
        config: updates.
        seed: of the batches.
        on_step: called after every update with its number, from 1 on, and its losses.

    Returns:
        First and last losses.
    """
    torch.manual_seed(seed)
    flips = flips_of(agent.config)
    mine = Latents(agent, own, flips)
    others = None if old is None else Latents(agent, old, (False,))
    count = config.batch if others is None else round(config.share * config.batch)
    parameters = [*agent.reach.state_net.parameters(), *agent.reach.action_net.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    settings = OptimizerConfig(rate=config.rate, clip=10.0, final_fraction=0.05, warmup=50)
    optimizer = Optimizer(parameters, settings, max(config.steps, 1))
    losses: dict[str, list[float]] = {}
    for step in range(config.steps):
        batch = mine.draw(count)
        if others is not None and count < config.batch:
            batch = merge([batch, others.draw(config.batch - count)])
        loss, metrics = agent.reach(batch)
        loss.backward()
        optimizer.step(step)
        agent.reach.update_slow()
        found = {name: float(value) for name, value in metrics.items()}
        if step in (0, config.steps - 1):
            for name, value in found.items():
                losses.setdefault(name, []).append(value)
        if on_step is not None:
            on_step(step + 1, found)
    return losses
