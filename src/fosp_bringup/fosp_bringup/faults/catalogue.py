"""Every fault that is injected, with what it must lead to."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from geometry_msgs.msg import TwistStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger as TriggerService
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from fosp_bringup.faults import relay as spoiling
from fosp_bringup.faults.relay import Relay, Spoil
from fosp_bringup.faults.rig import CLOCK, MODEL, MOVING_SPEED, SENSELESS_MODEL, Rig, RigError
from fosp_bringup.faults.trial import COMMAND_GAP_S, Fault, Trial, Trigger, bring_back, command_gap_ms, holding
from fosp_bringup.lifetime import child_setup
from fosp_bringup.priority import Priority
from fosp_core.safety import SafetyState
from fosp_core.task import ARM_JOINTS
from fosp_core.testing import make_bundle
from fosp_interfaces.action import RunEpisodes
from fosp_interfaces.srv import LoadModel
from fosp_ros import names, qos
from fosp_ros.errors import BUSY
from fosp_ros.messages import twist
from fosp_ros.stamps import from_nanoseconds, to_nanoseconds

NAN: Final = math.nan
AT_ONCE_MS: Final = 50.0
"""Of a fault that shows in the message itself: the contract's limit from trigger to hold."""
ASK_ATTEMPTS: Final = 5
ANSWER_WAIT_S: Final = 1.0
"""Of a request in motion; the arm crosses the workspace in three seconds."""
OPERATOR_NODES: Final = ("simulation_node", "arm_node", "safety_monitor", "policy_node", "episode_node")


def _spoiled(which: Callable[[Rig], Relay], how: Callable[[], Spoil]) -> Callable[[Rig], Trigger]:
    """Begins with the first message that is spoiled."""

    def inject(rig: Rig) -> Trigger:
        which(rig).spoil(how())
        return lambda: which(rig).spoiled_at

    return inject


def _silenced(
    which: Callable[[Rig], Relay], how: Callable[[], Spoil] = lambda: spoiling.drop
) -> Callable[[Rig], Trigger]:
    """Begins with the last good message."""

    def inject(rig: Rig) -> Trigger:
        which(rig).spoil(how())
        at = which(rig).passed_at
        return lambda: at

    return inject


def _clear(rig: Rig) -> None:
    for each in rig.relays.values():
        each.spoil(None)


def _images(rig: Rig) -> Relay:
    return rig.images


def _joints(rig: Rig) -> Relay:
    return rig.joints


def _decisions(rig: Rig) -> Relay:
    return rig.decisions


def _clock(rig: Rig) -> Relay:
    return rig.relays[CLOCK]


def _camera(
    name: str, what: str, reasons: Sequence[str], how: Callable[[], Spoil], limit_ms: float = AT_ONCE_MS
) -> Fault:
    return holding(name, what, reasons, limit_ms, _spoiled(_images, how), _clear)


def _decision(
    name: str, what: str, reasons: Sequence[str], how: Callable[[], Spoil], limit_ms: float, halts: bool
) -> Fault:
    return holding(name, what, reasons, limit_ms, _spoiled(_decisions, how), _clear, halts)


def _signalled(node: str, number: signal.Signals) -> Callable[[Rig], Trigger]:
    def inject(rig: Rig) -> Trigger:
        at = rig.signal(node, number)
        return lambda: at

    return inject


def _continue(node: str) -> Callable[[Rig], None]:
    def mend(rig: Rig) -> None:
        rig.signal(node, signal.SIGCONT)
        time.sleep(0.5)

    return mend


def _jitter() -> Spoil:
    generator = random.Random(1)
    return spoiling.delayed(lambda: generator.uniform(0.0, 0.4))


def _nan_joints(message: JointState, publish: spoiling.Publish) -> None:
    message.position = array("d", [NAN] * len(message.position))
    publish(message)


CAMERA: Final = (
    holding("camera_stops", "no image after a good one", ["stale_frame"], 250.0, _silenced(_images), _clear),
    _camera("image_frozen", "the same pixels under fresh stamps", ["frozen_camera"], spoiling.frozen, 450.0),
    _camera("image_black", "black", ["uniform_image"], lambda: spoiling.painted(np.zeros_like)),
    _camera(
        "image_saturated", "white", ["uniform_image"], lambda: spoiling.painted(lambda image: np.full_like(image, 255))
    ),
    _camera("image_encoding", "unknown encoding", ["bad_image"], lambda: spoiling.with_fields(encoding="bayer_rggb8")),
    _camera("image_size", "more rows than data", ["bad_image"], lambda: spoiling.with_fields(height=480)),
    _camera("image_truncated", "half of the pixels", ["bad_image"], lambda: spoiling.cut_short),
    _camera(
        "image_dangerous", "the model sees danger", ["risk_halt"], lambda: spoiling.painted(spoiling.of_brightness(0.9))
    ),
    _camera(
        "image_unfamiliar",
        "a scene unlike any",
        ["out_of_distribution"],
        lambda: spoiling.painted(spoiling.blue),
        300.0,
    ),
    _camera("stamps_past", "stamps 1 s old", ["clock", "stale_frame"], lambda: spoiling.shifted(-1.0)),
    _camera("stamps_future", "stamps 1 s ahead", ["clock"], lambda: spoiling.shifted(1.0)),
    _camera(
        "stamps_repeated", "every frame with the same stamp", ["clock", "stale_frame"], spoiling.repeated_stamp, 250.0
    ),
    _camera("frames_swapped", "pairs in the wrong order", ["clock", "stale_frame"], spoiling.swapped, 250.0),
    holding(
        "frames_late",
        "every frame 300 ms late",
        ["stale_frame"],
        250.0,
        _silenced(_images, lambda: spoiling.delayed(lambda: 0.3)),
        _clear,
    ),
    _camera(
        "frames_seldom", "two of three frames", ["low_rate", "stale_frame"], lambda: spoiling.thinned(2, 3), 1500.0
    ),
    _camera("frames_jitter", "0 to 400 ms late", ["stale_frame", "low_rate"], _jitter, 2500.0),
)

DECISIONS: Final = (
    _decision(
        "decision_nan", "NaN", ["bad_action"], lambda: spoiling.with_fields(action=[NAN, 0.0, 0.0]), AT_ONCE_MS, True
    ),
    _decision(
        "decision_infinite",
        "infinite",
        ["bad_action"],
        lambda: spoiling.with_fields(action=[0.0, math.inf, 0.0]),
        AT_ONCE_MS,
        True,
    ),
    _decision(
        "decision_too_large",
        "beyond 1",
        ["bad_action"],
        lambda: spoiling.with_fields(action=[0.0, 1.5, 0.0]),
        AT_ONCE_MS,
        True,
    ),
    _decision(
        "decision_short",
        "two numbers",
        ["bad_action"],
        lambda: spoiling.with_fields(action=[0.1, 0.2]),
        AT_ONCE_MS,
        True,
    ),
    _decision(
        "decision_candidates",
        "a candidate is NaN",
        ["bad_action"],
        lambda: spoiling.with_fields(candidate_actions=[NAN] * 6),
        AT_ONCE_MS,
        True,
    ),
    _decision(
        "decision_other_frame",
        "made on an earlier frame",
        ["other_frame"],
        lambda: spoiling.shifted(-0.1),
        AT_ONCE_MS,
        False,
    ),
    _decision(
        "decision_unseen_frame",
        "made on a frame that nobody sent",
        ["no_decision"],
        lambda: spoiling.shifted(0.05),
        250.0,
        False,
    ),
    _decision(
        "decision_old", "ready 200 ms ago", ["stale_decision"], lambda: spoiling.decided_earlier(0.2), AT_ONCE_MS, False
    ),
    _decision(
        "decision_replayed",
        "the same one again and again",
        ["other_frame", "no_decision"],
        spoiling.replayed,
        250.0,
        False,
    ),
    _decision(
        "inference_slow",
        "every decision 200 ms late",
        ["no_decision", "other_frame", "stale_decision"],
        lambda: spoiling.delayed(lambda: 0.2),
        250.0,
        False,
    ),
)


def _best_effort(rig: Rig) -> Trigger:
    rig.decisions.publish_as(QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    at = rig.decisions.passed_at
    return lambda: at


def _deactivate(rig: Rig) -> Trigger:
    at = time.monotonic()
    _change_state(rig, Transition.TRANSITION_DEACTIVATE)
    return lambda: at


def _change_state(rig: Rig, transition: int) -> None:
    request = ChangeState.Request(transition=Transition(id=transition))
    if not rig.call(ChangeState, f"/{names.SAFETY_MONITOR}/change_state", request).success:
        raise RigError(f"transition {transition} was refused")


def _operator(rig: Rig) -> Trigger:
    # Finding the service is no part of the reaction.
    rig.client(TriggerService, names.SAFETY_HALT)
    at = time.monotonic()
    rig.trigger(names.SAFETY_HALT)
    return lambda: at


class _Thread:
    """Something that goes on beside the trial until it is ended."""

    def __init__(self, period_s: float, step: Callable[[], None]) -> None:
        self._end = threading.Event()
        self._period_s, self._step = period_s, step
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.started_at = time.monotonic()
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(self._period_s):
            self._step()

    def end(self) -> None:
        self._end.set()
        self._thread.join()


_beside: list[_Thread] = []
_publishers: list[Any] = []


def _end_beside(rig: Rig) -> None:
    while _beside:
        _beside.pop().end()
    while _publishers:
        rig.node.destroy_publisher(_publishers.pop())


def _second_publisher(rig: Rig) -> Trigger:
    publisher = rig.node.create_publisher(TwistStamped, names.ARM_COMMAND, qos.COMMAND)
    _publishers.append(publisher)

    def step() -> None:
        message = twist(np.array([0.0, 0.2, 0.0]))
        message.header.stamp = rig.node.get_clock().now().to_msg()
        publisher.publish(message)

    intruder = _Thread(0.02, step)
    _beside.append(intruder)
    return lambda: intruder.started_at


PROCESSES: Final = (
    holding(
        "policy_stopped",
        "SIGSTOP",
        ["no_decision"],
        300.0,
        _signalled("policy_node", signal.SIGSTOP),
        _continue("policy_node"),
        halts=False,
    ),
    holding(
        "monitor_stopped",
        "SIGSTOP for a while: silence, and a halt when it wakes up",
        [],
        200.0,
        _signalled("safety_monitor", signal.SIGSTOP),
        _continue("safety_monitor"),
        halts=False,
    ),
    holding(
        "simulation_stopped",
        "SIGSTOP: camera and joint states stop at once",
        ["stale_frame"],
        300.0,
        _signalled("simulation_node", signal.SIGSTOP),
        _continue("simulation_node"),
    ),
    holding("joint_states_stop", "no joint states", ["stale_joints", "stale_frame"], 350.0, _silenced(_joints), _clear),
    holding(
        "joint_states_nan",
        "NaN",
        ["stale_joints", "internal_error"],
        350.0,
        _spoiled(_joints, lambda: _nan_joints),
        _clear,
    ),
    holding("operator_halt", "the halt service", ["operator"], AT_ONCE_MS, _operator),
    holding(
        "monitor_deactivated",
        "lifecycle transition in motion",
        ["deactivated"],
        AT_ONCE_MS,
        _deactivate,
        lambda rig: _change_state(rig, Transition.TRANSITION_ACTIVATE),
        halts=False,
    ),
    holding(
        "qos_mismatch",
        "decisions become best effort",
        ["no_decision"],
        300.0,
        _best_effort,
        lambda rig: rig.decisions.publish_as(qos.DECISION),
        halts=False,
    ),
)


def _run_second_publisher(rig: Rig) -> Trial:
    """The intruder commands motion too, so what counts is what the arm does, not what the topic carries."""
    rig.begin()
    begun = _second_publisher(rig)()
    trial = Trial()
    try:
        rig.until(lambda: "second_publisher" in rig.reasons_since(begun or 0.0), "the reason", pause_s=0.02)
        time.sleep(0.8)
        trial.reasons, trial.halted = rig.reasons_since(begun or 0.0), rig.state is SafetyState.HALTED
        # The monitor's own commands cannot be told from the intruder's.
        trial.held = rig.hold_since(begun or 0.0)
        trial.demand(trial.held.arm_ms is not None or trial.held.rest_ms is not None, "the arm followed the intruder")
        trial.demand(trial.halted, "the hold did not latch")
        refused, message = rig.trigger(names.SAFETY_RESET)
        trial.demand(not refused, "reset although the intruder was there")
        trial.answers.append(message)
    finally:
        _end_beside(rig)
    rig.until(lambda: rig.node.count_publishers(names.ARM_COMMAND) == 1, "the intruder's end")
    trial.recovery = bring_back(rig, trial)
    return trial


def _arm_ignores_halt(rig: Rig) -> Trial:
    """Halt the arm, and drive it on past the arm node, straight at its controller."""
    rig.begin()
    trial = Trial()
    publisher = rig.node.create_publisher(JointTrajectory, names.JOINT_TRAJECTORY, qos.TRAJECTORY)
    _publishers.append(publisher)
    rig.until(lambda: publisher.get_subscription_count() > 0, "the robot")
    rig.trigger(names.SAFETY_HALT)
    at = time.monotonic()
    positions = rig.targets[-1].positions.copy()

    def step() -> None:
        positions[0] += 0.006
        point = JointTrajectoryPoint(positions=positions.tolist())
        publisher.publish(JointTrajectory(joint_names=list(ARM_JOINTS), points=[point]))

    _beside.append(_Thread(0.02, step))
    try:
        rig.until(lambda: "arm_moves" in rig.reasons_since(at), "the reason", pause_s=0.02)
        trial.figures["reason_ms"] = round(1e3 * (time.monotonic() - at), 1)
        trial.reasons, trial.halted = rig.reasons_since(at), rig.state is SafetyState.HALTED
        done, message = rig.trigger(names.SAFETY_RESET)
        trial.demand(not done, "reset although the arm moved")
        trial.answers.append(message)
    finally:
        _end_beside(rig)
    trial.recovery = bring_back(rig, trial)
    return trial


def _killed(node: str, what: str, reasons: Sequence[str], limit_ms: float, halts: bool) -> Fault:
    short = node.removesuffix("_node").removeprefix("safety_")
    return holding(
        f"{short}_killed", what, reasons, limit_ms, _signalled(node, signal.SIGKILL), halts=halts, dead=(node,)
    )


KILLED: Final = (
    _killed("policy_node", "SIGKILL", ["no_decision"], 300.0, False),
    _killed("safety_monitor", "SIGKILL", [], 200.0, False),
    _killed("simulation_node", "SIGKILL", ["stale_frame"], 300.0, True),
)


def _arm_killed(rig: Rig) -> Trial:
    rig.begin()
    at = rig.signal("arm_node", signal.SIGKILL)
    time.sleep(1.0)
    trial = Trial(recovery="start arm_node again")
    trial.held = rig.hold_since(at)
    trial.demand(trial.held.rest_ms is not None, "the arm went on without its node")
    return trial


def _launcher(number: signal.Signals) -> Callable[[Rig], Trial]:
    def run(rig: Rig) -> Trial:
        rig.begin()
        at = time.monotonic()
        os.kill(rig.runner.pid, number)
        trial = Trial(recovery="start the graph again")
        rig.until(lambda: not rig.living(), "the end of every node", 30.0)
        trial.figures["all_ended_ms"] = round(1e3 * (time.monotonic() - at), 1)
        time.sleep(0.4)
        trial.held = rig.hold_since(at)
        trial.demand(trial.held.holds, "commands went on")
        return trial

    return run


# -- at rest: refusals ----------------------------------------------------------------------------------------


def _answer_at_rest(rig: Rig, service: str, bundle: str) -> LoadModel.Response | None:
    """Answer of a node to the request to load a bundle; None while its last frame is one of an episode."""
    answer: LoadModel.Response = rig.call(LoadModel, service, LoadModel.Request(bundle=bundle))
    return None if BUSY in answer.message else answer


def _refusal(name: str, what: str, spoil: Callable[[Path], str], culprit: str) -> Fault:
    """A bundle that must be refused by name while the old one goes on."""

    def run(rig: Rig) -> Trial:
        trial = Trial()
        bundle = spoil(rig.models)
        for service in (names.SAFETY_LOAD_MODEL, names.POLICY_LOAD_MODEL):
            rig.until(lambda: not rig.moves(), "rest")
            answer = rig.until(partial(_answer_at_rest, rig, service, bundle), f"rest of {service}", pause_s=0.1)
            trial.answers.append(answer.message.replace(f"{rig.models}/", ""))
            trial.demand(not answer.success, f"{service} took it")
            trial.demand(culprit in answer.message, f"{service} does not name {culprit}: {answer.message}")
            trial.demand(answer.model_id == Path(MODEL).name, f"{service} now runs {answer.model_id!r}")
        rig.begin()
        rig.end()
        trial.recovery = "nothing: the old model goes on"
        return trial

    return Fault(name, what, f"refused, naming {culprit}", run)


def _copy(models: Path) -> Path:
    target = models / "safereach" / "spoiled"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(models / MODEL, target)
    return target


def _relative(folder: Path) -> str:
    return f"safereach/{folder.name}"


def _truncated(models: Path) -> str:
    folder = _copy(models)
    data = (folder / "policy_step.onnx").read_bytes()
    (folder / "policy_step.onnx").write_bytes(data[: len(data) // 2])
    return _relative(folder)


def _wrong_hash(models: Path) -> str:
    folder = _copy(models)
    data = bytearray((folder / "judge.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "judge.onnx").write_bytes(data)
    return _relative(folder)


def _wrong_signature(models: Path) -> str:
    """Hashes that fit, and a graph that takes and gives something else."""
    folder = _copy(models)
    shutil.copyfile(folder / "judge.onnx", folder / "policy_step.onnx")
    content = json.loads((folder / "manifest.json").read_text())
    content["files"]["policy_step.onnx"] = content["files"]["judge.onnx"]
    (folder / "manifest.json").write_text(json.dumps(content))
    return _relative(folder)


def _missing(models: Path) -> str:
    folder = _copy(models)
    (folder / "weights.safetensors").unlink()
    return _relative(folder)


def _other_task(models: Path) -> str:
    target = models / "safereach" / "spoiled"
    shutil.rmtree(target, ignore_errors=True)
    make_bundle(target, task_name="welding")
    return _relative(target)


def _broken_manifest(models: Path) -> str:
    folder = _copy(models)
    content = json.loads((folder / "manifest.json").read_text())
    content["thresholds"]["halt"] = None
    (folder / "manifest.json").write_text(json.dumps(content))
    return _relative(folder)


BUNDLES: Final = (
    _refusal("bundle_truncated", "half of a file", _truncated, "policy_step.onnx"),
    _refusal("bundle_hash", "one bit flipped", _wrong_hash, "judge.onnx"),
    _refusal("bundle_signature", "a graph of another signature", _wrong_signature, "policy_step.onnx: input"),
    _refusal("bundle_missing_file", "a file is gone", _missing, "weights.safetensors"),
    _refusal("bundle_task", "made for another task", _other_task, "welding"),
    _refusal("bundle_manifest", "no halt threshold", _broken_manifest, "manifest.json"),
    _refusal("bundle_outside", "a path out of the models folder", lambda models: "../../etc", "outside"),
)


Ask = Callable[[Rig, Trial], None]


def _in_motion(*asks: tuple[type, str, Ask]) -> Callable[[Rig], Trial]:
    """Requests in motion that must be refused without any effect on the motion: service type, its name, the request."""

    def run(rig: Rig) -> Trial:
        trial = Trial()
        for kind, name, ask in asks:
            # The way across the workspace is short: finding the service must not use it up.
            rig.client(kind, name)
            _ask_in_motion(rig, trial, name, ask)
        trial.recovery = "nothing: the motion goes on"
        return trial

    return run


def _ask_in_motion(rig: Rig, trial: Trial, name: str, ask: Ask) -> None:
    """Ask while the arm moves; again when the answer took so long that the end of the motion says nothing of it."""
    for _ in range(ASK_ATTEMPTS):
        rig.begin()
        begun = time.monotonic()
        rig.until(rig.moves, "motion", ANSWER_WAIT_S)
        at = time.monotonic()
        ask(rig, trial)
        answered = time.monotonic()
        if answered - begun > ANSWER_WAIT_S:
            trial.figures["late_answers"] = trial.figures.get("late_answers", 0) + 1
            rig.end()
            continue
        with contextlib.suppress(RigError):
            rig.until(partial(_moved_since, rig, answered), "motion", ANSWER_WAIT_S)
        trial.demand(_moved_since(rig, answered), f"the arm does not move on after the answer of {name}")
        gap = trial.figures.get("largest_command_gap_ms", 0.0)
        trial.figures["largest_command_gap_ms"] = max(gap, round(command_gap_ms(rig, at), 1))
        trial.reasons = list(dict.fromkeys([*trial.reasons, *rig.reasons_since(at)]))
        rig.end()
        return
    trial.problems.append(f"{name} did not answer within {ANSWER_WAIT_S:g} s in {ASK_ATTEMPTS} motions")


def _moved_since(rig: Rig, start: float) -> bool:
    """Whether a command that moves came after ``start``, and the tool was seen in motion after it."""
    told = next((c.received for c in list(rig.commands) if c.moves and c.received > start), math.inf)
    return any(t.speed >= MOVING_SPEED and t.received >= told for t in list(rig.tools))


def _change_parameter(rig: Rig, trial: Trial) -> None:
    value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=1.0)
    request = SetParameters.Request(parameters=[Parameter(name="frame_age_s", value=value)])
    result = rig.call(SetParameters, _SET_PARAMETERS, request).results[0]
    trial.answers.append(result.reason)
    trial.demand(not result.successful, "the parameter was changed")


_SET_PARAMETERS: Final = f"/{names.SAFETY_MONITOR}/set_parameters"


def _swap(service: str) -> tuple[type, str, Ask]:
    def ask(rig: Rig, trial: Trial) -> None:
        answer = rig.call(LoadModel, service, LoadModel.Request(bundle=MODEL))
        trial.answers.append(answer.message)
        trial.demand(not answer.success, f"{service} changed the model in motion")

    return LoadModel, service, ask


# -- resets, thresholds, load ---------------------------------------------------------------------------------


def _reset_while_unsafe(rig: Rig) -> Trial:
    trial = Trial()
    rig.begin()
    at = time.monotonic()
    try:
        for paint, reason in ((spoiling.of_brightness(0.9), "risky"), (np.zeros_like, "alike")):
            rig.images.spoil(spoiling.painted(paint))
            rig.until(lambda: rig.state is SafetyState.HALTED, "the halt")
            time.sleep(1.5)
            done, message = rig.trigger(names.SAFETY_RESET)
            trial.answers.append(message)
            trial.demand(not done and reason in message, f"answered: {message}")
    finally:
        _clear(rig)
    trial.held, trial.reasons = rig.hold_since(at), rig.reasons_since(at)
    trial.halted = rig.state is SafetyState.HALTED
    trial.recovery = bring_back(rig, trial)
    return trial


def _reset_spam(rig: Rig) -> Trial:
    trial = Trial()
    rig.begin()
    at = time.monotonic()
    rig.images.spoil(spoiling.painted(spoiling.of_brightness(0.9)))
    try:
        rig.until(lambda: rig.state is SafetyState.HALTED, "the halt")
        spam_at = time.monotonic()
        accepted = sum(rig.trigger(names.SAFETY_RESET)[0] for _ in range(100))
        trial.figures["resets_per_s"] = round(100 / (time.monotonic() - spam_at), 1)
        trial.figures["largest_command_gap_ms"] = round(command_gap_ms(rig, spam_at), 1)
        trial.demand(accepted == 0, f"{accepted} of 100 resets were accepted")
        trial.held, trial.reasons = rig.hold_since(at), rig.reasons_since(at)
        trial.halted = rig.state is SafetyState.HALTED
        trial.demand(trial.halted and trial.held.holds, "the hold did not outlast the resets")
    finally:
        _clear(rig)
    trial.recovery = bring_back(rig, trial)
    return trial


def _flapping(rig: Rig) -> Trial:
    """The risk swings between just below and just above the caution threshold (0.3)."""
    trial = Trial()
    rig.begin()
    at = time.monotonic()
    levels = [spoiling.of_brightness(level) for level in (0.668, 0.683)]
    turn = 0

    def paint(image: np.ndarray) -> np.ndarray:
        nonlocal turn
        turn += 1
        return levels[turn % 2](image)

    rig.images.spoil(spoiling.painted(paint))
    try:
        time.sleep(1.2)
        seen = [status for when, status in list(rig.statuses) if when >= at]
        # A late decision ends the caution; what counts is what follows from risk alone.
        changes = sum(
            before.state != after.state and not {*before.reason_names, *after.reason_names} & {"no_decision"}
            for before, after in itertools.pairwise(seen)
        )
        trial.figures["state_changes"] = changes
        trial.reasons = rig.reasons_since(at)
        trial.demand("risk_caution" in trial.reasons, "no caution was published")
        trial.demand(changes <= 1, f"the state changed {changes} times")
    finally:
        _clear(rig)
    rig.end()
    trial.recovery = "by itself"
    return trial


_BUSY: Final = "while True: pass"
_GRADIENTS: Final = """
import numpy as np
a = np.random.default_rng(0).normal(size=(600, 600)).astype(np.float32)
while True:
    a = a @ a / np.linalg.norm(a)
"""
"""Matrix products without an end, as many threads as they like."""


def _starved(program: str, priority: Priority = Priority.NORMAL) -> Callable[[Rig], Trial]:
    """Twice as many busy processes as cores. The arm may hold; it may not follow an old command."""

    def run(rig: Rig) -> Trial:
        trial = Trial()
        rig.begin()
        at = time.monotonic()
        count = 2 * (os.cpu_count() or 1)
        setup = child_setup(signal.SIGKILL, priority)
        command = [sys.executable, "-c", program]
        busy = [subprocess.Popen(command, start_new_session=True, preexec_fn=setup) for _ in range(count)]
        try:
            time.sleep(2.0)
            trial.demand(all(process.poll() is None for process in busy), "a busy process ended by itself")
        finally:
            for process in busy:
                process.kill()
                process.wait()
        trial.reasons, trial.halted = rig.reasons_since(at), rig.state is SafetyState.HALTED
        moving = [c.age_s for c in list(rig.commands) if c.received >= at and c.moves]
        trial.figures["largest_command_gap_ms"] = round(command_gap_ms(rig, at), 1)
        trial.figures["oldest_frame_moved_on_ms"] = round(1e3 * max(moving, default=0.0), 1)
        # Frame age and decision age of the contract, and as long again as the arm's own watchdog for the way.
        trial.demand(max(moving, default=0.0) <= 0.35 + COMMAND_GAP_S, "the arm was moved on an old frame")
        trial.demand(rig.living() >= set(OPERATOR_NODES), "a node died")
        trial.recovery = bring_back(rig, trial)
        return trial

    return run


def _never_starts(rig: Rig) -> Trial:
    """Activate the monitor while no camera sends anything, and start the episode."""
    trial = Trial()
    rig.begin()
    rig.end()
    rig.images.spoil(spoiling.drop)
    try:
        _change_state(rig, Transition.TRANSITION_DEACTIVATE)
        _change_state(rig, Transition.TRANSITION_ACTIVATE)
        at = time.monotonic()
        time.sleep(1.0)
        trial.reasons = rig.reasons_since(at)
        trial.demand("no_frame" in trial.reasons, f"published {', '.join(trial.reasons)}")
        done, message = rig.trigger(names.SAFETY_RESET)
        trial.answers.append(message)
        trial.demand(not done, "reset without any frame")
        trial.demand(not any(c.moves for c in list(rig.commands) if c.received >= at), "the arm moved")
    finally:
        _clear(rig)
    rig.begin()
    rig.end()
    trial.recovery = "by itself"
    return trial


def _senseless(rig: Rig) -> Trial:
    """Give the monitor a model whose risk is no number in brighter scenes, and let the scene get brighter."""

    def load(bundle: str) -> None:
        request = LoadModel.Request(bundle=bundle)
        # Refused until the end of the episode has reached the monitor.
        rig.until(
            lambda: rig.call(LoadModel, names.SAFETY_LOAD_MODEL, request).success, f"the monitor to take {bundle}"
        )

    fault = holding(
        "", "", ["bad_assessment"], AT_ONCE_MS,
        _spoiled(_images, lambda: spoiling.painted(spoiling.of_brightness(0.62))), _clear,
    )  # fmt: skip
    rig.end()
    load(SENSELESS_MODEL)
    try:
        return fault.run(rig)
    finally:
        rig.end()
        load(MODEL)


def _clock_ahead(message: Clock, publish: spoiling.Publish) -> None:
    message.clock = from_nanoseconds(to_nanoseconds(message.clock) + 10_000_000_000)
    publish(message)


def _disk_full(rig: Rig) -> Trial:
    """Ask for an episode whose records do not fit."""
    from rclpy.action.client import ActionClient

    trial = Trial()
    actions: ActionClient[Any, Any, Any] = ActionClient(rig.node, RunEpisodes, names.RUN_EPISODES)
    rig.until(actions.server_is_ready, "the episode node")
    goal = RunEpisodes.Goal(scene="standard", count=1, seed=0, reset_after_halt=True)
    sent = actions.send_goal_async(goal)
    rig.until(sent.done, "the goal's acceptance")
    result = sent.result().get_result_async()
    rig.until(result.done, "the result", 60.0)
    outcome = result.result().result
    trial.answers.append(outcome.message)
    trial.demand(not outcome.success, "the run claims to be recorded")
    trial.demand("MB" in outcome.message or "space" in outcome.message, f"does not say why: {outcome.message}")
    # Recording is no part of the way from camera to arm.
    rig.begin()
    trial.demand(rig.moves(), "the arm does not move any more")
    rig.end()
    trial.demand(rig.living() >= set(OPERATOR_NODES), "a node died")
    trial.recovery = "make room"
    return trial


def small_disk(folder: Path) -> tuple[str, ...] | None:
    """Command prefix that mounts a disk of 8 MB at ``folder`` for a program; None where that is not permitted."""
    prefix = (
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        f'mount -t tmpfs -o size=8m tmpfs "{folder}" && exec "$@"',
        "sh",
    )
    with tempfile.TemporaryDirectory() as trial:
        probe = [part.replace(str(folder), trial) for part in prefix]
        try:
            done = subprocess.run([*probe, "true"], capture_output=True, check=False)
        except FileNotFoundError:
            return None
    return prefix if done.returncode == 0 else None


OTHERS: Final = (
    Fault("camera_never_starts", "no image ever", "no_frame, nothing moves", _never_starts),
    Fault(
        "second_publisher",
        "somebody else commands motion",
        "second_publisher, latched; the arm follows neither",
        _run_second_publisher,
        limit_ms=200.0,
        timed_at_arm=True,
    ),
    Fault("arm_ignores_halt", "driven on past the arm node", "arm_moves, no reset while it moves", _arm_ignores_halt),
    Fault(
        "parameter_live",
        "a limit is changed in motion",
        "refused, the motion goes on",
        _in_motion((SetParameters, _SET_PARAMETERS, _change_parameter)),
    ),
    Fault(
        "swap_in_motion",
        "another model in motion",
        "refused, the motion goes on",
        _in_motion(_swap(names.SAFETY_LOAD_MODEL), _swap(names.POLICY_LOAD_MODEL)),
    ),
    Fault("reset_while_unsafe", "danger and a black image in view", "refused, saying why", _reset_while_unsafe),
    Fault("reset_spam", "100 resets while unsafe", "all refused, the stream of holds goes on", _reset_spam),
    Fault("threshold_flapping", "the risk swings around caution", "caution that does not flap", _flapping),
    Fault("cpu_starved", "twice as many busy processes as cores", "moves on fresh frames only", _starved(_BUSY)),
    Fault(
        "trainer_starves",
        "matrix products in the background as the trainer's, twice as many as cores",
        "moves on fresh frames only",
        _starved(_GRADIENTS, Priority.BACKGROUND),
    ),
    Fault(
        "reachability_nan",
        "the monitor's model says NaN in motion",
        "bad_assessment, latched",
        _senseless,
        limit_ms=AT_ONCE_MS,
    ),
)

SPENDING: Final = (
    *KILLED,
    Fault(
        "arm_killed",
        "SIGKILL",
        "the robot's controller keeps its last target",
        _arm_killed,
        limit_ms=None,
        spends_graph=True,
    ),
    Fault(
        "launcher_interrupted",
        "SIGINT in motion",
        "hold, and no process left",
        _launcher(signal.SIGINT),
        limit_ms=1000.0,
        spends_graph=True,
    ),
    Fault(
        "launcher_killed",
        "SIGKILL in motion",
        "hold, and no process left",
        _launcher(signal.SIGKILL),
        limit_ms=1000.0,
        spends_graph=True,
    ),
    holding(
        "clock_jump",
        "the simulated clock jumps by 10 s",
        ["stale_frame", "clock"],
        AT_ONCE_MS,
        _spoiled(_clock, lambda: _clock_ahead),
        _clear,
        runner_options=("--use-sim-time",),
    ),
    holding(
        "clock_pause",
        "the simulated clock stands still",
        ["clock", "stale_frame", "no_decision"],
        350.0,
        _silenced(_clock),
        _clear,
        runner_options=("--use-sim-time",),
    ),
    Fault("disk_full", "no room for records", "the run says so, the arm goes on", _disk_full, spends_graph=True),
)

FAULTS: Final = (*CAMERA, *DECISIONS, *PROCESSES, *OTHERS, *BUNDLES, *SPENDING)

ELSEWHERE: Final = {
    "exception in the monitor's callback": "src/fosp_safety_monitor/test/test_safety_monitor.py",
    "reachability that says nothing, whatever is seen": "src/fosp_trainer/test/test_calibration.py",
    "malformed commands at the arm": "src/fosp_arm/test/test_arm_node.py",
    "tracking error during a hold": "src/fosp_arm/test/test_controller.py",
    "trainer dies while training or writing": "tests/test_fine_tune.py, src/fosp_trainer/test/test_trainer_node.py",
    "trainer dies between two nodes that change their model": "src/fosp_trainer/test/test_swap.py",
    "fine-tune diverges": "src/fosp_trainer/test/test_fine_tune.py",
    "fine-tuned model is worse (gate, rollback)": "src/fosp_trainer/test/test_gate.py, tests/test_fine_tune.py",
    "another computer on the network": "tests/test_network.py",
}
"""Faults that cannot be injected from outside, and the tests that do."""
