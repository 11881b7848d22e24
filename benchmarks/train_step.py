"""Time and peak memory of one whole update (world model, critics, reachability, actors) at the sizes of the targets.

Each size runs in a process of its own. Data is noise: the arithmetic is the same.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from recording import record

from fosp_trainer import config as configuration
from fosp_trainer import process
from fosp_trainer.config import Config, TableConfig


@dataclass
class Options:
    """What is measured."""

    sizes: tuple[str, ...] = ("cpu", "small")
    """cpu: the preset; small and paper: the sizes compared with other implementations; paper-128: the latter with
    rollouts from 128 states of a batch instead of all.
    """
    updates: int = 10
    """Updates of each size, after those that warm up."""
    warm_up: int = 2
    threads: int = 1
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    child: bool = False
    """Measure the one size and print JSON."""
    name: str = "train_step"
    """Name of the result file."""


def sized(size: str) -> tuple[Config, int, int]:
    """Configuration, batch and length of a size. Two cameras, everything decoded, as the compared ones do."""
    cpu, paper = configuration.preset("cpu"), configuration.preset("paper")
    if size == "cpu":
        return cpu, cpu.data.batch, cpu.data.length
    if size == "small":
        model = replace(
            cpu.world_model, stoch=16, classes=16, cnn_depth=16, colours="rgb", decode_fraction=1.0,
            position_weight=0.0, table=TableConfig(enabled=False),
        )  # fmt: skip
        # rollouts are imagined, as the compared ones do
        critic = replace(cpu.critic, imagined_weight=0.25)
        return replace(cpu, space=replace(cpu.space, cameras=2), world_model=model, critic=critic), 16, 32
    if size in ("paper", "paper-128"):
        starts = paper.critic.imagined_batch if size == "paper" else 128
        critic = replace(paper.critic, imagined_batch=starts)
        return replace(paper, space=replace(paper.space, cameras=2), critic=critic), 16, 64
    raise SystemExit(f"train_step: unknown size {size!r}; known: cpu, small, paper, paper-128")


def measure(size: str, options: Options) -> dict[str, Any]:
    """Seconds of each update and peak memory."""
    from fosp_trainer.pretrain import Trainer
    from fosp_trainer.testing import random_episodes

    config, batch, length = sized(size)
    config = replace(
        config,
        data=replace(config.data, batch=batch, length=length, flip=False),
        stages=replace(config.stages, mode="joint"),
        hardware=replace(config.hardware, threads=options.threads, precision=options.precision),
    )
    frames = random_episodes(8, length=100)
    if config.space.cameras > 1:
        frames.image = np.concatenate([frames.image] * config.space.cameras, -1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, frames, frames, Path(folder), quiet=True)
        times = []
        for _ in range(options.warm_up + options.updates):
            start = time.perf_counter()
            trainer.joint_step()
            times.append(time.perf_counter() - start)
    warm = times[options.warm_up :]
    parameters = sum(p.numel() for p in trainer.agent.parameters())
    return {
        "batch": batch,
        "length": length,
        "cameras": config.space.cameras,
        "parameters": parameters,
        "seconds": warm,
        "median_s": float(np.median(warm)),
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def main(options: Options) -> None:
    """Measure every size and write the result."""
    if options.child:
        process.prepare()
        print(json.dumps(measure(options.sizes[0], options)))
        return
    sizes: dict[str, Any] = {}
    for size in options.sizes:
        counts = {"updates": options.updates, "warm-up": options.warm_up, "threads": options.threads}
        arguments = [text for name, count in counts.items() for text in (f"--{name}", str(count))]
        command = [sys.executable, __file__, "--sizes", size, *arguments, "--precision", options.precision, "--child"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        sizes[size] = json.loads(done.stdout)
        found = sizes[size]
        print(f"{size}: {found['median_s']:.3f} s an update, {found['peak_memory_gb']:.2f} GB", flush=True)
    settings = {k: v for k, v in asdict(options).items() if k in ("updates", "warm_up", "threads", "precision")}
    print(f"written to {record(options.name, {**settings, 'sizes': sizes})}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
