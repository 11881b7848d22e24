"""The comparison from datasets to the table, in the simulated environment."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from fosp_core import task
from fosp_core.episode import Episode, write_dataset

pytestmark = pytest.mark.system


def noise_episode(seed: int) -> Episode:
    """Twelve frames of noise."""
    from fosp_trainer.testing import random_episodes

    frames = random_episodes(1, seed=seed)
    names = ("image", "proprio", "action", "reward", "cost", "is_first", "is_terminal")
    return Episode(**{name: getattr(frames, name) for name in names}, metadata={"layout_seed": seed})


def test_rows_are_trained_and_evaluated_by_one_command(tmp_path: Path) -> None:
    from fosp_trainer import config as configuration
    from fosp_trainer.cli import main
    from fosp_trainer.data import read_dataset
    from fosp_trainer.pretrain import prepare_folder, pretrain
    from fosp_trainer.testing import STEPS

    data = write_dataset(tmp_path / "data", [noise_episode(i) for i in range(6)], "safereach/noise-v0", "Noise.", {})
    config = dataclasses.replace(configuration.preset("debug"), stages=STEPS)
    run = tmp_path / "run"
    pretrain(read_dataset(data), run, prepare_folder(run, config, False, {}), quiet=True)
    file = tmp_path / "table.json"
    arguments = [
        "compare", "--run", str(run), "--data", str(data), "--json", str(file), "--work", str(tmp_path / "work"),
        "--variants", "fosp", "safedreamer-planning", "--episodes", "1", "--workers", "1", "--quiet",
    ]  # fmt: skip
    assert main(arguments) == 0
    result = json.loads(file.read_text())
    assert list(result["rows"]) == ["fosp", "safedreamer-planning"]
    for row in result["rows"].values():
        (record,) = row["records"]["0"]
        assert 0 < record["steps"] <= task.MAX_STEPS
    assert (tmp_path / "table.svg").is_file()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*") if path.is_file()}
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
