"""The trainer node over DDS, with monitor and policy played by the bench and rounds that take no time."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from action_msgs.msg import GoalStatus
from rclpy.action.client import ActionClient
from std_srvs.srv import Trigger

from fosp_core import models, task
from fosp_core.bundle import newest, update_manifest
from fosp_core.testing import make_bundle
from fosp_interfaces.action import FineTune
from fosp_interfaces.msg import SafetyStatus
from fosp_interfaces.srv import DiffModels, ListModels, LoadModel, ShowModel
from fosp_ros import names, qos
from fosp_ros.testing import Bench
from fosp_trainer import rounds
from fosp_trainer.fine_tune import Cancelled, Progress, Report
from fosp_trainer.gate import Check, Verdict
from fosp_trainer.trainer_node import TrainerNode

pytest.importorskip("onnx")
Folders = dict[str, str]


class Graph(Bench[TrainerNode]):
    """The trainer between a monitor and a policy that load what they are told, unless told to refuse."""

    def __enter__(self) -> Graph:
        super().__enter__()
        self.loaded: dict[str, list[str]] = {names.SAFETY_LOAD_MODEL: [], names.POLICY_LOAD_MODEL: []}
        self.refusing: dict[str, list[str]] = {name: [] for name in self.loaded}
        """Reasons with which the next requests are refused."""
        for name in self.loaded:
            self.client.create_service(LoadModel, name, self._answer(name))
        self.status = self.client.create_publisher(SafetyStatus, names.SAFETY_STATUS, qos.STATUS)
        # made where the node is spun: a client that is only half made must not be looked at there
        made = self.client.executor.create_task(lambda: ActionClient(self.client, FineTune, names.FINE_TUNE))
        self.until(made.done, "the action client")
        self.trainer: Any = made.result()
        self.until(self.trainer.server_is_ready, "the trainer")
        return self

    def _answer(self, name: str) -> Callable[[Any, Any], Any]:
        def answer(request: Any, response: Any) -> Any:
            if self.refusing[name]:
                response.message = self.refusing[name].pop(0)
            else:
                self.loaded[name].append(request.bundle)
                response.success = True
            return response

        return answer

    def ask(self, kind: Any, name: str, **request: Any) -> Any:
        """Answer of a service."""
        client = self.client.create_client(kind, name)
        self.until(client.service_is_ready, name)
        future = client.call_async(kind.Request(**request))
        self.until(future.done, f"an answer of {name}")
        return future.result()

    def begin(self, heard: list[Any], **goal: Any) -> Any:
        """Handle of an accepted goal."""
        sent = self.trainer.send_goal_async(FineTune.Goal(**goal), feedback_callback=lambda m: heard.append(m.feedback))
        self.until(sent.done, "the goal's acceptance")
        return sent.result()

    def end(self, handle: Any) -> Any:
        """Status and result of a goal."""
        done = handle.get_result_async()
        self.until(done.done, "the end of the round")
        return done.result()

    def tune(self, **goal: Any) -> Any:
        """Result of a round."""
        return self.end(self.begin([], **goal)).result


class Rounds:
    """Stands for ``rounds.run_round``: writes a bundle; waits at ``hold`` where told to."""

    def __init__(self, root: Path) -> None:
        self.root, self.promoted, self.hold = root, True, threading.Event()
        self.hold.set()
        self.orders: list[rounds.Order] = []
        self.prepared = threading.Event()
        self.prepared.set()

    def prepare(self, *_: object) -> None:
        """Stands for ``rounds.prepare``; waits at ``prepared`` where told to."""
        self.prepared.wait()

    def __call__(self, order: rounds.Order, on_step: Callable[[Progress], bool], replay: object) -> rounds.Outcome:
        self.orders.append(order)
        going = on_step(Progress("critics", 1, 2, {"loss": 0.5}, 3.0))
        while going and not self.hold.wait(0.02):
            going = on_step(Progress("critics", 1, 2, {"loss": 0.5}, 3.0))
        if not going:
            raise Cancelled("cancelled in stage critics")
        name = rounds.next_id(self.root, order.current.name)
        bundle = make_bundle(self.root / task.TASK / models.ROUNDS / name)
        origin = {"parent": order.current.name, "created": "2026-01-01T00:00:00+00:00"}
        verdict = Verdict((Check("latency", self.promoted, 1.0, 2.0, "told"),))
        bundle = update_manifest(bundle, provenance=origin, evaluation={"gate": verdict.to_json()})
        return rounds.Outcome(bundle, verdict, Report(2, 0, 3, 0), ())


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rounds:
    make_bundle(tmp_path / "models" / task.TASK / "v1")
    (tmp_path / "records" / "run" / "episode_0000").mkdir(parents=True)
    (tmp_path / "records" / "run" / "episode_0000" / "episode.json").write_text("{}")
    stand_in = Rounds(tmp_path / "models")
    monkeypatch.setattr(rounds, "run_round", stand_in)
    monkeypatch.setattr(rounds, "prepare", stand_in.prepare)
    return stand_in


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return {"models_root": str(tmp_path / "models"), "records_root": str(tmp_path / "records")}


@pytest.fixture
def graph(folders: Folders, ran: Rounds) -> Iterator[Graph]:
    with Graph(TrainerNode, folders) as bench:
        yield bench


def test_passed_round_is_loaded_by_monitor_and_policy_and_is_what_graphs_start_with(graph: Graph, ran: Rounds) -> None:
    heard: list[Any] = []
    result = graph.end(graph.begin(heard, steps=2, seed=3)).result
    assert result.success and result.active and result.bundle == "safereach/v1-r1", result.message
    # loaded from where it waits: one rename puts it in force for whoever starts later
    assert list(graph.loaded.values()) == [["safereach/.rounds/v1-r1"]] * 2
    assert models.unfinished_swap(ran.root) is None
    assert newest(ran.root).name == "v1-r1"
    assert (ran.orders[0].steps, ran.orders[0].seed, ran.orders[0].current.name) == (2, 3, "v1")
    told = [f for f in heard if f.stage != "preparing"]
    assert [f.stage for f in told] == ["critics", "swap", "swap"]
    assert (told[0].step, list(told[0].loss_names), list(told[0].losses)) == (1, ["loss"], [0.5])


def test_round_that_is_asked_for_early_waits_until_earlier_episodes_are_read(ran: Rounds, folders: Folders) -> None:
    ran.prepared.clear()
    with Graph(TrainerNode, folders) as graph:
        heard: list[Any] = []
        first = graph.begin(heard)
        graph.until(lambda: heard, "feedback")
        first.cancel_goal_async()
        ended = graph.end(first)
        assert ended.status == GoalStatus.STATUS_CANCELED and "while earlier episodes were read" in ended.result.message
        second = graph.begin(heard)
        ran.prepared.set()
        assert graph.end(second).result.active
    assert {f.stage for f in heard} == {"preparing", "critics", "swap"} and len(ran.orders) == 1


def test_refused_round_changes_nothing_and_says_why(graph: Graph, ran: Rounds) -> None:
    ran.promoted = False
    result = graph.tune()
    assert not result.success and "refused by the gate: told" in result.message
    assert '"promoted": false' in result.gate_report and result.bundle == "safereach/.rounds/v1-r1"
    assert not any(graph.loaded.values()) and newest(ran.root).name == "v1"


def test_manual_promotion_waits_for_an_operator(graph: Graph, ran: Rounds) -> None:
    result = graph.tune(promote=FineTune.Goal.MANUAL)
    assert result.success and not result.active and "waits for an operator" in result.message
    assert not any(graph.loaded.values()) and models.find(ran.root, "v1-r1").state == "waiting"


def test_when_the_policy_refuses_the_monitor_goes_back_and_the_bundle_is_put_aside(graph: Graph, ran: Rounds) -> None:
    graph.refusing[names.POLICY_LOAD_MODEL] = ["damaged"]
    result = graph.tune()
    assert not result.success and not result.active and "policy_node did not load" in result.message
    assert graph.loaded[names.SAFETY_LOAD_MODEL] == ["safereach/.rounds/v1-r1", "safereach/v1"]
    assert newest(ran.root).name == "v1" and models.find(ran.root, "v1-r1").path.parent.name == models.ROUNDS


def test_swap_waits_for_the_end_of_an_episode(graph: Graph, ran: Rounds) -> None:
    graph.refusing[names.SAFETY_LOAD_MODEL] = ["refused: an episode is running; models are changed at rest"] * 2
    assert graph.tune().active
    assert graph.loaded[names.SAFETY_LOAD_MODEL] == ["safereach/.rounds/v1-r1"]


def test_second_goal_is_refused_and_a_cancelled_round_ends_as_cancelled(graph: Graph, ran: Rounds) -> None:
    ran.hold.clear()
    heard: list[Any] = []
    first = graph.begin(heard)
    graph.until(lambda: heard, "feedback")
    second = graph.tune()
    assert not second.success and "another round is going on" in second.message
    first.cancel_goal_async()
    ended = graph.end(first)
    assert ended.status == GoalStatus.STATUS_CANCELED and "cancelled in stage critics" in ended.result.message
    ran.hold.set()
    assert graph.tune().success, "the next round works"


def test_what_a_killed_round_left_is_removed_at_the_start(tmp_path: Path, ran: Rounds) -> None:
    left = tmp_path / "models" / task.TASK / models.ROUNDS / ".v1-r1-abc"
    left.mkdir(parents=True)
    with Graph(TrainerNode, {"models_root": str(tmp_path / "models"), "records_root": str(tmp_path / "records")}):
        assert not left.exists()


def test_operators_see_what_there_is_and_what_differs(graph: Graph, ran: Rounds) -> None:
    ran.promoted = False
    graph.tune()
    found = graph.ask(ListModels, names.MODELS_LIST)
    assert [(m.id, m.bundle, m.state, m.parent) for m in found.models] == [
        ("v1", "safereach/v1", "in use", ""),
        ("v1-r1", "safereach/.rounds/v1-r1", "refused", "v1"),
    ]
    assert list(found.models[1].reasons) == ["told"]
    shown = graph.ask(ShowModel, names.MODELS_SHOW, id="v1-r1")
    assert shown.success and json.loads(shown.content)["standing"] == "refused"
    assert not graph.ask(ShowModel, names.MODELS_SHOW, id="v9").success
    differing = graph.ask(DiffModels, names.MODELS_DIFF, first="v1", second="v1-r1")
    assert differing.success and 'standing: "in use" -> "refused"' in differing.differences
    unknown = graph.ask(DiffModels, names.MODELS_DIFF, first="v1", second="v9")
    assert not unknown.success and "there are: v1, v1-r1" in unknown.message


def test_operator_promotes_what_waits_and_rolls_back_while_the_graph_runs(graph: Graph, ran: Rounds) -> None:
    nothing = graph.ask(Trigger, names.MODELS_ROLLBACK)
    assert not nothing.success and "released" in nothing.message
    graph.tune(promote=FineTune.Goal.MANUAL)
    done = graph.ask(LoadModel, names.MODELS_PROMOTE, bundle="v1-r1")
    assert done.success and done.model_id == "v1-r1" and newest(ran.root).name == "v1-r1", done.message
    back = graph.ask(Trigger, names.MODELS_ROLLBACK)
    assert back.success and newest(ran.root).name == "v1", back.message
    assert list(graph.loaded.values()) == [["safereach/.rounds/v1-r1", "safereach/v1"]] * 2
    assert models.find(ran.root, "v1-r1").state == "waiting"


def test_operator_cannot_promote_what_the_gate_refused(graph: Graph, ran: Rounds) -> None:
    ran.promoted = False
    graph.tune()
    answer = graph.ask(LoadModel, names.MODELS_PROMOTE, bundle="v1-r1")
    assert not answer.success and "refused: told" in answer.message
    assert not any(graph.loaded.values())


def test_roll_back_that_a_node_refuses_changes_nothing(graph: Graph, ran: Rounds) -> None:
    graph.tune()
    graph.refusing[names.POLICY_LOAD_MODEL] = ["damaged"]
    answer = graph.ask(Trigger, names.MODELS_ROLLBACK)
    assert not answer.success and "damaged" in answer.message and newest(ran.root).name == "v1-r1"
    assert graph.loaded[names.SAFETY_LOAD_MODEL][-1] == "safereach/v1-r1"


def test_operator_may_roll_back_in_a_round_which_then_waits(graph: Graph, ran: Rounds) -> None:
    graph.tune()
    ran.hold.clear()
    heard: list[Any] = []
    going = graph.begin(heard)
    graph.until(lambda: heard, "feedback")
    assert graph.ask(Trigger, names.MODELS_ROLLBACK).success
    ran.hold.set()
    ended = graph.end(going).result
    assert not ended.active and "was changed to v1 meanwhile" in ended.message
    assert newest(ran.root).name == "v1"


@pytest.mark.parametrize(("committed", "expected"), [(False, "v1"), (True, "v1-r1")])
def test_change_that_was_interrupted_is_ended_at_the_next_start(
    tmp_path: Path, ran: Rounds, committed: bool, expected: str
) -> None:
    root = ran.root / task.TASK
    bundle = make_bundle(root / models.ROUNDS / "v1-r1")
    update_manifest(bundle, provenance={"parent": "v1", "created": "2026-01-01T00:00:00+00:00"})
    models.begin_swap(ran.root, models.Swap("v1-r1", "v1"))
    if committed:
        models.promote(ran.root, "v1-r1")
    folders = {"models_root": str(ran.root), "records_root": str(tmp_path / "records")}
    with Graph(TrainerNode, folders) as bench:
        refused = bench.tune()
        assert not refused.success and "interrupted change" in refused.message
        bench.status.publish(SafetyStatus(model_id="v1-r1"))
        bench.until(lambda: models.unfinished_swap(ran.root) is None, "the end of the change")
        assert list(bench.loaded.values()) == [[f"safereach/{expected}"]] * 2
        bench.status.publish(SafetyStatus(model_id=expected))
        bench.until(lambda: bench.tune().success, "the next round")
