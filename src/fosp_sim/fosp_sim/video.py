"""Writes what the camera sees during scripted episodes as an mp4 file, for trying the camera node on a video."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro

from fosp_core import task
from fosp_sim.environment import SafeReachEnv
from fosp_sim.gl import GraphicsError
from fosp_sim.scripted import CONTROLLERS


def record(
    path: Path, seed: int, scene: str = "standard", kind: str = "planner", size: int = 240, episodes: int = 1
) -> int:
    """Write ``episodes`` scripted episodes, layouts ``seed`` onwards, at the control rate.

    Args:
        path: the mp4 file; overwritten.
        seed: first layout seed, >= 0.
        scene: scene name.
        kind: one of the scripted controllers.
        size: side of the square picture in pixels; even, or the encoder trims it.
        episodes: how many, > 0.

    Returns:
        The number of frames.

    Raises:
        ValueError: unknown scene or kind, or nothing to write.
        OSError: the file cannot be written.
    """
    if kind not in CONTROLLERS:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(CONTROLLERS)}")
    if episodes <= 0:
        raise ValueError(f"episodes must be > 0, got {episodes}")
    env = SafeReachEnv(scene=scene, image_size=size)
    fourcc = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), fourcc, task.CONTROL_HZ, (size, size))
    if not writer.isOpened():
        env.close()
        raise OSError(f"cannot write the video {path}")
    frames = 0
    try:
        for number in range(seed, seed + episodes):
            controller, rng = CONTROLLERS[kind](), np.random.default_rng(number)
            observation, info = env.reset(seed=number)
            controller.reset(info, rng)
            ended = False
            while True:
                writer.write(cv2.cvtColor(observation["image"], cv2.COLOR_RGB2BGR))
                frames += 1
                if ended:
                    break
                observation, _, _, terminated, truncated, info = env.step(controller.act(info))
                ended = terminated or truncated
    finally:
        writer.release()
        env.close()
    return frames


@dataclass
class Options:
    """Write a video of scripted episodes."""

    output: Path
    """The mp4 file."""
    seed: int = 0
    """First layout seed."""
    scene: str = "standard"
    """Scene name."""
    kind: str = "planner"
    """planner, straight, noisy or random."""
    size: int = 240
    """Side of the picture in pixels."""
    episodes: int = 1
    """How many."""


def main() -> None:
    """Command line: ``python -m fosp_sim.video``."""
    o = tyro.cli(Options)
    try:
        frames = record(o.output, o.seed, o.scene, o.kind, o.size, o.episodes)
    except (ValueError, OSError, GraphicsError) as error:
        raise SystemExit(f"video: {error}") from error
    print(f"{frames} frames written to {o.output}")


if __name__ == "__main__":
    main()
