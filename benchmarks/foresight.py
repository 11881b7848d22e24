"""How well anything could foresee violations: the policy's risk beside the true probability, found by trying out.

Noisy variants of the policy are calibrated on because the policy itself hardly violates. Whether noise leads to a
violation is decided late, so that no estimate, however good, ranks states as if it knew what comes. Here an episode is
gone back to at every other step, and run on from there many times with the same action and other noise; the share of
futures that violate within ten steps is what a perfect estimate, which also knew how much noise there is, would say.
Its AUROC bounds what the risk can reach on these episodes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import tyro
from parallel import run_jobs
from recording import record

from fosp_core import task
from fosp_core.bundle import load_bundle, newest
from fosp_core.pilot import Pilot
from fosp_core.statistics import auroc
from fosp_sim.environment import SafeReachEnv, Snapshot
from fosp_trainer.calibration import HORIZON_STEPS

STRIDE: Final = 2
"""Steps between the states that are looked at."""
LEAD_STEPS: Final = 2
"""Decisions before the violation, or the end, of the last state that is looked at: by then a halt must have come, as in
the calibration.
"""


@dataclass
class Options:
    """What to run."""

    bundle: Path | None = None
    """Folder of the bundle; by default the newest one in models."""
    noise: tuple[float, ...] = (0.3, 0.6, 1.0)
    """Standard deviations of the action noise, in units of the action."""
    episodes: int = 50
    """Layouts for each level of noise."""
    futures: int = 24
    """How many times each state is run on from; even."""
    scene: str = "standard"
    """Scene name."""
    first: int = 0
    """First layout of the calibration range."""
    workers: int = 2
    """Processes."""
    output: Path | None = None
    """Result file; benchmarks/results/foresight.json by default."""


@dataclass(frozen=True)
class State:
    """One decision of an episode."""

    noise: float
    seed: int
    step: int
    risk: float
    """The model's: largest of p(s, a) and its imagined future."""
    violating: int
    """Of the futures, how many violate within ten steps."""
    violating_half: int
    """The same of the first half of them."""
    steps_to_violation: int
    """In the episode itself; 0 when it does not violate."""

    @property
    def dangerous(self) -> bool:
        """Whether the episode violates within ten steps."""
        return 0 < self.steps_to_violation <= HORIZON_STEPS


def run(bundle: Path, scene: str, noise: float, seed: int, futures: int) -> list[State]:
    """The states of one layout's episode, up to its first violation."""
    env = SafeReachEnv(scene=scene)
    pilot = Pilot(load_bundle(bundle), monitor=False, noise=noise, judge=True)
    try:
        observation, _ = env.reset(seed=seed)
        pilot.start(seed)
        risks: list[float] = []
        moments: list[tuple[Snapshot, Pilot]] = []
        violated = ended = False
        while not ended:
            steered = pilot.act(observation["image"], observation["proprio"])
            observation, _, cost, terminated, truncated, _ = env.step(steered.action)
            violated = cost > 0
            ended = terminated or truncated or violated
            risks.append(round(steered.risk, 6))
            moments.append((env.snapshot(), pilot.branch(seed)))
        states = []
        for step in range(len(risks) - LEAD_STEPS, -1, -STRIDE):
            moment, there = moments[step]
            tries = [_violates(env, moment, there.branch(k)) for k in range(futures)]
            left = len(risks) - step if violated else 0
            states.append(State(noise, seed, step, risks[step], sum(tries), sum(tries[: futures // 2]), left))
        return states[::-1]
    finally:
        env.close()


def _violates(env: SafeReachEnv, moment: Snapshot, pilot: Pilot) -> bool:
    """Whether a future that begins one step after the decision violates before ten steps are over."""
    observation = env.restore(moment)
    for _ in range(HORIZON_STEPS - 1):
        steered = pilot.act(observation["image"], observation["proprio"])
        observation, _, cost, terminated, truncated, _ = env.step(steered.action)
        if cost > 0:
            return True
        if terminated or truncated:
            break
    return False


def summary(states: list[State], futures: int) -> dict[str, Any]:
    """AUROC of the risk and of the true probability, and what that probability was ahead of the violations."""
    positive = np.array([s.dangerous for s in states], bool)
    true = np.array([s.violating / futures for s in states])
    ahead: dict[tuple[float, int], float] = {}
    for s in states:
        if s.steps_to_violation:
            ahead[s.noise, s.seed] = max(ahead.get((s.noise, s.seed), 0.0), s.violating / futures)
    return {
        "episodes": len({(s.noise, s.seed) for s in states}),
        "violating": len(ahead),
        "states": len(states),
        "dangerous": int(positive.sum()),
        "auroc_risk": auroc(np.array([s.risk for s in states]), positive),
        "auroc_true": auroc(true, positive),
        "auroc_true_half": auroc(np.array([s.violating_half for s in states], float), positive),
        "likely_ahead": sum(p >= 0.5 for p in ahead.values()),
        "largest_true_ahead": sorted(round(p, 3) for p in ahead.values()),
    }


def figures_of(states: list[State], options: Options) -> dict[str, Any]:
    """A row for each level of noise and one for all, and every state."""
    states = sorted(states, key=lambda s: (s.noise, s.seed, s.step))
    rows = [{"noise": "all", **summary(states, options.futures)}]
    rows += [{"noise": n, **summary([s for s in states if s.noise == n], options.futures)} for n in options.noise]
    names = list(asdict(states[0])) if states else []
    lines = [",".join(map(str, asdict(s).values())) for s in states]
    return {
        "scene": options.scene, "futures": options.futures, "horizon_steps": HORIZON_STEPS, "lead_steps": LEAD_STEPS,
        "rows": rows, "fields": names, "states": lines,
    }  # fmt: skip


def main(options: Options) -> None:
    """Run and go back, show a row for each level of noise and write the result; Ctrl-C keeps what is done."""
    if options.episodes < 1 or options.workers < 1 or options.futures < 2 or options.futures % 2 or not options.noise:
        raise SystemExit("foresight: episodes and workers must be >= 1, futures even and >= 2, and some noise given")
    bundle = options.bundle or newest(Path(__file__).resolve().parents[1] / "models")
    manifest = load_bundle(bundle).manifest
    jobs = [
        (bundle, task.check_scene(options.scene), noise, task.calibration_seed(options.first + i), options.futures)
        for i in range(options.episodes)
        for noise in options.noise
    ]
    states, interrupted = run_jobs(run, jobs, options.workers, lambda _: 1)
    figures = figures_of(states, options)
    for row in figures["rows"]:
        print(
            f"noise {row['noise']}: {row['violating']} of {row['episodes']} episodes violate; AUROC of the risk "
            f"{_text(row['auroc_risk'])}, of the true probability {_text(row['auroc_true'])} (with half of the futures "
            f"{_text(row['auroc_true_half'])}); likelier than not 0.2 s ahead: {row['likely_ahead']}"
        )
    figures |= {"model_id": manifest.id, "interrupted": interrupted}
    print(f"written: {record('foresight', figures, options.output)}")


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
