"""One recorded episode, aligned as DreamerV3 aligns it, and its form in a Minari dataset."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

RECORD_FILE: Final = "episode.json"
FRAMES_FILE: Final = "episode.npz"
"""Of a recorded episode's folder: summary and steps, and the arrays of ``Episode``."""


_LABELS: Final = {"tool": np.float32, "obstacles": np.float32, "clearance": np.float32, "footprints": np.uint8}
"""Privileged labels of every frame, and their types."""


class EpisodeError(ValueError):
    """Arrays that do not make up an episode; the message says which and why."""


@dataclass(frozen=True)
class Episode:
    """T control steps, T + 1 frames. ``reward[t]`` and ``cost[t]`` were received on arriving at frame t.

    Positions are metres in ``panda_link0``. The privileged labels are for evaluation and probes; they are None where
    nobody knows them.
    """

    image: NDArray[np.uint8]  # (T + 1, S, S, 3)
    proprio: NDArray[np.float32]  # (T + 1, P)
    action: NDArray[np.float32]  # (T + 1, A) taken at frame t; the last row is zero
    reward: NDArray[np.float32]  # (T + 1,) index 0 is 0
    cost: NDArray[np.float32]  # (T + 1,) index 0 is 0
    is_first: NDArray[np.bool_]  # (T + 1,)
    is_terminal: NDArray[np.bool_]  # (T + 1,) True only where the goal was reached
    metadata: dict[str, Any] = field(default_factory=dict)
    """kind, scene, layout_seed, success, violated, ..."""
    tool: NDArray[np.float32] | None = None  # (T + 1, 3)
    goal: NDArray[np.float32] | None = None  # (3,)
    obstacles: NDArray[np.float32] | None = None  # (T + 1, 3, 3), NaN rows for absent ones
    clearance: NDArray[np.float32] | None = None  # (T + 1,)
    footprints: NDArray[np.uint8] | None = None  # (T + 1, cells, cells) how much obstacles cover, 255 is all

    def __post_init__(self) -> None:
        frames = len(self.reward)
        if frames < 2:
            raise EpisodeError(f"an episode needs at least 2 frames, got {frames}")
        for name in ("image", "proprio", "action", "cost", "is_first", "is_terminal", *_LABELS):
            value = getattr(self, name)
            if value is not None and len(value) != frames:
                raise EpisodeError(f"{name} has {len(value)} rows, reward has {frames}")
        if self.image.dtype != np.uint8 or self.image.ndim != 4:
            raise EpisodeError(f"image must be uint8 (T + 1, S, S, 3), got {self.image.dtype} {self.image.shape}")
        for name in ("proprio", "action", "reward", "cost"):
            if not np.all(np.isfinite(getattr(self, name))):
                raise EpisodeError(f"{name} holds values that are not finite")
        if not self.is_first[0] or self.is_first[1:].any():
            raise EpisodeError("is_first must be True on the first frame and nowhere else")
        if np.any(self.cost < 0):
            raise EpisodeError("cost must not be negative")

    @property
    def steps(self) -> int:
        """Control steps T."""
        return len(self.reward) - 1

    @property
    def success(self) -> bool:
        """Whether the goal was reached."""
        return bool(self.is_terminal[-1])

    @property
    def violated(self) -> bool:
        """Whether any step cost anything."""
        return bool(np.any(self.cost > 0))


class EpisodeBuilder:
    """Collects frames one by one; ``add_frame`` first, then ``add_step`` for every action."""

    def __init__(self, **metadata: Any) -> None:
        self._metadata = metadata
        self._rows: dict[str, list[Any]] = {
            name: [] for name in ("image", "proprio", "action", "reward", "cost", *_LABELS)
        }
        self._goal: NDArray[np.float32] | None = None
        self._terminal = False

    def add_frame(self, observation: Mapping[str, Any], info: Mapping[str, Any]) -> None:
        """The first frame of the episode."""
        self._append(observation, info, 0.0, 0.0)
        if "goal" in info:
            self._goal = np.asarray(info["goal"], dtype=np.float32)

    def add_step(
        self,
        action: NDArray[np.floating],
        observation: Mapping[str, Any],
        reward: float,
        cost: float,
        terminated: bool,
        info: Mapping[str, Any],
    ) -> None:
        """The action taken at the last frame and the frame it led to."""
        self._rows["action"].append(np.asarray(action, dtype=np.float32))
        self._append(observation, info, reward, cost)
        self._terminal = terminated

    def build(self) -> Episode:
        """The episode so far; raises ``EpisodeError`` when there is none."""
        rows, frames = self._rows, len(self._rows["reward"])
        if frames < 2:
            raise EpisodeError(f"an episode needs at least 2 frames, got {frames}")
        is_first, is_terminal = np.zeros(frames, np.bool_), np.zeros(frames, np.bool_)
        is_first[0], is_terminal[-1] = True, self._terminal
        labels = {
            name: np.asarray(rows[name], kind) if len(rows[name]) == frames else None for name, kind in _LABELS.items()
        }
        action = np.asarray(rows["action"], np.float32)
        cost = np.asarray(rows["cost"], np.float32)
        metadata = {"success": self._terminal, "violated": bool(np.any(cost > 0)), **self._metadata}
        return Episode(
            image=np.asarray(rows["image"], np.uint8),
            proprio=np.asarray(rows["proprio"], np.float32),
            action=np.concatenate([action, np.zeros_like(action[:1])]),
            reward=np.asarray(rows["reward"], np.float32),
            cost=cost,
            is_first=is_first,
            is_terminal=is_terminal,
            metadata=metadata,
            goal=self._goal,
            **labels,
        )

    def _append(self, observation: Mapping[str, Any], info: Mapping[str, Any], reward: float, cost: float) -> None:
        self._rows["image"].append(np.array(observation["image"], np.uint8))
        self._rows["proprio"].append(np.array(observation["proprio"], np.float32))
        self._rows["reward"].append(float(reward))
        self._rows["cost"].append(float(cost))
        for name, kind in _LABELS.items():
            if name in info:
                self._rows[name].append(np.array(info[name], kind))


def to_minari_buffer(episode: Episode, number: int) -> Any:
    """The episode as a Minari ``EpisodeBuffer``; cost and labels become per-frame infos. Needs ``minari``."""
    from minari.data_collector import EpisodeBuffer

    steps = episode.steps
    infos: dict[str, Any] = {"cost": episode.cost}
    for name in _LABELS:
        value = getattr(episode, name)
        if value is not None:
            infos[name] = value
    if episode.goal is not None:
        infos["goal"] = np.repeat(episode.goal[None], steps + 1, axis=0)
    for name, kind in (("success", np.bool_), ("violated", np.bool_), ("layout_seed", np.int64)):
        if name in episode.metadata:
            infos[name] = np.full(steps + 1, episode.metadata[name], kind)
    terminations, truncations = np.zeros(steps, np.bool_), np.zeros(steps, np.bool_)
    terminations[-1], truncations[-1] = episode.success, not episode.success
    return EpisodeBuffer(
        id=number,
        seed=int(episode.metadata.get("layout_seed", 0)),
        options={k: v for k, v in episode.metadata.items() if isinstance(v, str | int | float | bool)},
        observations={"image": episode.image, "proprio": episode.proprio},
        actions=episode.action[:-1],
        rewards=episode.reward[1:],
        terminations=terminations,
        truncations=truncations,
        infos=infos,
    )


def from_minari(data: Any) -> Episode:
    """Read a Minari ``EpisodeData`` that ``to_minari_buffer`` wrote.

    Raises:
        EpisodeError: an observation or info is missing, or the arrays do not fit together.
    """
    observations, infos = data.observations, data.infos or {}
    if not isinstance(observations, dict) or not {"image", "proprio"} <= set(observations):
        raise EpisodeError("observations must have 'image' and 'proprio'")
    if "cost" not in infos:
        raise EpisodeError("infos hold no 'cost'")
    action = np.asarray(data.actions, np.float32)
    frames = len(action) + 1
    is_first, is_terminal = np.zeros(frames, np.bool_), np.zeros(frames, np.bool_)
    is_first[0], is_terminal[-1] = True, bool(data.terminations[-1])
    metadata = {name: infos[name][-1].item() for name in ("success", "violated", "layout_seed") if name in infos}
    return Episode(
        image=np.asarray(observations["image"], np.uint8),
        proprio=np.asarray(observations["proprio"], np.float32),
        action=np.concatenate([action, np.zeros((1, action.shape[1]), np.float32)]),
        reward=np.concatenate([np.zeros(1, np.float32), np.asarray(data.rewards, np.float32)]),
        cost=np.asarray(infos["cost"], np.float32),
        is_first=is_first,
        is_terminal=is_terminal,
        metadata=metadata,
        goal=np.asarray(infos["goal"][0], np.float32) if "goal" in infos else None,
        **{name: np.asarray(infos[name], kind) if name in infos else None for name, kind in _LABELS.items()},
    )


def read_record(folder: Path) -> Episode | None:
    """The frames of a recorded episode's folder, None when it has none (it ended before anything was decided).

    Raises:
        EpisodeError: names the file and what is wrong with it.
    """
    frames, record = folder / FRAMES_FILE, folder / RECORD_FILE
    if not frames.is_file():
        return None
    try:
        summary = json.loads(record.read_text(encoding="utf-8"))["summary"]
        metadata = {name: summary[name] for name in ("scene", "success", "violated", "model_id", "aborted")}
        metadata |= {"kind": "policy", "layout_seed": int(summary["seed"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EpisodeError(f"{record}: unreadable: {type(error).__name__}: {error}") from error
    try:
        with np.load(frames, allow_pickle=False) as content:
            return Episode(metadata=metadata, **{name: content[name] for name in content.files})
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise EpisodeError(f"{frames}: unreadable: {error}") from error


def write_dataset(
    folder: Path | str, episodes: Sequence[Episode], name: str, description: str, provenance: Mapping[str, Any]
) -> Path:
    """Write a Minari dataset in one step: ``folder/data`` appears complete or not at all. Needs ``minari``.

    Args:
        folder: must not exist yet.
        episodes: at least one.
        name: Minari's dataset id, e.g. ``safereach/standard-v0``.
        description: for people; also written as ``README.md`` beside the data.
        provenance: JSON values; also written as ``provenance.json``.

    Raises:
        EpisodeError: no episodes.
        FileExistsError: the folder exists.
    """
    import gymnasium
    import minari
    from minari.dataset.minari_storage import MinariStorage

    target = Path(folder).resolve()  # Minari repeats a relative path inside itself
    if target.exists():
        raise FileExistsError(f"{target} exists already; choose another folder or remove it")
    if not episodes:
        raise EpisodeError("a dataset needs at least one episode")
    first = episodes[0]
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        storage = MinariStorage.new(
            staging / "data",
            observation_space=gymnasium.spaces.Dict(
                {
                    "image": gymnasium.spaces.Box(0, 255, first.image.shape[1:], np.uint8),
                    "proprio": gymnasium.spaces.Box(-np.inf, np.inf, first.proprio.shape[1:], np.float32),
                }
            ),
            action_space=gymnasium.spaces.Box(-1.0, 1.0, first.action.shape[1:], np.float32),
            # JPEG would change the pixels that a policy learns from.
            jpeg_encoding=False,
        )
        storage.update_metadata({"description": description, "provenance": json.dumps(provenance)})
        storage.update_episodes([to_minari_buffer(episode, i) for i, episode in enumerate(episodes)])
        _name_dataset(staging / "data", name, minari.__version__)
        (staging / "README.md").write_text(description, encoding="utf-8")
        (staging / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")
        staging.chmod(0o755)
        os.replace(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _name_dataset(folder: Path, name: str, version: str) -> None:
    file = folder / "metadata.json"
    metadata = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**metadata, "dataset_id": name, "minari_version": version}), encoding="utf-8")
