"""Episode node: the RunEpisodes action. It wires ROS to ``EpisodeRun``, which holds the sequence.

One run at a time. A goal that cannot be run (unknown scene, another run going on) is accepted and aborted at once,
because only the result of an action can carry a reason to the caller.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import rclpy
from geometry_msgs.msg import TwistStamped
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.action.server import ActionServer, CancelResponse, ServerGoalHandle
from rclpy.client import Client
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_srvs.srv import Trigger

from fosp_core.episode import EpisodeError
from fosp_core.images import ImageError, crop_resize
from fosp_core.task import IMAGE_SIZE
from fosp_episodes import messages
from fosp_episodes.mcap_log import LoggedMessage
from fosp_episodes.recorder import EpisodeRecorder
from fosp_episodes.sequence import EpisodeRun, Goal, Interrupted, Outcome, Progress, Reply, Settings, View
from fosp_episodes.spool import Spool, recover
from fosp_episodes.storage import FolderStore, Retention, StorageError, make_folder, write_json, write_minari
from fosp_interfaces.action import RunEpisodes
from fosp_interfaces.msg import PolicyDecision, SafetyStatus, TaskState
from fosp_interfaces.srv import ResetScene
from fosp_ros import images, names, qos, runner, stamps
from fosp_ros.diagnostics import Diagnostics, Health, Level
from fosp_ros.errors import ConfigurationError
from fosp_ros.parameters import Parameter, Parameters
from fosp_ros.polling import Listener, RawSubscription

if TYPE_CHECKING:
    from rclpy.subscription import MessageInfo

Handle: TypeAlias = "ServerGoalHandle[Any, Any, Any]"
Stream: TypeAlias = tuple[RawSubscription, Callable[[Any], None]]

QUEUE_DEPTH: Final = 50
SERVICE_TIMEOUT_S: Final = 5.0
RAW_IMAGE_LIMIT: Final = 64_000
"""Images of more bytes are recorded as JPEG."""
SELECTION_MODE: Final = "selection_mode"
REFUSE: Final = "refuse"
DELETE_OLDEST: Final = "delete_oldest"

PARAMETERS: Final = (
    Parameter("records_root", "runs/records", "Folder that each run gets a folder of records in.", read_only=True),
    Parameter("record_messages", True, "Write the ROS messages of each episode to an MCAP file.", read_only=True),
    Parameter("write_dataset", True, "Write the episodes of a run as a Minari dataset too."),
    Parameter("record_overview", True, "Record the overview camera too.", read_only=True),
    Parameter(
        "memory_limit_mb",
        500,
        "Messages of one episode that are kept at most.",
        "MB",
        low=10,
        high=8000,
        read_only=True,
    ),
    Parameter("quota_gb", 20.0, "What all runs together may take; 0: no limit but the disk.", "GB", low=0.0, high=1e6),
    Parameter(
        "retention",
        REFUSE,
        "When the quota is reached: refuse more episodes, or delete the oldest runs (not those with a file KEEP).",
        choices=(REFUSE, DELETE_OLDEST),
    ),
    Parameter("ready_timeout_s", 15.0, "Longest wait for a new scene or the monitor.", "s", low=1.0, high=300.0),
    Parameter("episode_timeout_s", 60.0, "Longest episode.", "s", low=1.0, high=3600.0),
    Parameter("silence_s", 3.0, "A part silent for so long in an episode is lost.", "s", low=0.5, high=60.0),
    Parameter("halt_tail_s", 0.5, "Time recorded after a halt.", "s", low=0.0, high=10.0),
    Parameter("reset_attempts", 10, "Attempts to reset the monitor after a halt.", low=1, high=1000),
    Parameter("reset_pause_s", 0.5, "Pause between two attempts.", "s", low=0.1, high=10.0),
)


class EpisodeNode(Node):
    """Runs, labels and stores episodes."""

    def __init__(self) -> None:
        super().__init__(names.EPISODE_NODE)
        self._settings = Parameters(self, PARAMETERS)
        self._root = Path(self._settings.string("records_root")).expanduser().absolute()
        self._record_messages = self._settings.boolean("record_messages")
        self._memory_limit = self._settings.integer("memory_limit_mb") * 1_000_000
        if self._record_messages:
            _require_mcap()
        try:
            make_folder(self._root)
        except StorageError as error:
            raise ConfigurationError(f"parameter 'records_root': {error}") from error
        self._recover()

        self._simulated_time = bool(self.get_parameter("use_sim_time").value)
        self.view = View()
        self._changed = threading.Condition()
        self._recorder: EpisodeRecorder | None = None
        self._log: list[LoggedMessage] = []
        self._log_bytes = 0
        self._store: FolderStore | None = None
        self._spool: Spool | None = None
        self._interruption = ""
        self._closing = False
        self._active: Handle | None = None
        self._thread: threading.Thread | None = None
        self._last_result = "no run yet"
        self._selection_mode = ""

        self._reset_scene: Client[Any, Any] = self.create_client(ResetScene, names.SCENE_RESET)
        self._start_scene: Client[Any, Any] = self.create_client(Trigger, names.SCENE_START)
        self._stop_scene: Client[Any, Any] = self.create_client(Trigger, names.SCENE_STOP)
        self._reset_monitor: Client[Any, Any] = self.create_client(Trigger, names.SAFETY_RESET)
        # Relative: the policy node of the same namespace.
        policy = names.POLICY_NODE
        self._get_policy: Client[Any, Any] = self.create_client(GetParameters, f"{policy}/get_parameters")
        self._set_policy: Client[Any, Any] = self.create_client(SetParameters, f"{policy}/set_parameters")

        streams = [
            self._stream(TaskState, names.TASK_STATE, qos.TASK_STATE, self._on_task),
            self._stream(PolicyDecision, names.POLICY_DECISION, qos.DECISION, self._on_decision),
            self._stream(SafetyStatus, names.SAFETY_STATUS, qos.STATUS, self._on_status),
            self._stream(TwistStamped, names.ARM_COMMAND, qos.COMMAND, self._on_command),
            self._stream(JointState, names.JOINT_STATES, qos.JOINT_STATES),
            self._stream(Image, names.CAMERA_IMAGE, qos.IMAGE, self._on_image),
            self._stream(CameraInfo, names.CAMERA_INFO, qos.IMAGE),
        ]
        if self._settings.boolean("record_overview"):
            streams.append(self._stream(Image, names.OVERVIEW_IMAGE, qos.IMAGE))
        self._streams = Listener(self, streams, self._on_stream_error, "streams", every=True)

        self._server = ActionServer(
            self,
            RunEpisodes,
            names.RUN_EPISODES,
            execute_callback=self._execute,
            handle_accepted_callback=lambda handle: handle.execute(),
            cancel_callback=self._on_cancel,
        )
        self._diagnostics = Diagnostics(self, self._health)
        self._streams.start()
        self.get_logger().info(f"records go to {self._root}")

    def close(self) -> None:
        """Stop a run and store what was recorded of the episode that is going on."""
        self._closing = True
        self._interrupt("the node was stopped")
        if self._thread is not None:
            self._thread.join(timeout=10.0)
        self._streams.close()
        self._server.destroy()

    # --- streams -----------------------------------------------------------------------------------------------

    def _stream(
        self, kind: type, topic: str, profile: QoSProfile, handle: Callable[[Any, int], None] | None = None
    ) -> Stream:
        """A subscription for serialized messages: recorded as they came, and decoded where they matter here."""
        type_name = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"

        def on_message(taken: tuple[bytes, MessageInfo]) -> None:
            data, info = taken
            received = self._received_ns(info)
            message = deserialize_message(data, kind) if handle is not None or kind is Image else None
            with self._changed:
                if handle is not None:
                    handle(message, received)
                if self._recorder is not None and self._record_messages:
                    self._keep(topic, type_name, data, message, received, int(info.get("source_timestamp", 0)))
                self._changed.notify_all()

        deep = QoSProfile(
            history=profile.history,
            depth=QUEUE_DEPTH,
            reliability=profile.reliability,
            durability=profile.durability,
            deadline=profile.deadline,
        )
        return RawSubscription(self, kind, topic, deep), on_message

    def _on_stream_error(self, error: Exception) -> None:
        if self._diagnostics.count("internal_error", f"{type(error).__name__}: {error}") == 1:
            self.get_logger().error(f"a message was lost: {type(error).__name__}: {error}")

    def _received_ns(self, info: MessageInfo) -> int:
        """When the message arrived, on the clock of the stamps."""
        received = int(info.get("received_timestamp", 0))
        if received <= 0 or self._simulated_time:
            return int(self.get_clock().now().nanoseconds)
        return received

    def _keep(self, topic: str, type_name: str, data: bytes, message: Any, received: int, published: int) -> None:
        if isinstance(message, Image) and len(data) > RAW_IMAGE_LIMIT:
            try:
                data = serialize_message(messages.compressed(message))
            except ImageError as error:
                self._diagnostics.count("bad image", f"{topic}: {error}")
                return
            topic, type_name = f"{topic}/compressed", f"sensor_msgs/msg/{CompressedImage.__name__}"
        self._log_bytes += len(data)
        if self._log_bytes > self._memory_limit:
            self._interruption = "the messages of the episode exceed memory_limit_mb"
            return
        logged = LoggedMessage(topic, type_name, data, received, published or received)
        self._log.append(logged)
        if self._spool is not None:
            try:
                self._spool.add(logged)
            except OSError as error:
                # the episode itself is in memory, and is refused by name when it cannot be stored
                self._diagnostics.count("not spooled", str(error))
                self._end_spool()

    def _on_task(self, message: TaskState, received: int) -> None:
        self.view.task = messages.task_sample(message)
        self.view.task_at = time.monotonic()
        if self._recorder is not None:
            self._recorder.on_task(self.view.task)

    def _on_decision(self, message: PolicyDecision, received: int) -> None:
        self.view.decision = messages.decision_sample(message)
        self.view.decision_at = time.monotonic()
        if self._recorder is not None:
            self._recorder.on_decision(self.view.decision)

    def _on_status(self, message: SafetyStatus, received: int) -> None:
        self.view.status = messages.status_sample(message)
        self.view.status_at = time.monotonic()
        if self._recorder is not None:
            self._recorder.on_status(self.view.status)

    def _on_command(self, message: TwistStamped, received: int) -> None:
        if self._recorder is not None:
            self._recorder.on_command(stamps.to_nanoseconds(message.header.stamp), received)

    def _on_image(self, message: Image, received: int) -> None:
        stamp = stamps.to_nanoseconds(message.header.stamp)
        self.view.frame_stamp_ns = stamp
        if self._recorder is None:
            return
        try:
            self._recorder.on_frame(stamp, crop_resize(images.from_message(message), IMAGE_SIZE))
        except ImageError as error:
            self._diagnostics.count("bad image", str(error))

    # --- the action --------------------------------------------------------------------------------------------

    def _on_cancel(self, handle: Handle) -> CancelResponse:
        if handle is not self._active:
            return CancelResponse.REJECT
        self._interrupt("cancelled")
        return CancelResponse.ACCEPT

    async def _execute(self, handle: Handle) -> RunEpisodes.Result:
        request = handle.request
        if self._active is not None:
            return self._refuse(handle, "another run of episodes is going on; cancel it or wait for its end")
        try:
            goal = Goal(
                scene=str(request.scene),
                count=int(request.count),
                seed=int(request.seed),
                explore=int(request.mode) == RunEpisodes.Goal.EXPLORE,
                reset_after_halt=bool(request.reset_after_halt),
            )
            retention = Retention(
                quota_bytes=round(1e9 * self._settings.float("quota_gb")),
                delete_oldest=self._settings.string("retention") == DELETE_OLDEST,
            )
            mode = {"mode": "explore" if goal.explore else "evaluate"}
            store = FolderStore(self._new_folder(goal.scene), mode, retention)
        except (ValueError, StorageError) as error:
            return self._refuse(handle, str(error))
        self._active, self._interruption, self._store = handle, "", store
        done: Future[Outcome] = Future(executor=self.executor)
        self._thread = threading.Thread(
            target=lambda: done.set_result(self._run(handle, goal, store)), name="episodes", daemon=True
        )
        self.get_logger().info(f"running {goal.count} episodes of scene {goal.scene} from seed {goal.seed}")
        self._thread.start()
        outcome = await done or Outcome(False, "the run was lost")
        self._active = None
        self._last_result = outcome.message
        if outcome.success:
            self.get_logger().info(outcome.message)
            handle.succeed()
        else:
            self.get_logger().warning(outcome.message)
            handle.canceled() if handle.is_cancel_requested else handle.abort()
        return RunEpisodes.Result(
            success=outcome.success,
            message=outcome.message,
            episodes=[messages.summary_message(s) for s in outcome.episodes],
            path=str(store.folder),
        )

    def _refuse(self, handle: Handle, reason: str) -> RunEpisodes.Result:
        self.get_logger().warning(f"refused: {reason}")
        handle.abort()
        return RunEpisodes.Result(success=False, message=reason)

    def _run(self, handle: Handle, goal: Goal, store: FolderStore) -> Outcome:
        """The whole run, in the thread of its own."""
        p = self._settings
        settings = Settings(
            ready_timeout_s=p.float("ready_timeout_s"),
            episode_timeout_s=p.float("episode_timeout_s"),
            silence_s=p.float("silence_s"),
            halt_tail_s=p.float("halt_tail_s"),
            reset_attempts=p.integer("reset_attempts"),
            reset_pause_s=p.float("reset_pause_s"),
        )

        def on_progress(progress: Progress) -> None:
            if rclpy.ok() and not self._closing:
                handle.publish_feedback(self._feedback(goal, progress))

        try:
            outcome = EpisodeRun(goal, self, store, settings, on_progress).run()
            write_json(
                store.folder / "run.json",
                {
                    "goal": asdict(goal),
                    "success": outcome.success,
                    "message": outcome.message,
                    "episodes": [Path(s.path).name for s in outcome.episodes],
                },
            )
            self._write_dataset(goal, store, outcome)
        except OSError as error:
            return Outcome(False, f"{store.folder}: {error.strerror or error}")
        except Exception as error:
            self.get_logger().error(f"the run failed: {type(error).__name__}: {error}")
            return Outcome(False, f"internal error: {type(error).__name__}: {error}")
        finally:
            with self._changed:
                self._end_spool()
        return outcome

    def _write_dataset(self, goal: Goal, store: FolderStore, outcome: Outcome) -> None:
        """Best effort: the episodes are safe already, and the dataset can be made from them later."""
        if not outcome.episodes or self._closing or not self._settings.boolean("write_dataset"):
            return
        provenance = {"goal": asdict(goal), "models": sorted({s.model_id for s in outcome.episodes})}
        try:
            write_minari(store.folder, store.folder / "dataset", f"safereach/{goal.scene}-v0", provenance)
        except ImportError:
            self.get_logger().warning("no dataset written: the package 'minari' is not installed")
        except (StorageError, EpisodeError) as error:
            self.get_logger().warning(f"no dataset written: {error}")

    def _feedback(self, goal: Goal, progress: Progress) -> RunEpisodes.Feedback:
        feedback = RunEpisodes.Feedback(
            episode=progress.episode,
            count=goal.count,
            finished=[messages.summary_message(s) for s in progress.finished],
            violation_probability=float("nan"),
            distance=float("nan"),
        )
        with self._changed:
            last, status, decision = progress.recorder.last, self.view.status, self.view.decision
        if last is not None:
            feedback.step, feedback.distance = last.task.step, last.task.distance
            # The newest frame is often still undecided; the one before tells as much.
            if decision is not None and last.task.step > 0:
                feedback.chosen = decision.chosen
                if decision.chosen < len(decision.violation_probability):
                    feedback.violation_probability = decision.violation_probability[decision.chosen]
        if status is not None:
            feedback.safety_state, feedback.reason_names = status.state, list(status.reasons)
        return feedback

    def _new_folder(self, scene: str) -> Path:
        stem = f"{datetime.now():%Y%m%d-%H%M%S}-{scene}"
        folder, number = self._root / stem, 1
        while folder.exists():
            number += 1
            folder = self._root / f"{stem}-{number}"
        return folder

    # --- what a run needs of the graph (called in its thread) ---------------------------------------------------

    def reset_scene(self, scene: str, seed: int, episode_id: int) -> Reply:
        """Ask the simulation for a scene, or an operator, who takes longer."""
        request = ResetScene.Request(scene=scene, seed=seed, episode_id=episode_id)
        wait_s = max(SERVICE_TIMEOUT_S, self._settings.float("ready_timeout_s"))
        return self._call(self._reset_scene, request, wait_s, interruptible=True)

    def start_scene(self) -> Reply:
        """Ask the simulation to start the episode."""
        return self._call(self._start_scene, Trigger.Request())

    def stop_scene(self) -> Reply:
        """Ask the simulation to end the episode."""
        return self._call(self._stop_scene, Trigger.Request())

    def reset_monitor(self) -> Reply:
        """Ask the monitor to leave HALTED."""
        return self._call(self._reset_monitor, Trigger.Request())

    def explore(self, on: bool) -> Reply:
        """Set the policy's selection mode to ``sample``, or back to what it was."""
        if on:
            answer = self._answer(self._get_policy, GetParameters.Request(names=[SELECTION_MODE]))
            if answer is None or not answer.values:
                return Reply(False, f"{names.POLICY_NODE} does not answer")
            self._selection_mode = answer.values[0].string_value
        value = ParameterValue(
            type=ParameterType.PARAMETER_STRING, string_value="sample" if on else self._selection_mode
        )
        request = SetParameters.Request(parameters=[ParameterMessage(name=SELECTION_MODE, value=value)])
        answer = self._answer(self._set_policy, request)
        if answer is None:
            return Reply(False, f"{names.POLICY_NODE} does not answer")
        return Reply(bool(answer.results[0].successful), str(answer.results[0].reason))

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for a condition on the streams; raises ``Interrupted`` when the run was told to end."""
        with self._changed:
            met = self._changed.wait_for(lambda: bool(self._interruption) or condition(), timeout_s)
            if self._interruption:
                raise Interrupted(self._interruption)
            return bool(met)

    def record(self, recorder: EpisodeRecorder) -> None:
        """Feed a recorder from now on."""
        with self._changed:
            self._end_spool()
            self._recorder, self._log, self._log_bytes = recorder, [], 0
            if self._record_messages and self._store is not None:
                try:
                    self._spool = Spool(
                        self._store.folder, recorder.episode_id, recorder.scene, recorder.seed, self._store.metadata
                    )
                except OSError as error:
                    self._diagnostics.count("not spooled", str(error))

    def _end_spool(self) -> None:
        """The episode is stored, or there was nothing to store."""
        if self._spool is not None:
            self._spool.discard()
            self._spool = None

    def _recover(self) -> None:
        """Store the episodes that a killed node left."""
        try:
            for spool, summary in recover(self._root):
                kept = "nothing of it could be kept" if summary is None else f"kept as {summary.path}, aborted"
                self.get_logger().warning(f"{spool.name} was left by a node that was killed: {kept}")
        except (StorageError, OSError) as error:
            self.get_logger().error(f"an episode that a killed node left could not be stored: {error}")

    def stop_recording(self) -> Sequence[LoggedMessage]:
        """Stop feeding it; gives the messages received meanwhile."""
        with self._changed:
            log, self._log, self._recorder = self._log, [], None
            return log

    def _call(
        self,
        client: Client[Any, Any],
        request: Any,
        timeout_s: float = SERVICE_TIMEOUT_S,
        interruptible: bool = False,
    ) -> Reply:
        answer = self._answer(client, request, timeout_s, interruptible)
        if answer is None:
            return Reply(False, f"{client.service_name} does not answer")
        return Reply(bool(answer.success), str(answer.message))

    def _answer(
        self,
        client: Client[Any, Any],
        request: Any,
        timeout_s: float = SERVICE_TIMEOUT_S,
        interruptible: bool = False,
    ) -> Any:
        """Answer of a service; None when it is not there, does not answer in time, or is not waited for any more."""
        limit = time.monotonic() + timeout_s
        while not client.service_is_ready():
            if self._closing or time.monotonic() > limit:
                return None
            time.sleep(0.05)
        finished = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: finished.set())
        while not finished.wait(0.05):
            stopped = self._closing or (interruptible and bool(self._interruption))
            if stopped or time.monotonic() > limit:
                client.remove_pending_request(future)
                return None
        return future.result()

    def _interrupt(self, reason: str) -> None:
        with self._changed:
            self._interruption = reason
            self._changed.notify_all()

    def _health(self) -> Health:
        running = self._active is not None
        return Health(Level.OK, "running episodes" if running else "idle", {"last_result": self._last_result})


def _require_mcap() -> None:
    try:
        import mcap.writer  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "the package 'mcap' is not installed; install it (pip install mcap) or set record_messages to false"
        ) from error


def main() -> None:
    """Entry point of the executable."""
    sys.exit(runner.run(EpisodeNode, names.EPISODE_NODE))


if __name__ == "__main__":
    main()
