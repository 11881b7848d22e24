"""Options and views of the demo; the live part is a system test."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from fosp_bringup import demo, workspace
from fosp_bringup.demo import Demo, DemoError, Options
from fosp_bringup.summary import outcome
from fosp_bringup.view import Progress, Tuning, View, render
from fosp_core.testing import make_bundle


def quiet() -> Console:
    return Console(file=io.StringIO(), width=100)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    make_bundle(tmp_path / "models" / "safereach" / "tiny")
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scene": "kitchen"}, "unknown scene 'kitchen'"),
        ({"episodes": 0}, "--episodes"),
        ({"new_scene": "kitchen"}, "unknown scene 'kitchen'"),
        ({"new_episodes": 0}, "--new-episodes"),
        ({"explored_episodes": 2000}, "--explored-episodes"),
        ({"seed": -1}, "--seed"),
        ({"bundle": "safereach/none"}, "no such bundle"),
        ({"bundle": "../elsewhere"}, "outside of the models folder"),
    ],
)
def test_wrong_option_is_refused_before_anything_starts(models: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(DemoError, match=message):
        Demo(Options(models_root=models, **change), quiet())  # type: ignore[arg-type]


def test_bundle_may_be_given_as_a_folder(models: Path) -> None:
    arguments = demo._bundle_arguments(Options(bundle=str(models / "safereach" / "tiny")))
    assert (arguments.models_root, arguments.bundle) == (str(models), "safereach/tiny")


def test_plain_view_prints_each_episode_once(models: Path) -> None:
    console = quiet()
    progress = Progress(stage="running episodes", count=2)
    with View(console) as view:
        view.show(progress)
        progress.finished = [{"episode": 1, "outcome": "safe success", "steps": 30, "note": ""}]
        view.show(progress)
        view.show(progress)
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert output.splitlines() == ["running episodes", "episode 1/2: safe success, 30 steps"]


def test_plain_view_starts_counting_again_with_every_part_of_the_demo() -> None:
    console = quiet()
    with View(console) as view:
        for stage in ("first", "second"):
            row = {"episode": 1, "outcome": stage, "steps": 3, "note": ""}
            view.show(Progress(stage=stage, count=1, finished=[row]))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines == ["first", "episode 1/1: first, 3 steps", "second", "episode 1/1: second, 3 steps"]


def test_round_is_shown_with_its_stage_step_loss_and_time_left() -> None:
    console, tuning = quiet(), Tuning()
    tuning.hear("reading", 1, 1, {}, float("nan"))
    tuning.hear("world_model", 12, 40, {"loss": 0.5}, 7.0)
    console.print(render(Progress("round", tuning=tuning)))
    with View(console) as view:
        view.show(Progress("round", tuning=tuning))
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert output.count("world model 12/40, loss 0.5, 7 s left") == 2 and "done: reading" in output


def test_live_view_shows_step_distance_policy_risk_and_state() -> None:
    console = quiet()
    console.print(render(Progress("running", 10, 2, True, 17, 0.123, 1, 0.25)))
    output = console.file.getvalue()  # type: ignore[attr-defined]
    for text in ("17", "0.123 m", "online", "0.25", "inactive"):
        assert text in output


def test_violation_outweighs_success_in_the_outcome() -> None:
    assert outcome(SimpleNamespace(aborted=False, violated=True, halted=True, success=True)) == "violation"


def test_run_folders_do_not_collide_and_latest_points_at_the_last(tmp_path: Path) -> None:
    first, second = workspace.new_run(tmp_path / "runs"), workspace.new_run(tmp_path / "runs")
    assert first != second
    assert (tmp_path / "runs" / "latest").resolve() == second
