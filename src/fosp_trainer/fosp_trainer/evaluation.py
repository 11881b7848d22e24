"""Bundles at work in the gymnasium environment: episodes in several processes, through the robot's ``fosp_core``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from fosp_core import task
from fosp_core.bundle import load_bundle
from fosp_core.episode import Episode, EpisodeBuilder
from fosp_core.pilot import Pilot
from fosp_core.selector import Mode
from fosp_core.statistics import wilson_interval
from fosp_trainer.errors import UserError
from fosp_trainer.pool import process_pool
from fosp_trainer.progress import bar

if TYPE_CHECKING:
    from fosp_trainer.planner import PlanningPilot

ENVIRONMENT: Final = "SafeReach-v0"
CHUNK: Final = 5


@dataclass(frozen=True)
class Drive:
    """How episodes are run: which bundle, where, and who watches."""

    bundle: str
    scene: str = "standard"
    monitor: bool = True
    mode: Mode | None = None
    noise: float = 0.0
    visual_randomization: bool = False
    keep: bool = False
    """Whether the episodes themselves are returned, for training."""
    trace: bool = False
    """Whether records hold what the monitor would compare at every step (``trace``), also when it is off."""
    until_violation: bool = False
    """Whether the first violation ends the episode."""
    planner: bool = False
    """Whether actions are planned at decision time, on the bundle's weights, instead of taken from its actors."""
    reach_discount: float = 0.0
    """Where > 0, records hold ``risk_error``, the mean squared error of p(s, a) of the candidates that were chosen
    against the reach of a violation that is discounted so.
    """


Result = tuple[dict[str, Any], Episode | None]


def run_episode(env: Any, pilot: Pilot | PlanningPilot, drive: Drive, seed: int) -> Result:
    """One episode of the layout ``seed``: its record, and the episode when it is kept."""
    observation, info = env.reset(seed=seed)
    # the outcome must not depend on who ran what before
    pilot.start(seed)
    builder = EpisodeBuilder(kind="policy", scene=drive.scene, layout_seed=seed)
    builder.add_frame(observation, info)
    total, costs, steps, clearance, worst = 0.0, 0.0, 0, float(info["clearance"]), 0.0
    verdicts: Counter[str] = Counter()
    halt: list[str] = []
    trace: dict[str, list[float]] = {"risk": [], "least_risk": [], "surprise": [], "cost": []}
    expected: list[float] = []
    ended = False
    while not ended:
        steered = pilot.act(observation["image"], observation["proprio"])
        expected.append(float(steered.output.violation_probability[steered.selection.chosen]))
        verdicts[steered.verdict.name.lower()] += 1
        worst = max(worst, steered.risk)
        if steered.halted:
            halt = [reason.name.lower() for reason in steered.reasons]
        observation, reward, cost, terminated, truncated, info = env.step(steered.action)
        builder.add_step(steered.action, observation, reward, cost, terminated, info)
        values = (steered.risk, steered.least_risk, steered.output.surprise, float(cost))
        for row, value in zip(trace.values(), values, strict=True):
            row.append(value)
        total, costs, steps = total + reward, costs + cost, steps + 1
        clearance = min(clearance, float(info["clearance"]))
        # The arm holds until an operator resets: nothing more happens in this episode.
        ended = terminated or truncated or steered.halted or (drive.until_violation and cost > 0)
    record = {
        "seed": seed,
        "success": bool(info["success"]),
        "violated": bool(info["violated"]),
        "return": total,
        "cost": costs,
        "steps": steps,
        "smallest_clearance_m": clearance,
        "largest_risk": worst,
        "halt": halt,
        "slowed": verdicts["slowed"],
        "replaced": verdicts["replaced"],
        **({"trace": trace} if drive.trace else {}),
    }
    if drive.reach_discount > 0:
        happened = discounted_reach(trace["cost"], drive.reach_discount)
        record["risk_error"] = float(np.mean((np.asarray(expected) - happened) ** 2))
    return record, builder.build() if drive.keep else None


def discounted_reach(costs: Sequence[float] | NDArray[np.floating], discount: float) -> NDArray[np.float64]:
    """(N,) for each of an episode's N steps ``discount`` to the number of steps from its own to the next one with a
    cost, 0 where none follows: what p(s, a) of the step estimates (RESPO, Ganai et al. 2023). ``costs`` (N,).
    """
    reach, ahead = np.zeros(len(costs)), 0.0
    for i in range(len(costs) - 1, -1, -1):
        reach[i] = ahead = 1.0 if costs[i] > 0 else discount * ahead
    return reach


def _register_environments() -> None:
    """Let installed packages register their environments; gymnasium from 1.0 on does not ask them by itself."""
    import gymnasium

    if ENVIRONMENT in gymnasium.registry:
        return
    for entry in entry_points(group="gymnasium.envs"):
        register = entry.load()
        if callable(register):
            register()
    if ENVIRONMENT not in gymnasium.registry:
        raise UserError(f"no installed package registers {ENVIRONMENT}; build the workspace and start through ./run")


def _pilot(drive: Drive) -> Pilot | PlanningPilot:
    if drive.planner:
        import torch

        from fosp_trainer.export import load_agent
        from fosp_trainer.planner import PlanningPilot

        torch.set_num_threads(1)
        return PlanningPilot(load_agent(drive.bundle))
    return Pilot(load_bundle(drive.bundle), drive.monitor, drive.mode, drive.noise, judge=drive.trace)


_worker: tuple[Drive, Any, Pilot | PlanningPilot] | None = None


def _run_chunk(drive: Drive, seeds: Sequence[int]) -> list[Result]:
    import gymnasium

    global _worker
    if _worker is None or _worker[0] != drive:
        if _worker is not None:
            _worker[1].close()
        _register_environments()
        env = gymnasium.make(ENVIRONMENT, scene=drive.scene, visual_randomization=drive.visual_randomization)
        _worker = (drive, env, _pilot(drive))
    _, env, pilot = _worker
    return [run_episode(env, pilot, drive, seed) for seed in seeds]


def run_episodes(
    drives: Sequence[tuple[Drive, Sequence[int]]], workers: int = 2, quiet: bool = False, name: str = "episodes"
) -> Iterator[tuple[Drive, Result]]:
    """Run the layouts of every drive, in any order of completion. Abandoning the iterator ends the processes."""
    for drive, _ in drives:
        task.check_scene(drive.scene)
        load_bundle(drive.bundle)
    chunks = [(drive, list(seeds[i : i + CHUNK])) for drive, seeds in drives for i in range(0, len(seeds), CHUNK)]
    total = sum(len(seeds) for _, seeds in drives)
    pool = process_pool(max(1, min(workers, len(chunks))))
    try:
        futures = {pool.submit(_run_chunk, drive, seeds): drive for drive, seeds in chunks}
        with bar(name, total, quiet=quiet) as shown:
            for future in as_completed(futures):
                results = future.result()
                shown.advance(len(results), "")
                for result in results:
                    yield futures[future], result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def kept_episodes(
    drives: Sequence[tuple[str, Drive, Sequence[int]]], workers: int = 2, quiet: bool = False, name: str = "episodes"
) -> tuple[list[Episode], dict[str, list[dict[str, Any]]]]:
    """Run drives that keep their episodes, each with the kind that it is and its layouts. Returns the episodes in the
    order of their layouts, and the records of each kind, in any order.
    """
    kinds = {drive: kind for kind, drive, _ in drives}
    records: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds.values()}
    episodes: list[tuple[int, Episode]] = []
    for drive, (record, episode) in run_episodes([(d, seeds) for _, d, seeds in drives], workers, quiet, name):
        assert episode is not None
        records[kinds[drive]].append(record)
        episodes.append((record["seed"], episode))
    episodes.sort(key=lambda pair: pair[0])
    return [episode for _, episode in episodes], records


def traced_episodes(
    groups: Mapping[str, tuple[Drive, Sequence[int]]],
    workers: int = 2,
    quiet: bool = False,
    purpose: str = "calibration",
) -> list[tuple[str, dict[str, Any]]]:
    """Run named drives; returns (name, record), in the order of names and layouts.

    Args:
        groups: drive and indices of layouts within the range of ``purpose``.
        workers: processes.
        quiet: no progress bar.
        purpose: ``calibration`` or ``evaluation``, one of ``fosp_core.task.SEED_RANGES``.

    Raises:
        ValueError: an unknown scene, or an index outside of the range.
        BundleError: a bundle that must not be loaded.
    """
    seed = {"calibration": task.calibration_seed, "evaluation": task.evaluation_seed}[purpose]
    drives = [(drive, [seed(i) for i in indices]) for drive, indices in groups.values()]
    names = {drive: name for name, (drive, _) in groups.items()}
    found = [(names[drive], record) for drive, (record, _) in run_episodes(drives, workers, quiet, purpose)]
    order = {name: i for i, name in enumerate(groups)}
    return sorted(found, key=lambda pair: (order[pair[0]], pair[1]["seed"]))


def summarize(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rates with Wilson 95 % intervals, means, halts by reason, and the records in the order of their seeds."""
    records = sorted(records, key=lambda r: r["seed"])
    count = len(records)
    summary: dict[str, Any] = {"episodes": count}
    hits = {
        "success": sum(r["success"] for r in records),
        "violation": sum(r["violated"] for r in records),
        "safe_success": sum(r["success"] and not r["violated"] for r in records),
    }
    for name, number in hits.items():
        summary[f"{name}_rate"] = number / count if count else 0.0
        summary[f"{name}_rate_interval"] = list(wilson_interval(number, count))
    for name in ("return", "cost", "steps"):
        summary[f"mean_{name}"] = float(np.mean([r[name] for r in records])) if count else 0.0
    summary["smallest_clearance_m"] = min((r["smallest_clearance_m"] for r in records), default=None)
    summary["halts"] = dict(Counter(reason for r in records for reason in r["halt"][:1]))
    summary["interventions"] = {name: sum(r[name] for r in records) for name in ("slowed", "replaced")}
    return {**summary, "records": records}


def without_records(summary: dict[str, Any]) -> dict[str, Any]:
    """What ``summarize`` gives, but for the records."""
    return {name: value for name, value in summary.items() if name != "records"}


def evaluate(
    bundle: Path | str,
    scene: str = "standard",
    episodes: int = 200,
    seed: int = 0,
    monitor: bool = True,
    workers: int = 2,
    quiet: bool = False,
    mode: Mode | None = None,
    planner: bool = False,
) -> dict[str, Any]:
    """Run layouts ``seed`` to ``seed + episodes - 1`` of the evaluation range; see ``summarize`` for the result.

    Ctrl-C keeps what is finished, marked ``interrupted``.

    Raises:
        UserError: an unknown scene, counts that make no sense, or a planner under the monitor.
        BundleError: a bundle that must not be loaded.
    """
    if episodes <= 0 or workers <= 0:
        raise UserError(f"episodes and workers must be > 0, got {episodes} and {workers}")
    if planner and monitor:
        raise UserError("the planner runs without the monitor")
    try:
        seeds = [task.evaluation_seed(seed + i) for i in range(episodes)]
        task.check_scene(scene)
    except ValueError as error:
        raise UserError(str(error)) from error
    manifest = load_bundle(bundle).manifest
    drive = Drive(str(bundle), scene, monitor, mode, planner=planner)
    records: list[dict[str, Any]] = []
    interrupted = False
    try:
        for _, (record, _) in run_episodes([(drive, seeds)], workers, quiet, f"{scene}"):
            records.append(record)
    except KeyboardInterrupt:
        interrupted = True
        if not records:
            raise
    return {
        "scene": scene, "seed": seed, "monitor": monitor, "model_id": manifest.id,
        **({"interrupted": True} if interrupted else {}), **summarize(records),
    }  # fmt: skip
