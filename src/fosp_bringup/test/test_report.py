"""Figures and report of recorded episodes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fosp_bringup import report, video
from fosp_bringup.holding import Hold, Killed, ToolSample
from fosp_bringup.summary import Episode, load_episodes, summarize
from fosp_core.safety import SafetyState
from fosp_episodes import storage
from fosp_episodes.recorder import EpisodeRecorder, Phase
from fosp_episodes.testing import feed_step, status_sample, task_sample


def write(folder: Path, number: int, *, reached: bool = True, violated: bool = False, halted: bool = False) -> None:
    recorder = EpisodeRecorder(number, "standard", number)
    for step in range(12):
        feed_step(recorder, step)
    if violated:
        feed_step(recorder, 12, cost=1.0, cost_reason="contact", violated=True)
    if halted:
        recorder.on_status(status_sample(12, state=SafetyState.HALTED, reasons=("RISK_HALT",)))
    feed_step(recorder, 13, phase=Phase.ENDED, reached=reached, violated=violated)
    storage.write_episode(folder, recorder.finish())


@pytest.fixture
def episodes(tmp_path: Path) -> list[Episode]:
    write(tmp_path, 0)
    write(tmp_path, 1, violated=True)
    write(tmp_path, 2, reached=False, halted=True)
    aborted = EpisodeRecorder(3, "standard", 3)
    feed_step(aborted, 0)
    storage.write_episode(tmp_path, aborted.finish("cancelled"))
    return load_episodes(tmp_path)


def test_figures_are_over_episodes_that_were_not_aborted(episodes: list[Episode]) -> None:
    figures = summarize(episodes, "standard")
    assert (figures["episodes"], figures["aborted"]) == (3, 1)
    assert math.isclose(figures["success_rate"], 2 / 3)
    assert math.isclose(figures["violation_rate"], 1 / 3)
    assert math.isclose(figures["safe_success_rate"], 1 / 3)
    assert (figures["halts"], figures["halt_reasons"]) == (1, {"RISK_HALT": 1})
    assert figures["latency_ms"]["p50"] == figures["latency_ms"]["p99"] == 4.0
    assert (figures["model_id"], figures["scene"]) == ("model", "standard")
    json.dumps(figures, allow_nan=False)


def test_figures_of_nothing_have_no_rates() -> None:
    figures = summarize([], "standard")
    assert figures["episodes"] == 0 and figures["success_rate"] is None and figures["latency_ms"]["p99"] is None


def test_outcome_is_the_label_that_matters_most(episodes: list[Episode]) -> None:
    assert [e.outcome for e in episodes] == ["safe success", "violation", "halted", "aborted"]


def test_one_safe_and_one_unsafe_episode_are_filmed(episodes: list[Episode]) -> None:
    assert [e.outcome for e in video.choose(episodes)] == ["safe success", "violation"]


def test_two_safe_episodes_are_filmed_when_all_are(tmp_path: Path) -> None:
    write(tmp_path, 0)
    write(tmp_path, 1)
    write(tmp_path, 2)
    assert len(video.choose(load_episodes(tmp_path))) == 2


def test_report_needs_nothing_beside_it(episodes: list[Episode], tmp_path: Path) -> None:
    samples = tuple(ToolSample(0.02 * i, (0.0, 0.0, 0.1), 0.2 if i < 60 else 0.0) for i in range(100))
    demonstration = report.Demonstration(Killed(1.0, 8, samples), Hold(0.2, 0.12, 0.02))
    figures = summarize(episodes, "standard")
    html = report.write_report(tmp_path, figures, episodes, {"command": "x"}, demonstration, "cut <short>").read_text()
    assert html.count("data:video/mp4;base64,") == 2
    assert html.count("<svg") == 5
    assert "cut &lt;short&gt;" in html and "the arm held after 120 ms and 2.0 cm, within the limit" in html
    for reference in ('src="http', 'href="http', "<link", "url(http"):
        assert reference not in html


def test_report_of_nothing_is_written(tmp_path: Path) -> None:
    html = report.write_report(tmp_path, summarize([], "standard"), [], {}, note="stopped").read_text()
    assert "stopped" in html and "<svg" not in html


def test_episode_without_images_has_no_video(tmp_path: Path) -> None:
    recorder = EpisodeRecorder(0, "standard", 0)
    recorder.on_task(task_sample(0))
    storage.write_episode(tmp_path, recorder.finish())
    with pytest.raises(video.VideoError, match="no camera images"):
        video.encode(load_episodes(tmp_path)[0])
