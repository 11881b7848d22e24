"""The comparison from datasets to the table, in the simulated environment."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from fosp_core.episode import Episode, write_dataset

pytestmark = pytest.mark.system


def noise_episode(seed: int) -> Episode:
    """Twelve frames of noise."""
    from fosp_trainer.testing import random_episodes

    frames = random_episodes(1, seed=seed)
    names = ("image", "proprio", "action", "reward", "cost", "is_first", "is_terminal")
    return Episode(**{name: getattr(frames, name) for name in names}, metadata={"layout_seed": seed})


def test_rows_are_trained_evaluated_and_fine_tuned_by_one_command(tmp_path: Path) -> None:
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
        "--variants", "fosp", "no-expansion", "safedreamer-planning", "--episodes", "1", "--workers", "1", "--quiet",
        "--few-shot", "new_objects", "--few-shot-episodes", "1",
    ]  # fmt: skip
    assert main(arguments) == 0
    result = json.loads(file.read_text())
    assert list(result["rows"]) == ["fosp", "no-expansion", "safedreamer-planning"]
    for name, row in result["rows"].items():
        assert row["episodes"] == row["few_shot"]["zero_shot"]["episodes"] == 1
        assert row["few_shot"]["fine_tuned"]["episodes"] == 1
        lengths = [record["steps"] for record in row["records"]["0"]]
        assert np.all(np.asarray(lengths) > 0), name
    # before any fine-tuning the one policy is the same policy
    assert result["rows"]["fosp"]["records"] == result["rows"]["no-expansion"]["records"]
    assert (tmp_path / "table.svg").is_file()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*") if path.is_file()}
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
