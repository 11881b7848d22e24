"""The monitor as a node, over DDS, with a model whose risk follows the image's brightness."""

from __future__ import annotations

import array
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import TwistStamped
from rclpy.parameter import Parameter
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from fosp_core.bundle import BundleError, update_manifest
from fosp_core.safety import Reason, SafetyState, Verdict
from fosp_core.task import IMAGE_SIZE
from fosp_core.testing import make_bundle
from fosp_interfaces.msg import SafetyStatus, TaskState
from fosp_interfaces.srv import LoadModel
from fosp_ros import names, qos
from fosp_ros.errors import ConfigurationError
from fosp_ros.images import to_message
from fosp_ros.messages import linear_velocity
from fosp_ros.stamps import from_nanoseconds, to_nanoseconds
from fosp_ros.testing import ABOVE_THE_TABLE, Bench, plain_image
from fosp_safety_monitor.safety_monitor import SafetyMonitor

SAFE = plain_image()
DANGEROUS = plain_image(0.9, 0.9, 0.9)
RISKY = plain_image(0.7, 0.7, 0.7)
STRANGE = plain_image(0.1, 0.1, 0.9)


class MonitorBench(Bench[SafetyMonitor]):
    """The monitor with everything around it; input is late only when a test says so."""

    def __enter__(self) -> MonitorBench:
        super().__enter__()
        self.statuses: list[SafetyStatus] = self.listen(SafetyStatus, names.SAFETY_STATUS, qos.STATUS)
        self.commands: list[TwistStamped] = self.listen(TwistStamped, names.ARM_COMMAND, qos.COMMAND)
        self.connect()
        return self

    @property
    def state(self) -> SafetyState:
        return SafetyState(self.statuses[-1].state)

    @property
    def reasons(self) -> set[Reason]:
        return {Reason(r) for r in self.statuses[-1].reasons}

    @property
    def moves(self) -> bool:
        return bool(linear_velocity(self.commands[-1]).any())

    def step(self, image: np.ndarray = SAFE, **decision: Any) -> int:
        """One frame and one decision on it."""
        stamp = self.send_frame(image)
        self.send_decision(stamp, **decision)
        return stamp

    def judged(self, stamp_ns: int) -> SafetyStatus:
        """Status with the verdict on the decision of a frame."""

        def found() -> SafetyStatus | None:
            return next((s for s in list(self.statuses) if to_nanoseconds(s.frame_stamp) == stamp_ns), None)

        status = self.until(found, "a verdict")
        assert isinstance(status, SafetyStatus)
        return status

    def move(self, image: np.ndarray = SAFE) -> None:
        """Send frames and decisions until the arm is told to move."""
        self.until(lambda: self.commands and self.moves, "motion", lambda: self.step(image))

    def run_until(self, condition: Callable[[], Any], what: str, image: np.ndarray = SAFE) -> None:
        self.until(condition, what, lambda: self.step(image))

    def halted(self, *reasons: Reason) -> bool:
        return self.state is SafetyState.HALTED and self.reasons.issuperset(reasons)

    def reset(self) -> Trigger.Response:
        response = self.call(Trigger, names.SAFETY_RESET, Trigger.Request())
        assert isinstance(response, Trigger.Response)
        return response

    def load(self, bundle: str) -> LoadModel.Response:
        response = self.call(LoadModel, names.SAFETY_LOAD_MODEL, LoadModel.Request(bundle=bundle))
        assert isinstance(response, LoadModel.Response)
        return response


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    make_bundle(root / "safereach" / "first")
    make_bundle(root / "safereach" / "second")
    calibrated = make_bundle(root / "safereach" / "calibrated")
    bound = {
        "method": "conformal", "confidence": 0.95, "missed_rate": 0.05, "model_hash": calibrated.graphs_hash,
        "surprise_average": 4.0,
    }  # fmt: skip
    update_manifest(calibrated, thresholds=replace(calibrated.manifest.thresholds, **bound))
    damaged = root / "safereach" / "damaged"
    shutil.copytree(root / "safereach" / "first", damaged)
    data = bytearray((damaged / "judge.onnx").read_bytes())
    data[100] ^= 1
    (damaged / "judge.onnx").write_bytes(data)
    return root


def parameters(models: Path, **changes: Any) -> dict[str, Any]:
    # The widest limits of time that are allowed: no test is about speed.
    return {
        "models_root": str(models),
        "bundle": "safereach/first",
        "require_calibration": False,
        "frame_age_s": 1.0,
        "decision_age_s": 0.5,
        "joint_age_s": 0.5,
        "motion_memory_s": 5.0,
        "frame_rate_hz": 0.5,
        **changes,
    }


@pytest.fixture
def bench(models: Path) -> Iterator[MonitorBench]:
    with MonitorBench(SafetyMonitor, parameters(models)) as bench:
        yield bench


def test_a_safe_decision_moves_the_arm_with_the_stamp_of_its_frame(bench: MonitorBench) -> None:
    bench.move()
    command = next(c for c in reversed(bench.commands) if linear_velocity(c).any())
    np.testing.assert_allclose(linear_velocity(command), [0.15, 0.0, 0.0], atol=1e-6)
    status = bench.judged(to_nanoseconds(command.header.stamp))
    assert (status.state, status.verdict) == (SafetyState.NOMINAL, Verdict.FORWARDED)
    np.testing.assert_allclose(status.approved_action, status.proposed_action)
    assert status.violation_probability == status.lookahead_probability == 0.0
    assert (status.model_id, round(status.caution_threshold, 3), round(status.halt_threshold, 3)) == ("first", 0.3, 0.6)


def test_silence_of_policy_and_camera_stops_the_arm_while_zeros_go_on(bench: MonitorBench) -> None:
    bench.move()
    bench.until(lambda: not bench.moves, "a hold")
    bench.until(lambda: bench.halted(Reason.STALE_FRAME), "a halt for the lost camera")
    count = len(bench.commands)
    bench.until(lambda: len(bench.commands) > count + 20, "the stream of zeros")
    assert not bench.moves


def test_frames_that_drive_the_risk_over_the_threshold_halt_and_latch(bench: MonitorBench) -> None:
    bench.move()
    for brightness in np.linspace(0.3, 0.9, 7):
        bench.step(plain_image(brightness, brightness, brightness))
    bench.run_until(lambda: bench.halted(Reason.RISK_HALT), "a halt", DANGEROUS)
    assert not bench.moves
    halts = bench.statuses[-1].halt_count

    refused = bench.reset()
    assert not refused.success and "risky" in refused.message

    # Safe again, yet latched.
    status = bench.judged(bench.step(SAFE))
    assert (status.state, status.verdict) == (SafetyState.HALTED, Verdict.HELD)
    bench.run_until(lambda: bench.reset().success, "a reset after a second of healthy input")
    bench.move()
    assert bench.state is SafetyState.NOMINAL
    assert bench.statuses[-1].halt_count == halts == 1


def test_raised_risk_slows_before_it_stops(bench: MonitorBench) -> None:
    bench.move()
    status = bench.judged(bench.step(RISKY))
    assert (status.state, status.verdict) == (SafetyState.CAUTION, Verdict.SLOWED)
    np.testing.assert_allclose(status.approved_action, [0.25, 0.0, 0.0], atol=1e-6)
    assert status.caution_threshold <= status.violation_probability < status.halt_threshold


def test_unfamiliar_frames_halt(bench: MonitorBench) -> None:
    bench.move()
    bench.run_until(lambda: bench.halted(Reason.OUT_OF_DISTRIBUTION), "a halt", STRANGE)


@pytest.mark.parametrize(
    "decision",
    [
        {"action": (math.nan, 0.0, 0.0)},
        {"action": (math.inf, 0.0, 0.0)},
        {"action": (1.5, 0.0, 0.0)},
        {"action": (0.5, 0.0)},
        {"action": ()},
        {"candidates": (0.5, 0.0, 0.0)},
        {"candidates": (0.5,) * 300},
        {"candidates": (0.5, 0.0, 0.0, math.nan, 0.0, 0.0)},
    ],
)
def test_a_malformed_decision_halts(bench: MonitorBench, decision: dict[str, Any]) -> None:
    bench.until(lambda: bench.statuses and bench.halted(Reason.BAD_ACTION), "a halt", lambda: bench.step(**decision))
    assert not any(linear_velocity(c).any() for c in bench.commands)


def test_a_decision_on_another_frame_is_held(bench: MonitorBench) -> None:
    bench.move()
    stamp = bench.send_frame()
    bench.send_decision(stamp - 1_000_000)
    status = bench.judged(stamp - 1_000_000)
    assert status.verdict == Verdict.HELD
    assert status.reason_names == ["other_frame"]


def test_a_decision_that_arrives_before_its_frame_waits_for_it(bench: MonitorBench) -> None:
    bench.move()
    stamp = bench.now_ns
    bench.send_decision(stamp)
    bench.send_frame(stamp_ns=stamp)
    assert bench.judged(stamp).verdict == Verdict.FORWARDED


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoding": "bayer_rggb8"}, "encoding 'bayer_rggb8'"),
        ({"data": array.array("B", b"\0" * 100)}, "truncated"),
        ({"height": 0, "width": 0, "data": array.array("B")}, "empty"),
    ],
)
def test_a_malformed_image_in_motion_halts_and_is_named(
    bench: MonitorBench, change: dict[str, Any], named: str
) -> None:
    bench.move()
    stamp = bench.now_ns
    message = to_message(SAFE, from_nanoseconds(stamp), "camera")
    for name, value in change.items():
        setattr(message, name, value)
    bench.until(lambda: bench.halted(Reason.BAD_IMAGE), "a halt", lambda: bench.send_image(message))
    assert named in bench.node._diagnostics.last_fault
    refused = bench.reset()
    assert not refused.success and Reason.BAD_IMAGE.text in refused.message


@pytest.mark.parametrize("level", [0, 117, 255])
def test_an_image_of_one_value_in_motion_halts_with_a_reason_of_its_own(bench: MonitorBench, level: int) -> None:
    bench.move()
    bench.run_until(
        lambda: bench.halted(Reason.UNIFORM_IMAGE), "a halt", np.full((IMAGE_SIZE, IMAGE_SIZE, 3), level, np.uint8)
    )
    refused = bench.reset()
    assert not refused.success and Reason.UNIFORM_IMAGE.text in refused.message


def test_frames_that_come_too_seldom_halt(models: Path) -> None:
    with MonitorBench(SafetyMonitor, parameters(models, frame_rate_hz=50.0)) as bench:
        bench.run_until(lambda: bench.statuses and bench.halted(Reason.LOW_RATE), "a halt")


def test_an_arm_that_moves_although_it_should_hold_halts(bench: MonitorBench) -> None:
    bench.move()
    assert bench.call(Trigger, names.SAFETY_HALT, Trigger.Request()).success
    bench.run_until(lambda: bench.node._state.held_at is None, "a frame after the motion")
    bench.run_until(lambda: bench.node._state.held_at is not None, "rest")
    elsewhere = (0.3, *ABOVE_THE_TABLE[1:])
    bench.until(lambda: bench.halted(Reason.ARM_MOVES), "the reason", lambda: bench.send_frame(joints=elsewhere))


def test_arm_that_is_brought_home_after_an_episode_is_no_arm_that_does_not_hold(bench: MonitorBench) -> None:
    word = bench.client.create_publisher(Bool, names.ARM_HOMING, qos.TASK_STATE)
    bench.until(word.get_subscription_count, "the monitor")
    way = np.linspace(ABOVE_THE_TABLE[3], ABOVE_THE_TABLE[3] + 0.5, 30)

    def at(elbow: float, homing: bool) -> None:
        word.publish(Bool(data=homing))
        bench.send_frame(joints=(*ABOVE_THE_TABLE[:3], float(elbow), *ABOVE_THE_TABLE[4:]), phase=TaskState.ENDED)

    def holds() -> bool:
        return bench.node._state.held_at is not None

    bench.move()
    bench.until(holds, "rest", lambda: at(way[0], False))
    bench.until(lambda: not holds(), "the word", lambda: at(way[0], True))
    for elbow in way:
        at(elbow, True)
        time.sleep(0.02)
        assert Reason.ARM_MOVES not in bench.reasons
    bench.until(holds, "another place to hold", lambda: at(way[-1], False))
    assert Reason.ARM_MOVES not in bench.reasons
    # Without the word, the way back is one that nobody ordered.
    bench.until(lambda: Reason.ARM_MOVES in bench.reasons, "the reason", lambda: at(way[0], False))


def test_missing_joint_states_are_no_healthy_input(bench: MonitorBench) -> None:
    bench.until(
        lambda: bench.statuses and Reason.STALE_JOINTS in bench.reasons,
        "the reason",
        lambda: bench.send_frame(joints=None),
    )
    refused = bench.reset()
    assert not refused.success and Reason.STALE_JOINTS.text in refused.message


@pytest.mark.parametrize("offset_s", [-30.0, 5.0])
def test_frames_of_another_time_halt_in_motion(bench: MonitorBench, offset_s: float) -> None:
    bench.move()
    expected = Reason.CLOCK if offset_s > 0 else Reason.STALE_FRAME

    def step() -> None:
        stamp = bench.now_ns + round(offset_s * 1e9)
        bench.send_frame(stamp_ns=stamp)
        bench.send_decision(stamp)

    bench.until(lambda: bench.state is SafetyState.HALTED, "a halt", step)
    assert bench.reasons & {expected, Reason.CLOCK}


def test_reset_without_any_camera_is_refused(bench: MonitorBench) -> None:
    refused = bench.reset()
    assert not refused.success and refused.message == f"refused: {Reason.NO_FRAME.text}"


def test_the_operator_halts_and_resets(bench: MonitorBench) -> None:
    bench.move()
    assert bench.call(Trigger, names.SAFETY_HALT, Trigger.Request()).success
    bench.until(lambda: bench.halted(Reason.OPERATOR), "the halt")
    assert not bench.moves
    bench.run_until(lambda: bench.reset().success, "the reset")
    bench.move()


def test_a_second_publisher_of_commands_halts_and_bars_the_reset(bench: MonitorBench) -> None:
    bench.move()
    intruder = bench.client.create_publisher(TwistStamped, names.ARM_COMMAND, qos.COMMAND)
    bench.run_until(lambda: bench.halted(Reason.SECOND_PUBLISHER), "a halt")
    assert "bench" in bench.node._diagnostics.last_fault
    assert not bench.reset().success
    bench.client.destroy_publisher(intruder)
    bench.run_until(lambda: bench.reset().success, "a reset")


def test_an_exception_in_the_monitor_halts(bench: MonitorBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.move()

    def broken(*args: Any) -> None:
        raise RuntimeError("broken")

    assert bench.node._runtime is not None
    monkeypatch.setattr(bench.node._runtime, "step", broken)
    bench.run_until(lambda: bench.halted(Reason.INTERNAL_ERROR), "a halt")
    assert not bench.moves


def test_deactivation_in_motion_stops_the_arm(bench: MonitorBench) -> None:
    bench.move()
    bench.node.trigger_deactivate()
    bench.until(lambda: bench.state is SafetyState.INACTIVE and not bench.moves, "the hold")
    for _ in range(3):
        bench.step()
    assert not bench.moves
    bench.node.trigger_activate()
    bench.move()


def test_a_halt_outlives_deactivation_and_activation(bench: MonitorBench) -> None:
    bench.call(Trigger, names.SAFETY_HALT, Trigger.Request())
    bench.node.trigger_deactivate()
    bench.node.trigger_activate()
    status = bench.judged(bench.step())
    assert (status.state, status.verdict) == (SafetyState.HALTED, Verdict.HELD)


def test_a_model_is_changed_at_rest_only_and_a_bad_one_changes_nothing(bench: MonitorBench) -> None:
    bench.move()
    refused = bench.load("safereach/second")
    assert not refused.success and "episode is running" in refused.message and refused.model_id == "first"

    bench.until(
        lambda: not bench.node._reader.running and not bench.moves,
        "rest",
        lambda: bench.send_frame(phase=TaskState.ENDED),
    )
    for name, culprit in (
        ("safereach/damaged", "judge.onnx"),
        ("safereach/absent", "absent"),
        ("../elsewhere", "outside"),
        ("/etc", "relative"),
    ):
        refused = bench.load(name)
        assert not refused.success and culprit in refused.message and refused.model_id == "first"
    loaded = bench.load("safereach/second")
    assert loaded.success and loaded.model_id == "second"
    bench.until(lambda: bench.statuses[-1].model_id == "second", "the new model", lambda: bench.send_frame())


def test_safety_parameters_cannot_change_live(bench: MonitorBench) -> None:
    result = bench.node.set_parameters([Parameter("frame_age_s", value=0.3)])[0]
    assert not result.successful


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"bundle": "safereach/damaged"}, ConfigurationError, "judge.onnx"),
        ({"bundle": "safereach/absent"}, ConfigurationError, "absent"),
        ({"frame_age_s": 60.0}, ConfigurationError, "frame_age_s"),
        ({"provider": "NoSuchProvider"}, ConfigurationError, "NoSuchProvider"),
        ({"require_calibration": True}, ConfigurationError, "model first: its thresholds are not calibrated"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(
    models: Path, changes: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises((error, BundleError), match=named), Bench(SafetyMonitor, parameters(models, **changes)):
        pass


def test_calibration_is_required_at_start_and_of_every_later_model(models: Path) -> None:
    asked = parameters(models, require_calibration=True, bundle="safereach/calibrated")
    with MonitorBench(SafetyMonitor, asked) as bench:
        assert bench.node.is_active
        refused = bench.load("safereach/first")
        assert not refused.success and refused.model_id == "calibrated"
        assert "fosp-train calibrate" in refused.message
        assert bench.load("safereach/calibrated").success


def test_without_autostart_the_arm_is_told_to_hold(models: Path) -> None:
    with MonitorBench(SafetyMonitor, parameters(models, autostart=False)) as bench:
        bench.until(lambda: len(bench.commands) > 5 and bench.statuses, "zeros")
        bench.step()
        assert bench.state is SafetyState.INACTIVE and not bench.moves
        assert not bench.reset().success
        assert "not configured" in bench.load("safereach/first").message
