"""Time of one policy step and of one judgement in ONNX Runtime, one thread, batch one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from recording import record

from fosp_core.bundle import load_bundle, newest
from fosp_core.runtime import PolicyRuntime


@dataclass
class Options:
    """Which bundle, and how often."""

    bundle: Path | None = None
    """Folder of the bundle; the newest released one by default."""
    runs: int = 5
    """Repetitions; each gives a median and a p99."""
    steps: int = 2000
    """Steps in each repetition."""
    name: str = "policy_step"
    """Name of the result file."""


def quantiles(call: Callable[[], object], steps: int) -> dict[str, float]:
    """Median and p99 in ms of ``steps`` calls."""
    times = np.empty(steps)
    for i in range(steps):
        start = time.perf_counter_ns()
        call()
        times[i] = time.perf_counter_ns() - start
    return {"p50_ms": float(np.median(times)) / 1e6, "p99_ms": float(np.percentile(times, 99)) / 1e6}


def main(options: Options) -> None:
    """Measure and write the result."""
    bundle = load_bundle(options.bundle or newest("models"))
    runtime = PolicyRuntime(bundle, threads=1)
    rng = np.random.default_rng(0)
    size = bundle.manifest.image_size
    image = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    position, action = np.asarray([0.5, 0.0, 0.1]), np.zeros(bundle.manifest.action_length)
    actions = rng.uniform(-1, 1, (3, bundle.manifest.action_length))
    runtime.warm_up()
    step = [quantiles(lambda: runtime.step(image, position, action, False), options.steps) for _ in range(options.runs)]
    judge = [quantiles(lambda: runtime.judge(actions), options.steps) for _ in range(options.runs)]
    figures = {
        name: {
            "median_of_p50_ms": float(np.median([r["p50_ms"] for r in runs])),
            "median_of_p99_ms": float(np.median([r["p99_ms"] for r in runs])),
            "runs": runs,
        }
        for name, runs in (("policy_step", step), ("judge_three_actions", judge))
    }
    path = record(
        options.name, {"model_id": bundle.id, "provider": runtime.provider, "steps": options.steps, **figures}
    )
    for name in ("policy_step", "judge_three_actions"):
        print(f"{name}: p50 {figures[name]['median_of_p50_ms']:.3f} ms, p99 {figures[name]['median_of_p99_ms']:.3f} ms")
    print(f"written to {path}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
