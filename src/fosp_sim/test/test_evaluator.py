"""The task evaluator of a real table: contact from effort, and the node over DDS with an operator."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PointStamped
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from fosp_core import task
from fosp_interfaces.msg import TaskState
from fosp_interfaces.srv import ResetScene
from fosp_ros import names, qos
from fosp_ros.images import to_message
from fosp_ros.stamps import from_nanoseconds
from fosp_ros.testing import ABOVE_THE_TABLE, Bench, plain_image
from fosp_sim.evaluator_node import EvaluatorNode
from fosp_sim.operated import EffortContact
from fosp_sim.world import ArmKinematics

PERIOD = 0.02


def run(contact: EffortContact, efforts: np.ndarray, start_s: float = 0.0) -> list[bool]:
    return [contact.update(e, start_s + PERIOD * i) for i, e in enumerate(efforts)]


def test_slow_change_of_effort_is_no_contact_and_a_sudden_one_is() -> None:
    contact = EffortContact(6.0)
    slow = np.linspace(0.0, 30.0, 400)[:, None] * np.array([1.0, 0.5])  # 3.75 N m/s
    assert not any(run(contact, slow))
    assert all(run(contact, slow[-1] + np.array([[0.0, 8.0]] * 10), 8.0))
    assert not any(run(contact, np.repeat(slow[-1:], 10, axis=0), 8.2))


def test_lasting_change_becomes_the_expectation() -> None:
    contact = EffortContact(6.0)
    run(contact, np.zeros((50, 7)))
    seen = run(contact, np.full((300, 7), 20.0), 1.0)
    assert seen[0] and not seen[-1]


def test_noise_and_missing_efforts_are_no_contact() -> None:
    rng = np.random.default_rng(0)
    assert not any(run(EffortContact(6.0), rng.normal(0.0, 0.8, (500, 7))))
    assert not EffortContact(6.0).update(np.full(7, np.nan), 0.0)
    assert not any(run(EffortContact(0.0), np.array([[0.0], [100.0]])))


class Table(Bench[EvaluatorNode]):
    """A camera, an arm that stands where it is put, and an operator."""

    def __enter__(self) -> Table:
        super().__enter__()
        self.states = self.listen(TaskState, names.TASK_STATE, qos.TASK_STATE)
        self.connect()
        self.positions, self.efforts = list(ABOVE_THE_TABLE), [0.0] * 7
        self._arm = self.client.create_publisher(JointState, names.JOINT_STATES, qos.JOINT_STATES)
        self.client.create_timer(PERIOD, self._report)
        self.until(lambda: np.all(np.isfinite(self.node._world.tool)), "the arm")
        return self

    def _report(self) -> None:
        message = JointState(name=list(task.ARM_JOINTS), position=self.positions, effort=self.efforts)
        self._arm.publish(message)

    def frame(self) -> TaskState:
        stamp = from_nanoseconds(self.now_ns)
        self.send_image(to_message(plain_image(), stamp, "camera"))
        self.until(lambda: self.states and self.states[-1].header.stamp == stamp, "the state of a frame")
        return self.states[-1]

    def trigger(self, name: str) -> Trigger.Response:
        return self.call(Trigger, name, Trigger.Request())

    def reset(self) -> tuple[threading.Thread, list[Any]]:
        """A reset under way, and where its answer will be."""
        answers: list[Any] = []
        request = ResetScene.Request(scene="standard", seed=5, episode_id=3)
        thread = threading.Thread(target=lambda: answers.append(self.call(ResetScene, names.SCENE_RESET, request)))
        thread.start()
        self.until(lambda: self.node._laid_out is not None, "a waiting reset")
        return thread, answers


@pytest.fixture
def table() -> Iterator[Table]:
    with Table(EvaluatorNode, {"effort_threshold_nm": 6.0}) as it:
        yield it


def test_episode_is_laid_out_by_the_operator_and_labelled_without_a_simulation(table: Table) -> None:
    assert not table.trigger(names.TASK_READY).success
    thread, answers = table.reset()
    refused = table.trigger(names.TASK_READY)
    assert not refused.success and "no goal yet" in refused.message
    kinematics = ArmKinematics()
    goal, away = np.array([0.5, 0.0, 0.05]), np.array([0.5, 0.12, 0.10])
    table.positions = kinematics.solve(np.array(ABOVE_THE_TABLE), goal, iterations=60).tolist()
    table.until(lambda: np.allclose(table.node._world.tool, goal, atol=3e-3), "the tool at the goal")
    assert table.trigger(names.TASK_TEACH_GOAL).success
    assert table.frame().phase == TaskState.IDLE
    assert table.trigger(names.TASK_READY).success
    thread.join(60)
    assert answers[0].success, answers[0].message
    state = table.frame()
    assert (state.phase, state.episode_id, state.seed, state.scene) == (TaskState.READY, 3, 5, "standard")

    np.testing.assert_allclose([state.goal.x, state.goal.y, state.goal.z], goal, atol=3e-3)
    table.positions = kinematics.solve(np.array(table.positions), away, iterations=60).tolist()
    table.until(lambda: np.allclose(table.node._world.tool, away, atol=3e-3), "the arm beside the goal")
    assert table.trigger(names.SCENE_START).success
    assert table.frame().is_first
    state = table.frame()
    assert (state.phase, state.cost, state.reached) == (TaskState.RUNNING, 0.0, False)
    assert table.trigger(names.TASK_CONTACT).success
    state = table.frame()
    assert (state.cost, state.cost_reason, state.violated) == (1.0, "contact", True)
    assert table.trigger(names.TASK_FALLEN).success
    assert table.frame().cost_reason == "obstacle_fallen"
    assert table.frame().cost == 0.0
    table.efforts = [0.0, 12.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    table.until(lambda: table.node._world._touched, "contact by effort")
    assert table.frame().cost_reason == "contact"
    table.efforts = [0.0] * 7
    table.positions = kinematics.solve(np.array(table.positions), goal, iterations=60).tolist()
    table.until(lambda: np.allclose(table.node._world.tool, goal, atol=3e-3), "the arm at the goal")
    state = table.frame()
    assert (state.phase, state.reached, state.violated) == (TaskState.ENDED, True, True)
    assert state.reward == pytest.approx(10 * np.linalg.norm(away - goal) + 5, abs=0.1)


def test_goal_is_taken_from_a_click_in_the_workspace_only(table: Table) -> None:
    clicks = table.client.create_publisher(PointStamped, "/clicked_point", 1)
    table.until(lambda: clicks.get_subscription_count() > 0, "a listener for clicks")
    for frame, x in ((task.BASE_FRAME, 2.0), ("camera", 0.5), (task.BASE_FRAME, 0.5)):
        message = PointStamped()
        message.header.frame_id, message.point.x, message.point.y = frame, x, 0.1
        clicks.publish(message)
    table.until(lambda: table.node._goal is not None, "a goal")
    np.testing.assert_allclose(table.node._goal[:2], [0.5, 0.1])


def test_reset_gives_up_when_the_operator_does_nothing() -> None:
    with Table(EvaluatorNode, {"operator_timeout_s": 1.0}) as table:
        answer = table.call(ResetScene, names.SCENE_RESET, ResetScene.Request(scene="standard", seed=1, episode_id=1))
        assert not answer.success and "did not lay out" in answer.message
