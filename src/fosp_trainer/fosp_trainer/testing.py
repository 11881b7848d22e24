"""Episodes of noise and short schedules for tests."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from fosp_trainer.config import StageConfig
from fosp_trainer.data import Frames, from_episodes

STEPS = StageConfig(
    encoder_steps=4, encoder_batch=4, world_model_steps=6, critic_steps=5, critic_batch=16, actor_steps=5,
    actor_batch=16, probe_every=0, checkpoint_every=2,
)  # fmt: skip


def random_episodes(count: int = 3, length: int = 12, seed: int = 0, labels: bool = False) -> Frames:
    """Episodes of noise; with ``labels`` they carry positions."""
    rng = np.random.default_rng(seed)
    first = np.zeros(length, np.bool_)
    first[0] = True
    more = (
        {
            "tool": rng.random((length, 3), dtype=np.float32),
            "goal": rng.random(3, dtype=np.float32),
            "footprints": rng.integers(0, 255, (length, 32, 32), dtype=np.uint8),
            "obstacles": rng.random((length, 3, 3), dtype=np.float32),
        }
        if labels
        else {}
    )
    return from_episodes(
        SimpleNamespace(
            image=rng.integers(0, 255, (length, 64, 64, 3), dtype=np.uint8),
            proprio=rng.random((length, 3), dtype=np.float32),
            action=rng.uniform(-1, 1, (length, 3)).astype(np.float32),
            reward=rng.random(length, dtype=np.float32),
            cost=(rng.random(length) < 0.1).astype(np.float32),
            is_first=first,
            is_terminal=np.zeros(length, np.bool_),
            metadata={"layout_seed": number},
            **more,
        )
        for number in range(count)
    )
