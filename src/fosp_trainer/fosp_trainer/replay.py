"""Earlier episodes for fine-tune rounds: read once and looked at once, however many rounds follow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from fosp_trainer.config import Config
from fosp_trainer.data import Frames, concatenate, read_dataset, split
from fosp_trainer.latents import Glimpses, Tick, glimpse, subset
from fosp_trainer.world_model import WorldModel

HELD_OUT: Final = 8
"""Episodes that nothing was trained on, for the gate, at most."""


class Replay:
    """Earlier episodes to mix in, those to judge on, and what the encoder makes of the first."""

    def __init__(self, frames: Frames, held_out: Frames | None = None) -> None:
        """``frames`` are trained on, ``held_out`` never."""
        self.frames, self.held_out = frames, held_out
        self._encoder: list[torch.Tensor] = []
        self._glimpses: Glimpses | None = None

    def glimpses(self, model: WorldModel, tick: Tick | None = None) -> Glimpses | None:
        """What the model's encoder makes of ``frames``; computed again only when that is another encoder. None for a
        model whose encoder goes on learning. ``tick`` hears how many more frames are done.
        """
        if model.reader is None:
            return None
        weights = [*model.encoder.state_dict().values(), *model.reader.state_dict().values()]
        known = len(weights) == len(self._encoder) and all(map(torch.equal, weights, self._encoder))
        if self._glimpses is None or not known:
            self._glimpses = glimpse(model, self.frames, tick=tick)
            self._encoder = [weight.clone() for weight in weights]
        return self._glimpses


def read_replay(sources: Sequence[str | Path], config: Config, seed: int = 0) -> Replay | None:
    """A sample of some Minari datasets, as large as ``config.fine_tune`` says, split by layout as in pretraining; None
    without datasets. ``seed``: of the sample. Raises ``DataError``.
    """
    if not sources:
        return None
    wanted, held_share = config.fine_tune.replay_episodes, config.data.held_out
    # Some of a sample are layouts that pretraining held out. Three standard deviations more than are needed on average.
    drawn = wanted / (1.0 - held_share) + 3.0 * math.sqrt(wanted * held_share)
    share = math.ceil(drawn / len(sources))
    sample = concatenate([read_dataset(source, share, seed) for source in sources])
    train, held_out = split(sample, held_share)
    kept = held_out.select(range(min(held_out.episodes, HELD_OUT))) if held_out.episodes else None
    return Replay(subset(train, wanted, np.random.default_rng(seed)), kept)
