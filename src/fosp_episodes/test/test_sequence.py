"""The sequence of a run, on a graph without ROS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from fosp_core.safety import SafetyState
from fosp_episodes.mcap_log import LoggedMessage
from fosp_episodes.recorder import EpisodeRecord, Phase, Summary
from fosp_episodes.sequence import EpisodeRun, Goal, Outcome, Reply
from fosp_episodes.storage import StorageError
from fosp_episodes.testing import FakeGraph


@pytest.fixture
def graph() -> FakeGraph:
    return FakeGraph()


class MemoryStore:
    def __init__(self) -> None:
        self.records: list[EpisodeRecord] = []
        self.full_after = 1000

    def check(self) -> None:
        if len(self.records) >= self.full_after:
            raise StorageError("records: only 1 MB are free; make room")

    def write(self, record: EpisodeRecord, messages: Sequence[LoggedMessage]) -> Summary:
        self.records.append(record)
        return replace(record.summary, path=f"episode_{record.summary.episode_id:04d}")


def run(graph: FakeGraph, store: MemoryStore | None = None, **goal: object) -> Outcome:
    asked = Goal(**{"scene": "standard", "count": 2, "seed": 5, **goal})  # type: ignore[arg-type]
    return EpisodeRun(asked, graph, store or MemoryStore(), clock=graph.clock).run()


def test_each_episode_is_laid_out_with_the_next_seed(graph: FakeGraph) -> None:
    outcome = run(graph)
    assert outcome.success and [e.success for e in outcome.episodes] == [True, True]
    assert graph.calls == ["reset standard 5", "start", "reset standard 6", "start"]


def test_halted_episode_is_recorded_and_the_next_one_resets_the_monitor(graph: FakeGraph) -> None:
    graph.length, graph.halt_at = 30, 2
    graph.monitor_resets = [Reply(False, "needs 1 s of healthy input"), Reply(True, "")]
    outcome = run(graph, reset_after_halt=True)
    assert outcome.success and [e.halted for e in outcome.episodes] == [True, False]
    assert outcome.episodes[0].halt_reasons == ("RISK_HALT",)
    assert graph.calls.count("reset monitor") == 2
    assert graph.calls[:3] == ["reset standard 5", "start", "stop"]


def test_time_after_a_halt_is_recorded(graph: FakeGraph) -> None:
    graph.length, graph.halt_at = 30, 2
    store = MemoryStore()
    run(graph, store, count=1)
    assert 5 <= store.records[0].summary.steps - 2 <= 7


@pytest.mark.parametrize("ended", [True, False])
def test_halted_episode_that_ended_by_itself_need_not_be_stopped(
    graph: FakeGraph, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    graph.length, graph.halt_at = 1000, 2

    def stop_scene() -> Reply:
        if ended:
            graph.phase = Phase.ENDED
        return Reply(False, "nothing to stop in phase ENDED")

    monkeypatch.setattr(graph, "stop_scene", stop_scene)
    outcome = run(graph, count=1)
    assert outcome.success is ended and outcome.episodes[0].halted
    assert ended or "could not be ended" in outcome.message


def test_halt_ends_the_run_when_no_reset_was_asked_for(graph: FakeGraph) -> None:
    graph.length, graph.halt_at = 30, 2
    outcome = run(graph)
    assert not outcome.success and len(outcome.episodes) == 1
    assert "RISK_HALT" in outcome.message and "reset_after_halt" in outcome.message


def test_monitor_that_stays_halted_ends_the_run_with_its_answer(graph: FakeGraph) -> None:
    graph.state = SafetyState.HALTED
    graph.monitor_resets = [Reply(False, "camera frames stopped")] * 100
    outcome = run(graph, reset_after_halt=True)
    assert not outcome.success and "camera frames stopped" in outcome.message
    assert graph.calls.count("reset monitor") == 20, "each of the two layouts is tried"


def test_layout_in_which_the_monitor_stays_halted_is_left_out(graph: FakeGraph) -> None:
    graph.length, graph.halt_at = 30, 2
    graph.monitor_resets = [*[Reply(False, "the scene itself is judged risky")] * 10, Reply(True, "")]
    outcome = run(graph, reset_after_halt=True, count=3)
    assert outcome.success and "1 did not start" in outcome.message and "judged risky" in outcome.message
    assert [(e.seed, e.halted) for e in outcome.episodes] == [(5, True), (7, False)]
    assert graph.calls.count("start") == 2


def test_inactive_monitor_ends_the_run(graph: FakeGraph) -> None:
    graph.state = SafetyState.INACTIVE
    assert "inactive" in run(graph).message


@pytest.mark.parametrize("part", ["task", "policy", "monitor"])
def test_silence_of_a_part_aborts_the_episode_and_keeps_it(graph: FakeGraph, part: str) -> None:
    graph.length = 200
    clock = graph.clock

    def failing_clock() -> float:
        if graph.step >= 3:
            graph.silent.add(part)
        return clock()

    outcome = EpisodeRun(Goal("standard", 2, 5), graph, MemoryStore(), clock=failing_clock).run()
    assert not outcome.success and part in outcome.message
    assert [e.aborted for e in outcome.episodes] == [True]
    assert graph.calls[-1] == "stop"


def test_episode_that_does_not_end_is_aborted(graph: FakeGraph) -> None:
    graph.length = 10_000
    outcome = run(graph)
    assert not outcome.success and "did not end within 60 s" in outcome.episodes[0].abort_reason


def test_cancel_keeps_the_episode_that_was_going_on(graph: FakeGraph) -> None:
    graph.length, graph.interrupt_at = 50, 3.0
    outcome = run(graph)
    assert outcome.interrupted and outcome.message == "stopped: cancelled"
    assert [e.abort_reason for e in outcome.episodes] == ["cancelled"]
    assert graph.calls[-1] == "stop"


def test_cancel_before_the_first_frame_leaves_no_record(graph: FakeGraph) -> None:
    graph.interrupt_at = 0.0
    outcome = run(graph)
    assert outcome.interrupted and outcome.episodes == []


def test_scene_that_is_refused_ends_the_run_with_the_reason(graph: FakeGraph) -> None:
    graph.scene_reply = Reply(False, "no such layout")
    assert "no such layout" in run(graph).message


def test_missing_frames_end_the_run(graph: FakeGraph) -> None:
    graph.silent.add("task")
    assert "no camera frames" in run(graph).message


def test_full_disk_ends_the_run_and_keeps_what_there_is(graph: FakeGraph) -> None:
    store = MemoryStore()
    store.full_after = 1
    outcome = run(graph, store)
    assert not outcome.success and "make room" in outcome.message and len(outcome.episodes) == 1


def test_exploring_is_switched_on_and_back(graph: FakeGraph) -> None:
    run(graph, explore=True, count=1)
    assert graph.calls[0] == "explore True" and graph.calls[-1] == "explore False"


@pytest.mark.parametrize(
    ("change", "message"),
    [({"scene": "kitchen"}, "kitchen"), ({"count": 0}, "count"), ({"seed": -1}, "seed"), ({"seed": 2**64}, "seed")],
)
def test_goal_that_makes_no_sense_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Goal(**{"scene": "standard", "count": 1, "seed": 0, **change})  # type: ignore[arg-type]
