"""The launch files, with the real ``ros2 launch`` where that is installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[1]
COMPOSED = """
from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration


def generate_launch_description():
    own = {
        name: LaunchConfiguration(name) for name in ("sim", "models_root", "records_root", "use_sim_time", "parameters")
    }
    return LaunchDescription(
        [DeclareLaunchArgument(name) for name in own]
        + [
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(Path("%s") / f"{role}.launch.py")), launch_arguments=own.items()
            )
            for role in ("robot", "policy")
        ]
    )
"""
Launch = Callable[..., "Launcher"]


@pytest.fixture(autouse=True)
def _needs_launch() -> None:
    if shutil.which("ros2") is None:
        pytest.skip("ros2 launch comes with a ROS 2 installation, not with the wheels")
    pytest.importorskip("ros2launch", reason="the package ros2launch is not installed")


class Launcher:
    """``ros2 launch`` in a process group of its own, as a terminal would start it."""

    def __init__(self, arguments: list[str], log: Path, domain: int) -> None:
        self.log = log
        self._domain = domain
        env = {**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_LOG_DIR": str(log.parent / "ros")}
        with log.open("w") as output:
            self.process = subprocess.Popen(
                ["ros2", "launch", *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
                # What runs in a shell's background ignores Ctrl-C, and hands that on.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def output(self) -> str:
        """What the launcher and its nodes have written so far."""
        return self.log.read_text(errors="replace")

    def nodes(self) -> dict[str, int]:
        """Process id of every node of the launcher that runs."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                group = os.getpgid(int(folder.name))
            except OSError:
                continue
            names = [word for word in words if word.startswith(b"__node:=")]
            if names and group == self.process.pid:
                found[names[0].decode().removeprefix("__node:=")] = int(folder.name)
        return found

    def interrupt(self) -> int:
        """Ctrl-C: a terminal sends it to the launcher and to its nodes. Returns the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(120)

    def end(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            self.interrupt()
        for pid in self.nodes().values():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def launch(tmp_path: Path, domain: int) -> Iterator[Launch]:
    started: list[Launcher] = []

    def start(*arguments: str) -> Launcher:
        started.append(Launcher(list(arguments), tmp_path / f"launch{len(started)}.log", domain))
        return started[-1]

    yield start
    for launcher in started:
        launcher.end()


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


PATIENT: dict[str, dict[str, float]] = {
    "safety_monitor": {
        "frame_age_s": 1.0,
        "decision_age_s": 0.5,
        "joint_age_s": 0.5,
        "frame_rate_hz": 0.5,
        "future_s": 0.2,
    },
    "policy_node": {"joint_tolerance_s": 0.5},
    "arm_node": {"command_timeout_s": 0.3, "joint_timeout_s": 1.0, "command_age_s": 2.0},
    "homing_node": {"joint_timeout_s": 2.0, "command_timeout_s": 2.0, "tracking_limit_rad": 1.0},
    "episode_node": {"ready_timeout_s": 120.0, "episode_timeout_s": 600.0, "silence_s": 30.0},
}
"""Limits on time at their most generous: on a busy machine nothing must stop for a late message."""


def patient(tmp_path: Path, more: Path | None = None) -> str:
    """The launch argument that sets these limits, and what another parameter file says."""
    content = yaml.safe_load(more.read_text()) if more else {}
    for node, limits in PATIENT.items():
        content.setdefault(f"/**/{node}", {}).setdefault("ros__parameters", {}).update(limits)
    file = tmp_path / "parameters.yaml"
    file.write_text(yaml.safe_dump(content))
    return f"parameters:={file}"


def given(models: Path, tmp_path: Path, parameters: Path | None = None) -> list[str]:
    """The arguments of every launch here."""
    records = f"records_root:={tmp_path / 'records'}"
    return [f"models_root:={models}", records, "require_calibration:=false", patient(tmp_path, parameters)]


def run_episodes(client: Any, **goal: Any) -> Any:
    from fosp_interfaces.action import RunEpisodes

    asked = RunEpisodes.Goal(**{"scene": "standard", "count": 1, "seed": 0, "reset_after_halt": True, **goal})
    return client.run_episodes(asked, lambda feedback: None, lambda: None)


def wait_for_graph(client: Any, launcher: Launcher, eventually: Any) -> None:
    from fosp_bringup import graph

    services = graph.services(graph.Arguments())
    eventually(lambda: launcher.process.poll() is not None or not client.missing(services), "the graph")
    assert launcher.process.poll() is None, launcher.output


def wait_until_active(client: Any, name: str, eventually: Any) -> None:
    from lifecycle_msgs.msg import State
    from lifecycle_msgs.srv import GetState

    service = client.node.create_client(GetState, f"/{name}/get_state")
    answers: list[Any] = []

    def active() -> bool:
        # A process that was killed stays known for a while, and never answers: ask again and again.
        if service.service_is_ready():
            answers.append(service.call_async(GetState.Request()))
        return any(a.done() and a.result().current_state.id == State.PRIMARY_STATE_ACTIVE for a in answers)

    eventually(active, f"an active {name}")


def test_episodes_run_to_their_end_and_an_interrupt_ends_everything(
    launch: Launch, models: Path, tmp_path: Path, domain: int, eventually: Any
) -> None:
    from fosp_bringup.client import GraphClient

    launcher = launch("fosp_bringup", "safereach.launch.py", "sim:=mujoco", *given(models, tmp_path))
    with GraphClient() as client:
        wait_for_graph(client, launcher, eventually)
        result = run_episodes(client, count=2)
    assert result.success, result.message
    assert [e.aborted for e in result.episodes] == [False, False]
    assert len(list((tmp_path / "records").glob("*/episode_*/episode.json"))) == 2
    assert launcher.interrupt() == 0
    assert launcher.nodes() == {}
    assert "has died" not in launcher.output and "Traceback" not in launcher.output


def test_launch_testing_runs_an_episode_and_sees_every_node_end_by_itself(
    models: Path, tmp_path: Path, domain: int
) -> None:
    pytest.importorskip("launch_testing", reason="the package launch_testing is not installed")
    file = ROOT / "src/fosp_bringup/test/launch_testing_episode.py"
    env = {**os.environ, "ROS_LOG_DIR": str(tmp_path / "ros")}
    command = ["launch_test", str(file), *given(models, tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=900, env=env, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr.count("... ok") == 2, ran.stderr


def test_policy_comes_back_when_it_is_killed_and_the_arm_node_does_not(
    launch: Launch, models: Path, tmp_path: Path, domain: int, eventually: Any
) -> None:
    from fosp_bringup.client import GraphClient

    launcher = launch("fosp_bringup", "safereach.launch.py", *given(models, tmp_path))
    with GraphClient() as client:
        wait_for_graph(client, launcher, eventually)
        first = eventually(lambda: launcher.nodes().get("policy_node"), "the policy node")
        os.kill(first, signal.SIGKILL)
        eventually(lambda: launcher.nodes().get("policy_node", first) != first, "another policy node")
        assert "policy_node was killed by SIGKILL; it is started again" in launcher.output
        wait_until_active(client, "policy_node", eventually)
        assert run_episodes(client).success
        os.kill(launcher.nodes()["arm_node"], signal.SIGKILL)
        said = "arm_node was killed by SIGKILL; the arm holds until the launch is started again"
        eventually(lambda: said in launcher.output, "a word about the arm node")
        assert set(launcher.nodes()) == {"simulation_node", "safety_monitor", "policy_node", "episode_node"}
    assert launcher.interrupt() == 0
    assert launcher.nodes() == {}


def test_arm_holds_when_the_launcher_is_killed_in_motion(
    launch: Launch, models: Path, tmp_path: Path, domain: int, eventually: Any
) -> None:
    """One launcher for the world, another one, composed of two roles, for what drives the arm."""
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv (util-linux) is not installed")
    from fosp_bringup.client import GraphClient
    from fosp_bringup.holding import measure_hold
    from fosp_interfaces.action import RunEpisodes

    composed = tmp_path / "composed.launch.py"
    composed.write_text(COMPOSED % (ROOT / "launch"))
    world = launch("fosp_bringup", "simulation.launch.py", "use_sim_time:=true")
    rest = launch(str(composed), "sim:=mujoco", "use_sim_time:=true", *given(models, tmp_path))
    goal = RunEpisodes.Goal(scene="standard", count=1, seed=0, reset_after_halt=True)
    with GraphClient() as client:
        wait_for_graph(client, rest, eventually)
        assert set(world.nodes()) == {"simulation_node"}
        killed = None
        # On a busy machine an episode may pass in which the arm never gets going.
        for _ in range(5):
            killed = killed or client.kill_in_motion(goal, rest.process.pid, 5, lambda feedback: None, lambda: None)
        assert killed is not None, rest.output
    hold = measure_hold(killed.samples, killed.at_s)
    assert hold.within_travel, hold
    eventually(lambda: not rest.nodes(), "the end of the nodes")
    assert set(world.nodes()) == {"simulation_node"}
    assert world.interrupt() == 0


def test_real_robot_in_a_dry_run_is_laid_out_by_an_operator_and_never_moved(
    launch: Launch, models: Path, tmp_path: Path, domain: int, eventually: Any
) -> None:
    import numpy as np
    from geometry_msgs.msg import PointStamped
    from sensor_msgs.msg import Image, JointState
    from std_srvs.srv import Trigger
    from trajectory_msgs.msg import JointTrajectory

    from fosp_bringup.client import GraphClient
    from fosp_core import task
    from fosp_ros import names, qos
    from fosp_ros.images import to_message
    from fosp_ros.testing import plain_image
    from fosp_sim.world import HOME, ArmKinematics

    launcher = launch(
        *("fosp_bringup", "safereach.launch.py", "sim:=none", "dry_run:=true"),
        *given(models, tmp_path, ROOT / "src/fosp_bringup/config/franka.yaml"),
    )
    positions = ArmKinematics().solve(np.array(HOME), np.array([0.4, -0.1, 0.1]), iterations=60).tolist()
    with GraphClient() as client:
        node = client.node
        joints = node.create_publisher(JointState, names.JOINT_STATES, qos.JOINT_STATES)
        images = node.create_publisher(Image, names.CAMERA_IMAGE, qos.IMAGE)
        goals = node.create_publisher(PointStamped, "/clicked_point", 1)
        moved: list[Any] = []
        planned: list[Any] = []
        node.create_subscription(JointTrajectory, names.JOINT_TRAJECTORY, moved.append, qos.TRAJECTORY)
        node.create_subscription(JointTrajectory, names.ARM_DRY_RUN, planned.append, qos.TRAJECTORY)

        def arm() -> None:
            message = JointState(name=list(task.ARM_JOINTS), position=positions, effort=[0.0] * 7)
            message.header.stamp = node.get_clock().now().to_msg()
            joints.publish(message)

        def camera() -> None:
            images.publish(to_message(plain_image(), node.get_clock().now().to_msg(), "camera"))

        def click() -> None:
            message = PointStamped()
            message.header.frame_id, message.point.x, message.point.y = task.BASE_FRAME, 0.6, 0.15
            goals.publish(message)

        node.create_timer(0.02, arm)
        node.create_timer(0.1, camera)
        node.create_timer(0.5, click)
        wait_for_graph(client, launcher, eventually)
        ready = node.create_client(Trigger, names.TASK_READY)
        # The operator says that the scene is there; refused for as long as nobody asked for one.
        node.create_timer(1.0, lambda: ready.call_async(Trigger.Request()))
        result = run_episodes(client)
    assert result.success, result.message
    assert [(e.aborted, e.success) for e in result.episodes] == [(False, False)]
    assert "dry run: the arm is not moved" in launcher.output
    assert planned and not moved
    assert launcher.interrupt() == 0


@pytest.mark.parametrize(("sim", "grey_levels"), [("mujoco", 1.0), ("gazebo", 15.0)])
def test_camera_shows_the_layout_as_the_training_view_does(
    launch: Launch, domain: int, eventually: Any, sim: str, grey_levels: float
) -> None:
    """Place of the outline and mean difference, against MuJoCo's picture of the same layout."""
    import numpy as np
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix
    from sensor_msgs.msg import Image

    from fosp_bringup.client import GraphClient
    from fosp_camera.alignment import align
    from fosp_interfaces.srv import ResetScene
    from fosp_ros import names, qos
    from fosp_ros.images import from_message
    from fosp_sim.layout import sample_layout
    from fosp_sim.world import World

    if sim == "gazebo":
        try:
            get_package_prefix("ros_gz_sim")
        except PackageNotFoundError:
            pytest.skip("the package ros_gz_sim (Gazebo) is not installed")
        if "DISPLAY" not in os.environ:
            pytest.skip("Gazebo's cameras need a display; xvfb-run gives one")
    launcher = launch("fosp_bringup", "simulation.launch.py", f"sim:={sim}")
    images: list[Any] = []
    with GraphClient() as client:
        client.node.create_subscription(Image, names.CAMERA_IMAGE, images.append, qos.IMAGE)
        reset = client.node.create_client(ResetScene, names.SCENE_RESET)
        eventually(lambda: launcher.process.poll() is not None or reset.service_is_ready(), "the simulation")
        assert launcher.process.poll() is None, launcher.output
        answer = reset.call_async(ResetScene.Request(scene="standard", seed=3))
        eventually(answer.done, "the scene")
        assert answer.result().success, answer.result().message
        images.clear()
        # The first ones may have been on their way.
        eventually(lambda: len(images) > 5, "pictures of it")
    picture = from_message(images[-1])
    with World() as world:
        world.reset(sample_layout("standard", 3))
        drawn = world.render(picture.shape[1], picture.shape[0])
    assert np.abs(picture.astype(int) - drawn.astype(int)).mean() < grey_levels
    assert align(picture).pixels < 1.0
    assert launcher.interrupt() == 0


def test_everything_but_the_clock_moves_into_a_namespace_and_an_episode_runs_there(
    launch: Launch, models: Path, tmp_path: Path, domain: int, eventually: Any
) -> None:
    from rclpy.action import ActionClient

    from fosp_bringup import graph
    from fosp_bringup.client import GraphClient
    from fosp_interfaces.action import RunEpisodes
    from fosp_ros import names

    arguments = ("namespace:=left", "use_sim_time:=true", "model:=safereach/tiny", "record:=false")
    launcher = launch("fosp_bringup", "safereach.launch.py", *arguments, *given(models, tmp_path))
    services = [f"/left{name}" for name in graph.services(graph.Arguments())]
    with GraphClient() as client:
        eventually(lambda: launcher.process.poll() is not None or not client.missing(services), "the graph")
        assert launcher.process.poll() is None, launcher.output
        runs: Any = ActionClient(client.node, RunEpisodes, f"/left{names.RUN_EPISODES}")
        eventually(runs.server_is_ready, "the action server")
        sent = runs.send_goal_async(RunEpisodes.Goal(scene="standard", count=1, reset_after_halt=True))
        eventually(sent.done, "the goal")
        result = sent.result().get_result_async()
        eventually(result.done, "the result")
        assert result.result().result.success, result.result().result.message
        offered, wanted, served, asked = set[str](), set[str](), set[str](), set[str]()
        for node, space in client.node.get_node_names_and_namespaces():
            if space == "/left":
                offered |= {t for t, _ in client.node.get_publisher_names_and_types_by_node(node, space)}
                wanted |= {t for t, _ in client.node.get_subscriber_names_and_types_by_node(node, space)}
                served |= {t for t, _ in client.node.get_service_names_and_types_by_node(node, space)}
                asked |= {t for t, _ in client.node.get_client_names_and_types_by_node(node, space)}
    everywhere = {"/clock", "/parameter_events", "/rosout"}
    assert {topic for topic in offered | wanted if not topic.startswith("/left/")} <= everywhere
    # Whoever listens is spoken to; nobody brings the arm home here.
    assert wanted - offered <= {f"/left{names.ARM_HOMING}"}
    assert asked and asked <= served
    recorded = next((tmp_path / "records").glob("*/episode_*"))
    assert (recorded / "episode.json").exists() and not list(recorded.glob("*.mcap"))
    assert launcher.interrupt() == 0


def test_trainer_and_operators_tools_are_there_when_asked_for_and_the_arm_is_brought_home(
    launch: Launch, models: Path, tmp_path: Path, domain: int, eventually: Any
) -> None:
    import numpy as np
    from std_srvs.srv import Trigger

    import fosp_description
    from fosp_bringup import graph
    from fosp_bringup.client import GraphClient
    from fosp_bringup.priority import realtime_allowed
    from fosp_ros import names
    from fosp_ros.kinematics import Chain

    arguments = ("trainer:=true", "console:=true", f"console_port:={free_port()}")
    launcher = launch("fosp_bringup", "safereach.launch.py", *arguments, *given(models, tmp_path))
    services = [*graph.services(graph.Arguments(trainer=True)), names.ARM_HOME]
    with GraphClient() as client:
        eventually(lambda: launcher.process.poll() is not None or not client.missing(services), "the graph")
        assert launcher.process.poll() is None, launcher.output
        assert {"trainer_node", "console_node", "homing_node"} <= set(launcher.nodes())
        wait_until_active(client, "trainer_node", eventually)
        policies = {name: os.sched_getscheduler(pid) for name, pid in launcher.nodes().items()}
        assert {name for name, policy in policies.items() if policy == os.SCHED_IDLE} == {"trainer_node"}
        control = {names.SAFETY_MONITOR, names.ARM_NODE, names.POLICY_NODE, names.SIMULATION_NODE}
        hurried = control if realtime_allowed() else set()
        assert {name for name, policy in policies.items() if policy == os.SCHED_RR} == hurried
        assert run_episodes(client).success
        home = client.node.create_client(Trigger, names.ARM_HOME)
        eventually(home.service_is_ready, "the homing node")
        reset = client.node.create_client(Trigger, names.SAFETY_RESET)
        eventually(reset.service_is_ready, "the monitor")

        def ask(service: Any) -> Any:
            answer = service.call_async(Trigger.Request())
            eventually(answer.done, "an answer")
            return answer.result()

        # The monitor of a busy machine may have halted for late frames, and the arm stays where it is then.
        for _ in range(10):
            said = ask(home)
            if said.success or "halted" not in said.message:
                break
            ask(reset)
        assert said.success, said.message
        tool = Chain.from_urdf(fosp_description.urdf_path()).position(client._joints[-1][1])
        np.testing.assert_allclose(tool, [0.36, 0.0, 0.10], atol=0.03)
    assert "the arm moves although it was told to hold" not in launcher.output
    assert launcher.interrupt() == 0
    assert launcher.nodes() == {}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("simm:=mujoco", "unknown argument 'simm'; did you mean 'sim'?"),
        ("sim:=unity", "sim must be one of mujoco, gazebo, none, got 'unity'"),
        ("real_time_factor:=fast", "real_time_factor must be a number, got 'fast'"),
        ("parameters:=absent.yaml", "parameters: no such file: absent.yaml"),
        ("scene:=kitchen", "unknown scene 'kitchen'"),
        ("bundle:=safereach/absent", "no such bundle"),
        ("model:=safereach/absent", "no such bundle"),
        ("arm_backend:=magic", "arm_backend must be one of ik, servo, moveit, got 'magic'"),
        ("trainer:=perhaps", "trainer must be true or false, got 'perhaps'"),
        ("record:=1", "record must be true or false, got '1'"),
        ("namespace:=9lives", "namespace must be names joined by '/', got '9lives'"),
    ],
)
def test_wrong_argument_is_named_in_one_line_and_nothing_starts(
    launch: Launch, models: Path, tmp_path: Path, argument: str, message: str
) -> None:
    launcher = launch("fosp_bringup", "safereach.launch.py", *given(models, tmp_path), argument)
    assert launcher.process.wait(120) != 0
    assert message in launcher.output and "Traceback" not in launcher.output
    assert "process started" not in launcher.output


@pytest.mark.parametrize(
    ("argument", "package"),
    [("arm_backend:=servo", "moveit_servo"), ("rviz:=true", "rviz2"), ("sim:=gazebo", "ros_gz_sim")],
)
def test_package_that_is_not_installed_is_named_and_nothing_starts(
    launch: Launch, models: Path, tmp_path: Path, argument: str, package: str
) -> None:
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    with contextlib.suppress(PackageNotFoundError):
        get_package_prefix(package)
        pytest.skip(f"{package} is installed here")
    launcher = launch("fosp_bringup", "safereach.launch.py", *given(models, tmp_path), argument)
    assert launcher.process.wait(120) != 0
    assert "not installed: " in launcher.output and package in launcher.output
    assert "Traceback" not in launcher.output and "process started" not in launcher.output


def test_arguments_are_described(tmp_path: Path) -> None:
    from dataclasses import fields

    from fosp_bringup.graph import Arguments

    command = ["ros2", "launch", "fosp_bringup", "safereach.launch.py", "--show-args"]
    env = {**os.environ, "ROS_LOG_DIR": str(tmp_path)}
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, check=True).stdout
    for argument in fields(Arguments):
        assert f"'{argument.name}'" in shown and argument.metadata["help"] in shown
