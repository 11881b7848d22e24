"""Training runs: repeatable, resumable, and stopped with a reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fosp_trainer import config as configuration
from fosp_trainer.config import Config
from fosp_trainer.data import Frames, split
from fosp_trainer.errors import UserError
from fosp_trainer.pretrain import STAGES, Trainer, prepare_folder, pretrain
from fosp_trainer.testing import STEPS, random_episodes


def config_with(**changes: object) -> Config:
    """The debug preset with few steps."""
    config = dataclasses.replace(configuration.preset("debug"), stages=STEPS)
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def labelled() -> Frames:
    return random_episodes(6, labels=True)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    """All of the agent's."""
    return {k: v.clone() for k, v in trainer.agent.state_dict().items()}


def test_same_seed_gives_the_same_run_and_another_seed_another(labelled: Frames, tmp_path: Path) -> None:
    runs = [
        pretrain(labelled, tmp_path / str(i), config_with(seed=seed), quiet=True) for i, seed in enumerate((1, 1, 2))
    ]
    assert runs[0].history == runs[1].history
    assert runs[0].history != runs[2].history
    assert len(runs[0].history) == 4 + 6 + 5 + 5


@pytest.mark.parametrize("crash", [3, 7, 13, 18])
def test_a_run_that_crashed_in_any_stage_resumes_to_the_same_weights(
    labelled: Frames, tmp_path: Path, crash: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain(labelled, tmp_path / "whole", config_with(), quiet=True)
    taken = 0
    original = Trainer._take

    def take(self: Trainer) -> dict[str, Tensor]:
        nonlocal taken
        taken += 1
        if taken == crash:
            raise RuntimeError("power cut")
        return original(self)

    folder = tmp_path / "broken"
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_take", take)
        with pytest.raises(RuntimeError, match="power cut"):
            pretrain(labelled, folder, config_with(), quiet=True)
    resumed = pretrain(labelled, folder, config_with(), resume=True, quiet=True)
    assert resumed.stage == "done"
    for name, value in weights(whole).items():
        assert torch.equal(value, resumed.agent.state_dict()[name]), name


def test_encoder_stage_is_skipped_without_labels(tmp_path: Path) -> None:
    trainer = pretrain(random_episodes(6), tmp_path, config_with(), quiet=True)
    assert trainer.totals["encoder"] == 0
    assert len(trainer.history) == 6 + 5 + 5


def test_joint_mode_trains_everything_in_one_stage(labelled: Frames, tmp_path: Path) -> None:
    stages = dataclasses.replace(STEPS, mode="joint", world_model_steps=3)
    train, held_out = split(labelled, 0.2)
    trainer = Trainer(config_with(stages=stages), train, held_out, tmp_path, quiet=True)
    before = weights(trainer)
    trainer.run()
    after = weights(trainer)
    for part in ("world_model.rssm", "critics.reward.q", "reach.state_net", "behaviour.net", "offline.net"):
        assert any(not torch.equal(before[k], after[k]) for k in before if k.startswith(part)), part


def test_actor_extraction_starts_from_the_clone_and_leaves_it_alone(labelled: Frames, tmp_path: Path) -> None:
    trainer = pretrain(labelled, tmp_path, config_with(), quiet=True, until="actor")
    clone = {k: v.clone() for k, v in trainer.agent.behaviour.state_dict().items()}
    trainer.stages = STAGES
    trainer.stage, trainer.step = "actor", 0
    trainer.run()
    for name, value in clone.items():
        assert torch.equal(value, trainer.agent.behaviour.state_dict()[name])
    assert any(not torch.equal(v, trainer.agent.offline.state_dict()[k]) for k, v in clone.items())


def test_a_run_folder_is_not_overwritten(tmp_path: Path) -> None:
    prepare_folder(tmp_path / "run", config_with(), False, {})
    with pytest.raises(UserError, match="--resume"):
        prepare_folder(tmp_path / "run", config_with(), False, {})
    with pytest.raises(UserError, match="no run to resume"):
        prepare_folder(tmp_path / "nothing", config_with(), True, {})


def test_other_data_does_not_resume_a_run(labelled: Frames, tmp_path: Path) -> None:
    pretrain(labelled, tmp_path, config_with(), quiet=True)
    with pytest.raises(UserError, match="other data"):
        pretrain(random_episodes(6, seed=9, labels=True), tmp_path, config_with(), resume=True, quiet=True)


def test_layouts_are_on_one_side_of_the_split_only() -> None:
    train, held_out = split(random_episodes(40), 0.25)
    assert not set(train.layout_seed) & set(held_out.layout_seed)
    assert train.episodes + held_out.episodes == 40 and held_out.episodes > 0
