"""Success and violation of the scripted controllers in every scene: the ceiling and the floor for policies."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from recording import record

from fosp_core import task
from fosp_core.statistics import wilson_interval
from fosp_sim.environment import SafeReachEnv
from fosp_sim.scripted import CONTROLLERS, PlannerController
from fosp_trainer.pool import process_pool


@dataclass
class Options:
    """What to run."""

    episodes: int = 200
    """Episodes a row."""
    seed_index: int = 0
    """First layout of the evaluation range."""
    scenes: tuple[str, ...] = task.SCENES
    """Scene names."""
    controllers: tuple[str, ...] = ("avoider", "straight")
    """avoider (the planner without noise), straight, or a kind of the offline data."""
    workers: int = 2
    """Processes."""
    output: Path | None = None
    """Result file; benchmarks/results/scripted.json by default."""


def row(scene: str, controller: str, episodes: int, seed_index: int) -> dict[str, Any]:
    """Rates with Wilson intervals over ``episodes`` layouts."""
    env = SafeReachEnv(scene=scene, images=False)
    known: dict[str, Any] = {**CONTROLLERS, "avoider": lambda: PlannerController(noise=0.0, clearance=0.08)}
    if controller not in known:
        raise SystemExit(f"unknown controller {controller!r}; known: {', '.join(known)}")
    counts = {"success": 0, "violation": 0, "safe_success": 0}
    reasons: dict[str, int] = {}
    lengths, violating_seeds = [], []
    for index in range(episodes):
        seed = task.evaluation_seed(seed_index + index)
        _, info = env.reset(seed=seed)
        actor = known[controller]()
        actor.reset(info, np.random.default_rng((seed, 99)))
        steps, ended = 0, False
        while not ended:
            _, _, cost, terminated, truncated, info = env.step(actor.act(info))
            steps += 1
            ended = terminated or truncated
            if cost:
                reasons[info["cost_reason"]] = reasons.get(info["cost_reason"], 0) + 1
        counts["success"] += info["success"]
        counts["violation"] += info["violated"]
        counts["safe_success"] += info["safe_success"]
        lengths.append(steps)
        if info["violated"]:
            violating_seeds.append(seed)
    env.close()
    figures: dict[str, Any] = {"scene": scene, "controller": controller, "episodes": episodes}
    for name, count in counts.items():
        figures[f"{name}_rate"] = count / episodes
        figures[f"{name}_rate_interval"] = list(wilson_interval(count, episodes))
    return figures | {
        "mean_steps": float(np.mean(lengths)),
        "cost_steps": reasons,
        "violating_seeds": violating_seeds if controller == "avoider" else len(violating_seeds),
    }


def main(options: Options) -> None:
    """Run every scene with every controller and write the result."""
    jobs = [
        (scene, name, options.episodes, options.seed_index) for scene in options.scenes for name in options.controllers
    ]
    with process_pool(options.workers) as pool:
        rows = []
        for figures in pool.map(row, *zip(*jobs, strict=True)):
            rows.append(figures)
            print(
                f"{figures['scene']:16} {figures['controller']:9} success {100 * figures['success_rate']:5.1f}  "
                f"violation {100 * figures['violation_rate']:5.1f}  safe {100 * figures['safe_success_rate']:5.1f}  "
                f"steps {figures['mean_steps']:.0f}  {figures['cost_steps']}",
                flush=True,
            )
    print(f"written to {record('scripted', {'rows': rows}, options.output)}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
