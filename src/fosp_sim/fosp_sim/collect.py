"""Scripted data collection: episodes of four kinds into a Minari dataset with its provenance."""

from __future__ import annotations

import multiprocessing
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fosp_core import task
from fosp_core.episode import Episode, EpisodeBuilder, write_dataset
from fosp_sim.environment import SafeReachEnv
from fosp_sim.gl import GraphicsError
from fosp_sim.scripted import CONTROLLERS

DEFAULT_MIX: Final = {"planner": 0.35, "straight": 0.30, "noisy": 0.20, "random": 0.15}
CHUNK: Final = 8


@dataclass(frozen=True)
class Job:
    """One episode to collect: a layout and who acts in it."""

    seed: int
    kind: str


@dataclass(frozen=True)
class Setting:
    """What all episodes of a collection share."""

    scene: str
    image_size: int
    visual_randomization: bool


def collect(
    output: Path,
    scene: str = "standard",
    episodes: int = 600,
    seed_index: int = 0,
    mix: Mapping[str, float] | None = None,
    image_size: int = task.IMAGE_SIZE,
    workers: int = 2,
    visual_randomization: bool = True,
    quiet: bool = False,
) -> Path:
    """Collect scripted episodes into a new Minari dataset. Ctrl-C keeps the episodes finished so far.

    Args:
        output: folder of the dataset; must not exist.
        scene: one of ``fosp_core.task.SCENES``.
        episodes: how many, > 0.
        seed_index: index of the first layout seed within the data range.
        mix: share of each kind (planner, straight, noisy, random); shares are normalised.
        image_size: side of the images in pixels.
        workers: processes, >= 1.
        visual_randomization: small changes of light, colours and camera pose.
        quiet: no progress bar.

    Returns:
        The dataset's folder.

    Raises:
        ValueError: a scene, count or mix that makes no sense.
        FileExistsError: the output exists.
    """
    task.check_scene(scene)
    if output.exists():
        raise FileExistsError(f"{output} exists already; choose another folder or remove it")
    if episodes <= 0 or workers <= 0:
        raise ValueError(f"episodes and workers must be > 0, got {episodes} and {workers}")
    shares = _normalised(mix or DEFAULT_MIX)
    setting = Setting(scene, image_size, visual_randomization)
    jobs = [Job(task.data_seed(seed_index + i), kind) for i, kind in enumerate(_kinds(shares, episodes, seed_index))]
    finished: dict[int, Episode] = {}
    try:
        for episode in _run(setting, jobs, workers, quiet):
            finished[int(episode.metadata["layout_seed"])] = episode
    except KeyboardInterrupt:
        print(f"\nInterrupted; keeping {len(finished)} of {episodes} episodes.")
        if not finished:
            raise
    ordered = [finished[seed] for seed in sorted(finished)]
    provenance = {
        "scene": scene,
        "episodes": len(ordered),
        "requested": episodes,
        "mix": shares,
        "seeds": [jobs[0].seed, jobs[-1].seed],
        "image_size": image_size,
        "visual_randomization": visual_randomization,
        "outcomes": outcomes(ordered),
        "versions": {name: version(name) for name in ("mujoco", "gymnasium", "minari", "numpy")},
        "commit": _commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return write_dataset(output, ordered, f"safereach/{scene}-v0", _card(provenance), provenance)


def outcomes(episodes: list[Episode]) -> dict[str, float]:
    """Share of each of the four kinds of episode, and frames in all."""
    total = max(len(episodes), 1)
    counts = {
        "reached_safe": sum(e.success and not e.violated for e in episodes),
        "reached_violated": sum(e.success and e.violated for e in episodes),
        "missed_safe": sum(not e.success and not e.violated for e in episodes),
        "missed_violated": sum(not e.success and e.violated for e in episodes),
    }
    return {**{name: n / total for name, n in counts.items()}, "frames": float(sum(e.steps + 1 for e in episodes))}


def run_episode(env: SafeReachEnv, job: Job) -> Episode:
    """One scripted episode; the same job is always the same episode."""
    rng = np.random.default_rng((job.seed, list(CONTROLLERS).index(job.kind)))
    controller = CONTROLLERS[job.kind]()
    observation, info = env.reset(seed=job.seed)
    controller.reset(info, rng)
    builder = EpisodeBuilder(kind=job.kind, scene=env.scene, layout_seed=job.seed)
    builder.add_frame(observation, info)
    ended = False
    while not ended:
        action = np.asarray(controller.act(info), np.float32)
        observation, reward, cost, terminated, truncated, info = env.step(action)
        builder.add_step(action, observation, reward, cost, terminated, info)
        ended = terminated or truncated
    return builder.build()


_environment: SafeReachEnv | None = None


def _collect_chunk(setting: Setting, jobs: list[Job]) -> list[Episode]:
    global _environment
    if _environment is None:
        _environment = SafeReachEnv(
            scene=setting.scene, image_size=setting.image_size, visual_randomization=setting.visual_randomization
        )
    return [run_episode(_environment, job) for job in jobs]


def _run(setting: Setting, jobs: list[Job], workers: int, quiet: bool) -> Iterator[Episode]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    context = multiprocessing.get_context("spawn")
    chunks = [jobs[i : i + CHUNK] for i in range(0, len(jobs), CHUNK)]
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        with Progress(*columns, disable=quiet) as progress:
            bar = progress.add_task(f"collecting {setting.scene}", total=len(jobs))
            for future in as_completed([pool.submit(_collect_chunk, setting, chunk) for chunk in chunks]):
                for episode in future.result():
                    progress.advance(bar)
                    yield episode
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _normalised(mix: Mapping[str, float]) -> dict[str, float]:
    unknown = set(mix) - set(CONTROLLERS)
    if unknown:
        raise ValueError(f"unknown kind {', '.join(sorted(unknown))}; known: {', '.join(CONTROLLERS)}")
    total = sum(mix.values())
    if total <= 0 or any(share < 0 for share in mix.values()):
        raise ValueError(f"the mix needs shares >= 0 with a positive sum, got {dict(mix)}")
    return {kind: mix.get(kind, 0.0) / total for kind in CONTROLLERS}


def _kinds(shares: Mapping[str, float], count: int, seed: int) -> list[str]:
    """``count`` kinds in a random order, as near to their shares as whole numbers allow."""
    exact = {kind: share * count for kind, share in shares.items()}
    whole = {kind: int(value) for kind, value in exact.items()}
    for kind in sorted(exact, key=lambda k: whole[k] - exact[k])[: count - sum(whole.values())]:
        whole[kind] += 1
    kinds = [kind for kind, n in whole.items() for _ in range(n)]
    np.random.default_rng((seed, count)).shuffle(kinds)
    return kinds


def _commit() -> str:
    try:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _card(provenance: Mapping[str, object]) -> str:
    shares = provenance["outcomes"]
    assert isinstance(shares, dict)
    rows = "\n".join(f"| {name.replace('_', ', ')} | {100 * shares[name]:.1f} % |" for name in list(shares)[:4])
    mix = provenance["mix"]
    assert isinstance(mix, dict)
    kinds = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in mix.items())
    return (
        f"# SafeReach, scene {provenance['scene']}\n\n"
        f"{provenance['episodes']} scripted episodes, {shares['frames']:.0f} frames. Who acted: {kinds}.\n\n"
        f"| outcome | share |\n|---|---|\n{rows}\n\n"
        "Each frame: image (uint8 RGB), proprio (tool position, m). Each frame's infos: cost of the step that led to\n"
        "it, and for evaluation only: tool, goal, obstacles (m), clearance (m), success, violated, layout_seed.\n"
    )


@dataclass
class Options:
    """Collect scripted SafeReach episodes into a Minari dataset."""

    output: Path
    """Folder of the dataset; must not exist."""
    scene: str = "standard"
    """Scene name."""
    episodes: int = 600
    """How many episodes."""
    seed_index: int = 0
    """Index of the first layout seed within the data range."""
    planner: float = DEFAULT_MIX["planner"]
    """Share of the avoiding planner."""
    straight: float = DEFAULT_MIX["straight"]
    """Share of the straight line."""
    noisy: float = DEFAULT_MIX["noisy"]
    """Share of the noisy mixture."""
    random: float = DEFAULT_MIX["random"]
    """Share of random targets."""
    image_size: int = task.IMAGE_SIZE
    """Side of the images in pixels."""
    workers: int = 2
    """Processes."""
    visual_randomization: bool = True
    """Small changes of light, colours and camera pose."""


def main() -> None:
    """Console script ``fosp-collect``."""
    options = tyro.cli(Options)
    mix = {kind: getattr(options, kind) for kind in CONTROLLERS}
    try:
        folder = collect(
            options.output,
            options.scene,
            options.episodes,
            options.seed_index,
            mix,
            options.image_size,
            options.workers,
            options.visual_randomization,
        )
    except (ValueError, FileExistsError, GraphicsError) as error:
        raise SystemExit(f"fosp-collect: {error}") from error
    print(f"written to {folder}")


if __name__ == "__main__":
    main()
