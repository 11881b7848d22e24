"""What operators see and may ask for, shared by RViz, the web page and whatever else shows the graph.

``Desk`` is the state machine of confirmations and answers, without ROS. ``Graph`` carries orders out over ROS.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, Protocol

from rclpy.action.client import ActionClient
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from std_srvs.srv import Trigger

from fosp_bringup.waiting import Waits, any_of
from fosp_core import task
from fosp_core.bundle import BundleError, newest
from fosp_interfaces.action import FineTune, RunEpisodes
from fosp_interfaces.msg import PolicyDecision, SafetyStatus
from fosp_interfaces.srv import ListModels, LoadModel
from fosp_ros import names, qos


class Order(Enum):
    """What an operator may ask for; the value is what is written on the button."""

    RUN = "Run episodes"
    CANCEL = "Cancel"
    HOME = "Bring the arm home"
    FINE_TUNE = "Fine-tune round"
    PROMOTE = "Promote the newest model"
    ROLL_BACK = "Roll back the model"
    HALT = "Halt"
    RESET = "Reset after a halt"


IMMEDIATE: Final = frozenset({Order.HALT, Order.CANCEL})
"""Stopping needs no confirmation."""


KNOWN_S: Final = 10.0
"""Longest wait for a node to be known: one that has just started is not known at once."""
ANSWER_S: Final = 10.0
"""Longest wait for the answer to a plain request."""
LOAD_S: Final = 60.0
"""Longest wait for a model to be loaded."""
SWAP_S: Final = 240.0
"""Longest change of the model by the trainer, which waits for the end of an episode with each node."""
HOME_S: Final = 90.0
"""Longest way of the arm to its start, planning included."""
GONE_S: Final = 5.0
"""How long the server of a running order may be away before the order counts as lost."""
_POLL_S: Final = 0.05


class Model(Protocol):
    """One entry of the trainer's catalogue, as ``fosp_interfaces/ModelEntry`` has it."""

    id: str
    state: str
    parent: str


def to_promote(models: Sequence[Model]) -> str:
    """Identity of the round's model to bring into use; empty when none waits that is newer than those in use.

    ``models`` are oldest first.
    """
    usable = [entry for entry in models if entry.state in ("in use", "waiting")]
    return usable[-1].id if usable and usable[-1].state == "waiting" else ""


def may_take_back(models: Sequence[Model], active: str) -> bool:
    """Whether the model that runs is the newest in use and came from a round; ``models`` are oldest first."""
    in_use = [entry for entry in models if entry.state == "in use"]
    return bool(in_use) and in_use[-1].id == active and bool(in_use[-1].parent)


def with_seen(seen: Sequence[str], name: str) -> list[str]:
    """The models that were active, oldest first, now that ``name`` is; one that comes back forgets what followed it."""
    return [*(seen[: seen.index(name)] if name in seen else seen), name]


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
    """Orders over ROS, and the newest messages. Its callbacks run in the executor of ``node``.

    No order is lost on a node that is not known yet, and none waits for ever: it ends when the node does not turn up,
    does not answer, or goes away.
    """

    def __init__(self, node: Node, models_root: Path, scene: str, episodes: Callable[[], int] = lambda: 1) -> None:
        self._node = node
        self._models_root = models_root
        self._scene = scene
        self._count = episodes
        self._decision: PolicyDecision | None = None
        self._status: SafetyStatus | None = None
        self._seen: list[str] = []
        self._run: _Run | None = None
        self._seed = 0
        self._episodes: ActionClient[Any, Any, Any] = ActionClient(node, RunEpisodes, names.RUN_EPISODES)
        self._trainer: ActionClient[Any, Any, Any] = ActionClient(node, FineTune, names.FINE_TUNE)
        self._triggers = {
            order: node.create_client(Trigger, name)
            for order, name in (
                (Order.HALT, names.SAFETY_HALT),
                (Order.RESET, names.SAFETY_RESET),
                (Order.HOME, names.ARM_HOME),
            )
        }
        self._stop_homing = node.create_client(Trigger, names.ARM_HOME_CANCEL)
        self._is_homing = False
        self._loaders = [node.create_client(LoadModel, n) for n in (names.SAFETY_LOAD_MODEL, names.POLICY_LOAD_MODEL)]
        self._list = node.create_client(ListModels, names.MODELS_LIST)
        self._promotion = node.create_client(LoadModel, names.MODELS_PROMOTE)
        self._rollback = node.create_client(Trigger, names.MODELS_ROLLBACK)
        node.create_subscription(PolicyDecision, names.POLICY_DECISION, self._on_decision, qos.DECISION)
        node.create_subscription(SafetyStatus, names.SAFETY_STATUS, self._on_status, qos.STATUS)
        self._waits = Waits(time.monotonic)
        # A simulated clock may stand still; people who wait for an answer don't.
        node.create_timer(_POLL_S, self._waits.poll, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def sight(self) -> Sight:
        """What to show now."""
        return sight(self._decision, self._status)

    def carry_out(self, order: Order, say: Callable[[str], None], done: Callable[[str], None]) -> None:
        """Begin an order; see ``Hands``."""

        def end(text: str) -> None:
            done(f"{order.value}: {text}")

        def tell(text: str) -> None:
            say(f"{order.value}: {text}")

        if order is Order.HOME:
            self._home(tell, end)
        elif order in self._triggers:
            client = self._triggers[order]
            self._call(client, Trigger.Request(), lambda answer: end(answer.message), tell, end, ANSWER_S)
        elif order is Order.RUN:
            goal = RunEpisodes.Goal(scene=self._scene, count=self._count(), seed=self._seed)
            self._send(self._episodes, names.RUN_EPISODES, goal, say, done, tell, end, _episode_progress)
            self._seed += self._count()
        elif order is Order.FINE_TUNE:
            self._send(self._trainer, names.FINE_TUNE, FineTune.Goal(), say, done, tell, end, _round_progress)
        elif order is Order.CANCEL:
            self._cancel(tell, end)
        elif order is Order.PROMOTE:
            self._promote(tell, end)
        else:
            self._roll_back(tell, end)

    def _home(self, tell: Callable[[str], None], end: Callable[[str], None]) -> None:
        def ended(text: str) -> None:
            self._is_homing = False
            end(text)

        self._is_homing = True
        request, client = Trigger.Request(), self._triggers[Order.HOME]
        self._call(client, request, lambda answer: ended(answer.message), tell, ended, HOME_S)

    def _cancel(self, tell: Callable[[str], None], end: Callable[[str], None]) -> None:
        if self._is_homing:
            self._call(self._stop_homing, Trigger.Request(), lambda answer: end(answer.message), tell, end, ANSWER_S)
        elif self._run is None:
            end("nothing is running")
        else:
            self._run.cancel()
            tell("asked")

    def _promote(self, tell: Callable[[str], None], end: Callable[[str], None]) -> None:
        """The newest model: what waits after a round, by the trainer, which knows it, or what graphs start with."""

        def listed(answer: Any) -> None:
            waiting = to_promote(answer.models)
            if waiting:
                request = LoadModel.Request(bundle=waiting)
                self._call(self._promotion, request, lambda done: end(done.message), tell, end, SWAP_S)
            else:
                self._load_newest(tell, end)

        self._ask_trainer(listed, self._load_newest, tell, end)

    def _roll_back(self, tell: Callable[[str], None], end: Callable[[str], None]) -> None:
        """What came from a round is taken back by the trainer, so that no graph starts with it again."""

        def listed(answer: Any) -> None:
            if may_take_back(answer.models, answer.active):
                self._call(self._rollback, Trigger.Request(), lambda done: end(done.message), tell, end, SWAP_S)
            else:
                self._load_earlier(tell, end)

        self._ask_trainer(listed, self._load_earlier, tell, end)

    def _ask_trainer(
        self,
        listed: Callable[[Any], None],
        without: Callable[[Callable[[str], None], Callable[[str], None]], None],
        tell: Callable[[str], None],
        end: Callable[[str], None],
    ) -> None:
        """Go on with the trainer's list of models, or in another way where there is no trainer."""
        if self._list.service_is_ready():
            self._call(self._list, ListModels.Request(), listed, tell, end, ANSWER_S)
        else:
            without(tell, end)

    def _load_newest(self, tell: Callable[[str], None], end: Callable[[str], None]) -> None:
        try:
            target = newest(self._models_root).resolve().relative_to(self._models_root.resolve())
        except BundleError as error:
            end(str(error))
        else:
            self._load(str(target), tell, end)

    def _load_earlier(self, tell: Callable[[str], None], end: Callable[[str], None]) -> None:
        earlier = [f"{task.TASK}/{name}" for name in self._seen[:-1]]
        there = [bundle for bundle in earlier if (self._models_root / bundle).is_dir()]
        if there:
            self._load(there[-1], tell, end)
        else:
            end("no earlier model is known here")

    def _load(self, bundle: str, tell: Callable[[str], None], end: Callable[[str], None]) -> None:
        """Load into the monitor, then into the policy; when the policy does not, the monitor goes back."""
        monitor, policy = self._loaders
        before = f"{task.TASK}/{self._seen[-1]}" if self._seen else ""

        def failed(text: str) -> None:
            if before:
                monitor.call_async(LoadModel.Request(bundle=before))
            end(text)

        def policy_answered(answer: Any) -> None:
            if answer.success:
                end(f"{bundle} is active")
            else:
                failed(f"the policy refused: {answer.message}")

        def monitor_answered(answer: Any) -> None:
            if answer.success:
                self._call(policy, LoadModel.Request(bundle=bundle), policy_answered, tell, failed, LOAD_S)
            else:
                end(f"the monitor refused: {answer.message}")

        self._call(monitor, LoadModel.Request(bundle=bundle), monitor_answered, tell, end, LOAD_S)

    def _call(
        self,
        client: Any,
        request: Any,
        then: Callable[[Any], None],
        tell: Callable[[str], None],
        end: Callable[[str], None],
        answer_s: float,
    ) -> None:
        """Ask a service as soon as it is known; ``then`` gets the answer, ``end`` why there is none."""
        name = client.srv_name

        def send() -> None:
            future = client.call_async(request)

            def given_up(reason: str) -> None:
                client.remove_pending_request(future)
                end(reason)

            silent = self._waits.after(answer_s, f"{name} did not answer within {answer_s:g} s")
            gone = self._waits.absent(client.service_is_ready, GONE_S, f"{name} went away before it answered")
            self._waits.add(future.done, lambda: then(future.result()), any_of(silent, gone), given_up)

        if not client.service_is_ready():
            tell(f"waiting for {name}")
        absent = self._waits.after(KNOWN_S, _nobody(name))
        self._waits.add(client.service_is_ready, send, absent, end)

    def _send(
        self,
        client: Any,
        name: str,
        goal: Any,
        say: Callable[[str], None],
        done: Callable[[str], None],
        tell: Callable[[str], None],
        end: Callable[[str], None],
        progress: Callable[[Any], str],
    ) -> None:
        """Send a goal as soon as its server is known, and wait for the result for as long as the server is there."""
        run = self._run = _Run(self._waits)

        def finished(text: str) -> None:
            self._run = None
            done(text)

        def lost(reason: str) -> None:
            self._run = None
            end(reason)

        def accepted(handle: Any) -> None:
            if not handle.accepted:
                lost("refused; another run may be going on")
                return
            run.on_accepted(handle)
            result = handle.get_result_async()
            gone = self._waits.absent(client.server_is_ready, GONE_S, f"{name} went away while it ran")
            over = any_of(run.unanswered(f"{name} does not answer the request to cancel"), gone)
            self._waits.add(result.done, lambda: finished(result.result().result.message), over, lost)

        def send() -> None:
            sent = client.send_goal_async(
                goal, feedback_callback=lambda message: say(progress(message.feedback)) if self._run is run else None
            )

            def given_up(reason: str) -> None:
                # What is accepted after all would run behind the operator's back.
                sent.add_done_callback(_cancel_when_accepted)
                lost(reason)

            silent = self._waits.after(ANSWER_S, f"{name} did not answer within {ANSWER_S:g} s")
            self._waits.add(sent.done, lambda: accepted(sent.result()), silent, given_up)

        if not client.server_is_ready():
            tell(f"waiting for {name}")
        absent = self._waits.after(KNOWN_S, _nobody(name))
        self._waits.add(client.server_is_ready, send, any_of(run.cancelled, absent), lost)

    def _on_decision(self, message: PolicyDecision) -> None:
        self._decision = message

    def _on_status(self, message: SafetyStatus) -> None:
        if message.model_id and (not self._seen or self._seen[-1] != message.model_id):
            self._seen = with_seen(self._seen, message.model_id)
        self._status = message


class _Run:
    """An order that can be cancelled, from before its server is known until its result is there."""

    def __init__(self, waits: Waits) -> None:
        self._waits = waits
        self._handle: Any = None
        self._too_late: Callable[[], str] | None = None
        self._is_cancelled = False

    def cancel(self) -> None:
        self._is_cancelled = True
        if self._handle is not None:
            self._ask()

    def cancelled(self) -> str:
        """Why not to begin."""
        return "cancelled before it began" if self._is_cancelled else ""

    def on_accepted(self, handle: Any) -> None:
        self._handle = handle
        if self._is_cancelled:
            self._ask()

    def unanswered(self, reason: str) -> Callable[[], str]:
        """Gives the reason when the request to cancel has had no effect."""
        return lambda: reason if self._too_late is not None and self._too_late() else ""

    def _ask(self) -> None:
        self._handle.cancel_goal_async()
        self._too_late = self._too_late or self._waits.after(ANSWER_S, "late")


def _cancel_when_accepted(future: Any) -> None:
    handle = future.result()
    if handle is not None and handle.accepted:
        handle.cancel_goal_async()


def _nobody(name: str) -> str:
    return f"nobody offered {name} within {KNOWN_S:g} s; is the graph running?"


def _episode_progress(feedback: Any) -> str:
    return f"episode {feedback.episode + 1} of {feedback.count}, step {feedback.step}"


def _round_progress(feedback: Any) -> str:
    losses = dict(zip(feedback.loss_names, feedback.losses, strict=False))
    told = f"fine-tuning: {feedback.stage.replace('_', ' ')} {feedback.step} of {feedback.steps}"
    told += f", loss {losses['loss']:.3g}" if "loss" in losses else ""
    return told + (f", {feedback.seconds_left:.0f} s left" if math.isfinite(feedback.seconds_left) else "")
