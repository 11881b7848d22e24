"""Orders of operators: the desk, the drawing, and the menu driven through its topics as RViz drives it."""

from __future__ import annotations

import math
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger

from fosp_bringup import operators
from fosp_bringup.operators import Desk, Graph, Order, Sight
from fosp_bringup.waiting import Waits
from fosp_interfaces.action import RunEpisodes
from fosp_interfaces.msg import ModelEntry, SafetyStatus
from fosp_interfaces.srv import ListModels, LoadModel
from fosp_ros import names, qos
from fosp_ros.testing import Bench

ROUND_S = 400.0
"""Longest fine-tune round: the trainer yields to everything else on the machine."""


class Recorder:
    """Hands that remember what they were told and end when the test says so."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.done: Callable[[str], None] = lambda text: None

    def carry_out(self, order: Order, say: Callable[[str], None], done: Callable[[str], None]) -> None:
        self.orders.append(order)
        self.done = done


def test_nothing_begins_before_it_is_confirmed() -> None:
    hands = Recorder()
    desk = Desk(hands)
    desk.confirm()
    desk.ask(Order.PROMOTE)
    assert not hands.orders and desk.asked is Order.PROMOTE
    desk.dismiss()
    desk.confirm()
    assert not hands.orders
    desk.ask(Order.PROMOTE)
    desk.confirm()
    desk.confirm()
    assert hands.orders == [Order.PROMOTE]


def test_halt_needs_no_confirmation_also_while_something_runs() -> None:
    hands = Recorder()
    desk = Desk(hands)
    desk.ask(Order.RUN)
    desk.confirm()
    desk.ask(Order.HALT)
    assert hands.orders == [Order.RUN, Order.HALT] and desk.running is Order.RUN


def test_second_order_is_refused_until_the_first_has_ended() -> None:
    hands = Recorder()
    desk = Desk(hands)
    desk.ask(Order.RUN)
    desk.confirm()
    done = hands.done
    desk.ask(Order.FINE_TUNE)
    assert desk.asked is None and "refused" in desk.line
    done("2 episodes")
    assert desk.line == "2 episodes"
    desk.ask(Order.FINE_TUNE)
    assert desk.asked is Order.FINE_TUNE


def test_late_click_on_an_older_question_confirms_nothing() -> None:
    pytest.importorskip("visualization_msgs")
    from fosp_bringup.rviz_node import CONFIRM, select

    hands = Recorder()
    desk = Desk(hands)
    desk.ask(Order.PROMOTE)
    select(desk, CONFIRM + Order.ROLL_BACK.value)
    assert not hands.orders


@dataclass(frozen=True)
class Listed:
    """A model as the trainer lists it."""

    id: str
    state: str = "in use"
    parent: str = ""


V1, V2 = Listed("v1"), Listed("v2")
ROUND, WAITING = Listed("v2-r1", parent="v2"), Listed("v2-r1", "waiting", "v2")


@pytest.mark.parametrize(
    ("listed", "name"),
    [
        ([V2, WAITING], "v2-r1"),
        ([V2, WAITING, Listed("v2-r2", "refused", "v2"), Listed("v2-r3", "damaged")], "v2-r1"),
        ([V2, ROUND], ""),
        # Graphs start with the newest: an older one that was promoted would be gone after the next start.
        ([WAITING, V2], ""),
        ([], ""),
    ],
)
def test_newest_model_of_a_round_that_waits_is_promoted(listed: list[Listed], name: str) -> None:
    assert operators.to_promote(listed) == name


@pytest.mark.parametrize(
    ("listed", "active", "may"),
    [
        ([V2, ROUND], "v2-r1", True),
        ([V2, ROUND], "v2", False),
        ([V1, V2], "v2", False),
        ([V2, WAITING], "v2", False),
        ([], "", False),
    ],
)
def test_active_model_of_the_newest_round_is_taken_back(listed: list[Listed], active: str, may: bool) -> None:
    assert operators.may_take_back(listed, active) is may


def test_model_that_comes_back_forgets_what_followed_it() -> None:
    seen: list[str] = []
    for name in ("v1", "v2", "v3", "v2"):
        seen = operators.with_seen(seen, name)
    assert seen == ["v1", "v2"]


def test_risk_goes_from_green_to_red_and_is_grey_when_unknown() -> None:
    from fosp_bringup.markers import GREY, risk_color

    assert risk_color(0.0, 0.5) == (0.0, 1.0, 0.0)
    assert risk_color(0.5, 0.5) == risk_color(0.9, 0.5) == (1.0, 0.0, 0.0)
    assert risk_color(math.nan, 0.5) == risk_color(0.1, math.nan) == GREY


def test_chosen_candidate_stands_out_and_points_along_its_action() -> None:
    from fosp_bringup.markers import picture

    sight = Sight(candidates=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), chosen=1)
    drawn = {m.ns: m for m in picture(sight, [(0.5, 0.0, 0.1)], "ready").markers}
    offline, online = drawn["candidate_0"], drawn["candidate_1"]
    assert online.color.a > offline.color.a and online.scale.x > offline.scale.x
    assert online.points[1].y > online.points[0].y and online.points[1].x == online.points[0].x
    assert "probability unknown" in drawn["status"].text


def test_every_wait_ends_once_with_what_was_waited_for_or_with_a_reason() -> None:
    now, ended, there = [0.0], list[str](), [False]
    waits = Waits(lambda: now[0])
    waits.add(lambda: there[0], lambda: ended.append("there"), waits.after(2.0, "late"), ended.append)
    waits.add(lambda: False, lambda: ended.append("never"), waits.after(1.0, "late"), ended.append)
    waits.poll()
    assert ended == [] and len(waits) == 2
    now[0] = 1.0
    waits.poll()
    assert ended == ["late"] and len(waits) == 1
    there[0], now[0] = True, 9.0
    waits.poll()
    waits.poll()
    assert ended == ["late", "there"] and len(waits) == 0


def test_what_comes_back_in_time_was_not_away() -> None:
    now, there, reasons = [0.0], [True], list[str]()
    waits = Waits(lambda: now[0])
    waits.add(lambda: False, lambda: None, waits.absent(lambda: there[0], 2.0, "gone"), reasons.append)
    for present in (False, True, False):
        there[0], now[0] = present, now[0] + 1.5
        waits.poll()
    assert reasons == []
    now[0] += 1.5
    waits.poll()
    assert reasons == ["gone"]


class OperatorNode(Node):
    """An operator's tool without a face."""

    def __init__(self, models: Path) -> None:
        super().__init__("operator")
        self.graph = Graph(self, models, "standard")
        self.desk = Desk(self.graph)


class OperatorBench(Bench[OperatorNode]):
    """Plays the graph that is late, silent or absent."""

    @property
    def desk(self) -> Desk:
        return self.node.desk

    def order(self, order: Order) -> None:
        self.desk.ask(order)
        self.desk.confirm()

    def reads(self, text: str) -> None:
        """Wait until the operator's line says ``text``."""
        self.until(lambda: text in self.desk.line, f"the words {text!r}")

    def serve(self, kind: Any, name: str, answers: bool = True) -> list[Any]:
        """Offer a service; what it was asked."""
        asked: list[Any] = []

        async def answer(request: Any, response: Any) -> Any:
            asked.append(request)
            if not answers:
                await Future()
            response.success, response.message = True, "as you wish"
            return response

        # One that does not answer keeps no other from answering.
        self.client.create_service(kind, name, answer, callback_group=ReentrantCallbackGroup())
        return asked


class Episodes:
    """An episode server whose goals end when they are told to."""

    def __init__(self, node: Node) -> None:
        self.asked: list[Any] = []
        self.cancelled: list[Any] = []
        self.acceptance: Future[bool] = Future()
        self.ends: Future[str] = Future()
        # A coroutine goes on when something wakes its executor.
        node.create_timer(0.05, lambda: None)
        self.server = ActionServer(
            node,
            RunEpisodes,
            names.RUN_EPISODES,
            self._run,
            goal_callback=self._on_goal,
            cancel_callback=self._on_cancel,
            callback_group=ReentrantCallbackGroup(),
        )

    def leave(self, node: Node) -> None:
        """Take the server away, in the thread that serves it."""

        def destroy() -> None:
            timer.cancel()
            self.server.destroy()

        timer = node.create_timer(0.01, destroy)

    async def _on_goal(self, goal: Any) -> GoalResponse:
        self.asked.append(goal)
        await self.acceptance
        return GoalResponse.ACCEPT

    def _on_cancel(self, handle: Any) -> CancelResponse:
        self.cancelled.append(handle)
        return CancelResponse.ACCEPT

    async def _run(self, handle: Any) -> RunEpisodes.Result:
        message = await self.ends
        handle.succeed()
        return RunEpisodes.Result(success=True, message=message)


@pytest.fixture
def bench(models: Path) -> Iterator[OperatorBench]:
    with OperatorBench(lambda: OperatorNode(models)) as it:
        yield it


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators who give up soon."""
    for name in ("KNOWN_S", "ANSWER_S", "LOAD_S", "GONE_S"):
        monkeypatch.setattr(operators, name, 1.0)


def test_order_waits_for_a_node_that_is_not_known_yet(bench: OperatorBench) -> None:
    bench.order(Order.RESET)
    bench.reads("Reset after a halt: waiting for /fosp/safety/reset")
    assert bench.desk.running is Order.RESET
    asked = bench.serve(Trigger, names.SAFETY_RESET)
    bench.reads("Reset after a halt: as you wish")
    assert len(asked) == 1 and bench.desk.running is None


def test_halt_reaches_a_monitor_that_turns_up_late_while_something_else_waits(bench: OperatorBench) -> None:
    bench.order(Order.RUN)
    bench.desk.ask(Order.HALT)
    asked = bench.serve(Trigger, names.SAFETY_HALT)
    bench.until(lambda: asked, "the halt")
    assert bench.desk.running is Order.RUN


def test_order_to_a_node_that_never_turns_up_ends_with_its_name(bench: OperatorBench, hasty: None) -> None:
    bench.order(Order.RESET)
    bench.reads("nobody offered /fosp/safety/reset within 1 s; is the graph running?")
    assert bench.desk.running is None
    asked = bench.serve(Trigger, names.SAFETY_RESET)
    bench.order(Order.HOME)
    bench.reads("Bring the arm home: nobody offered /fosp/arm/home within 1 s; is the graph running?")
    assert not asked


def test_order_to_a_silent_node_ends_with_its_name(bench: OperatorBench, hasty: None) -> None:
    asked = bench.serve(Trigger, names.SAFETY_RESET, answers=False)
    bench.order(Order.RESET)
    bench.reads("Reset after a halt: /fosp/safety/reset did not answer within 1 s")
    assert len(asked) == 1 and bench.desk.running is None


def test_arm_on_its_way_home_is_stopped_by_cancel(bench: OperatorBench) -> None:
    bench.serve(Trigger, names.ARM_HOME, answers=False)
    stops = bench.serve(Trigger, names.ARM_HOME_CANCEL)
    bench.order(Order.HOME)
    bench.desk.ask(Order.CANCEL)
    bench.until(lambda: stops, "the request to stop")
    bench.reads("Cancel: as you wish")


def test_monitor_gets_its_model_back_when_the_policy_is_silent(bench: OperatorBench, hasty: None) -> None:
    status = bench.client.create_publisher(SafetyStatus, names.SAFETY_STATUS, qos.STATUS)
    status.publish(SafetyStatus(model_id="tiny"))
    bench.until(lambda: bench.node.graph.sight().model_id == "tiny", "the status")
    monitor = bench.serve(LoadModel, names.SAFETY_LOAD_MODEL)
    bench.serve(LoadModel, names.POLICY_LOAD_MODEL, answers=False)
    bench.order(Order.PROMOTE)
    bench.reads("/fosp/policy/load_model did not answer within 1 s")
    bench.until(lambda: len(monitor) == 2, "the former model")
    assert [request.bundle for request in monitor] == ["safereach/tiny", "safereach/tiny"]


def test_model_that_another_program_activated_can_be_rolled_back(bench: OperatorBench, models: Path) -> None:
    """The trainer swaps at the end of a round, which no order of the menu did."""
    status = bench.client.create_publisher(SafetyStatus, names.SAFETY_STATUS, qos.STATUS)
    for name in ("tiny", "tiny-r1"):
        status.publish(SafetyStatus(model_id=name))
        bench.until(lambda name=name: bench.node.graph.sight().model_id == name, "the status")
    monitor, policy = bench.serve(LoadModel, names.SAFETY_LOAD_MODEL), bench.serve(LoadModel, names.POLICY_LOAD_MODEL)
    bench.order(Order.ROLL_BACK)
    bench.reads("safereach/tiny is active")
    assert [request.bundle for request in (*monitor, *policy)] == ["safereach/tiny", "safereach/tiny"]


def test_trainer_is_asked_to_promote_what_waits_and_to_take_a_round_back(bench: OperatorBench) -> None:
    listed = [ModelEntry(id="tiny", state="in use"), ModelEntry(id="tiny-r1", state="waiting", parent="tiny")]
    bench.client.create_service(
        ListModels, names.MODELS_LIST, lambda _, answer: ListModels.Response(models=listed, active=listed[-1].id)
    )
    promoted, taken_back = bench.serve(LoadModel, names.MODELS_PROMOTE), bench.serve(Trigger, names.MODELS_ROLLBACK)
    bench.until(bench.node.graph._list.service_is_ready, "the list of the models")
    bench.order(Order.PROMOTE)
    bench.reads("Promote the newest model: as you wish")
    assert [request.bundle for request in promoted] == ["tiny-r1"] and not taken_back
    listed[-1].state = "in use"
    bench.order(Order.ROLL_BACK)
    bench.reads("Roll back the model: as you wish")
    assert len(taken_back) == 1


def test_run_waits_for_an_episode_node_that_is_not_known_yet(bench: OperatorBench) -> None:
    bench.order(Order.RUN)
    bench.reads("Run episodes: waiting for /fosp/episodes/run")
    episodes = Episodes(bench.client)
    episodes.acceptance.set_result(True)
    bench.until(lambda: episodes.asked, "the goal")
    episodes.ends.set_result("1 episode")
    bench.reads("1 episode")
    assert bench.desk.running is None and len(episodes.asked) == 1


def test_run_without_an_episode_node_ends_with_its_name(bench: OperatorBench, hasty: None) -> None:
    bench.order(Order.RUN)
    bench.reads("Run episodes: nobody offered /fosp/episodes/run within 1 s; is the graph running?")
    assert bench.desk.running is None


def test_run_that_is_cancelled_while_it_waits_never_begins(bench: OperatorBench) -> None:
    bench.order(Order.RUN)
    bench.desk.ask(Order.CANCEL)
    bench.reads("Run episodes: cancelled before it began")
    episodes = Episodes(bench.client)
    bench.until(bench.node.graph._episodes.server_is_ready, "the server")
    bench.desk.ask(Order.CANCEL)
    bench.reads("nothing is running")
    assert not episodes.asked


def test_run_that_a_silent_node_takes_after_all_is_cancelled(bench: OperatorBench, hasty: None) -> None:
    episodes = Episodes(bench.client)
    bench.order(Order.RUN)
    bench.until(lambda: episodes.asked, "the goal")
    bench.reads("Run episodes: /fosp/episodes/run did not answer within 1 s")
    episodes.acceptance.set_result(True)
    bench.until(lambda: episodes.cancelled, "the request to cancel")


def test_run_ends_when_its_node_goes_away(bench: OperatorBench, hasty: None) -> None:
    episodes = Episodes(bench.client)
    episodes.acceptance.set_result(True)
    bench.order(Order.RUN)
    bench.until(lambda: bench.node.graph._run is not None and bench.node.graph._run._handle, "the goal")
    episodes.leave(bench.client)
    bench.reads("Run episodes: /fosp/episodes/run went away while it ran")
    assert bench.desk.running is None


def test_request_to_cancel_that_has_no_effect_is_told(bench: OperatorBench, hasty: None) -> None:
    episodes = Episodes(bench.client)
    episodes.acceptance.set_result(True)
    bench.order(Order.RUN)
    bench.until(lambda: bench.node.graph._run is not None and bench.node.graph._run._handle, "the goal")
    bench.desk.ask(Order.CANCEL)
    bench.reads("Run episodes: /fosp/episodes/run does not answer the request to cancel")
    assert episodes.cancelled and bench.desk.running is None


class Menu:
    """The operators' menu as RViz sees and drives it: updates, feedback, and the whole state on request."""

    def __init__(self, node: Node, eventually: Any) -> None:
        from visualization_msgs.msg import InteractiveMarkerFeedback, InteractiveMarkerUpdate
        from visualization_msgs.srv import GetInteractiveMarkers

        from fosp_bringup.menu import TOPIC

        self._eventually = eventually
        self._types = (GetInteractiveMarkers, InteractiveMarkerFeedback)
        self._updates: list[Any] = []
        node.create_subscription(InteractiveMarkerUpdate, f"{TOPIC}/update", self._updates.append, 1000)
        self._feedback = node.create_publisher(InteractiveMarkerFeedback, f"{TOPIC}/feedback", 10)
        self._state = node.create_client(GetInteractiveMarkers, f"{TOPIC}/get_interactive_markers")
        eventually(lambda: self._state.service_is_ready() and self._feedback.get_subscription_count(), "the menu")
        eventually(lambda: self._updates, "a sign of life")

    def told(self) -> list[str]:
        """Every line that stood beside the menu."""
        return [marker.description for update in self._updates for marker in update.markers]

    def click(self, title: str) -> None:
        """Choose an entry as soon as it is there."""
        from fosp_bringup.menu import MARKER

        self._eventually(lambda: title in self._entries(), f"the entry {title!r}")
        choice = self._types[1](marker_name=MARKER, client_id="rviz", menu_entry_id=self._entries()[title])
        choice.event_type = self._types[1].MENU_SELECT
        self._feedback.publish(choice)

    def reads(self, text: str, timeout_s: float = 120.0) -> None:
        """Wait until a text stands beside the menu."""
        self._eventually(lambda: text in self._marker().description, f"the words {text!r}", timeout_s)

    def _entries(self) -> dict[str, int]:
        return {entry.title: entry.id for entry in self._marker().menu_entries}

    def _marker(self) -> Any:
        answer = self._state.call_async(self._types[0].Request())
        self._eventually(answer.done, "the marker")
        return answer.result().markers[0]


@pytest.mark.system
def test_menu_runs_an_episode_once_it_is_confirmed(
    start: Callable[..., Any], models: Path, run_folder: Any, eventually: Any
) -> None:
    from fosp_bringup import graph
    from fosp_bringup.client import GraphClient
    from fosp_bringup.rviz_node import CONFIRM

    arguments = ("--models-root", str(models), "--run-folder", str(run_folder.path), "--no-require-calibration")
    start("fosp_bringup.runner", *arguments)
    node = start("fosp_bringup.rviz_node", "--ros-args", "-p", f"models_root:={models}")
    with GraphClient() as client:
        eventually(lambda: not client.missing(graph.services(graph.Arguments())), "the graph")
        menu = Menu(client.node, eventually)
        menu.click(Order.RUN.value)
        menu.reads("confirm")
        assert not run_folder.episodes()
        menu.click(CONFIRM + Order.RUN.value)
        eventually(lambda: any("step" in line for line in menu.told()), "progress")
        eventually(run_folder.episodes, "a recorded episode")
    assert node.stop(signal.SIGINT) == 0, node.output
    assert "Traceback" not in node.output


@pytest.mark.system
def test_menu_runs_a_round_takes_its_model_back_and_promotes_it_again(
    start: Callable[..., Any],
    small_models: Path,
    tmp_path: Path,
    run_folder: Any,
    made_up_run: Callable[..., None],
    another_domain: Callable[[], None],
    eventually: Any,
) -> None:
    from fosp_bringup import graph
    from fosp_bringup.client import GraphClient
    from fosp_bringup.rviz_node import CONFIRM
    from fosp_core.bundle import newest

    # No node of an earlier test is still heard of.
    another_domain()
    models = tmp_path / "models"
    shutil.copytree(small_models, models)
    made_up_run(run_folder.path / "records" / "made-up")
    arguments = ("--models-root", str(models), "--run-folder", str(run_folder.path), "--no-require-calibration")
    up = start("fosp_bringup.runner", *arguments, "--trainer", "--when-node-exits", "keep")
    node = start("fosp_bringup.rviz_node", "--ros-args", "-p", f"models_root:={models}")
    services = [*graph.services(graph.Arguments(trainer=True)), names.MODELS_LIST, names.MODELS_ROLLBACK]
    with GraphClient() as client:
        eventually(lambda: up.process.poll() is not None or not client.missing(services), "the graph")
        assert up.process.poll() is None, up.output
        # Short, and no failure on a busy machine.
        for name, value in {"paired_episodes": 0, "latency_limit_ms": 1000.0, "latency_ratio": 100.0}.items():
            client.set_parameter("trainer_node", name, value, lambda: None)
        menu = Menu(client.node, eventually)

        def order(wanted: Order, end: str) -> str:
            """Ask, confirm, and wait for the end; the model that graphs start with then."""
            menu.click(wanted.value)
            menu.reads(f"{wanted.value}: confirm or dismiss")
            menu.click(CONFIRM + wanted.value)
            menu.reads(end, ROUND_S)
            return newest(models).name

        assert order(Order.FINE_TUNE, "small-r1 is in use") == "small-r1"
        assert any(line.startswith("fine-tuning: world model") for line in menu.told())
        assert order(Order.ROLL_BACK, "small is in use; small-r1 taken back") == "small"
        assert order(Order.PROMOTE, "Promote the newest model: small-r1 is in use") == "small-r1"
        for who in ("safety_monitor", "policy_node"):
            assert f"[{who}]: model small-r1" in run_folder.logs()
    assert node.stop(signal.SIGINT) == 0, node.output
    assert "Traceback" not in node.output + run_folder.logs()
