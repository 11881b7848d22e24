"""Earlier episodes: how many are taken, which are held out, and when they are looked at again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fosp_trainer import config as configuration
from fosp_trainer import replay
from fosp_trainer.agent import Agent
from fosp_trainer.config import Config
from fosp_trainer.data import Frames
from fosp_trainer.replay import Replay, read_replay
from fosp_trainer.testing import random_episodes


def debug(**fine_tune: int) -> Config:
    config = configuration.preset("debug")
    return dataclasses.replace(config, fine_tune=dataclasses.replace(config.fine_tune, **fine_tune))


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Two datasets of 300 layouts each."""

    def read(source: str, sample: int, seed: int) -> Frames:
        frames = random_episodes(300, length=2, seed=len(source))
        frames.layout_seed[:] = np.arange(300) + 1000 * len(source)
        return frames.select(np.random.default_rng(seed).permutation(300)[:sample])

    monkeypatch.setattr(replay, "read_dataset", read)
    return "a", "bb"


@pytest.mark.parametrize("seed", range(5))
def test_as_many_as_wanted_from_every_dataset_and_none_that_pretraining_held_out(
    datasets: tuple[str, str], seed: int
) -> None:
    found = read_replay(datasets, debug(replay_episodes=120), seed)
    assert found is not None and found.held_out is not None
    assert found.frames.episodes == 120 and 1 <= found.held_out.episodes <= replay.HELD_OUT
    assert not set(found.frames.layout_seed) & set(found.held_out.layout_seed)
    from_first = int((found.frames.layout_seed < 2000).sum())
    assert 40 <= from_first <= 80
    again = read_replay(datasets, debug(replay_episodes=120), seed)
    assert again is not None and np.array_equal(again.frames.layout_seed, found.frames.layout_seed)


def test_without_datasets_there_are_none() -> None:
    assert read_replay((), debug()) is None


def test_episodes_are_looked_at_again_only_with_another_encoder() -> None:
    torch.manual_seed(0)
    model = Agent(debug()).world_model
    episodes = Replay(random_episodes(3))
    looked: list[int] = []
    first = episodes.glimpses(model, looked.append)
    assert first is not None and sum(looked) == episodes.frames.count
    with torch.no_grad():
        next(model.rssm.parameters()).add_(1.0)  # what a round changes
    assert episodes.glimpses(model, looked.append) is first and sum(looked) == episodes.frames.count
    with torch.no_grad():
        next(model.encoder.parameters()).add_(0.1)
    second = episodes.glimpses(model)
    assert second is not first and second is not None and not torch.equal(second.seen, first.seen)
