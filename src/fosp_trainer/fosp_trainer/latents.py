"""What episodes look like to a frozen world model: glimpses of every frame, and latents of whole filtered episodes, so
that critics and actors train in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fosp_trainer import table
from fosp_trainer.data import Frames, Indices, gather, padded
from fosp_trainer.world_model import Batch, State, WorldModel, categorical_kl

Tick = Callable[[int], None]


@dataclass
class Glimpses:
    """What a frozen encoder makes of frames, in a compact form, in the order of the ``Frames`` they came from."""

    seen: Tensor  # (N, E) float16
    near: Tensor  # (N, C * C) uint8
    way: Tensor  # (N, C * C) float16
    place: Tensor  # (N, 2)

    def tables(self, index: Tensor) -> Tensor:
        """Flat tables (..., M) of frames ``index`` (...), without the beliefs they follow from."""
        near, way = self.near[index].float() / 255.0, self.way[index].float()
        return torch.cat([torch.zeros(*index.shape, 2 * table.AREA), near, way, self.place[index]], -1)

    def into(self, batch: Batch, indices: Indices) -> Batch:
        """Fill in what the encoder makes of a batch's frames."""
        frame = torch.from_numpy(indices.frame)
        device = batch.is_first.device
        batch.seen, batch.table = self.seen[frame].float().to(device), self.tables(frame).to(device)
        return batch


def recall(glimpses: Mapping[bool, Glimpses], batch: Batch, indices: Indices) -> None:
    """Fill in what the encoder makes of a batch's frames, mirrored or not, from the glimpses by flip."""
    plain = glimpses[False].into(batch, indices)
    if indices.flip.any():
        mirrored = torch.from_numpy(indices.flip)[..., None].to(batch.is_first.device)
        other = glimpses[True].into(replace(batch), indices)
        assert plain.seen is not None and other.seen is not None
        assert plain.table is not None and other.table is not None
        batch.seen = torch.where(mirrored, other.seen, plain.seen)
        batch.table = torch.where(mirrored, other.table, plain.table)


def join(parts: Sequence[Glimpses]) -> Glimpses:
    """Glimpses of several sets of episodes laid end to end."""
    return Glimpses(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Glimpses)))


@dataclass
class Encoded:
    """Filtered frames, in the order of the ``Frames`` they came from."""

    deter: Tensor  # (N, D)
    stoch: Tensor  # (N, Z)
    features: Tensor  # (N, F)
    surprise: Tensor  # (N,) KL(posterior || prior) in nats


@dataclass
class _Chunk:
    """A few steps of episodes side by side."""

    indices: Indices
    real: Tensor  # (E, T) bool: which entries are frames
    begins: bool


def _chunks(frames: Frames, flip: bool, rows: int, steps: int) -> list[_Chunk]:
    """All frames, ``rows`` episodes of similar length at a time and ``steps`` frames of them."""
    order = np.argsort(frames.lengths, kind="stable")
    found = []
    for begin in range(0, len(order), rows):
        episodes: Sequence[int] = order[begin : begin + rows].tolist()
        indices, real = padded(frames, episodes, int(frames.lengths[episodes].max()))
        for first in range(0, real.shape[1], steps):
            part = np.s_[:, first : first + steps]
            piece = Indices(indices.frame[part], indices.previous[part], np.full(indices.frame[part].shape, flip))
            found.append(_Chunk(piece, torch.from_numpy(real[part]), first == 0))
    return found


@torch.no_grad()
def glimpse(model: WorldModel, frames: Frames, flip: bool = False, tick: Tick | None = None) -> Glimpses:
    """See every frame with a world model that reads a table; ``tick`` hears how many frames are done."""
    count = frames.count
    glimpses = Glimpses(
        torch.empty(count, model.encoder.outputs, dtype=torch.float16),
        torch.empty(count, table.AREA, dtype=torch.uint8),
        torch.empty(count, table.AREA, dtype=torch.float16),
        torch.empty(count, 2),
    )
    device = model.proprio_center.device
    before: Tensor | None = None
    for chunk in _chunks(frames, flip, 32, 8):
        batch = gather(frames, chunk.indices, model.space, device)
        if chunk.begins or before is None:
            before = model.rssm.initial(len(batch.is_first), device).table
        seen, tables, _ = model.look(batch.image, batch.is_first, before)
        before = tables[:, -1]
        where = torch.from_numpy(chunk.indices.frame)[chunk.real]
        known = table.unflatten(tables.cpu()[chunk.real])
        glimpses.seen[where] = seen.cpu()[chunk.real].half()
        glimpses.near[where] = (255.0 * known.near.flatten(1)).round().to(torch.uint8)
        glimpses.way[where] = known.way.flatten(1).half()
        glimpses.place[where] = known.place
        if tick is not None:
            tick(len(where))
    return glimpses


@torch.no_grad()
def encode(
    model: WorldModel,
    frames: Frames,
    flip: bool = False,
    rows: int = 32,
    chunk: int = 16,
    tick: Tick | None = None,
    glimpses: Glimpses | None = None,
) -> Encoded:
    """Filter every episode with the posterior's mode, as the deployed policy does.

    ``rows`` episodes of similar length go side by side, ``chunk`` frames at a time. ``tick`` hears how many frames
    are done. With ``glimpses`` of these frames and flips, images are not looked at again.
    """
    config, space = model.config, model.space
    count = frames.count
    deter, stoch = torch.empty(count, config.deter), torch.empty(count, config.latent)
    features, surprise = torch.empty(count, model.features_length), torch.empty(count)
    device = model.proprio_center.device
    state: State | None = None
    for piece in _chunks(frames, flip, rows, chunk):
        batch = gather(frames, piece.indices, space, device)
        if glimpses is not None:
            batch = glimpses.into(batch, piece.indices)
        observed = model.observe(batch, None if piece.begins else state, sample=False)
        state = observed.states.at(np.s_[:, -1])
        where = torch.from_numpy(piece.indices.frame)[piece.real]
        deter[where] = observed.states.deter.cpu()[piece.real]
        stoch[where] = observed.states.stoch.cpu()[piece.real]
        seen = model.features(observed.states, model.normalize_proprio(batch.proprio))
        features[where] = seen.cpu()[piece.real]
        surprise[where] = categorical_kl(observed.posterior, observed.prior).cpu()[piece.real]
        if tick is not None:
            tick(len(where))
    return Encoded(deter, stoch, features, surprise)


def subset(frames: Frames, episodes: int, rng: np.random.Generator) -> Frames:
    """At most ``episodes`` random episodes."""
    chosen: NDArray[np.int64] = rng.permutation(frames.episodes)[:episodes]
    return frames.select(chosen.tolist())
