"""The safety monitor: nothing reaches the arm but through here. The rules are ``fosp_core.safety``."""

from __future__ import annotations

import math
import sys
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
from geometry_msgs.msg import TwistStamped
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from fosp_core import safety
from fosp_core.images import ImageError, contrast
from fosp_core.runtime import PolicyRuntime
from fosp_core.safety import Judged, Limits, MonitorState, Now, Reason, SafetyState, Verdict
from fosp_core.selector import CANDIDATES
from fosp_core.task import ACTION_LENGTH, COMMAND_HZ, action_to_twist
from fosp_interfaces.msg import PolicyDecision, SafetyStatus
from fosp_interfaces.srv import LoadModel
from fosp_ros import names, qos, runner
from fosp_ros.diagnostics import Diagnostics, Health, Level
from fosp_ros.errors import ConfigurationError, MessageError
from fosp_ros.frames import FrameReader
from fosp_ros.homing import HomingWord
from fosp_ros.lifecycle import AUTOSTART, ManagedNode
from fosp_ros.loop import SteadyLoop
from fosp_ros.messages import twist
from fosp_ros.model import MODEL_PARAMETERS, answer_load, open_model
from fosp_ros.parameters import Parameter, Parameters
from fosp_ros.polling import Listener, PolledSubscription
from fosp_ros.stamps import from_nanoseconds, to_nanoseconds

_DEFAULTS = Limits()


def _limit(name: str, description: str, unit: str, low: float, high: float) -> Parameter:
    return Parameter(name, getattr(_DEFAULTS, name), description, unit, low, high, read_only=True)


_LIMITS = (
    _limit("frame_age_s", "Oldest camera frame that may move the arm.", "s", 0.05, 1.0),
    _limit("decision_age_s", "Oldest decision that may move the arm.", "s", 0.05, 0.5),
    _limit("joint_age_s", "Largest gap between frame and joint state.", "s", 0.01, 0.5),
    _limit("future_s", "How far a stamp may lie ahead of the clock.", "s", 0.001, 0.2),
    _limit("frozen_travel_m", "Tool travel without any change of the image that counts as frozen.", "m", 0.01, 0.2),
    _limit("image_contrast", "Smallest standard deviation of the pixels.", "grey levels", 0.5, 50.0),
    _limit("frame_rate_hz", "Fewest frames a second, averaged over frame_window_s.", "Hz", 0.5, 50.0),
    _limit("frame_window_s", "Time that the frame rate is averaged over.", "s", 0.5, 5.0),
    _limit("settle_s", "Time that a moving arm may take to come to rest.", "s", 0.1, 2.0),
    _limit("hold_drift_m", "Tool travel of a settled arm that counts as not obeying.", "m", 0.005, 0.2),
    _limit("outside_tolerance_m", "How far the tool may stray outside of the workspace.", "m", 0.005, 0.2),
    _limit("motion_memory_s", "Time after a motion in which lost input halts and does not only hold.", "s", 0.1, 5.0),
    _limit("healthy_s", "Healthy input that a reset needs.", "s", 0.5, 10.0),
    _limit("caution_scale", "Factor on the action while the risk is raised.", "", 0.05, 1.0),
    _limit("caution_release", "Part of the caution threshold below which caution ends.", "", 0.1, 1.0),
)

PARAMETERS = (
    AUTOSTART,
    *MODEL_PARAMETERS,
    *_LIMITS,
    Parameter(
        "surprise_frames", _DEFAULTS.surprise_frames, "Frames above the bound that halt.", "", 1, 50, read_only=True
    ),
    Parameter(
        "require_calibration",
        True,
        "Refuse models whose thresholds carry no bound on missed violations.",
        read_only=True,
    ),
)

STATUS_PERIOD_S = 0.5
PUBLISHER_CHECK_PERIOD_S = 0.2


class SafetyMonitor(ManagedNode):
    """Wires the rules to their topics.

    Filter and judgement run in one thread; the command stream has its own, paced by the monotonic clock, so that it
    goes on, with zeros, whatever else stops.
    """

    def __init__(self) -> None:
        super().__init__(names.SAFETY_MONITOR)
        self._p = p = Parameters(self, PARAMETERS)
        try:
            values: dict[str, Any] = {limit.name: p.float(limit.name) for limit in _LIMITS}
            self._limits = Limits(surprise_frames=p.integer("surprise_frames"), **values)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        self._lock = threading.Lock()  # guards what follows
        self._state = MonitorState(state=SafetyState.INACTIVE, halt_reasons=(Reason.DEACTIVATED,))
        self._judged = Judged(Verdict.NONE)
        self._decision: PolicyDecision | None = None
        self._shown: tuple[SafetyState, tuple[Reason, ...]] = (SafetyState.INACTIVE, ())
        self._shown_at = -math.inf
        self._approved_stamp_ns = 0
        self._risks = (math.nan, math.nan)  # of the decision judged last: now, and largest over the imagined steps
        self._publishers_checked_at = -math.inf

        self._loaded: PolicyRuntime | None = None  # as the services know it; the inference thread takes it over
        self._runtime: PolicyRuntime | None = None
        self._waiting: PolicyDecision | None = None  # for a frame that was not judged yet
        self._frame_stamp_ns = -1
        self._reader = FrameReader(self, self._limits.joint_age_s)
        self._homing = HomingWord(self)
        self._commands = self.create_publisher(TwistStamped, names.ARM_COMMAND, qos.COMMAND)
        self._statuses = self.create_publisher(SafetyStatus, names.SAFETY_STATUS, qos.STATUS)
        images = PolledSubscription(self, Image, names.CAMERA_IMAGE, qos.IMAGE)
        decisions = PolledSubscription(self, PolicyDecision, names.POLICY_DECISION, qos.DECISION)
        self._inference = Listener(
            self, [(images, self._on_image), (decisions, self._on_decision)], self._on_error, "inference"
        )
        self._loop = SteadyLoop(1.0 / COMMAND_HZ, self._step, self._on_error, name="command stream")
        self._diagnostics = Diagnostics(self, self._health)
        self.create_service(Trigger, names.SAFETY_HALT, self._on_halt)
        self.create_service(Trigger, names.SAFETY_RESET, self._on_reset)
        self.create_service(LoadModel, names.SAFETY_LOAD_MODEL, self._on_load)
        self._inference.start()
        self._loop.start()
        if p.boolean("autostart"):
            self.start()

    def configure(self) -> None:
        """Load the model."""
        runtime = self._loaded = open_model(self._p, self._p.string("bundle"))
        self._inference.call(lambda: self._use(runtime))

    def activate(self) -> None:
        """Begin to consent, from a state that remembers nothing but a halt."""
        if self._loaded is not None:
            self._check_calibration(self._loaded)
        self._inference.call(self._forget)
        with self._lock:
            before = self._state
            fresh = MonitorState(halt_count=before.halt_count)
            if before.state is SafetyState.HALTED:
                # Only an operator's reset leaves HALTED, not a restart of the node's life cycle.
                fresh = replace(fresh, state=SafetyState.HALTED, halt_reasons=before.halt_reasons)
            self._state = fresh

    def deactivate(self) -> None:
        """Cease to consent; the arm holds."""
        with self._lock:
            before = self._state
            fresh = MonitorState(
                state=SafetyState.INACTIVE, halt_reasons=(Reason.DEACTIVATED,), halt_count=before.halt_count
            )
            if before.state is SafetyState.HALTED:
                fresh = replace(fresh, state=SafetyState.HALTED, halt_reasons=before.halt_reasons)
            self._state = fresh
        self._stream()

    def cleanup(self) -> None:
        """Let go of the model."""
        self._inference.call(self._drop)

    def close(self) -> None:
        """Tell the arm to hold, and end."""
        self._loop.close()
        self._inference.close()
        self._commands.publish(self._command((0.0,) * ACTION_LENGTH))

    # -- input ------------------------------------------------------------------------------------------------

    def _on_image(self, message: Image) -> None:
        if not self.is_active:
            return
        runtime = self._runtime
        if runtime is None:
            return
        try:
            frame = self._reader.read(message, runtime.bundle.manifest.image_size)
        except (ImageError, MessageError) as error:
            reason = Reason.BAD_IMAGE if isinstance(error, ImageError) else Reason.STALE_JOINTS
            self._diagnostics.count(reason.name.lower(), str(error))
            stamp = None if reason is Reason.BAD_IMAGE else to_nanoseconds(message.header.stamp) * 1e-9
            with self._lock:
                self._state = safety.reject_frame(self._state, self._limits, reason, self._now(), stamp)
            return
        with self._lock:
            executed = self._state.approved
        output = runtime.step(frame.image, frame.tool, np.asarray(executed), frame.is_first)
        self._frame_stamp_ns = frame.stamp_ns
        seen = safety.Frame(
            stamp=frame.stamp_ns * 1e-9,
            digest=frame.digest,
            contrast=contrast(frame.image),
            tool=tuple(float(v) for v in frame.tool),
            # The reader refuses a frame without a joint state near its stamp.
            joint_age_s=0.0,
            surprise=output.surprise,
            violation_probability=output.state_violation_probability,
            # Between episodes nobody acts on the frames, and a scene that is laid out anew is no surprise.
            is_first=output.is_first or not frame.running,
            # The way home begins after an episode, where the arm has to hold otherwise; in an episode nobody goes it.
            others_may_move=frame.others_may_move or (self._homing.holds() and not frame.running),
        )
        with self._lock:
            self._state = safety.observe_frame(
                self._state, self._limits, runtime.bundle.manifest.thresholds, seen, self._now()
            )
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._on_decision(waiting)

    def _on_decision(self, message: PolicyDecision) -> None:
        if not self.is_active:
            return
        stamp_ns = to_nanoseconds(message.header.stamp)
        if stamp_ns > self._frame_stamp_ns:
            # The policy was faster; its frame is on the way. The judged frame's decision is due first.
            self._waiting = message
            return
        runtime = self._runtime
        if runtime is None:
            return
        action = tuple(float(v) for v in message.action)
        flat = [float(v) for v in message.candidate_actions]
        candidates = tuple(tuple(flat[i : i + ACTION_LENGTH]) for i in range(0, len(flat), ACTION_LENGTH))
        if len(candidates) != len(CANDIDATES):
            # Malformed like an action of the wrong length, and judged as one.
            candidates = ((),)
        decision = safety.Decision(stamp_ns * 1e-9, to_nanoseconds(message.decided_at) * 1e-9, action, candidates)
        thresholds = runtime.bundle.manifest.thresholds
        with self._lock:
            state = self._state
        # The filter may be ahead of the frame that the rules accepted last.
        fits = stamp_ns == self._frame_stamp_ns
        assessment = safety.assess(state, self._limits, thresholds, decision, runtime.judge) if fits else None
        risks = (math.nan, math.nan) if assessment is None else (assessment.immediate, assessment.lookahead)
        with self._lock:
            self._state, self._judged = safety.judge_decision(
                self._state, self._limits, thresholds, decision, assessment, self._now()
            )
            self._decision, self._risks = message, risks
            self._approved_stamp_ns = stamp_ns
        self._stream(judged=True)

    # -- output -----------------------------------------------------------------------------------------------

    def _step(self) -> None:
        """One step of the command stream's own thread."""
        if time.monotonic() - self._publishers_checked_at >= PUBLISHER_CHECK_PERIOD_S:
            self._publishers_checked_at = time.monotonic()
            if self.is_active and self._others_command():
                self._halt_for_second_publisher()
        self._stream()

    def _stream(self, judged: bool = False) -> None:
        with self._lock:
            self._state, command = safety.tick(self._state, self._limits, self._now())
            state = self._state
            message = self._command(command.action, self._approved_stamp_ns if command.moves else None)
            self._commands.publish(message)
            shown = (state.state, command.reasons)
            changed = shown != self._shown
            due = time.monotonic() - self._shown_at >= STATUS_PERIOD_S
            if judged or changed or due:
                self._statuses.publish(self._status(command.reasons, judged))
                self._shown, self._shown_at = shown, time.monotonic()
        if changed:
            self._log(state, command.reasons)

    def _command(self, action: tuple[float, ...], stamp_ns: int | None = None) -> TwistStamped:
        message = twist(action_to_twist(np.asarray(action)))
        now = self.get_clock().now().to_msg()
        message.header.stamp = now if stamp_ns is None else from_nanoseconds(stamp_ns)
        return message

    def _status(self, reasons: tuple[Reason, ...], judged: bool) -> SafetyStatus:
        state, frame, decision = self._state, self._state.frame, self._decision
        now = self._now()
        message = SafetyStatus(state=int(state.state), verdict=int(self._judged.verdict if judged else Verdict.NONE))
        message.header.stamp = self.get_clock().now().to_msg()
        reasons = tuple(dict.fromkeys((*reasons, *(self._judged.reasons if judged else ()))))
        message.reasons = [int(r) for r in reasons]
        message.reason_names = [r.name.lower() for r in reasons]
        message.text = "; ".join(r.text for r in reasons) or "the arm may move"
        nan = math.nan
        message.violation_probability = message.lookahead_probability = nan
        message.decision_age_s = now.stamp - state.decided_at if math.isfinite(state.decided_at) else nan
        if judged and decision is not None:
            message.frame_stamp = decision.header.stamp
            message.proposed_action = decision.action
            message.approved_action = list(self._judged.action)
            message.violation_probability, message.lookahead_probability = self._risks
        message.frame_age_s = now.stamp - frame.stamp if frame else nan
        message.surprise = frame.surprise if frame else nan
        message.surprise_average = state.surprise_average if frame else nan
        message.caution_threshold = message.halt_threshold = nan
        message.surprise_bound = message.surprise_average_bound = nan
        if self._runtime is not None:
            manifest = self._runtime.bundle.manifest
            message.caution_threshold = manifest.thresholds.caution
            message.halt_threshold = manifest.thresholds.halt
            message.surprise_bound = manifest.thresholds.surprise
            average = manifest.thresholds.surprise_average
            message.surprise_average_bound = nan if average is None else average
            message.model_id = manifest.id
        message.halt_count = state.halt_count
        return message

    def _log(self, state: MonitorState, reasons: tuple[Reason, ...]) -> None:
        text = "; ".join(r.text for r in reasons) or "the arm may move"
        if state.state is SafetyState.HALTED:
            self.get_logger().error(f"HALTED: {text}")
        elif any(r >= Reason.STALE_FRAME for r in reasons) and state.state is not SafetyState.INACTIVE:
            self.get_logger().warning(f"holding: {text}")
        else:
            self.get_logger().debug(f"{state.state.name}: {text}")

    # -- operator ---------------------------------------------------------------------------------------------

    def _on_halt(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            self._state = safety.halt(self._state, Reason.OPERATOR)
        self._stream()
        response.success, response.message = True, "halted"
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._others_command():
            response.message = f"refused: {Reason.SECOND_PUBLISHER.text}"
            return response
        with self._lock:
            self._state, response.success, response.message = safety.reset(self._state, self._limits, self._now())
        self._stream()
        return response

    def _on_load(self, request: LoadModel.Request, response: LoadModel.Response) -> LoadModel.Response:
        def use(runtime: PolicyRuntime) -> None:
            self._loaded = runtime
            self._inference.call(lambda: self._use(runtime))

        with self._lock:
            moving = any(self._state.approved)
        busy = moving or self._reader.running
        return answer_load(self, self._p, request, response, self._runtime, busy, use, check=self._check_calibration)

    def _check_calibration(self, runtime: PolicyRuntime) -> None:
        """Raise ``ConfigurationError`` when the model's thresholds carry no bound and one is required."""
        fault = runtime.bundle.calibration_fault
        if not fault:
            return
        if self._p.boolean("require_calibration"):
            raise ConfigurationError(
                f"model {runtime.bundle.id}: {fault}; run fosp-train calibrate, or set require_calibration to false"
            )
        self.get_logger().warning(f"model {runtime.bundle.id}: {fault}; nothing is promised of missed violations")

    # -- model; these run in the inference thread -------------------------------------------------------------

    def _use(self, runtime: PolicyRuntime) -> None:
        self._runtime = runtime
        self._forget()
        self.get_logger().info(f"model {runtime.bundle.id} on {runtime.provider}")

    def _forget(self) -> None:
        """Start over with the next frame: nothing that was said of the past counts."""
        if self._runtime is not None:
            self._runtime.reset()
        self._frame_stamp_ns, self._waiting = -1, None
        with self._lock:
            self._state = replace(self._state, healthy_since=math.inf)

    def _drop(self) -> None:
        self._runtime = None

    # -- faults -----------------------------------------------------------------------------------------------

    def _others_command(self) -> bool:
        return self.count_publishers(names.ARM_COMMAND) > 1

    def _halt_for_second_publisher(self) -> None:
        with self._lock:
            if Reason.SECOND_PUBLISHER in self._state.halt_reasons:
                return
            self._state = safety.halt(self._state, Reason.SECOND_PUBLISHER)
        publishers = self.get_publishers_info_by_topic(names.ARM_COMMAND)
        others = sorted({p.node_name for p in publishers} - {self.get_name()})
        self._diagnostics.count("second_publisher", f"also published by {', '.join(others) or 'a node of this name'}")

    def _on_error(self, error: Exception) -> None:
        with self._lock:
            self._state = safety.halt(self._state, Reason.INTERNAL_ERROR)
        if self._diagnostics.count("internal_error", f"{type(error).__name__}: {error}") == 1:
            self.get_logger().error(f"halted by an internal error: {type(error).__name__}: {error}")

    def _now(self) -> Now:
        return Now(self.get_clock().now().nanoseconds * 1e-9, time.monotonic())

    def _health(self) -> Health:
        runtime = self._runtime
        with self._lock:
            state = self._state
        values = {
            "state": state.state.name.lower(),
            "halts": state.halt_count,
            "model_id": runtime.bundle.id if runtime else "",
            "provider": runtime.provider if runtime else "",
            "late_steps": self._loop.late_steps,
        }
        if state.state is SafetyState.HALTED:
            return Health(Level.ERROR, "; ".join(r.text for r in state.halt_reasons), values)
        if not self.is_active:
            return Health(Level.WARN, "not active", values)
        if state.input_reasons:
            return Health(Level.WARN, "; ".join(r.text for r in state.input_reasons), values)
        level = Level.WARN if state.state is SafetyState.CAUTION else Level.OK
        return Health(level, state.state.name.lower(), values)


def main(args: list[str] | None = None) -> int:
    """Entry point of the executable ``safety_monitor``."""
    return runner.run(SafetyMonitor, names.SAFETY_MONITOR, args)


if __name__ == "__main__":
    sys.exit(main())
