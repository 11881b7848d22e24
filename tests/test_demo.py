"""The demo as a user starts it: the whole loop over DDS, in separate processes."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.system

PATIENCE_S = 120.0

KEYS = {
    "episodes",
    "success_rate",
    "violation_rate",
    "safe_success_rate",
    "halts",
    "latency_ms",
    "model_id",
    "scene",
}


def latest(runs: Path, folder_type: Any) -> Any:
    return folder_type((runs / "latest").resolve())


def test_two_episodes_leave_a_summary_a_report_and_records(
    start: Callable[..., Any], models: Path, tmp_path: Path, run_folder: Any
) -> None:
    from fosp_episodes.mcap_log import read_mcap

    runs = tmp_path / "runs"
    demo = start(
        "fosp_bringup.demo",
        *("--episodes", "2", "--models-root", str(models), "--runs", str(runs), "--kill-monitor-at-step", "5"),
        "--no-fine-tune",
    )
    code = demo.wait()
    run = latest(runs, type(run_folder))
    assert code == 0, demo.output + run.logs()

    summary = json.loads((run.path / "summary.json").read_text())
    assert set(summary) >= KEYS and set(summary["latency_ms"]) >= {"p50", "p99"}
    assert (summary["episodes"], summary["scene"], summary["model_id"]) == (2, "standard", "tiny")
    assert all(0.0 <= summary[f"{name}_rate"] <= 1.0 for name in ("success", "violation", "safe_success"))
    assert summary["latency_ms"]["p50"] > 0.0
    assert summary["safety_demonstration"] is not None and "Monitor killed at step" in demo.output

    html = (run.path / "report.html").read_text()
    assert html.count("data:video/mp4;base64,") == 2

    episodes = run.episodes()
    assert len(episodes) == 3  # two, and the one in which the monitor was killed
    content = json.loads((episodes[0] / "episode.json").read_text())
    decided = [step for step in content["steps"] if step["decision"] and step["safety"]]
    assert len(decided) >= 0.9 * (len(content["steps"]) - 1)
    topics = {topic for topic, _, _ in read_mcap(episodes[0] / "messages.mcap")}
    assert topics >= {"/camera/image_raw", "/joint_states", "/fosp/arm/command", "/fosp/safety/status"}
    assert (episodes[0].parent / "dataset" / "data").is_dir()
    assert run.living() == []


def test_second_act_runs_a_round_in_a_new_scene_and_leaves_the_models_folder_alone(
    start: Callable[..., Any], small_models: Path, tmp_path: Path, run_folder: Any
) -> None:
    runs, untouched = tmp_path / "runs", sorted(small_models.rglob("*"))
    demo = start(
        "fosp_bringup.demo",
        *("--episodes", "1", "--new-episodes", "1", "--explored-episodes", "4", "--kill-monitor-at-step", "0"),
        *("--paired-episodes", "2"),
        *("--models-root", str(small_models), "--runs", str(runs)),
    )
    code = demo.wait(3 * PATIENCE_S)
    run = latest(runs, type(run_folder))
    assert code == 0, demo.output + run.logs()
    summary = json.loads((run.path / "summary.json").read_text())
    assert (summary["episodes"], summary["scene"]) == (1, "standard")
    act = summary["fine_tune"]
    assert (act["scene"], act["before"]["episodes"], act["explored"]["episodes"]) == ("new_objects", 1, 4)
    assert {check["name"] for check in act["round"]["checks"]} >= {"parity", "violation"}, act["round"]["message"]
    # what the gate says of an untrained model is not at issue; what is shown must agree with it
    assert act["round"]["model_id"] == "small-r1"
    assert act["after"]["model_id"] == ("small-r1" if act["round"]["active"] else "small")
    assert {e["seed"] for e in act["after"]["results"]} == {e["seed"] for e in act["before"]["results"]}
    assert act["verdict"] in demo.output and "  world model " in demo.output
    assert "never trained on: new_objects" in (run.path / "report.html").read_text()
    assert list((run.path / "models").rglob("small-r1/manifest.json"))
    assert sorted(small_models.rglob("*")) == untouched
    assert run.living() == []


def test_interrupt_in_a_round_keeps_what_there_is(
    start: Callable[..., Any], small_models: Path, tmp_path: Path, run_folder: Any, eventually: Any
) -> None:
    runs = tmp_path / "runs"
    demo = start(
        "fosp_bringup.demo",
        *("--episodes", "1", "--new-episodes", "1", "--explored-episodes", "4"),
        *("--models-root", str(small_models), "--runs", str(runs)),
    )
    eventually(lambda: "world model" in demo.output or demo.process.poll() is not None, "the round", 2 * PATIENCE_S)
    code = demo.stop(signal.SIGINT)
    left = latest(runs, type(run_folder))
    assert code == 130 and "Traceback" not in demo.output, demo.output
    summary = json.loads((left.path / "summary.json").read_text())
    assert "Stopped" in summary["note"] and summary["fine_tune"]["before"]["episodes"] == 1
    assert summary["fine_tune"]["round"] is None and summary["fine_tune"]["after"] is None
    assert left.living() == []


def test_interrupt_keeps_the_records_and_leaves_no_process(
    start: Callable[..., Any], models: Path, tmp_path: Path, run_folder: Any, eventually: Any
) -> None:
    runs = tmp_path / "runs"
    demo = start(
        "fosp_bringup.demo", "--episodes", "5", "--models-root", str(models), "--runs", str(runs), "--no-fine-tune"
    )
    run = type(run_folder)
    eventually(lambda: (runs / "latest").exists() and run(runs / "latest").episodes(), "the first episode")
    code = demo.stop(signal.SIGINT)
    left = latest(runs, run)
    assert code == 130, demo.output
    assert "Traceback" not in demo.output
    assert left.living() == []
    summary = json.loads((left.path / "summary.json").read_text())
    assert summary["episodes"] >= 1 and "Stopped" in summary["note"]
    assert len(left.episodes()) >= 1 and (left.path / "report.html").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scene", "kitchen"], "unknown scene 'kitchen'; known scenes: standard"),
        (["--bundle", "safereach/absent"], "no such bundle"),
    ],
)
def test_wrong_option_is_said_in_one_line(
    start: Callable[..., Any], models: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    demo = start("fosp_bringup.demo", "--models-root", str(models), "--runs", str(tmp_path / "runs"), *options)
    assert demo.wait() == 1
    assert message in demo.output and "Traceback" not in demo.output
    assert not (tmp_path / "runs").exists()
