"""The second act as figures: honest about a refused round, and about few episodes."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from fosp_bringup import report
from fosp_bringup.second_act import AFTER, BEFORE, EXPLORED, Round, second_act
from fosp_bringup.summary import Episode, load_episodes, summarize
from fosp_bringup.view import before_after_table
from fosp_episodes import storage
from fosp_episodes.recorder import EpisodeRecorder, Phase
from fosp_episodes.testing import decision_sample, task_sample

GATE = json.dumps(
    {
        "promoted": False,
        "reasons": ["too many violations"],
        "checks": [
            {"name": "parity", "passed": True, "value": 0.0, "limit": 1.0, "text": "same"},
            {"name": "violation", "passed": False, "value": 1.0, "limit": 0.1, "text": "too many violations"},
        ],
    }
)


def recorded(folder: Path, violated: Sequence[bool], model: str) -> list[Episode]:
    """One finished episode a layout, with a cost where told so."""
    folder.mkdir()
    for number, cost in enumerate(violated):
        recorder = EpisodeRecorder(number, "new_objects", 100 + number)
        for step in range(3):
            recorder.on_task(task_sample(step, episode=number, violated=cost, cost=float(cost and step > 0)))
            recorder.on_decision(decision_sample(step, model_id=model))
        recorder.on_task(task_sample(3, Phase.ENDED, number, reached=True, violated=cost))
        storage.write_episode(folder, recorder.finish())
    return load_episodes(folder)


def result(**changes: object) -> SimpleNamespace:
    content = {"success": True, "active": True, "message": "told", "bundle": "safereach/v1-r1", "gate_report": "{}"}
    return SimpleNamespace(**{**content, **changes})


PASSED = Round.from_result(result(), 42.0)
REFUSED = Round.from_result(
    result(success=False, active=False, bundle="safereach/.rounds/v1-r1", gate_report=GATE), 42.0
)


def shown(renderable: object) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, list[Episode]]:
    return {
        BEFORE: recorded(tmp_path / BEFORE, (True, True, False), "v1"),
        EXPLORED: recorded(tmp_path / EXPLORED, (True,), "v1"),
        AFTER: recorded(tmp_path / AFTER, (False, True, False), "v1-r1"),
    }


def test_promoted_round_compares_two_models_on_the_same_layouts(parts: dict[str, list[Episode]]) -> None:
    act = second_act("new_objects", parts, PASSED)
    assert act is not None and act.changed
    assert "let v1-r1 pass" in act.verdict and "took over from v1" in act.verdict
    assert "a violation 1 times before only and 0 times after only" in act.comparison
    table = shown(before_after_table(act))
    assert "before: v1 " in table and "after: v1-r1" in table and "67%" in table and "33%" in table
    json.dumps(act.to_json(), allow_nan=False)


def test_refused_round_says_why_and_that_both_columns_are_the_same_model(
    parts: dict[str, list[Episode]], tmp_path: Path
) -> None:
    same = recorded(tmp_path / "same", (True, False, False), "v1")
    act = second_act("new_objects", {**parts, AFTER: same}, REFUSED)
    assert act is not None and not act.changed
    assert "refused v1-r1" in act.verdict and "too many violations" in act.verdict and "v1 stays" in act.verdict
    assert "any difference is chance" in act.comparison
    assert "same model: v1" in shown(before_after_table(act))
    figures = summarize(parts[BEFORE], "standard")
    html = report.write_report(tmp_path, figures, parts[BEFORE], {}, act=act).read_text()
    assert "too many violations" in html and "refused v1-r1" in html and "after: v1" in html


def test_round_that_came_to_no_verdict_tells_its_message(parts: dict[str, list[Episode]]) -> None:
    failed = Round.from_result(result(success=False, active=False, bundle="", gate_report="", message="no torch"), 1.0)
    act = second_act("new_objects", parts, failed)
    assert act is not None and "no torch" in act.verdict and "v1 stays" in act.verdict


def test_what_was_cut_short_is_shown_as_far_as_it_went(parts: dict[str, list[Episode]], tmp_path: Path) -> None:
    act = second_act("new_objects", {BEFORE: parts[BEFORE], EXPLORED: []}, None)
    assert act is not None and act.after is None and "no fine-tune round" in act.verdict
    assert "no episodes after" in act.comparison and "after" not in shown(before_after_table(act))
    assert "before: v1" in report.write_report(tmp_path, act.before, parts[BEFORE], {}, act=act).read_text()
    assert second_act("new_objects", {}, None) is None
