"""Rounds of own episodes: their plan, and what a round leaves behind."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from fosp_core import task
from fosp_core.episode import Episode
from fosp_trainer import config as configuration
from fosp_trainer import online as rounds
from fosp_trainer.config import OnlineConfig
from fosp_trainer.data import split
from fosp_trainer.errors import UserError
from fosp_trainer.online import online, plan
from fosp_trainer.pretrain import Trainer
from fosp_trainer.testing import STEPS, random_episodes

CONFIG = dataclasses.replace(
    configuration.preset("debug"), stages=STEPS, online=OnlineConfig(episodes=6, critic_steps=3, actor_steps=3)
)


def test_layouts_of_rounds_are_new_every_time_and_never_those_of_evaluation() -> None:
    config = OnlineConfig(episodes=50)
    seen: list[int] = []
    for number in (1, 2, 3):
        drives = plan(config, number, "actor", "constrained")
        seen += [seed for _, _, seeds in drives for seed in seeds]
    assert len(seen) == len(set(seen)) == 150
    low, high = task.SEED_RANGES["data"]
    assert low <= min(seen) and max(seen) < high


def test_plan_keeps_the_shares_and_the_right_bundle() -> None:
    drives = plan(OnlineConfig(episodes=100), 1, "actor", "constrained")
    counts = {"greedy": 0, "noisy": 0, "constrained": 0}
    for kind, drive, seeds in drives:
        counts[kind] += len(seeds)
        assert drive.bundle == ("constrained" if kind == "constrained" else "actor")
        assert (drive.noise > 0) == (kind == "noisy")
        assert drive.keep and not drive.monitor
    assert counts == {"greedy": 34, "noisy": 33, "constrained": 33}


def episode(seed: int) -> Episode:
    """Noise that the writer of datasets takes."""
    rng = np.random.default_rng(seed)
    first = np.zeros(6, np.bool_)
    first[0] = True
    return Episode(
        image=rng.integers(0, 255, (6, 64, 64, 3), dtype=np.uint8),
        proprio=rng.random((6, 3), dtype=np.float32),
        action=rng.uniform(-1, 1, (6, 3)).astype(np.float32),
        reward=rng.random(6, dtype=np.float32),
        cost=np.zeros(6, np.float32),
        is_first=first,
        is_terminal=np.zeros(6, np.bool_),
        metadata={"layout_seed": seed},
    )


def make_trainer(folder: Path) -> Trainer:
    """A trainer on few episodes, resumed where there is something to resume."""
    train, held_out = split(random_episodes(6), 0.2)
    trainer = Trainer(CONFIG, train, held_out, folder, quiet=True)
    trainer.resume()
    return trainer


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rounds that ran episodes; noise stands for the environment, which the system tests run."""
    numbers: list[int] = []

    def run_round(agent: object, number: int, workers: int, quiet: bool) -> tuple[list[Episode], dict[str, object]]:
        numbers.append(number)
        return [episode(100 * number + i) for i in range(4)], {}

    monkeypatch.setattr(rounds, "run_round", run_round)
    return numbers


def test_rounds_train_critics_and_actor_and_leave_the_world_model_alone(tmp_path: Path, ran: list[int]) -> None:
    trainer = make_trainer(tmp_path)
    trainer.run()
    before = {k: v.clone() for k, v in trainer.agent.state_dict().items()}
    online(trainer, 2)
    after = trainer.agent.state_dict()
    assert ran == [1, 2]
    assert trainer.extra is not None and len(trainer.extra.sources) == 2 * 2 * 4 * 5  # rounds, flips, episodes, steps
    for name, value in before.items():
        if name.startswith("world_model"):
            assert torch.equal(value, after[name]), name
    for part in ("critics.cost.q", "reach.action_net", "behaviour.net", "offline.net"):
        assert any(not torch.equal(before[k], after[k]) for k in before if k.startswith(part)), part


def test_finished_rounds_are_not_repeated_and_a_broken_one_goes_on(
    tmp_path: Path, ran: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tmp_path)
    trainer.run()
    online(trainer, 1)
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "actor_step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            online(make_trainer(tmp_path), 2)
    again = make_trainer(tmp_path)
    online(again, 2)
    assert ran == [1, 2]
    assert again.stage == "done"
    online(make_trainer(tmp_path), 2)
    assert ran == [1, 2]


def test_rounds_need_finished_pretraining(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pretrain --resume"):
        online(make_trainer(tmp_path), 1)
