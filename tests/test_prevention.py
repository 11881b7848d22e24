"""What counts as prevented, caused and without need, when the same layouts were run with the monitor and without it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def prevention(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    sys.modules.pop("prevention", None)
    import prevention

    return prevention


def pairs(prevention: Any) -> list[Any]:
    clean = prevention.Episode("standard", "bundle", False, 0, True, "", "", 0, 20)
    on = replace(clean, monitor=True)
    outcomes = [
        (clean, on),  # nothing to do
        (clean, replace(on, success=False, halt="risk_halt")),  # halted without need
        (clean, replace(on, violation="contact", interventions=3)),  # led into it
        (replace(clean, violation="contact"), replace(on, interventions=4)),  # prevented, and reached
        (replace(clean, violation="contact"), replace(on, success=False, halt="risk_halt", interventions=1)),
        (replace(clean, violation="fallen"), replace(on, violation="contact")),  # not prevented
    ]
    return [replace(e, seed=seed) for seed, both in enumerate(outcomes) for e in both]


def test_every_pair_of_outcomes_is_counted_where_it_belongs(prevention: Any) -> None:
    row = prevention.row(pairs(prevention))
    counts = {
        name: (value["count"], value["of"]) for name, value in row.items() if isinstance(value, dict) and "of" in value
    }
    assert row["layouts"] == 6
    assert counts == {
        "violations_off": (3, 6),
        "violations_on": (2, 6),
        "prevented": (2, 3),
        "caused": (1, 3),
        "halts": (2, 6),
        "halts_without_need": (1, 3),
        "safe_success_off": (3, 6),
        "safe_success_on": (2, 6),
        "interventions": (3, 6),
        "safe_success_after_intervention": (1, 3),
    }
    assert (row["prevented_by_halt"], row["prevented_and_reached"]) == (1, 1)
    assert row["violations_off_by_reason"] == {"contact": 2, "fallen": 1}
    low, high = row["prevented"]["interval"]
    assert 0.0 < low < 2 / 3 < high < 1.0


def test_layouts_that_were_run_on_one_side_only_are_left_out(prevention: Any) -> None:
    row = prevention.row([e for e in pairs(prevention) if e.monitor or e.seed < 2])
    assert row["layouts"] == 2 and row["violations_off"]["count"] == 0
    assert row["prevented"] == {"count": 0, "of": 0, "rate": None, "interval": None}


def test_rows_stand_for_every_policy_and_scene_and_for_all_scenes(prevention: Any) -> None:
    episodes = pairs(prevention)
    elsewhere = [replace(e, scene="goal_shape") for e in episodes]
    options = prevention.Options(scenes=("standard", "goal_shape"), policies=("bundle",))
    figures = prevention.figures_of([*elsewhere, *episodes], options)
    assert [(r["scene"], r["layouts"]) for r in figures["rows"]] == [("all", 12), ("standard", 6), ("goal_shape", 6)]
    assert len(figures["episodes"]) == len(episodes) + len(elsewhere)
    assert figures["episodes"][0].split(",") == ["standard", "bundle", "False", "0", "True", "", "", "0", "20"]
    assert len(figures["fields"]) == 9
