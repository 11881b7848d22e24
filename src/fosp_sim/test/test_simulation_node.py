"""The simulation as a node, over DDS."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from fosp_core import task
from fosp_interfaces.msg import TaskState
from fosp_interfaces.srv import ResetScene
from fosp_ros import names, qos
from fosp_ros.errors import ConfigurationError
from fosp_ros.images import from_message
from fosp_ros.stamps import to_nanoseconds
from fosp_ros.testing import Bench
from fosp_sim.environment import SafeReachEnv
from fosp_sim.simulation_node import SimulationNode, joint_targets


class SimulationBench(Bench[SimulationNode]):
    """The simulation with ears on all its topics."""

    def __enter__(self) -> SimulationBench:
        super().__enter__()
        self.states: list[TaskState] = self.listen(TaskState, names.TASK_STATE, qos.TASK_STATE)
        self.images: list[Image] = self.listen(Image, names.CAMERA_IMAGE, qos.IMAGE)
        self.infos: list[CameraInfo] = self.listen(CameraInfo, names.CAMERA_INFO, qos.IMAGE)
        self.joints: list[JointState] = self.listen(JointState, names.JOINT_STATES, qos.JOINT_STATES)
        self.trajectories = self.client.create_publisher(JointTrajectory, names.JOINT_TRAJECTORY, qos.TRAJECTORY)
        self.until(lambda: self.states and self.images and self.infos and self.joints, "frames")
        return self

    def reset(self, scene: str = "standard", seed: int = 3, episode: int = 1) -> ResetScene.Response:
        request = ResetScene.Request(scene=scene, seed=seed, episode_id=episode)
        return self.call(ResetScene, names.SCENE_RESET, request)

    def trigger(self, name: str) -> Trigger.Response:
        return self.call(Trigger, name, Trigger.Request())

    def phase(self, phase: int) -> TaskState:
        """The first state seen from now on in a phase."""
        count = len(self.states)
        return self.until(
            lambda: next((s for s in list(self.states[count:]) if s.phase == phase), None), f"phase {phase}"
        )

    def send_targets(self, positions: np.ndarray) -> None:
        message = JointTrajectory(joint_names=list(task.ARM_JOINTS))
        message.points = [JointTrajectoryPoint(positions=[float(v) for v in positions])]
        self.trajectories.publish(message)


@pytest.fixture
def bench() -> Iterator[SimulationBench]:
    with SimulationBench(SimulationNode) as it:
        yield it


def test_every_frame_has_a_task_state_and_camera_info_of_the_same_stamp(bench: SimulationBench) -> None:
    count = len(bench.images)
    bench.until(lambda: len(bench.images) >= count + 5, "five frames")
    states = {to_nanoseconds(s.header.stamp) for s in list(bench.states)}
    infos = {to_nanoseconds(s.header.stamp) for s in list(bench.infos)}
    stamps = [to_nanoseconds(image.header.stamp) for image in list(bench.images)[count : count + 4]]
    assert set(stamps) <= states and set(stamps) <= infos
    assert stamps == sorted(set(stamps))


def test_the_episode_goes_through_its_phases(bench: SimulationBench) -> None:
    answer = bench.reset(episode=12)
    assert answer.success
    state = bench.phase(TaskState.READY)
    assert (state.episode_id, state.scene, state.seed, state.step) == (12, "standard", 3, 0)
    assert bench.trigger(names.SCENE_START).success
    state = bench.phase(TaskState.RUNNING)
    assert not state.reached
    bench.until(lambda: bench.states[-1].step >= 3, "three steps")
    refused = bench.trigger(names.SCENE_START)
    assert not refused.success and "reset" in refused.message
    assert bench.trigger(names.SCENE_STOP).success
    bench.phase(TaskState.ENDED)


def test_the_camera_shows_what_the_environment_shows(bench: SimulationBench) -> None:
    assert bench.reset(seed=5).success
    bench.phase(TaskState.READY)
    count = len(bench.images)
    bench.until(lambda: len(bench.images) > count + 1, "a frame")
    env = SafeReachEnv()
    expected, info = env.reset(seed=5)
    seen = from_message(bench.images[-1]).astype(int)
    # The arm may have settled by a fraction of a millimetre.
    assert (np.abs(seen - expected["image"]).max(axis=-1) > 8).mean() < 0.02
    np.testing.assert_allclose([bench.states[-1].goal.x, bench.states[-1].goal.y], info["goal"][:2], atol=1e-6)
    camera = bench.infos[-1]
    assert (camera.width, camera.height) == (64, 64) and camera.k[0] == pytest.approx(32 / np.tan(np.deg2rad(21)))
    env.close()


def test_the_arm_follows_the_joint_trajectory_while_running(bench: SimulationBench) -> None:
    assert bench.reset(seed=5).success and bench.trigger(names.SCENE_START).success
    bench.phase(TaskState.RUNNING)
    assert list(bench.joints[-1].name) == list(task.ARM_JOINTS)
    target = np.array(bench.joints[-1].position)
    target[0] += 0.08
    bench.until(
        lambda: abs(bench.joints[-1].position[0] - target[0]) < 0.01, "motion", lambda: bench.send_targets(target)
    )


def test_an_unknown_scene_is_refused_with_the_known_ones(bench: SimulationBench) -> None:
    answer = bench.reset(scene="kitchen")
    assert not answer.success and "kitchen" in answer.message and "standard" in answer.message


def test_the_overview_is_drawn_for_those_who_look(bench: SimulationBench) -> None:
    overview = bench.listen(Image, names.OVERVIEW_IMAGE, qos.IMAGE)
    bench.until(lambda: overview, "an overview image")
    picture = from_message(overview[-1])
    assert picture.shape == (240, 320, 3) and picture.std() > 20


def test_the_overview_is_not_drawn_while_a_frame_waits_for_its_command() -> None:
    with SimulationBench(SimulationNode, {"use_sim_time": True}) as bench:
        overview = bench.listen(Image, names.OVERVIEW_IMAGE, qos.IMAGE)
        bench.until(lambda: len(overview) >= 3 and len(bench.images) >= 4, "pictures and frames")
        frames = [to_nanoseconds(image.header.stamp) for image in list(bench.images)]
        drawn = [to_nanoseconds(image.header.stamp) for image in list(overview)]
    since = {(stamp - frames[0]) % round(1e9 / task.CONTROL_HZ) for stamp in drawn}
    assert since == {40_000_000}


def test_with_simulated_time_the_node_is_the_clock() -> None:
    with SimulationBench(SimulationNode, {"use_sim_time": True, "real_time_factor": 2.0}) as bench:
        clock = bench.listen(Clock, "/clock", qos.TASK_STATE)
        bench.until(lambda: len(clock) > 5, "clock")
        times = [to_nanoseconds(c.clock) for c in list(clock)]
        assert set(np.diff(times)) == {20_000_000}


def test_wrong_parameters_and_missing_graphics_are_configuration_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="use_sim_time"), Bench(SimulationNode, {"real_time_factor": 2.0}):
        pass
    with pytest.raises(ConfigurationError, match="image_size"), Bench(SimulationNode, {"image_size": 4}):
        pass
    monkeypatch.setenv("MUJOCO_GL", "disable")
    with pytest.raises(ConfigurationError, match="libegl1"), Bench(SimulationNode):
        pass


def test_trajectories_that_are_no_target_are_refused() -> None:
    names_, point = list(task.ARM_JOINTS), JointTrajectoryPoint(positions=[0.1 * i for i in range(7)])
    backwards = JointTrajectory(joint_names=names_[::-1], points=[point])
    np.testing.assert_allclose(joint_targets(backwards), [0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    for bad in (
        JointTrajectory(joint_names=names_),
        JointTrajectory(joint_names=names_[:6], points=[point]),
        JointTrajectory(joint_names=names_, points=[JointTrajectoryPoint(positions=[float("nan")] * 7)]),
    ):
        with pytest.raises(ValueError, match=r"point|expected|finite"):
            joint_targets(bad)
