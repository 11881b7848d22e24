"""The trainer node: the FineTune action, and services for the models folder. It is a process that yields.

One round at a time, and one change of the model at a time, each in a thread of its own. A change that was interrupted,
because this process was killed, is ended by the next one before anything else.

A goal that cannot be run (another round going on, no episodes) is accepted and aborted at once, because only the result
of an action can carry a reason to the caller.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import rclpy
from rclpy.action.server import ActionServer, CancelResponse, ServerGoalHandle
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.client import Client
from rclpy.task import Future
from std_srvs.srv import Trigger

from fosp_core import models, task
from fosp_core.bundle import BundleError, newest
from fosp_interfaces.action import FineTune
from fosp_interfaces.msg import ModelEntry, SafetyStatus
from fosp_interfaces.srv import DiffModels, ListModels, LoadModel, ShowModel
from fosp_ros import names, qos, runner
from fosp_ros.diagnostics import Diagnostics, Health, Level
from fosp_ros.errors import BUSY, ConfigurationError
from fosp_ros.lifecycle import AUTOSTART, ManagedNode
from fosp_ros.parameters import Parameter, Parameters
from fosp_trainer import process
from fosp_trainer.errors import UserError
from fosp_trainer.swap import Loader, Reply, Swapped, change, finish_interrupted

if TYPE_CHECKING:
    from fosp_trainer.replay import Replay

Handle: TypeAlias = "ServerGoalHandle[Any, Any, Any]"

SERVICE_TIMEOUT_S: Final = 15.0
AGAIN_S: Final = 2.0
"""Pause between two attempts to end an interrupted change of the model."""

PARAMETERS: Final = (
    AUTOSTART,
    Parameter("models_root", "models", "Folder of the model bundles.", read_only=True),
    Parameter("records_root", "runs/records", "Folder of the recorded runs.", read_only=True),
    Parameter(
        "datasets", "", "Minari datasets of earlier episodes to mix in, separated by ':'; empty: none.", read_only=True
    ),
    Parameter("threads", 1, "Threads of the gradient steps.", low=1, high=64, read_only=True),
    Parameter(
        "paired_episodes",
        40,
        "Episodes that the gate runs in simulation under both models; 0 where there is no simulation.",
        low=0,
        high=1000,
    ),
    Parameter("confidence", 0.9, "Of the gate's one-sided bounds.", low=0.5, high=0.999),
    Parameter("violation_margin", 0.1, "Rise of the violation rate that counts as not worse.", low=0.001, high=1.0),
    Parameter(
        "latency_limit_ms", 20.0, "Median policy step that a new model may take at most.", "ms", low=0.1, high=1000.0
    ),
    Parameter(
        "latency_ratio", 1.5, "How many times the current model's median policy step it may take.", low=1.0, high=100.0
    ),
    Parameter("kept_rounds", models.KEPT, "Models of rounds that are kept.", low=1, high=1000),
    Parameter(
        "rest_timeout_s", 60.0, "Longest wait for the end of an episode before a swap.", "s", low=0.0, high=3600.0
    ),
)


@dataclass(frozen=True)
class _End:
    success: bool
    message: str
    bundle: str = ""
    active: bool = False
    report: str = ""


class TrainerNode(ManagedNode):
    """Runs fine-tune rounds and swaps the model of policy and monitor."""

    def __init__(self) -> None:
        super().__init__(names.TRAINER_NODE)
        self._p = Parameters(self, PARAMETERS)
        self._models_root = Path(self._p.string("models_root")).expanduser().absolute()
        self._records_root = Path(self._p.string("records_root")).expanduser().absolute()
        self._active: Handle | None = None
        self._threads: list[threading.Thread] = []
        self._cancelled = threading.Event()
        self._closing = False
        self._stage = "idle"
        self._last_result = "no round yet"
        self._model_id = ""
        self._changing = threading.Lock()
        self._recovery: threading.Thread | None = None
        self._preparation: threading.Thread | None = None
        self._replay: Replay | None = None
        self._loaders: list[tuple[str, Client[Any, Any]]] = [
            (names.SAFETY_MONITOR, self.create_client(LoadModel, names.SAFETY_LOAD_MODEL)),
            (names.POLICY_NODE, self.create_client(LoadModel, names.POLICY_LOAD_MODEL)),
        ]
        self.create_subscription(SafetyStatus, names.SAFETY_STATUS, self._on_status, qos.STATUS)
        self._server = ActionServer(
            self,
            FineTune,
            names.FINE_TUNE,
            execute_callback=self._execute,
            handle_accepted_callback=lambda handle: handle.execute(),
            cancel_callback=self._on_cancel,
        )
        self.create_service(ListModels, names.MODELS_LIST, self._on_list)
        self.create_service(ShowModel, names.MODELS_SHOW, self._on_show)
        self.create_service(DiffModels, names.MODELS_DIFF, self._on_diff)
        # these wait for answers of other nodes, which must be heard meanwhile
        apart = MutuallyExclusiveCallbackGroup()
        self.create_service(LoadModel, names.MODELS_PROMOTE, self._on_promote, callback_group=apart)
        self.create_service(Trigger, names.MODELS_ROLLBACK, self._on_rollback, callback_group=apart)
        self._diagnostics = Diagnostics(self, self._health)
        if self._p.boolean("autostart"):
            self.start()

    def configure(self) -> None:
        """Look at the models folder and remove what a killed round left there."""
        if not self._models_root.is_dir():
            raise ConfigurationError(f"parameter 'models_root': {self._models_root} is no folder")
        for left in models.clean(self._models_root):
            self.get_logger().warning(f"removed what an interrupted round left: {left.name}")

    def activate(self) -> None:
        """End a change of the model that a killed process began, and make ready for rounds."""
        if self._preparation is None:
            self._preparation = self._begin(self._prepare, "preparation")
        if models.unfinished_swap(self._models_root) is not None:
            self._recovery = self._begin(self._recover, "recovery")

    def deactivate(self) -> None:
        """Cancel a round that is going on."""
        self._cancelled.set()

    def close(self) -> None:
        """Cancel a round that is going on and wait for its end."""
        self._closing = True
        self._cancelled.set()
        for thread in self._threads:
            thread.join(timeout=10.0)
        self._server.destroy()

    def _on_status(self, message: SafetyStatus) -> None:
        self._model_id = message.model_id

    # --- the action --------------------------------------------------------------------------------------------

    def _on_cancel(self, handle: Handle) -> CancelResponse:
        if handle is not self._active:
            return CancelResponse.REJECT
        self._cancelled.set()
        return CancelResponse.ACCEPT

    async def _execute(self, handle: Handle) -> FineTune.Result:
        if not self.is_active:
            return self._refuse(handle, "the trainer is not active")
        if self._active is not None:
            return self._refuse(handle, "another round is going on; cancel it or wait for its end")
        if self._recovering:
            return self._refuse(handle, "an interrupted change of the model is being ended; ask again")
        self._active = handle
        self._cancelled.clear()
        end = await self._apart(lambda: self._run(handle)) or _End(False, "the round was lost")
        self._active, self._stage, self._last_result = None, "idle", end.message
        if end.success:
            self.get_logger().info(end.message)
            handle.succeed()
        else:
            self.get_logger().warning(end.message)
            handle.canceled() if handle.is_cancel_requested else handle.abort()
        return FineTune.Result(
            success=end.success, message=end.message, bundle=end.bundle, active=end.active, gate_report=end.report
        )

    def _refuse(self, handle: Handle, reason: str) -> FineTune.Result:
        self.get_logger().warning(f"refused: {reason}")
        handle.abort()
        return FineTune.Result(success=False, message=f"refused: {reason}")

    # --- a round, in its thread --------------------------------------------------------------------------------

    def _run(self, handle: Handle) -> _End:
        # Also because of what it imports: two threads that import torch at once see halves of it.
        while self._preparation is not None and self._preparation.is_alive():
            self._tell(handle, "preparing", 0, 1, {}, float("nan"))
            self._preparation.join(0.5)
            if self._cancelled.is_set():
                return _End(False, "cancelled while earlier episodes were read; the model stays as it was")
        from fosp_trainer.fine_tune import Cancelled

        try:
            return self._round(handle)
        except Cancelled as error:
            return _End(False, f"{error}; the model stays as it was")
        except (UserError, BundleError) as error:
            return _End(False, str(error))
        except Exception as error:
            self.get_logger().error(f"the round failed: {type(error).__name__}: {error}")
            return _End(False, f"internal error: {type(error).__name__}: {error}")

    def _prepare(self) -> None:
        """What takes long and is the same for every round: importing torch, reading earlier episodes."""
        from fosp_trainer import rounds
        from fosp_trainer.fine_tune import Cancelled

        def tick(_: int) -> None:
            if self._closing:
                raise Cancelled("the trainer ends")

        try:
            self._set_threads()
            self._replay = rounds.prepare(self._current(), self._datasets, tick)
        except Cancelled:
            pass
        except Exception as error:
            # a round tries again, and says it to who asked for it
            self.get_logger().warning(f"rounds are not prepared: {error}")

    def _round(self, handle: Handle) -> _End:
        from fosp_trainer import gate, rounds

        self._set_threads()
        request = handle.request
        current = self._current()
        order = rounds.Order(
            models_root=self._models_root,
            current=current,
            runs=rounds.resolve_runs(self._records_root, list(request.episodes)),
            steps=int(request.steps),
            seed=int(request.seed),
            datasets=self._datasets,
            paired_episodes=self._p.integer("paired_episodes"),
            settings=gate.Settings(
                confidence=self._p.float("confidence"),
                violation_margin=self._p.float("violation_margin"),
                latency_ms=self._p.float("latency_limit_ms"),
                latency_ratio=self._p.float("latency_ratio"),
            ),
        )
        self.get_logger().info(f"fine-tuning {current.name} on {', '.join(run.name for run in order.runs)}")

        def on_step(progress: Any) -> bool:
            self._tell(handle, progress.stage, progress.step, progress.steps, progress.losses, progress.seconds_left)
            return not self._cancelled.is_set()

        outcome = rounds.run_round(order, on_step, self._replay)
        report = json.dumps(outcome.verdict.to_json())
        name = outcome.bundle.id
        waiting = f"{task.TASK}/{models.ROUNDS}/{name}"
        if not outcome.verdict.promoted:
            self._prune(current.name)
            return _End(False, outcome.message, waiting, report=report)
        if int(request.promote) == FineTune.Goal.MANUAL:
            return _End(True, f"{outcome.message}; it waits for an operator", waiting, report=report)
        self._tell(handle, "swap", 0, 1, {}, float("nan"))
        with self._changing:
            now = self._current().name
            if now != current.name:
                told = f"the model was changed to {now} meanwhile; {name} waits for an operator"
                return _End(False, f"{outcome.message}; {told}", waiting, report=report)
            swapped = self._change(name, now, lambda: models.promote(self._models_root, name))
        if not swapped.success:
            return _End(False, f"{outcome.message}; not swapped: {swapped.message}", waiting, report=report)
        self._prune(current.name)
        self._tell(handle, "swap", 1, 1, {}, 0.0)
        return _End(True, f"{outcome.message}; {swapped.message}", f"{task.TASK}/{name}", True, report)

    @property
    def _datasets(self) -> tuple[str, ...]:
        return tuple(name for name in self._p.string("datasets").split(":") if name)

    def _set_threads(self) -> None:
        import torch

        torch.set_num_threads(self._p.integer("threads"))

    # --- the models folder -------------------------------------------------------------------------------------

    def _on_list(self, request: ListModels.Request, response: ListModels.Response) -> ListModels.Response:
        response.active = self._model_id
        for entry in models.catalogue(self._models_root):
            bundle = str(entry.path.relative_to(self._models_root))
            told = ModelEntry(id=entry.id, bundle=bundle, state=entry.state, created=entry.created, parent=entry.parent)
            told.reasons = list(entry.reasons)
            response.models.append(told)
        return response

    def _on_show(self, request: ShowModel.Request, response: ShowModel.Response) -> ShowModel.Response:
        try:
            response.content = json.dumps(models.find(self._models_root, request.id).facts)
            response.success = True
        except BundleError as error:
            response.message = str(error)
        return response

    def _on_diff(self, request: DiffModels.Request, response: DiffModels.Response) -> DiffModels.Response:
        try:
            pair = [models.find(self._models_root, name) for name in (request.first, request.second)]
            response.differences = models.differences(*pair)
            response.success = True
        except BundleError as error:
            response.message = str(error)
        return response

    async def _on_promote(self, request: LoadModel.Request, response: LoadModel.Response) -> LoadModel.Response:
        done = await self._apart(partial(self._ordered, partial(self._promote, request.bundle.rsplit("/", 1)[-1])))
        response.success, response.message = done.success, done.message
        response.model_id = self._model_id
        return response

    async def _on_rollback(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        done = await self._apart(partial(self._ordered, self._roll_back))
        response.success, response.message = done.success, done.message
        return response

    def _ordered(self, work: Callable[[], Swapped]) -> Swapped:
        """A change that an operator asked for, unless one is going on."""
        if not self.is_active:
            return Swapped(False, "refused: the trainer is not active")
        if self._recovering or not self._changing.acquire(blocking=False):
            return Swapped(False, "refused: another change of the model is going on; ask again")
        try:
            done = work()
        except (UserError, BundleError, OSError) as error:
            done = Swapped(False, f"refused: {error}")
        except Exception as error:
            done = Swapped(False, f"internal error: {type(error).__name__}: {error}")
        finally:
            self._changing.release()
        self.get_logger().info(done.message) if done.success else self.get_logger().warning(done.message)
        return done

    def _promote(self, name: str) -> Swapped:
        """Bring a bundle that waits into use."""
        entry = models.find(self._models_root, name)
        if entry.state != "waiting":
            told = f": {'; '.join(entry.reasons)}" if entry.reasons else ""
            raise UserError(f"{name} does not wait for an operator, it is {entry.state}{told}")
        return self._change(name, self._current().name, lambda: models.promote(self._models_root, name))

    def _roll_back(self) -> Swapped:
        """Go back to the bundle before the newest, where that came from a round."""
        gone, before = models.way_back(self._models_root)
        done = self._change(before.id, gone.id, lambda: models.retire(self._models_root, gone.id))
        return Swapped(done.success, f"{done.message}; {gone.id} taken back" if done.success else done.message)

    def _change(self, new: str, old: str, commit: Callable[[], object]) -> Swapped:
        done = change(self._models_root, self._nodes(), new, old, commit)
        if done.success:
            self._model_id = new
        return done

    def _nodes(self) -> list[Loader]:
        return [Loader(node, partial(self._load, client)) for node, client in self._loaders]

    @property
    def _recovering(self) -> bool:
        return self._recovery is not None and self._recovery.is_alive()

    def _recover(self) -> None:
        """Until it is done, or the node ends; the nodes may still be starting, or an episode may be running."""
        told = ""
        while not self._closing:
            try:
                # whatever was interrupted, nodes that run a model are what is to be brought together
                if self._model_id:
                    with self._changing:
                        done = finish_interrupted(self._models_root, self._nodes(), self._model_id)
                    if done:
                        self.get_logger().warning(done)
                    return
            except (BundleError, OSError) as error:
                if str(error) != told:
                    told = str(error)
                    self.get_logger().warning(f"an interrupted change of the model is not ended yet: {error}")
            time.sleep(AGAIN_S)

    async def _apart(self, work: Callable[[], Any]) -> Any:
        """Result of ``work``, which runs in a thread of its own while the node goes on."""
        done: Future[Any] = Future(executor=self.executor)

        def run() -> None:
            done.set_result(work())
            # a future that is awaited does not wake its executor
            if rclpy.ok() and self.executor is not None:
                self.executor.wake()

        self._begin(run, "work")
        return await done

    def _begin(self, work: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads = [*(t for t in self._threads if t.is_alive()), thread]
        thread.start()
        return thread

    def _current(self) -> Path:
        """The bundle that the monitor runs; the newest when no monitor was heard."""
        if not self._model_id:
            return newest(self._models_root)
        path = models.find(self._models_root, self._model_id).path
        if path.parent != self._models_root / task.TASK:
            raise UserError(
                f"the monitor runs {self._model_id}, which is not in use any more; load another model first"
            )
        return path

    def _prune(self, current: str) -> None:
        gone = models.prune(self._models_root, self._p.integer("kept_rounds"), protect=(current, self._model_id))
        if gone:
            self.get_logger().info(f"deleted old models of rounds: {', '.join(gone)}")

    def _load(self, client: Client[Any, Any], bundle: str) -> Reply:
        """Ask a node to load a bundle; waits for the end of an episode."""
        limit = time.monotonic() + self._p.float("rest_timeout_s")
        while True:
            reply = self._ask(client, bundle)
            if BUSY not in reply.message or time.monotonic() > limit or self._cancelled.is_set():
                return reply
            time.sleep(0.2)

    def _ask(self, client: Client[Any, Any], bundle: str) -> Reply:
        limit = time.monotonic() + SERVICE_TIMEOUT_S
        while not client.service_is_ready():
            if self._closing or time.monotonic() > limit:
                return Reply(False, f"{client.service_name} does not answer")
            time.sleep(0.05)
        finished = threading.Event()
        future = client.call_async(LoadModel.Request(bundle=bundle))
        future.add_done_callback(lambda _: finished.set())
        while not finished.wait(0.05):
            if self._closing or time.monotonic() > limit:
                client.remove_pending_request(future)
                return Reply(False, f"{client.service_name} does not answer")
        answer = future.result()
        return Reply(bool(answer.success), str(answer.message))

    def _tell(
        self, handle: Handle, stage: str, step: int, steps: int, losses: dict[str, float], seconds_left: float
    ) -> None:
        self._stage = stage
        if rclpy.ok() and not self._closing:
            feedback = FineTune.Feedback(stage=stage, step=step, steps=steps, seconds_left=seconds_left)
            feedback.loss_names, feedback.losses = list(losses), list(losses.values())
            handle.publish_feedback(feedback)

    def _health(self) -> Health:
        values = {"last_result": self._last_result, "model_id": self._model_id}
        if not self.is_active:
            return Health(Level.WARN, "not active", values)
        return Health(Level.OK, self._stage, values)


def main(args: list[str] | None = None) -> int:
    """Entry point of the executable ``trainer_node``."""
    process.prepare()
    return runner.run(TrainerNode, names.TRAINER_NODE, args)


if __name__ == "__main__":
    sys.exit(main())
