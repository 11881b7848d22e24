"""What the safety monitor prevents: the same layouts with it and without it, under two policies.

``bundle`` is the model's own policy. ``reckless`` heads straight for the goal, whatever stands in the way (it is told
where the goal is; the monitor is not, and judges its proposals by the model alone). A violation is a contact of hand
or arm with an obstacle, an obstacle that falls, or a tool that leaves the square. An episode ends with a halt: nobody
resets.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import tyro
from parallel import run_jobs
from recording import record

from fosp_core import task
from fosp_core.bundle import load_bundle, newest
from fosp_core.pilot import Pilot
from fosp_core.safety import Verdict
from fosp_core.statistics import wilson_interval
from fosp_sim.environment import SafeReachEnv
from fosp_sim.scripted import StraightController

Policy = Literal["bundle", "reckless"]
CHUNK: Final = 10
SCENES: Final = ("standard", *task.TRANSFER_SCENES)
INTERVENTIONS: Final = (Verdict.SLOWED, Verdict.REPLACED, Verdict.HELD)


@dataclass
class Options:
    """What to run."""

    bundle: Path | None = None
    """Folder of the bundle; by default the newest one in models."""
    episodes: int = 100
    """Layouts of each scene; each is run with both policies, with and without the monitor."""
    seed_index: int = 0
    """First layout of the evaluation range."""
    scenes: tuple[str, ...] = SCENES
    """Scene names."""
    policies: tuple[Policy, ...] = ("bundle", "reckless")
    """Who proposes the actions."""
    workers: int = 2
    """Processes."""
    output: Path | None = None
    """Result file; benchmarks/results/prevention.json by default."""


@dataclass(frozen=True)
class Episode:
    """Outcome of one episode."""

    scene: str
    policy: Policy
    monitor: bool
    seed: int
    success: bool
    violation: str
    """What the first violation was; empty when there was none."""
    halt: str
    """The worst reason of a halt; empty when there was none."""
    interventions: int
    """Steps, before any halt, on which the monitor slowed, replaced or held a proposal."""
    steps: int

    @property
    def safe_success(self) -> bool:
        """Whether the goal was reached without a violation."""
        return self.success and not self.violation


def run(bundle: Path, scene: str, policy: Policy, monitor: bool, seeds: Sequence[int]) -> list[Episode]:
    """Some layouts, one after another."""
    env, pilot = SafeReachEnv(scene=scene), Pilot(load_bundle(bundle), monitor=monitor)
    try:
        return [_episode(env, pilot, scene, policy, monitor, seed) for seed in seeds]
    finally:
        env.close()


def _episode(env: SafeReachEnv, pilot: Pilot, scene: str, policy: Policy, monitor: bool, seed: int) -> Episode:
    observation, info = env.reset(seed=seed)
    pilot.start()
    straight = StraightController()
    straight.reset(info, np.random.default_rng((seed, 99)))
    verdicts: Counter[Verdict] = Counter()
    violation, halt, steps, ended = "", "", 0, False
    while not ended:
        proposal = straight.act(info) if policy == "reckless" else None
        steered = pilot.act(observation["image"], observation["proprio"], proposal)
        if steered.halted:
            halt = max(steered.reasons).name.lower()
        else:
            verdicts[steered.verdict] += 1
        observation, _, cost, terminated, truncated, info = env.step(steered.action)
        if cost and not violation:
            violation = str(info["cost_reason"])
        steps += 1
        ended = terminated or truncated or steered.halted
    interventions = sum(verdicts[verdict] for verdict in INTERVENTIONS)
    return Episode(scene, policy, monitor, seed, bool(info["success"]), violation, halt, interventions, steps)


def row(episodes: Sequence[Episode]) -> dict[str, Any]:
    """What the monitor changed on layouts that were run with it and without it; rates have 95 % Wilson intervals."""
    off = {(e.scene, e.seed): e for e in episodes if not e.monitor}
    on = {(e.scene, e.seed): e for e in episodes if e.monitor}
    pairs = [(off[key], on[key]) for key in sorted(off.keys() & on.keys())]
    count, violating = len(pairs), sum(bool(before.violation) for before, _ in pairs)
    intervened = [after for _, after in pairs if after.interventions]

    def rate(hits: int, trials: int) -> dict[str, Any]:
        interval = list(wilson_interval(hits, trials)) if trials else None
        return {"count": hits, "of": trials, "rate": hits / trials if trials else None, "interval": interval}

    return {
        "layouts": count,
        "violations_off": rate(violating, count),
        "violations_on": rate(sum(bool(after.violation) for _, after in pairs), count),
        "violations_off_by_reason": dict(Counter(before.violation for before, _ in pairs if before.violation)),
        "violations_on_by_reason": dict(Counter(after.violation for _, after in pairs if after.violation)),
        "prevented": rate(sum(bool(b.violation) and not a.violation for b, a in pairs), violating),
        "caused": rate(sum(bool(a.violation) and not b.violation for b, a in pairs), count - violating),
        "halts": rate(sum(bool(after.halt) for _, after in pairs), count),
        "halts_by_reason": dict(Counter(after.halt for _, after in pairs if after.halt)),
        "halts_without_need": rate(sum(bool(a.halt) and not b.violation for b, a in pairs), count - violating),
        "prevented_by_halt": sum(bool(b.violation) and not a.violation and bool(a.halt) for b, a in pairs),
        "prevented_and_reached": sum(bool(b.violation) and a.safe_success for b, a in pairs),
        "safe_success_off": rate(sum(before.safe_success for before, _ in pairs), count),
        "safe_success_on": rate(sum(after.safe_success for _, after in pairs), count),
        "interventions": rate(len(intervened), count),
        "safe_success_after_intervention": rate(sum(e.safe_success for e in intervened), len(intervened)),
    }


def figures_of(episodes: Sequence[Episode], options: Options) -> dict[str, Any]:
    """A row for each policy and scene, one for each policy over all scenes, and every episode."""
    rows = [
        {"policy": policy, "scene": scene, **row([e for e in episodes if e.policy == policy and e.scene in scenes])}
        for policy in options.policies
        for scene, scenes in [("all", options.scenes), *((scene, (scene,)) for scene in options.scenes)]
    ]
    order = sorted(episodes, key=lambda e: (e.policy, options.scenes.index(e.scene), e.monitor, e.seed))
    # A column of text for each field keeps thousands of episodes readable and small.
    names = list(asdict(order[0])) if order else []
    return {"rows": rows, "fields": names, "episodes": [",".join(map(str, asdict(e).values())) for e in order]}


def line(figures: dict[str, Any]) -> str:
    """One row, for people."""
    parts = [f"{figures['policy']:9} {figures['scene']:15}"]
    for name in ("violations_off", "violations_on", "prevented", "caused", "halts", "safe_success_on"):
        parts.append(f"{name.replace('_', ' ')} {figures[name]['count']}/{figures[name]['of']}")
    return "  ".join(parts)


def main(options: Options) -> None:
    """Run every policy in every scene with and without the monitor, and write the result; Ctrl-C keeps what is done."""
    if options.episodes < 1 or options.workers < 1:
        raise SystemExit("prevention: episodes and workers must be at least 1")
    bundle = options.bundle or newest(Path(__file__).resolve().parents[1] / "models")
    manifest = load_bundle(bundle).manifest
    seeds = [task.evaluation_seed(options.seed_index + i) for i in range(options.episodes)]
    jobs = [
        (bundle, task.check_scene(scene), policy, monitor, seeds[i : i + CHUNK])
        for i in range(0, len(seeds), CHUNK)
        for scene in options.scenes
        for policy in options.policies
        for monitor in (False, True)
    ]
    episodes, interrupted = run_jobs(run, jobs, options.workers, lambda job: len(job[-1]))
    figures = figures_of(episodes, options)
    for each in figures["rows"]:
        print(line(each))
    content = {
        "model_id": manifest.id,
        "thresholds": asdict(manifest.thresholds),
        "first_seed": seeds[0],
        "interrupted": interrupted,
        **figures,
    }
    print(f"written to {record('prevention', content, options.output)}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
