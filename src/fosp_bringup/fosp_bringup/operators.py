"""What operators see and may ask for, shared by RViz, the web page and whatever else shows the graph.

``Desk`` is the state machine of confirmations and answers, without ROS. ``Graph`` carries orders out over ROS.
"""

from __future__ import annotations

import importlib
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, Protocol

from rclpy.action.client import ActionClient
from rclpy.node import Node
from std_srvs.srv import Trigger

from fosp_core.bundle import BundleError, newest
from fosp_interfaces.action import RunEpisodes
from fosp_interfaces.msg import PolicyDecision, SafetyStatus
from fosp_interfaces.srv import LoadModel
from fosp_ros import names, qos


class Order(Enum):
    """What an operator may ask for; the value is what is written on the button."""

    RUN = "Run episodes"
    CANCEL = "Cancel"
    FINE_TUNE = "Fine-tune round"
    PROMOTE = "Promote the newest model"
    ROLL_BACK = "Roll back the model"
    HALT = "Halt"
    RESET = "Reset after a halt"


IMMEDIATE: Final = frozenset({Order.HALT, Order.CANCEL})
"""Stopping needs no confirmation."""


class Hands(Protocol):
    """Carries orders out. Each call returns at once; ``say`` is called with progress, ``done`` once with the end."""

    def carry_out(self, order: Order, say: Callable[[str], None], done: Callable[[str], None]) -> None:
        """Begin an order."""


class Desk:
    """Takes orders, asks for confirmation, and keeps one line for people. Thread-safe.

    One order runs at a time; halting and cancelling are always taken.
    """

    def __init__(self, hands: Hands) -> None:
        self._hands = hands
        self._lock = threading.RLock()
        self._asked: Order | None = None
        self._running: Order | None = None
        self._line = "ready"

    @property
    def line(self) -> str:
        """What is going on, one line."""
        return self._line

    @property
    def asked(self) -> Order | None:
        """The order that waits for its confirmation."""
        return self._asked

    @property
    def running(self) -> Order | None:
        """The order being carried out."""
        return self._running

    def ask(self, order: Order) -> None:
        """An operator chose an order."""
        with self._lock:
            if order in IMMEDIATE:
                self._asked = None
                self._hands.carry_out(order, self._say, self._say)
            elif self._running is not None:
                self._line = f"{order.value}: refused, {self._running.value!r} is running"
            else:
                self._asked = order
                self._line = f"{order.value}: confirm or dismiss"

    def confirm(self) -> None:
        """Carry out the order that was asked for; nothing happens when there is none."""
        with self._lock:
            order, self._asked = self._asked, None
            if order is None:
                return
            self._running = order
            self._line = f"{order.value}: begun"
        self._hands.carry_out(order, self._say, self._done)

    def dismiss(self) -> None:
        """Forget the order that was asked for."""
        with self._lock:
            if self._asked is not None:
                self._line = f"{self._asked.value}: dismissed"
            self._asked = None

    def _say(self, text: str) -> None:
        self._line = text

    def _done(self, text: str) -> None:
        with self._lock:
            self._running = None
            self._line = text


@dataclass(frozen=True)
class Sight:
    """The newest of what is shown; NaN and empty where nothing was heard."""

    state: str = "unknown"
    reasons: tuple[str, ...] = ()
    violation_probability: float = math.nan
    caution_threshold: float = math.nan
    halt_threshold: float = math.nan
    candidates: tuple[tuple[float, ...], ...] = ()
    """Candidate actions [offline, online], each element in [-1, 1]."""
    probabilities: tuple[float, ...] = ()
    chosen: int = 0
    model_id: str = ""


STATES: Final[Mapping[int, str]] = {
    SafetyStatus.INACTIVE: "inactive",
    SafetyStatus.NOMINAL: "nominal",
    SafetyStatus.CAUTION: "caution",
    SafetyStatus.HALTED: "halted",
}


def sight(decision: PolicyDecision | None, status: SafetyStatus | None) -> Sight:
    """What to show of the newest messages."""
    shown: dict[str, Any] = {}
    if status is not None:
        shown = {
            "state": STATES.get(status.state, "unknown"),
            "reasons": tuple(status.reason_names),
            "violation_probability": float(status.violation_probability),
            "caution_threshold": float(status.caution_threshold),
            "halt_threshold": float(status.halt_threshold),
            "model_id": status.model_id,
        }
    if decision is not None and decision.candidate_actions:
        half = len(decision.candidate_actions) // 2
        actions = [float(a) for a in decision.candidate_actions]
        shown["candidates"] = (tuple(actions[:half]), tuple(actions[half:]))
        shown["probabilities"] = tuple(float(p) for p in decision.probabilities)
        shown["chosen"] = int(decision.chosen)
    return Sight(**shown)


class Graph:
    """Orders over ROS, and the newest messages. Its callbacks run in the executor of ``node``."""

    def __init__(self, node: Node, models_root: Path, scene: str, episodes: Callable[[], int] = lambda: 1) -> None:
        self._node = node
        self._models_root = models_root
        self._scene = scene
        self._count = episodes
        self._decision: PolicyDecision | None = None
        self._status: SafetyStatus | None = None
        self._loaded: list[str] = []
        self._goal: Any = None
        self._seed = 0
        self._episodes: ActionClient[Any, Any, Any] = ActionClient(node, RunEpisodes, names.RUN_EPISODES)
        # The trainer is an option of the installation.
        fine_tune = getattr(importlib.import_module("fosp_interfaces.action"), "FineTune", None)
        self._fine_tune_type: Any = fine_tune
        self._trainer: Any = ActionClient(node, fine_tune, names.FINE_TUNE) if fine_tune is not None else None
        self._triggers = {
            Order.HALT: node.create_client(Trigger, names.SAFETY_HALT),
            Order.RESET: node.create_client(Trigger, names.SAFETY_RESET),
        }
        self._loaders = [node.create_client(LoadModel, n) for n in (names.SAFETY_LOAD_MODEL, names.POLICY_LOAD_MODEL)]
        node.create_subscription(PolicyDecision, names.POLICY_DECISION, self._on_decision, qos.DECISION)
        node.create_subscription(SafetyStatus, names.SAFETY_STATUS, self._on_status, qos.STATUS)

    def sight(self) -> Sight:
        """What to show now."""
        return sight(self._decision, self._status)

    def carry_out(self, order: Order, say: Callable[[str], None], done: Callable[[str], None]) -> None:
        """Begin an order; see ``Hands``."""
        try:
            if order in self._triggers:
                self._call(
                    self._triggers[order], Trigger.Request(), lambda a: done(f"{order.value}: {a.message}"), done
                )
            elif order is Order.RUN:
                goal = RunEpisodes.Goal(scene=self._scene, count=self._count(), seed=self._seed)
                self._send(self._episodes, goal, say, done, _episode_progress)
                self._seed += self._count()
            elif order is Order.FINE_TUNE:
                if self._trainer is None:
                    done("Fine-tune round: this installation has no trainer")
                else:
                    self._send(self._trainer, self._fine_tune_type.Goal(), say, done, _round_progress)
            elif order is Order.CANCEL:
                if self._goal is None:
                    done("Cancel: nothing is running")
                else:
                    self._goal.cancel_goal_async()
                    say("Cancel: asked")
            elif order is Order.PROMOTE:
                target = newest(self._models_root).resolve().relative_to(self._models_root.resolve())
                self._load(str(target), order, done)
            else:
                if len(self._loaded) < 2:
                    done("Roll back: no earlier model is known here")
                    return
                self._load(self._loaded[-2], order, done)
        except BundleError as error:
            done(f"{order.value}: {error}")

    def _load(self, bundle: str, order: Order, done: Callable[[str], None]) -> None:
        """Load into the monitor, then into the policy; when the policy refuses, the monitor goes back."""
        monitor, policy = self._loaders
        before = self._loaded[-1] if self._loaded else ""

        def policy_answered(answer: Any) -> None:
            if answer.success:
                known = self._loaded if bundle not in self._loaded else self._loaded[: self._loaded.index(bundle)]
                self._loaded = [*known, bundle]
                done(f"{order.value}: {bundle} is active")
                return
            if before:
                monitor.call_async(LoadModel.Request(bundle=before))
            done(f"{order.value}: the policy refused: {answer.message}")

        def monitor_answered(answer: Any) -> None:
            if answer.success:
                self._call(policy, LoadModel.Request(bundle=bundle), policy_answered, done)
            else:
                done(f"{order.value}: the monitor refused: {answer.message}")

        self._call(monitor, LoadModel.Request(bundle=bundle), monitor_answered, done)

    def _call(self, client: Any, request: Any, then: Callable[[Any], None], done: Callable[[str], None]) -> None:
        if not client.service_is_ready():
            done(f"{client.srv_name} does not answer; is the graph running?")
            return
        client.call_async(request).add_done_callback(lambda future: then(future.result()))

    def _send(
        self,
        client: Any,
        goal: Any,
        say: Callable[[str], None],
        done: Callable[[str], None],
        progress: Callable[[Any], str],
    ) -> None:
        if not client.server_is_ready():
            done("the action server does not answer; is the graph running?")
            return

        def ended(future: Any) -> None:
            self._goal = None
            done(future.result().result.message)

        def accepted(future: Any) -> None:
            handle = future.result()
            if not handle.accepted:
                done("refused; another run may be going on")
                return
            self._goal = handle
            handle.get_result_async().add_done_callback(ended)

        sent = client.send_goal_async(goal, feedback_callback=lambda message: say(progress(message.feedback)))
        sent.add_done_callback(accepted)

    def _on_decision(self, message: PolicyDecision) -> None:
        self._decision = message

    def _on_status(self, message: SafetyStatus) -> None:
        if message.model_id and not self._loaded:
            name = f"safereach/{message.model_id}"
            if (self._models_root / name).is_dir():
                self._loaded = [name]
        self._status = message


def _episode_progress(feedback: Any) -> str:
    return f"episode {feedback.episode + 1} of {feedback.count}, step {feedback.step}"


def _round_progress(feedback: Any) -> str:
    losses = dict(zip(feedback.loss_names, feedback.losses, strict=False))
    told = f"fine-tuning: {feedback.stage.replace('_', ' ')} {feedback.step} of {feedback.steps}"
    told += f", loss {losses['loss']:.3g}" if "loss" in losses else ""
    return told + (f", {feedback.seconds_left:.0f} s left" if math.isfinite(feedback.seconds_left) else "")
