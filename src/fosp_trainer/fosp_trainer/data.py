"""Episodes in memory: reading a Minari dataset, splitting by layout, drawing batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fosp_trainer.config import DataConfig, SpaceConfig
from fosp_trainer.errors import UserError
from fosp_trainer.world_model import OBSTACLE_SLOTS, Batch


class DataError(UserError):
    """A dataset that cannot be used; the text says what is wrong and what to do."""


@dataclass
class Frames:
    """Episodes laid end to end. N frames; frame i of an episode is aligned as ``world_model.Batch``.

    ``action[i]`` was taken at frame i (zero on an episode's last frame). The labels are for probes and figures only.
    """

    image: NDArray[np.uint8]  # (N, S, S, C)
    proprio: NDArray[np.float32]  # (N, P) metres
    action: NDArray[np.float32]  # (N, A)
    reward: NDArray[np.float32]  # (N,)
    cost: NDArray[np.float32]  # (N,)
    is_first: NDArray[np.bool_]  # (N,)
    is_terminal: NDArray[np.bool_]  # (N,)
    starts: NDArray[np.int64]  # (E,) first frame of each episode
    layout_seed: NDArray[np.int64]  # (E,)
    success: NDArray[np.bool_]  # (E,)
    violated: NDArray[np.bool_]  # (E,)
    tool: NDArray[np.float32]  # (N, 3), NaN where unknown
    goal: NDArray[np.float32]  # (N, 3), NaN where unknown
    obstacles: NDArray[np.float32]  # (N, 3, 3), NaN where absent or unknown
    footprints: NDArray[np.uint8]  # (N, C, C) how much obstacles cover, 255 is all; (N, 0, 0) where unknown

    @property
    def labelled(self) -> bool:
        """Whether every frame knows where the goal is and what obstacles cover."""
        return bool(self.footprints.shape[-1] > 0 and np.isfinite(self.goal).all())

    @property
    def count(self) -> int:
        """Frames."""
        return len(self.reward)

    @property
    def episodes(self) -> int:
        """Episodes."""
        return len(self.starts)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(E,) frames of each episode."""
        return np.diff(np.append(self.starts, self.count))

    @property
    def episode_of(self) -> NDArray[np.int64]:
        """(N,) episode of each frame."""
        return np.repeat(np.arange(self.episodes), self.lengths)

    def select(self, episodes: Iterable[int]) -> Frames:
        """The given episodes, in that order."""
        chosen = np.asarray(list(episodes), dtype=np.int64)
        lengths = self.lengths[chosen]
        index = np.concatenate(
            [np.arange(s, s + n) for s, n in zip(self.starts[chosen], lengths, strict=True)] or [np.zeros(0, np.int64)]
        )
        per_frame = {name: getattr(self, name)[index] for name in _PER_FRAME}
        per_episode = {name: getattr(self, name)[chosen] for name in _PER_EPISODE}
        return Frames(
            **per_frame, **per_episode, starts=np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        )

    def fingerprint(self) -> str:
        """Hash of actions, rewards, costs and layouts: says whether two runs saw the same data."""
        digest = hashlib.sha256()
        for name in ("action", "reward", "cost", "proprio", "layout_seed"):
            digest.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        return digest.hexdigest()


_PER_FRAME = (
    "image", "proprio", "action", "reward", "cost", "is_first", "is_terminal", "tool", "goal", "obstacles",
    "footprints",
)  # fmt: skip
_PER_EPISODE = ("layout_seed", "success", "violated")


def concatenate(parts: Sequence[Frames]) -> Frames:
    """Lay several sets of episodes end to end."""
    offsets = np.cumsum([0, *(p.count for p in parts[:-1])])
    if len({p.footprints.shape[1:] for p in parts}) > 1:
        parts = [replace(p, footprints=np.zeros((p.count, 0, 0), np.uint8)) for p in parts]
    merged = {name: np.concatenate([getattr(p, name) for p in parts]) for name in _PER_FRAME + _PER_EPISODE}
    return Frames(**merged, starts=np.concatenate([p.starts + o for p, o in zip(parts, offsets, strict=True)]))


def from_episodes(episodes: Iterable[Any]) -> Frames:
    """Lay ``fosp_core.episode.Episode`` objects end to end; raises ``DataError`` on ill-shaped or non-finite arrays."""
    rows: dict[str, list[NDArray[Any]]] = {name: [] for name in _PER_FRAME}
    heads: dict[str, list[Any]] = {name: [] for name in _PER_EPISODE}
    starts, total = [], 0
    for number, episode in enumerate(episodes):
        length = len(episode.reward)
        if length < 2:
            raise DataError(f"episode {number} has {length} frames; at least 2 are needed")
        for name in ("image", "proprio", "action", "reward", "cost", "is_first", "is_terminal"):
            values = np.asarray(getattr(episode, name))
            if len(values) != length:
                raise DataError(f"episode {number}: {name} has {len(values)} rows where reward has {length}")
            if values.dtype.kind == "f" and not np.all(np.isfinite(values)):
                raise DataError(f"episode {number}: {name} holds values that are not finite")
            rows[name].append(values)
        if rows["image"][-1].dtype != np.uint8 or rows["image"][-1].ndim != 4:
            raise DataError(
                f"episode {number}: image must be uint8 (T + 1, S, S, channels), "
                f"not {rows['image'][-1].dtype} {rows['image'][-1].shape}"
            )
        rows["tool"].append(_label(getattr(episode, "tool", None), (length, 3)))
        goal = _label(getattr(episode, "goal", None), (3,))
        rows["goal"].append(np.broadcast_to(goal, (length, 3)))
        covered = getattr(episode, "footprints", None)
        rows["footprints"].append(np.zeros((length, 0, 0), np.uint8) if covered is None else np.asarray(covered))
        rows["obstacles"].append(_label(getattr(episode, "obstacles", None), (length, OBSTACLE_SLOTS, 3)))
        metadata = getattr(episode, "metadata", {}) or {}
        heads["layout_seed"].append(int(metadata.get("layout_seed", number)))
        heads["success"].append(bool(metadata.get("success", episode.is_terminal[-1])))
        heads["violated"].append(bool(metadata.get("violated", np.any(np.asarray(episode.cost) > 0))))
        starts.append(total)
        total += length
    if not starts:
        raise DataError("no episodes")
    shapes = {a.shape[1:] for a in rows["image"]}
    if len(shapes) > 1:
        raise DataError(f"episodes have images of different shapes: {sorted(shapes)}")
    if len({a.shape[1:] for a in rows["footprints"]}) > 1:
        rows["footprints"] = [np.zeros((len(a), 0, 0), np.uint8) for a in rows["footprints"]]
    dtypes = {"image": np.uint8, "footprints": np.uint8, "is_first": np.bool_, "is_terminal": np.bool_}
    per_frame: dict[str, Any] = {
        name: np.ascontiguousarray(np.concatenate(values), dtype=dtypes.get(name, np.float32))
        for name, values in rows.items()
    }
    return Frames(
        **per_frame,
        starts=np.asarray(starts, np.int64),
        layout_seed=np.asarray(heads["layout_seed"], np.int64),
        success=np.asarray(heads["success"], np.bool_),
        violated=np.asarray(heads["violated"], np.bool_),
    )


def _label(values: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if values is None:
        return np.full(shape, np.nan, np.float32)
    return np.asarray(values, np.float32).reshape(shape)


def read_dataset(source: str | Path, sample: int | None = None, seed: int = 0) -> Frames:
    """Read a Minari dataset: a folder that holds one, or the id of an installed one. Raises ``DataError``.

    ``sample`` reads that many random episodes only.
    """
    import minari

    from fosp_core.episode import from_minari

    path = Path(source)
    folder = next((p for p in (path, path / "data") if (p / "main_data.hdf5").is_file()), None)
    try:
        if folder is not None:
            dataset = minari.MinariDataset(folder)
        elif path.exists():
            raise DataError(
                f"{path} holds no Minari dataset (no main_data.hdf5 in it or its data/ folder); "
                "make one with `fosp-train collect`"
            )
        else:
            dataset = minari.load_dataset(str(source))
    except DataError:
        raise
    except Exception as error:  # h5py, json and minari raise many kinds
        known = f"no such folder, and Minari says: {error}" if folder is None else f"{type(error).__name__}: {error}"
        raise DataError(
            f"cannot read the dataset {source}: {known}. Make one with `fosp-train collect --output FOLDER`"
        ) from error
    try:
        chosen = None
        if sample is not None and sample < dataset.total_episodes:
            chosen = np.sort(np.random.default_rng(seed).permutation(dataset.total_episodes)[:sample]).tolist()
        return from_episodes(from_minari(episode) for episode in dataset.iterate_episodes(chosen))
    except DataError as error:
        raise DataError(f"dataset {source}: {error}") from error
    except Exception as error:
        raise DataError(f"cannot read the episodes of {source}: {type(error).__name__}: {error}") from error


def check_space(frames: Frames, space: SpaceConfig) -> None:
    """Raise ``DataError`` unless the frames fit the configured observation and action."""
    expected = {
        "image": (space.image_size, space.image_size, space.channels),
        "proprio": (space.proprio,),
        "action": (space.action,),
    }
    for name, shape in expected.items():
        found = getattr(frames, name).shape[1:]
        if found != shape:
            raise DataError(f"the data's {name} has shape {found} a step, the configuration expects {shape}")


def split(frames: Frames, held_out: float) -> tuple[Frames, Frames]:
    """Training and held-out episodes by layout seed: a layout is in one of the two only, whatever else is in the
    data.
    """
    draw = np.array(
        [int.from_bytes(hashlib.sha256(str(s).encode()).digest()[:4], "big") / 2**32 for s in frames.layout_seed]
    )
    kept_out = draw < held_out
    if held_out > 0 and not kept_out.any():
        kept_out[np.argmin(draw)] = True
    if kept_out.all():
        raise DataError(f"all {frames.episodes} episodes share held-out layouts; more layouts are needed")
    return frames.select(np.flatnonzero(~kept_out)), frames.select(np.flatnonzero(kept_out))


@dataclass
class Indices:
    """Which frames make up a batch."""

    frame: NDArray[np.int64]  # (B, T)
    previous: NDArray[np.int64]  # (B, T) frame whose action led here; -1 on an episode's first frame
    flip: NDArray[np.bool_]  # (B, T)


class StreamSampler:
    """Every row walks through whole randomly drawn episodes, so that a carried latent has the context it will have
    when deployed.
    """

    def __init__(self, frames: Frames, config: DataConfig, rng: np.random.Generator) -> None:
        self.starts, self.lengths, self.config, self.rng = frames.starts, frames.lengths, config, rng
        # row state: episode, offset in it, flipped
        self.rows = np.stack([self._draw() for _ in range(config.batch)])
        self.rows[:, 1] = (rng.random(config.batch) * self.lengths[self.rows[:, 0]]).astype(np.int64)

    def _draw(self) -> NDArray[np.int64]:
        flip = self.config.flip and self.rng.random() < 0.5
        return np.array([self.rng.integers(len(self.starts)), 0, flip], np.int64)

    def sample(self) -> Indices:
        """The next batch of every row."""
        b, t = self.config.batch, self.config.length
        frame, previous, flip = np.empty((b, t), np.int64), np.empty((b, t), np.int64), np.empty((b, t), np.bool_)
        for row in range(b):
            filled = 0
            while filled < t:
                episode, offset, flipped = self.rows[row]
                taken = min(t - filled, self.lengths[episode] - offset)
                steps = np.arange(offset, offset + taken)
                part = slice(filled, filled + taken)
                frame[row, part] = self.starts[episode] + steps
                previous[row, part] = np.where(steps > 0, frame[row, part] - 1, -1)
                flip[row, part] = bool(flipped)
                filled += taken
                self.rows[row, 1] += taken
                if self.rows[row, 1] >= self.lengths[episode]:
                    self.rows[row] = self._draw()
        return Indices(frame, previous, flip)


class WindowSampler:
    """Random windows of consecutive frames; a window may cross into the next episode."""

    def __init__(self, frames: Frames, config: DataConfig, rng: np.random.Generator) -> None:
        if frames.count < config.length:
            raise DataError(f"the data holds {frames.count} frames, fewer than one window of {config.length}")
        self.is_first, self.config, self.rng = frames.is_first, config, rng
        self.rows = np.zeros((0, 3), np.int64)

    def sample(self) -> Indices:
        """A batch of windows."""
        b, t = self.config.batch, self.config.length
        start = self.rng.integers(0, len(self.is_first) - t + 1, b)
        frame = start[:, None] + np.arange(t)
        flip = (self.rng.random(b) < 0.5) & self.config.flip
        return Indices(frame, np.where(self.is_first[frame], -1, frame - 1), np.repeat(flip[:, None], t, 1))


def make_sampler(frames: Frames, config: DataConfig, rng: np.random.Generator) -> StreamSampler | WindowSampler:
    """The sampler that the configuration names."""
    return (StreamSampler if config.sampling == "stream" else WindowSampler)(frames, config, rng)


def mirror_image(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Flip images (..., S, S, C) left to right: y of the world runs along image x, as the camera looks back along
    -x.
    """
    return image[..., :, ::-1, :]


def gather(
    frames: Frames, indices: Indices, space: SpaceConfig, device: torch.device | str = "cpu", labels: bool = False
) -> Batch:
    """Collect a batch and apply the flips. ``labels``: footprints too, where they are known."""
    image = frames.image[indices.frame]
    if indices.flip.any():
        image[indices.flip] = mirror_image(image[indices.flip])
    proprio: NDArray[np.floating] = frames.proprio[indices.frame]
    action = np.where(indices.previous[..., None] >= 0, frames.action[np.maximum(indices.previous, 0)], np.float32(0.0))
    points = np.concatenate([frames.goal[indices.frame][..., None, :], frames.obstacles[indices.frame]], -2)
    footprints: NDArray[Any] | None = frames.footprints[indices.frame] if labels and frames.labelled else None
    if footprints is not None and indices.flip.any():
        footprints[indices.flip] = footprints[indices.flip][..., ::-1]
    if indices.flip.any():
        points = np.where(indices.flip[..., None, None], points * np.array([1, -1, 1], np.float32), points)
        low, high = np.asarray(space.proprio_low, np.float32), np.asarray(space.proprio_high, np.float32)
        signs = np.where(indices.flip[..., None], np.asarray(space.mirror_proprio, np.float32), np.float32(1.0))
        proprio = (proprio - (low + high) / 2) * signs + (low + high) / 2
        action = action * np.where(
            indices.flip[..., None], np.asarray(space.mirror_action, np.float32), np.float32(1.0)
        )

    def tensor(values: NDArray[Any], kind: torch.dtype = torch.float32) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device, kind)

    return Batch(
        image=tensor(image, torch.uint8),
        proprio=tensor(proprio),
        previous_action=tensor(action),
        reward=tensor(frames.reward[indices.frame]),
        cost=tensor(frames.cost[indices.frame]),
        is_first=tensor(frames.is_first[indices.frame]),
        is_terminal=tensor(frames.is_terminal[indices.frame]),
        points=tensor(points) if np.isfinite(points).any() else None,
        footprints=None if footprints is None else tensor(footprints) / 255.0,
    )


def padded(frames: Frames, episodes: Sequence[int], length: int) -> tuple[Indices, NDArray[np.bool_]]:
    """Whole episodes side by side: indices (E, length) that repeat the last frame, and which entries are real."""
    chosen = np.asarray(episodes, np.int64)
    steps = np.arange(length)[None]
    lengths = frames.lengths[chosen][:, None]
    frame = frames.starts[chosen][:, None] + np.minimum(steps, lengths - 1)
    return Indices(frame, np.where(steps > 0, frame - 1, -1), np.zeros(frame.shape, np.bool_)), steps < lengths
