"""What the world model knows: probes of positions from latents, and open-loop predictions as an image grid."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fosp_core import task
from fosp_trainer.data import Frames, gather, padded
from fosp_trainer.latents import encode, glimpse, subset
from fosp_trainer.nets import MLP
from fosp_trainer.table import Table, unflatten
from fosp_trainer.world_model import POSITION_SCALE_M, WorldModel, matched_error


def probe_errors(
    model: WorldModel, train: Frames, held_out: Frames, seed: int = 0, episodes: int = 200, steps: int = 400
) -> dict[str, float]:
    """Mean error in cm of a small MLP that reads positions from the state, its table included, on held-out episodes.

    Tool and goal are Euclidean errors, ``obstacle`` the root of the mean squared error over obstacles under the
    best assignment.
    The labels are privileged; nothing of this reaches the world model. Missing labels give an empty result.
    """
    rng = np.random.default_rng(seed)
    known = np.isfinite(train.goal).all() and np.isfinite(held_out.goal).all() and np.isfinite(train.tool).all()
    if not known or held_out.episodes == 0:
        return {}
    sets = []
    for frames, limit in ((train, episodes), (held_out, episodes // 2)):
        part = subset(frames, limit, rng)
        glimpses = glimpse(model, part) if model.reader is not None else None
        encoded = encode(model, part, glimpses=glimpses)
        state = [encoded.deter, encoded.stoch]
        if glimpses is not None:
            state += [glimpses.near.float() / 255.0, glimpses.place]
        tool, goal = torch.from_numpy(part.tool), torch.from_numpy(part.goal)
        sets.append((torch.cat(state, -1), tool, goal, torch.from_numpy(part.obstacles)))
    slots = max(1, int(np.isfinite(train.obstacles).all(-1).sum(1).max()))
    # on the side, so that probing does not change the training's random numbers
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        features, tool, goal, obstacles = sets[0]
        center = goal.mean(0)
        probe = MLP(features.shape[1], 256, 2, 6 + 3 * slots)
        optimizer = torch.optim.AdamW(probe.parameters(), lr=2e-3, weight_decay=1e-2)
        for step in range(steps):
            index = torch.randint(len(features), (256,))
            optimizer.param_groups[0]["lr"] = 2e-3 * (1.0 - step / steps)
            errors = _probe_squares(probe(features[index]), tool[index], goal[index], obstacles[index, :slots], center)
            loss = torch.stack([e.mean() for e in errors]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        features, tool, goal, obstacles = sets[1]
        squares = _probe_squares(probe(features), tool, goal, obstacles[:, :slots], center)
    centimetres = [float(100.0 * POSITION_SCALE_M * e.sqrt().mean()) for e in squares]
    return dict(zip(("tool", "goal", "obstacle"), centimetres, strict=True))


def _probe_squares(prediction: Tensor, tool: Tensor, goal: Tensor, obstacles: Tensor, center: Tensor) -> list[Tensor]:
    scaled = [(x - center) / POSITION_SCALE_M for x in (tool, goal, obstacles)]
    points = prediction[:, 6:].unflatten(-1, (-1, 3))
    return [
        ((prediction[:, :3] - scaled[0]) ** 2).sum(-1),
        ((prediction[:, 3:6] - scaled[1]) ** 2).sum(-1),
        matched_error(points, scaled[2]),
    ]


@torch.no_grad()
def reading_errors(model: WorldModel, frames: Frames, episodes: int = 60, seed: int = 0) -> dict[str, float]:
    """How well the table is read from labelled episodes: mean and 95th percentile of the goal's error in cm, and the
    shares of covered area that the map misses and shows too much, all frames counted, the first ones too. Empty
    without labels or without a table.
    """
    if model.reader is None or not frames.labelled or frames.episodes == 0:
        return {}
    goal_errors, missed, extra, covered = [], 0.0, 0.0, 0.0
    for _, known, part in _tables(model, subset(frames, episodes, np.random.default_rng(seed))):
        goal_errors.append((known.place - torch.from_numpy(part.goal[:, :2])).norm(dim=-1))
        shown, truth = known.cover > 0.0, torch.from_numpy(part.footprints) > 127
        missed += float((truth & ~shown).sum())
        extra += float((shown & ~truth).sum())
        covered += float(truth.sum())
    errors = 100.0 * torch.cat(goal_errors)
    return {
        "goal_cm": float(errors.mean()), "goal_p95_cm": float(errors.quantile(0.95)),
        "missed": missed / max(covered, 1.0), "extra": extra / max(covered, 1.0),
    }  # fmt: skip


def _tables(model: WorldModel, frames: Frames) -> Iterator[tuple[Tensor, Table, Frames]]:
    """Flat and unflattened tables (T, ...) of one episode after the other, as the deployed policy reads them."""
    device = model.proprio_center.device
    for number in range(frames.episodes):
        part = frames.select([number])
        first = torch.zeros(1, part.count, device=device)
        first[0, 0] = 1.0
        images = torch.from_numpy(part.image)[None].to(device)
        _, flat, _ = model.look(images, first, model.rssm.initial(1, device).table)
        yield flat[0].cpu(), unflatten(flat[0].cpu()), part


@torch.no_grad()
def reading_grid(model: WorldModel, frames: Frames, columns: int = 8, scale: int = 3) -> NDArray[np.uint8]:
    """Pictures of some episodes' middle frames: what the camera sees, what is believed to be covered with the goal in
    red, the truth, and the way (dark is near the goal). uint8 (height, width, 3), rows of the map along x.
    """
    shown = []
    for _, known, part in _tables(model, frames.select(range(min(columns, frames.episodes)))):
        at = part.count // 2
        belief = torch.sigmoid(known.cover[at]).numpy()
        place, truth = known.place[at].numpy(), part.goal[at, :2]
        way = np.clip(known.way[at].numpy() / 60.0, 0.0, 1.0)
        covered = part.footprints[at] / 255.0 if part.labelled else np.zeros_like(belief)
        pictures = [_map_picture(belief, place), _map_picture(covered, truth), _map_picture(way, place)]
        side = part.image.shape[1] * scale
        tiles = [np.repeat(np.repeat(part.image[at, :, :, :3], scale, 0), scale, 1)]
        for picture in pictures:
            factor = side // len(picture)
            tiles.append(np.repeat(np.repeat(picture, factor, 0), factor, 1))
        shown.append(np.concatenate(tiles, 0))
    return np.concatenate(shown, 1)


def _map_picture(values: NDArray[np.floating], goal: NDArray[np.floating]) -> NDArray[np.uint8]:
    """A map (C, C) in [0, 1] in grey with a goal (2,) in metres, oriented as the camera sees the table."""
    picture = np.repeat((255.0 * values).astype(np.uint8)[..., None], 3, -1)
    i, j = np.clip(((goal - np.array(task.TABLE_LOW)) / task.TABLE_CELL_M).astype(int), 0, len(values) - 1)
    picture[i, j] = (255, 40, 40)
    return picture


@torch.no_grad()
def open_loop_grid(
    model: WorldModel, frames: Frames, rows: int = 4, context: int = 5, length: int = 20
) -> NDArray[np.uint8]:
    """True frames above open-loop predictions, ``rows`` episodes: uint8 (height, width, 3). First camera only."""
    episodes = np.argsort(-frames.lengths, kind="stable")[:rows].tolist()
    length = min(length, int(frames.lengths[episodes].min()))
    context = min(context, length - 1)
    indices, _ = padded(frames, episodes, length)
    batch = gather(frames, indices, model.space, model.proprio_center.device)
    predicted, _ = model.open_loop(batch, context)
    true = batch.image[..., :3].permute(0, 1, 4, 2, 3).float() / 255.0
    shown = torch.arange(0, length, max(1, length // 10))
    lines = []
    for row in range(len(episodes)):
        lines += [torch.cat(list(true[row, shown]), -1), torch.cat(list(predicted[row, shown, :3].float()), -1)]
    grid = (torch.cat(lines, -2) * 255.0).round().clamp(0, 255).to(torch.uint8)
    array: NDArray[np.uint8] = grid.permute(1, 2, 0).cpu().numpy()
    return array


@torch.no_grad()
def open_loop_errors(
    model: WorldModel, frames: Frames, episodes: int = 32, context: int = 5, length: int = 20
) -> dict[str, float]:
    """Mean squared pixel error after the context: open-loop prediction, and repeating the last seen frame."""
    candidates = np.flatnonzero(frames.lengths > context + 1)
    chosen = candidates[np.argsort(-frames.lengths[candidates], kind="stable")][:episodes].tolist()
    if not chosen:
        return {}
    indices, real = padded(frames, chosen, min(length, int(frames.lengths[chosen].max())))
    batch = gather(frames, indices, model.space, model.proprio_center.device)
    predicted, _ = model.open_loop(batch, context)
    true = batch.image.permute(0, 1, 4, 2, 3).float() / 255.0
    mask = torch.from_numpy(real[:, context:])
    error = ((predicted - true) ** 2).mean((2, 3, 4))[:, context:][mask]
    repeated = ((true[:, context - 1 : context] - true) ** 2).mean((2, 3, 4))[:, context:][mask]
    return {"open_loop": float(error.mean()), "repeat_last_frame": float(repeated.mean())}


def save_png(image: NDArray[np.uint8], path: Path) -> None:
    """Write an RGB image (H, W, 3)."""
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.ascontiguousarray(image[..., ::-1]))
