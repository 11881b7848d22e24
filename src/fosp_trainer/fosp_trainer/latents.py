"""Latents of whole episodes, filtered once with a frozen world model, so that critics and actors train in seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fosp_trainer.data import Frames, Indices, gather, padded
from fosp_trainer.world_model import State, WorldModel, categorical_kl


@dataclass
class Encoded:
    """Filtered frames, in the order of the ``Frames`` they came from."""

    deter: Tensor  # (N, D)
    stoch: Tensor  # (N, Z)
    surprise: Tensor  # (N,) KL(posterior || prior) in nats


@torch.no_grad()
def encode(
    model: WorldModel,
    frames: Frames,
    flip: bool = False,
    rows: int = 32,
    chunk: int = 16,
    tick: Callable[[int], None] | None = None,
) -> Encoded:
    """Filter every episode with the posterior's mode, as the deployed policy does.

    ``rows`` episodes of similar length go side by side, ``chunk`` frames at a time. ``tick`` hears how many frames
    are done.
    """
    config = model.config
    deter, stoch = torch.empty(frames.count, config.deter), torch.empty(frames.count, config.latent)
    surprise = torch.empty(frames.count)
    order = np.argsort(frames.lengths, kind="stable")
    device = model.proprio_center.device
    for begin in range(0, len(order), rows):
        episodes: Sequence[int] = order[begin : begin + rows].tolist()
        indices, real = padded(frames, episodes, int(frames.lengths[episodes].max()))
        state: State | None = None
        for first in range(0, real.shape[1], chunk):
            part = np.s_[:, first : first + chunk]
            piece = Indices(indices.frame[part], indices.previous[part], np.full(indices.frame[part].shape, flip))
            observed = model.observe(gather(frames, piece, model.space, device), state, sample=False)
            state = State(observed.states.deter[:, -1], observed.states.stoch[:, -1])
            mask = torch.from_numpy(real[part])
            where = torch.from_numpy(piece.frame)[mask]
            deter[where] = observed.states.deter.cpu()[mask]
            stoch[where] = observed.states.stoch.cpu()[mask]
            surprise[where] = categorical_kl(observed.posterior, observed.prior).cpu()[mask]
            if tick is not None:
                tick(len(where))
    return Encoded(deter, stoch, surprise)


def subset(frames: Frames, episodes: int, rng: np.random.Generator) -> Frames:
    """At most ``episodes`` random episodes."""
    chosen: NDArray[np.int64] = rng.permutation(frames.episodes)[:episodes]
    return frames.select(chosen.tolist())
