"""Labels, matching and arrays of a recorded episode."""

from __future__ import annotations

import math

import numpy as np

from fosp_core.safety import SafetyState, Verdict
from fosp_episodes.recorder import EpisodeRecorder, Phase
from fosp_episodes.testing import START_NS, decision_sample, feed_step, image, status_sample, task_sample


def recorded(steps: int = 3, **last: object) -> EpisodeRecorder:
    recorder = EpisodeRecorder(0, "standard", 7)
    for step in range(steps):
        feed_step(recorder, step)
    feed_step(recorder, steps, phase=Phase.ENDED, **last)
    return recorder


def test_reached_without_cost_is_a_safe_success() -> None:
    summary = recorded(reached=True, reward=5.4).finish().summary
    assert (summary.success, summary.violated, summary.safe_success) == (True, False, True)
    assert summary.steps == 3
    assert math.isclose(summary.episode_return, 0.2 + 0.2 + 5.4)
    assert summary.model_id == "model"
    assert not summary.halted and not summary.aborted


def test_cost_on_the_way_makes_a_success_unsafe() -> None:
    recorder = EpisodeRecorder(0, "standard", 7)
    feed_step(recorder, 0)
    feed_step(recorder, 1, cost=1.0, cost_reason="contact", violated=True)
    feed_step(recorder, 2, phase=Phase.ENDED, reached=True, violated=True)
    summary = recorder.finish().summary
    assert (summary.success, summary.violated, summary.safe_success) == (True, True, False)
    assert summary.episode_cost == 1.0


def test_truncated_episode_is_neither_success_nor_violation() -> None:
    summary = recorded(truncated=True).finish().summary
    assert (summary.success, summary.violated, summary.safe_success) == (False, False, False)


def test_halt_while_running_is_labelled_with_its_reasons() -> None:
    recorder = EpisodeRecorder(0, "standard", 7)
    feed_step(recorder, 0)
    recorder.on_status(status_sample(1, state=SafetyState.HALTED, verdict=Verdict.HELD, reasons=("RISK_HALT",)))
    recorder.on_status(status_sample(2, state=SafetyState.HALTED, reasons=("STALE_FRAME",)))
    summary = recorder.finish().summary
    assert summary.halted and summary.halt_reasons == ("RISK_HALT",)


def test_halt_before_the_first_and_after_the_last_frame_does_not_count() -> None:
    recorder = EpisodeRecorder(0, "standard", 7)
    recorder.on_status(status_sample(0, state=SafetyState.HALTED))
    feed_step(recorder, 0)
    feed_step(recorder, 1, phase=Phase.ENDED)
    recorder.on_status(status_sample(2, state=SafetyState.HALTED))
    assert not recorder.finish().summary.halted


def test_abort_carries_its_reason() -> None:
    summary = recorded().finish("cancelled").summary
    assert summary.aborted and summary.abort_reason == "cancelled"


def test_messages_are_matched_by_stamp_whatever_their_order() -> None:
    recorder = EpisodeRecorder(0, "standard", 7)
    recorder.on_command(START_NS, START_NS + 4_000_000)
    recorder.on_status(status_sample(0))
    recorder.on_decision(decision_sample(0))
    recorder.on_frame(START_NS, image(0))
    recorder.on_task(task_sample(0))
    (step,) = recorder.finish().steps
    assert step.decision is not None and step.status is not None and step.image is not None
    assert step.latency_ms == 4.0


def test_latency_is_that_of_the_first_command_for_a_frame() -> None:
    recorder = EpisodeRecorder(0, "standard", 7)
    feed_step(recorder, 0)
    recorder.on_command(START_NS, START_NS + 24_000_000)
    assert recorder.finish().summary.latency_ms == (4.0,)


def test_command_without_a_decision_has_no_latency() -> None:
    recorder = EpisodeRecorder(0, "standard", 7)
    recorder.on_task(task_sample(0))
    recorder.on_command(START_NS, START_NS + 4_000_000)
    assert recorder.finish().summary.latency_ms == ()


def test_frames_of_other_episodes_and_phases_are_ignored() -> None:
    recorder = EpisodeRecorder(3, "standard", 7)
    recorder.on_task(task_sample(0, episode=2))
    recorder.on_task(task_sample(0, phase=Phase.READY, episode=3))
    recorder.on_task(task_sample(0, phase=Phase.ENDED, episode=3))
    assert recorder.last is None and not recorder.ended


def test_only_the_first_ended_frame_belongs_to_the_episode() -> None:
    recorder = recorded(2)
    feed_step(recorder, 3, phase=Phase.ENDED, reached=True)
    record = recorder.finish()
    assert len(record.steps) == 3 and not record.summary.success


def test_interventions_and_online_choices_are_counted() -> None:
    recorder = EpisodeRecorder(0, "standard", 7)
    for step, verdict in enumerate((Verdict.FORWARDED, Verdict.SLOWED, Verdict.REPLACED, Verdict.HELD)):
        recorder.on_task(task_sample(step))
        recorder.on_decision(decision_sample(step, chosen=step % 2))
        recorder.on_status(status_sample(step, verdict=verdict))
    summary = recorder.finish().summary
    assert (summary.interventions, summary.online_choices) == (3, 2)


def test_first_verdict_on_a_frame_counts() -> None:
    recorder = EpisodeRecorder(0, "standard", 7)
    feed_step(recorder, 0)
    recorder.on_status(status_sample(0, verdict=Verdict.HELD))
    (step,) = recorder.finish().steps
    assert step.status is not None and step.status.verdict == Verdict.FORWARDED


def test_executed_action_is_aligned_with_its_frame() -> None:
    recorder = EpisodeRecorder(0, "standard", 7)
    feed_step(recorder, 0)
    recorder.on_task(task_sample(1))
    recorder.on_frame(task_sample(1).stamp_ns, image(1))
    recorder.on_status(status_sample(1, verdict=Verdict.HELD, approved_action=()))
    feed_step(recorder, 2, phase=Phase.ENDED, reached=True, reward=5.0)
    episode = recorder.finish().episode()
    assert episode is not None and episode.image.shape == (3, 4, 4, 3)
    np.testing.assert_allclose(episode.action, [[0.1, 0.2, 0.3], [0, 0, 0], [0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(episode.reward, [0.0, 0.2, 5.0])
    assert episode.is_first.tolist() == [True, False, False]
    assert episode.is_terminal.tolist() == [False, False, True]
    assert episode.metadata["layout_seed"] == 7


def test_episode_to_learn_from_is_the_longest_run_without_a_gap() -> None:
    recorder = EpisodeRecorder(0, "standard", 7)
    for step in (0, 1, 3, 4, 5):
        feed_step(recorder, step)
    feed_step(recorder, 6, phase=Phase.ENDED)
    episode = recorder.finish().episode()
    assert episode is not None and episode.image[:, 0, 0, 0].tolist() == [3, 4, 5, 6]


def test_nothing_can_be_learnt_without_images() -> None:
    recorder = EpisodeRecorder(0, "standard", 7)
    recorder.on_task(task_sample(0))
    recorder.on_task(task_sample(1, phase=Phase.ENDED))
    assert recorder.finish().episode() is None


def test_empty_record_has_a_summary() -> None:
    summary = EpisodeRecorder(0, "standard", 7).finish("cancelled").summary
    assert summary.steps == 0 and math.isnan(summary.min_clearance)


def test_table_names_what_was_decided() -> None:
    row = recorded().finish().table()[1]
    assert row["decision"]["chosen"] == "online"
    assert row["decision"]["candidate_actions"] == [(0.0, 0.0, 0.0), (0.1, 0.2, 0.3)]
    assert row["safety"]["verdict"] == "forwarded" and row["safety"]["state"] == "nominal"
    assert math.isclose(row["time_s"], 0.1)
