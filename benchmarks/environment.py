"""Steps per second of SafeReach on one core: with one image, without, and the time of a reset."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
# The software renderer would otherwise spread one picture over all cores.
os.environ.setdefault("LP_NUM_THREADS", "0")

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from recording import record

from fosp_core import task
from fosp_sim.environment import SafeReachEnv
from fosp_sim.layout import sample_layout


@dataclass
class Options:
    """How much to measure."""

    steps: int = 2000
    """Steps of each repetition."""
    runs: int = 5
    """Repetitions; the median counts."""
    core: int = 0
    """Core to stay on."""
    output: Path | None = None
    """Result file; benchmarks/results/environment.json by default."""


def run(env: SafeReachEnv, steps: int, first_seed: int) -> dict[str, float]:
    """Random actions for ``steps`` steps; rates without and with the resets in between.

    The rate by processor time is that of a core which nobody else uses, whatever else runs.
    """
    rng = np.random.default_rng(first_seed)
    actions = rng.uniform(-1.0, 1.0, (steps, task.ACTION_LENGTH))
    seed, resets, reset_time, step_time, processor_time, done = first_seed, 0, 0.0, 0.0, 0.0, True
    for action in actions:
        start = time.perf_counter()
        if done:
            env.reset(seed=seed)
            seed, resets = seed + 1, resets + 1
            reset_time += time.perf_counter() - start
            start = time.perf_counter()
        processor = time.process_time()
        _, _, _, terminated, truncated, _ = env.step(action)
        processor_time += time.process_time() - processor
        done = terminated or truncated
        step_time += time.perf_counter() - start
    return {
        "steps_per_s": steps / step_time,
        "steps_per_processor_s": steps / processor_time,
        "steps_per_s_with_resets": steps / (step_time + reset_time),
        "reset_ms": 1e3 * reset_time / resets,
    }


def main(options: Options) -> None:
    """Measure and write the result."""
    os.sched_setaffinity(0, {options.core})
    figures: dict[str, Any] = {"steps": options.steps, "core": options.core}
    for name, size, images in (("image_64", 64, True), ("image_128", 128, True), ("no_image", 64, False)):
        env = SafeReachEnv(image_size=size, images=images)
        run(env, 200, 0)
        runs = [run(env, options.steps, 1000 * (i + 1)) for i in range(options.runs)]
        env.close()
        figures[name] = {key: float(np.median([r[key] for r in runs])) for key in runs[0]} | {"runs": runs}
        print(
            f"{name}: {figures[name]['steps_per_s']:.0f} steps/s, "
            f"{figures[name]['steps_per_processor_s']:.0f} per processor second, "
            f"{figures[name]['steps_per_s_with_resets']:.0f} with resets of {figures[name]['reset_ms']:.1f} ms"
        )
    start = time.perf_counter()
    for seed in range(200):
        sample_layout("standard", seed)
    figures["layout_ms"] = 1e3 * (time.perf_counter() - start) / 200
    print(f"written to {record('environment', figures, options.output)}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
