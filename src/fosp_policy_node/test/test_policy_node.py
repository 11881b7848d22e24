"""The policy node over DDS, with a model whose candidates are constants."""

from __future__ import annotations

import array
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile

from fosp_core.testing import make_bundle
from fosp_interfaces.msg import PolicyDecision, SafetyStatus, TaskState
from fosp_interfaces.srv import LoadModel
from fosp_policy_node.policy_node import PolicyNode
from fosp_ros import names, qos
from fosp_ros.errors import ConfigurationError
from fosp_ros.images import to_message
from fosp_ros.stamps import from_nanoseconds, to_nanoseconds
from fosp_ros.testing import Bench, plain_image

OFFLINE_ACTION = (0.5, 0.0, 0.0)
ONLINE_ACTION = (0.0, 0.5, 0.0)
RESEND_STEPS = 20
"""Tenths of a second, after which a frame or its decision counts as lost."""


class PolicyBench(Bench[PolicyNode]):
    """The policy node with camera, robot, task and monitor around it."""

    def __enter__(self) -> PolicyBench:
        super().__enter__()
        # Deeper than the monitor's: a busy machine may keep the test from reading one before the next arrives.
        every = QoSProfile(depth=100, reliability=qos.DECISION.reliability)
        self.decisions: list[PolicyDecision] = self.listen(PolicyDecision, names.POLICY_DECISION, every)
        self._statuses = self.client.create_publisher(SafetyStatus, names.SAFETY_STATUS, qos.STATUS)
        self.connect()
        self.until(lambda: self._statuses.get_subscription_count() > 0, "a listener for the status")
        return self

    def decide(self, **frame: Any) -> PolicyDecision:
        """Send a frame and wait for its decision; gives that of the last frame sent, so that none is on its way.

        Images are best effort, so that a frame may be lost; then another one is sent.
        """
        steps = itertools.count()
        sent = -1

        def step() -> None:
            nonlocal sent
            if next(steps) % RESEND_STEPS == 0:
                sent = self.send_frame(**frame)

        def found() -> PolicyDecision | None:
            return next((d for d in list(self.decisions) if to_nanoseconds(d.header.stamp) == sent), None)

        decision = self.until(found, "a decision", step)
        assert isinstance(decision, PolicyDecision)
        return decision

    def show(self, **frame: Any) -> None:
        """Send frames until the node has read one."""
        since = self.now_ns
        self.until(lambda: self.node._last_stamp_ns >= since, "the frame", lambda: self.send_frame(**frame))

    def approve(self, stamp_ns: int, action: tuple[float, ...]) -> None:
        """Say, as the monitor does, what was executed on a frame's decision."""
        self._statuses.publish(SafetyStatus(frame_stamp=from_nanoseconds(stamp_ns), approved_action=list(action)))

    def load(self, bundle: str) -> LoadModel.Response:
        response = self.call(LoadModel, names.POLICY_LOAD_MODEL, LoadModel.Request(bundle=bundle))
        assert isinstance(response, LoadModel.Response)
        return response


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    make_bundle(root / "safereach" / "first", offline_action=OFFLINE_ACTION, online_action=ONLINE_ACTION)
    make_bundle(root / "safereach" / "second", online_action=(0.0, -0.5, 0.0))
    make_bundle(root / "safereach" / "other_task", task_name="stacking")
    damaged = root / "safereach" / "damaged"
    shutil.copytree(root / "safereach" / "first", damaged)
    data = bytearray((damaged / "policy_step.onnx").read_bytes())
    data[100] ^= 1
    (damaged / "policy_step.onnx").write_bytes(data)
    return root


def parameters(models: Path, **changes: Any) -> dict[str, Any]:
    return {"models_root": str(models), "bundle": "safereach/first", "joint_tolerance_s": 0.5, **changes}


@pytest.fixture
def bench(models: Path) -> Iterator[PolicyBench]:
    with PolicyBench(PolicyNode, parameters(models)) as bench:
        yield bench


def test_a_decision_says_everything_about_the_choice(bench: PolicyBench) -> None:
    decision = bench.decide(is_first=True, episode=7)
    assert (decision.model_id, decision.episode_id, decision.is_first) == ("first", 7, True)
    assert decision.header.frame_id == "panda_link0"
    assert decision.chosen == PolicyDecision.ONLINE
    np.testing.assert_allclose(decision.action, ONLINE_ACTION)
    np.testing.assert_allclose(decision.candidate_actions, [*OFFLINE_ACTION, *ONLINE_ACTION])
    np.testing.assert_allclose(decision.q_reward, [1.0, 2.0])
    np.testing.assert_allclose(decision.q_cost, [0.0, 0.0])
    np.testing.assert_allclose(decision.violation_probability, [0.0, 0.0])
    assert sum(decision.probabilities) == pytest.approx(1.0)
    assert decision.probabilities[1] > decision.probabilities[0]
    assert (decision.kappa, decision.temperature, decision.surprise) == (1.0, 1.0, 0.0)
    assert to_nanoseconds(decision.decided_at) >= to_nanoseconds(decision.header.stamp) and decision.inference_ms > 0.0


def test_decides_only_while_an_episode_runs(bench: PolicyBench) -> None:
    bench.decide()
    count = len(bench.decisions)
    for phase in (TaskState.ENDED, TaskState.IDLE, TaskState.READY):
        bench.show(phase=phase)
    # Frames are worked on in order, so a later decision means that these were done with.
    bench.decide(episode=2)
    assert {d.episode_id for d in bench.decisions[count:]} == {2}


def test_the_first_frame_of_an_episode_resets_the_filter_also_when_the_flag_was_lost(bench: PolicyBench) -> None:
    bench.decide(is_first=True)
    assert not bench.decide().is_first
    bench.decide(episode=2)
    assert next(d for d in bench.decisions if d.episode_id == 2).is_first
    assert not bench.decide(episode=2).is_first


def test_the_filter_is_told_what_the_monitor_let_through(bench: PolicyBench) -> None:
    stamp = to_nanoseconds(bench.decide(is_first=True).header.stamp)
    bench.approve(stamp, (0.25, -0.5, 0.75))
    bench.until(lambda: any(bench.node._executed(stamp)), "the status")
    bench.decide()
    runtime = bench.node._runtime
    assert runtime is not None
    # The test model's state adds up the previous actions.
    np.testing.assert_allclose(runtime.state[0][:3], [0.25, -0.5, 0.75])
    # Nothing was let through since: the arm did not move.
    bench.decide()
    np.testing.assert_allclose(runtime.state[0][:3], [0.25, -0.5, 0.75])


def test_risk_is_reported_with_the_decision(bench: PolicyBench) -> None:
    decision = bench.decide(image=plain_image(0.9, 0.9, 0.9))
    assert decision.state_violation_probability == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoding": "yuv422"}, "encoding 'yuv422'"),
        ({"step": 3}, "row step"),
        ({"data": array.array("B", b"\0" * 10)}, "truncated"),
        ({"height": 0, "width": 0, "data": array.array("B")}, "empty"),
    ],
)
def test_a_malformed_image_is_named_and_the_next_one_is_decided_on(
    bench: PolicyBench, change: dict[str, Any], named: str
) -> None:
    message = to_message(plain_image(), from_nanoseconds(bench.now_ns), "camera")
    for name, value in change.items():
        setattr(message, name, value)
    diagnostics = bench.node._diagnostics
    bench.until(lambda: diagnostics.counts.get("bad_image"), "the count", lambda: bench.send_image(message))
    assert named in diagnostics.last_fault
    assert bench.node._health().message == "no decision: bad image"
    bench.decide()
    bench.until(lambda: bench.node._health().message == "deciding", "health")


def test_without_joint_states_there_is_no_decision(bench: PolicyBench) -> None:
    diagnostics = bench.node._diagnostics
    bench.until(lambda: diagnostics.counts.get("no_joint_states"), "the count", lambda: bench.send_frame(joints=None))
    assert not bench.decisions
    bench.decide()


def test_a_larger_camera_image_is_cropped_and_resized(bench: PolicyBench) -> None:
    wide = np.zeros((120, 200, 3), np.uint8)
    wide[:, 40:160] = plain_image(0.9, 0.9, 0.9, 120)
    assert bench.decide(image=wide).state_violation_probability == pytest.approx(1.0)


def test_the_way_of_choosing_can_change_while_running(bench: PolicyBench) -> None:
    def choose(**values: Any) -> None:
        results = bench.node.set_parameters([Parameter(k, value=v) for k, v in values.items()])
        assert all(r.successful for r in results)

    assert bench.decide().chosen == PolicyDecision.ONLINE
    choose(selection_mode="offline")
    assert bench.decide().chosen == PolicyDecision.OFFLINE
    choose(selection_mode="greedy", kappa=2.5, temperature=0.5)
    decision = bench.decide()
    assert (decision.chosen, decision.kappa, decision.temperature) == (PolicyDecision.ONLINE, 2.5, 0.5)
    choose(selection_mode="", kappa=-1.0, temperature=0.0)
    assert bench.decide().kappa == 1.0
    refused = bench.node.set_parameters([Parameter("selection_mode", value="best")])[0]
    assert not refused.successful and "greedy" in refused.reason


def test_a_model_is_changed_at_rest_only_and_a_bad_one_changes_nothing(bench: PolicyBench) -> None:
    bench.decide()
    refused = bench.load("safereach/second")
    assert not refused.success and "episode is running" in refused.message and refused.model_id == "first"
    bench.until(lambda: not bench.node._reader.running, "rest", lambda: bench.send_frame(phase=TaskState.ENDED))
    for name, culprit in (
        ("safereach/damaged", "policy_step.onnx"),
        ("safereach/other_task", "stacking"),
        ("safereach/absent", "absent"),
        ("../elsewhere", "outside"),
    ):
        refused = bench.load(name)
        assert not refused.success and culprit in refused.message and refused.model_id == "first"
    assert bench.decide().model_id == "first"
    bench.until(lambda: not bench.node._reader.running, "rest", lambda: bench.send_frame(phase=TaskState.ENDED))
    loaded = bench.load("safereach/second")
    assert loaded.success and loaded.model_id == "second"
    decision = bench.decide(episode=2)
    assert decision.model_id == "second" and decision.is_first
    np.testing.assert_allclose(decision.action, [0.0, -0.5, 0.0])


def test_inactive_means_silent(bench: PolicyBench) -> None:
    bench.decide()
    bench.node.trigger_deactivate()
    since = bench.now_ns
    bench.until(lambda: bench.node._health().message == "not active", "the change")
    bench.send_frame()
    bench.node.trigger_activate()
    bench.decide()
    # The filter starts over, whatever it saw before.
    first = next(d for d in bench.decisions if to_nanoseconds(d.header.stamp) > since)
    assert first.is_first and first.model_id == "first"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"bundle": "safereach/damaged"}, "policy_step.onnx"),
        ({"bundle": "safereach/other_task"}, "stacking"),
        ({"models_root": "/nowhere", "bundle": ""}, "/nowhere"),
        ({"provider": "NoSuchProvider"}, "NoSuchProvider"),
        ({"selection_mode": "best"}, "selection_mode"),
        ({"joint_tolerance_s": 1}, "joint_tolerance_s"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(models: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named), Bench(PolicyNode, parameters(models, **changes)):
        pass


def test_the_newest_bundle_is_taken_when_none_is_named(models: Path) -> None:
    with Bench(PolicyNode, parameters(models, models_root=str(models), bundle="", autostart=False)) as bench:
        assert not bench.node.is_configured
