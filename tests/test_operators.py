"""Orders of operators: the desk, the drawing, and the menu driven through its topics as RViz drives it."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fosp_bringup.operators import Desk, Order, Sight


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


@pytest.mark.system
def test_menu_runs_an_episode_once_it_is_confirmed(
    start: Callable[..., Any], models: Path, run_folder: Any, eventually: Any
) -> None:
    from visualization_msgs.msg import InteractiveMarkerFeedback, InteractiveMarkerUpdate
    from visualization_msgs.srv import GetInteractiveMarkers

    from fosp_bringup import graph
    from fosp_bringup.client import GraphClient
    from fosp_bringup.menu import MARKER, TOPIC
    from fosp_bringup.rviz_node import CONFIRM

    start("fosp_bringup.runner", "--models-root", str(models), "--run-folder", str(run_folder.path))
    node = start("fosp_bringup.rviz_node", "--ros-args", "-p", f"models_root:={models}")
    updates: list[Any] = []
    arrived = threading.Event()

    def on_update(message: Any) -> None:
        updates.append(message)
        arrived.set()

    with GraphClient() as client:
        client.node.create_subscription(InteractiveMarkerUpdate, f"{TOPIC}/update", on_update, 100)
        feedback = client.node.create_publisher(InteractiveMarkerFeedback, f"{TOPIC}/feedback", 10)
        server = client.node.create_client(GetInteractiveMarkers, f"{TOPIC}/get_interactive_markers")
        eventually(lambda: not client.missing(graph.services(graph.Arguments())), "the graph")
        eventually(lambda: server.service_is_ready() and feedback.get_subscription_count(), "the menu")
        eventually(arrived.is_set, "a sign of life")

        def marker() -> Any:
            answer = server.call_async(GetInteractiveMarkers.Request())
            eventually(answer.done, "the marker")
            return answer.result().markers[0]

        def titles() -> dict[str, int]:
            return {entry.title: entry.id for entry in marker().menu_entries}

        def click(title: str) -> None:
            eventually(lambda: title in titles(), f"the entry {title!r}")
            choice = InteractiveMarkerFeedback(marker_name=MARKER, client_id="rviz", menu_entry_id=titles()[title])
            choice.event_type = InteractiveMarkerFeedback.MENU_SELECT
            feedback.publish(choice)

        click(Order.RUN.value)
        eventually(lambda: "confirm" in marker().description, "the question")
        assert not run_folder.episodes()
        click(CONFIRM + Order.RUN.value)
        eventually(lambda: any("step" in m.markers[0].description for m in updates if m.markers), "progress")
        eventually(run_folder.episodes, "a recorded episode")
    assert node.stop(signal.SIGINT) == 0, node.output
    assert "Traceback" not in node.output
