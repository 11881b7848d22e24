"""The trainer node: the FineTune action. One round at a time, in a thread of its own, in a process that yields.

A goal that cannot be run (another round going on, no episodes) is accepted and aborted at once, because only the result
of an action can carry a reason to the caller.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import rclpy
from rclpy.action.server import ActionServer, CancelResponse, ServerGoalHandle
from rclpy.client import Client
from rclpy.task import Future

from fosp_core import models, task
from fosp_core.bundle import BundleError, newest
from fosp_interfaces.action import FineTune
from fosp_interfaces.msg import SafetyStatus
from fosp_interfaces.srv import LoadModel
from fosp_ros import names, qos, runner
from fosp_ros.diagnostics import Diagnostics, Health, Level
from fosp_ros.errors import ConfigurationError
from fosp_ros.lifecycle import AUTOSTART, ManagedNode
from fosp_ros.parameters import Parameter, Parameters
from fosp_trainer.errors import UserError
from fosp_trainer.swap import Loader, Reply, swap

Handle: TypeAlias = "ServerGoalHandle[Any, Any, Any]"

SERVICE_TIMEOUT_S: Final = 15.0
BUSY: Final = "an episode is running"
"""What a node says that changes its model at rest only."""

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
        self._thread: threading.Thread | None = None
        self._cancelled = threading.Event()
        self._closing = False
        self._stage = "idle"
        self._last_result = "no round yet"
        self._model_id = ""
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
        self._diagnostics = Diagnostics(self, self._health)
        if self._p.boolean("autostart"):
            self.start()

    def configure(self) -> None:
        """Look at the models folder and remove what a killed round left there."""
        if not self._models_root.is_dir():
            raise ConfigurationError(f"parameter 'models_root': {self._models_root} is no folder")
        for left in models.clean(self._models_root):
            self.get_logger().warning(f"removed what an interrupted round left: {left.name}")

    def deactivate(self) -> None:
        """Cancel a round that is going on."""
        self._cancelled.set()

    def close(self) -> None:
        """Cancel a round that is going on and wait for its end."""
        self._closing = True
        self._cancelled.set()
        if self._thread is not None:
            self._thread.join(timeout=10.0)
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
        self._active = handle
        self._cancelled.clear()
        done: Future[_End] = Future(executor=self.executor)
        self._thread = threading.Thread(target=lambda: done.set_result(self._run(handle)), name="round", daemon=True)
        self._thread.start()
        end = await done or _End(False, "the round was lost")
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

    def _round(self, handle: Handle) -> _End:
        # torch takes seconds to import: the node answers before that
        import torch

        from fosp_trainer import gate, rounds

        torch.set_num_threads(self._p.integer("threads"))
        request = handle.request
        current = self._current()
        order = rounds.Order(
            models_root=self._models_root,
            current=current,
            runs=rounds.resolve_runs(self._records_root, list(request.episodes)),
            steps=int(request.steps),
            seed=int(request.seed),
            datasets=tuple(name for name in self._p.string("datasets").split(":") if name),
            paired_episodes=self._p.integer("paired_episodes"),
            settings=gate.Settings(
                confidence=self._p.float("confidence"), violation_margin=self._p.float("violation_margin")
            ),
        )
        self.get_logger().info(f"fine-tuning {current.name} on {', '.join(run.name for run in order.runs)}")

        def on_step(progress: Any) -> bool:
            self._tell(handle, progress.stage, progress.step, progress.steps, progress.losses, progress.seconds_left)
            return not self._cancelled.is_set()

        outcome = rounds.run_round(order, on_step)
        report = json.dumps(outcome.verdict.to_json())
        name = outcome.bundle.id
        waiting = f"{task.TASK}/{models.ROUNDS}/{name}"
        if not outcome.verdict.promoted:
            self._prune(current.name)
            return _End(False, outcome.message, waiting, report=report)
        if int(request.promote) == FineTune.Goal.MANUAL:
            return _End(True, f"{outcome.message}; it waits for an operator", waiting, report=report)
        self._tell(handle, "swap", 0, 1, {}, float("nan"))
        models.promote(self._models_root, name)
        swapped = swap(
            [Loader(node, partial(self._load, client)) for node, client in self._loaders],
            f"{task.TASK}/{name}",
            f"{task.TASK}/{current.name}",
        )
        if not swapped.success:
            models.retire(self._models_root, name)
            return _End(False, f"{outcome.message}; not swapped: {swapped.message}", waiting, report=report)
        self._prune(current.name)
        self._tell(handle, "swap", 1, 1, {}, 0.0)
        return _End(True, f"{outcome.message}; {swapped.message}", f"{task.TASK}/{name}", True, report)

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
    # waiting threads that spin would starve the control loop; read when torch is first imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return runner.run(TrainerNode, names.TRAINER_NODE, args)


if __name__ == "__main__":
    sys.exit(main())
