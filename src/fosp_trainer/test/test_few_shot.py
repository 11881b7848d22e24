"""The few-shot experiment's refusals; the experiment itself runs in the system tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fosp_trainer.errors import UserError
from fosp_trainer.few_shot import figures_before

EXPECTED = {"model_id": "v3", "scene": "new_objects", "episodes": 200, "seed": 0, "monitor": False}


def test_figures_before_the_round_are_taken_when_they_fit(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    file.write_text(json.dumps({**EXPECTED, "success_rate": 0.5}))
    assert figures_before(file, EXPECTED)["success_rate"] == 0.5


@pytest.mark.parametrize("name", list(EXPECTED))
def test_figures_of_something_else_are_refused_by_name(tmp_path: Path, name: str) -> None:
    file = tmp_path / "figures.json"
    file.write_text(json.dumps({**EXPECTED, name: "other"}))
    with pytest.raises(UserError, match=f"{name} is 'other'"):
        figures_before(file, EXPECTED)


def test_unreadable_figures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        figures_before(tmp_path / "missing.json", EXPECTED)
