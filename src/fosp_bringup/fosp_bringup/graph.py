"""The one list of nodes: which executables run with which parameters for given launch arguments.

Pure data, read by the ROS launch file and by the embedded runner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import yaml
from ament_index_python.packages import get_package_share_directory

import fosp_description
from fosp_bringup.priority import Priority
from fosp_core.task import check_scene
from fosp_ros import names, scheduling

SIMULATORS: Final = ("mujoco", "gazebo", "none")
ARM_BACKENDS: Final = ("ik", "servo", "moveit")
ROLES: Final = ("simulation", "robot", "policy", "operators")
"""What a node is for; every role has a launch file of its own."""
ACTION_PARTS: Final = ("send_goal", "cancel_goal", "get_result", "feedback", "status")
SIMULATED_FUTURE_S: Final = 0.05
"""How far stamps may lie ahead of a simulated clock; the age of what is received is bounded by the steady clock."""

OPERATOR_WAIT_S: Final = 300.0
"""Longest wait for an operator who lays out a scene."""
GAZEBO_WAIT_S: Final = 60.0


class GraphError(Exception):
    """The graph cannot be put together or started; the message says what to change."""


@dataclass(frozen=True)
class Arguments:
    """Launch arguments. Every field has a description for ``--help`` and for ``ros2 launch --show-args``."""

    sim: str = field(default="mujoco", metadata={"help": "where the world is: mujoco, gazebo, or none (a real robot)"})
    models_root: str = field(default="models", metadata={"help": "folder of the model bundles"})
    bundle: str = field(default="", metadata={"help": "bundle, relative to models_root; empty: the newest"})
    model: str = field(default="", metadata={"help": "the same as bundle"})
    require_calibration: bool = field(
        default=True,
        metadata={
            "help": "refuse models whose thresholds carry no bound on missed violations, as after a fine-tune round"
        },
    )
    records_root: str = field(default="runs/records", metadata={"help": "folder that episodes are recorded in"})
    camera: str = field(
        default="", metadata={"help": "with sim none: video device, video file or image folder; empty: own camera node"}
    )
    real_time_factor: float = field(default=1.0, metadata={"help": "speed of the simulation, 1 is real time"})
    use_sim_time: bool = field(default=False, metadata={"help": "stamp with the simulation's clock"})
    record: bool = field(
        default=True,
        metadata={"help": "record an episode's ROS messages and the overview camera beside its steps"},
    )
    record_overview: bool = field(default=True, metadata={"help": "record the overview camera for videos"})
    arm_backend: str = field(default="ik", metadata={"help": "what moves the arm: ik, servo or moveit"})
    dry_run: bool = field(default=False, metadata={"help": "everything but motion: nothing is sent to the arm"})
    parameters: str = field(default="", metadata={"help": "ROS parameter file; what it says comes before our own"})
    namespace: str = field(default="", metadata={"help": "namespace of nodes, topics, services and actions"})
    scene: str = field(default="standard", metadata={"help": "scene of the episodes that operators start"})
    trainer: bool = field(default=False, metadata={"help": "fine-tune rounds while deployed; needs torch"})
    datasets: str = field(
        default="", metadata={"help": "with trainer: earlier Minari datasets to mix in, separated by ':'"}
    )
    realtime: bool = field(
        default=True,
        metadata={"help": "run the way from camera to command in real time (SCHED_RR), where the system allows it"},
    )
    rviz: bool = field(default=False, metadata={"help": "RViz with the operators' menu; needs RViz installed"})
    console: bool = field(default=False, metadata={"help": "operators' web page, on this host only"})
    console_port: int = field(default=8080, metadata={"help": "TCP port of the operators' web page"})

    def __post_init__(self) -> None:
        if self.model:
            if self.bundle not in ("", self.model):
                raise GraphError(f"bundle and model mean the same, got {self.bundle!r} and {self.model!r}; give one")
            # One name from here on.
            object.__setattr__(self, "bundle", self.model)
            object.__setattr__(self, "model", "")
        if self.sim not in SIMULATORS:
            raise GraphError(f"sim must be one of {', '.join(SIMULATORS)}, got {self.sim!r}")
        if not self.real_time_factor > 0.0:
            raise GraphError(f"real_time_factor must be > 0, got {self.real_time_factor}")
        if self.real_time_factor != 1.0 and not self.simulated_clock:
            raise GraphError("real_time_factor other than 1 needs use_sim_time")
        if self.arm_backend not in ARM_BACKENDS:
            raise GraphError(f"arm_backend must be one of {', '.join(ARM_BACKENDS)}, got {self.arm_backend!r}")
        if self.namespace and not all(part.isidentifier() for part in self.namespace.strip("/").split("/")):
            raise GraphError(f"namespace must be names joined by '/', got {self.namespace!r}")
        if self.parameters and not Path(self.parameters).expanduser().is_file():
            raise GraphError(f"parameters: no such file: {self.parameters}")
        if not 1 <= self.console_port <= 65535:
            raise GraphError(f"console_port must be in [1, 65535], got {self.console_port}")
        try:
            check_scene(self.scene)
        except ValueError as error:
            raise GraphError(str(error)) from error

    @property
    def simulated_clock(self) -> bool:
        """Whether the nodes take their time from the simulation; Gazebo stamps with no other clock."""
        return self.use_sim_time or self.sim == "gazebo"

    @staticmethod
    def from_text(values: Mapping[str, str]) -> Arguments:
        """Arguments from texts, as ``ros2 launch name:=value`` gives them; ``GraphError`` names what is wrong."""
        known = {f.name: f for f in fields(Arguments)}
        parsed: dict[str, Any] = {}
        for name, text in values.items():
            if name not in known:
                raise GraphError(f"unknown argument {name!r}; known: {', '.join(known)}")
            parsed[name] = _parse(name, text, type(known[name].default))
        return Arguments(**parsed)


@dataclass(frozen=True)
class NodeSpec:
    """One node: what runs, as what, with which parameters."""

    package: str
    executable: str
    name: str
    parameters: Mapping[str, Any]
    priority: Priority = Priority.NORMAL
    lifecycle: bool = False
    role: str = "policy"
    """One of ``ROLES``."""
    respawn: bool = False
    """Whether a supervisor may start it again: only what cannot set the arm in motion by coming back."""
    arguments: Sequence[str] = ()
    """Arguments before ``--ros-args``."""
    once: bool = False
    """Whether it ends by itself when its work is done."""

    @property
    def starting_priority(self) -> Priority:
        """Priority at the process's start. A node of this project takes real time when it is ready: what a start takes
        of the processor, in real time it would take from nodes that work already.
        """
        return Priority.NORMAL if self.priority.realtime and self.is_ours else self.priority

    @property
    def environment(self) -> dict[str, str]:
        """What the process finds in its environment: the real-time priority that it is to take."""
        asked = str(self.priority.realtime or "") if self.is_ours else ""
        return {scheduling.REALTIME_VARIABLE: asked}

    @property
    def is_ours(self) -> bool:
        """Whether it is a node of this project."""
        return self.package.startswith("fosp_")


def nodes(arguments: Arguments) -> list[NodeSpec]:
    """The nodes of the graph; ``GraphError`` when this combination of arguments cannot run."""
    clock = {"use_sim_time": arguments.simulated_clock}
    models = {
        "models_root": str(Path(arguments.models_root).expanduser().absolute()),
        "bundle": arguments.bundle,
        "autostart": True,
        **clock,
    }
    # A simulated clock reaches each node on its own, in steps of 20 ms, so that frames may seem to lie ahead of it.
    ahead = {"future_s": SIMULATED_FUTURE_S} if arguments.simulated_clock else {}
    monitor = {**models, **ahead, "require_calibration": arguments.require_calibration}
    world: list[NodeSpec] = []
    if arguments.sim == "mujoco":
        # It stands for the camera and the arm, which wait for no program; faster than they are, it could take all.
        priority = Priority.CONTROL if arguments.real_time_factor <= 1.0 else Priority.NORMAL
        world.append(
            NodeSpec(
                "fosp_sim",
                "simulation_node",
                names.SIMULATION_NODE,
                {"real_time_factor": arguments.real_time_factor, **clock},
                priority,
                role="simulation",
            )
        )
    elif arguments.sim == "gazebo":
        world = _gazebo(arguments)
    if arguments.sim == "none":
        world.append(NodeSpec("fosp_sim", "task_evaluator", names.TASK_EVALUATOR, clock, role="robot"))
    if arguments.sim == "none" and arguments.camera:
        source = {"source": arguments.camera, **clock}
        world.append(
            NodeSpec(
                "fosp_camera", "camera_node", names.CAMERA_NODE, source, Priority.CONTROL, role="robot", respawn=True
            )
        )
    arm = {
        "backend": "mink" if arguments.arm_backend == "ik" else arguments.arm_backend,
        "dry_run": arguments.dry_run,
        **clock,
    }
    # An operator lays out the scenes of a real robot, and Gazebo's arm takes its time to get to the start.
    waits_s = {"none": OPERATOR_WAIT_S, "gazebo": GAZEBO_WAIT_S}
    patience = {"ready_timeout_s": waits_s[arguments.sim]} if arguments.sim in waits_s else {}
    records = str(Path(arguments.records_root).expanduser().absolute())
    specs = [
        *world,
        *([_servo(clock)] if arguments.arm_backend == "servo" else []),
        NodeSpec("fosp_arm", "arm_node", names.ARM_NODE, arm, Priority.SAFETY, role="robot"),
        *([_homing(arguments, clock)] if arguments.sim == "none" or arguments.rviz or arguments.console else []),
        NodeSpec(
            "fosp_safety_monitor", "safety_monitor", names.SAFETY_MONITOR, monitor, Priority.SAFETY, lifecycle=True
        ),
        NodeSpec(
            "fosp_policy_node",
            "policy_node",
            names.POLICY_NODE,
            models,
            Priority.CONTROL,
            lifecycle=True,
            respawn=True,
        ),
        NodeSpec(
            "fosp_episodes",
            "episode_node",
            names.EPISODE_NODE,
            {
                "records_root": records,
                "record_messages": arguments.record,
                "record_overview": arguments.record and arguments.record_overview,
                **patience,
                **clock,
            },
            priority=Priority.RELAXED,
            respawn=True,
        ),
        *([_trainer(arguments, records)] if arguments.trainer else []),
        *_operators(arguments),
    ]
    if arguments.realtime:
        return specs
    return [replace(spec, priority=Priority.NORMAL) if spec.priority.realtime else spec for spec in specs]


def _trainer(arguments: Arguments, records: str) -> NodeSpec:
    """Yields to everything else: a round may take longer, a command may not."""
    datasets = [str(Path(part).expanduser().absolute()) for part in arguments.datasets.split(":") if part]
    parameters: dict[str, Any] = {
        "models_root": str(Path(arguments.models_root).expanduser().absolute()),
        "records_root": records,
        "datasets": ":".join(datasets),
        "use_sim_time": arguments.simulated_clock,
    }
    if arguments.sim == "none":
        # a real robot's world is not the simulated one: the gate judges on held-out recorded episodes only
        parameters["paired_episodes"] = 0
    return NodeSpec(
        "fosp_trainer",
        "trainer_node",
        names.TRAINER_NODE,
        parameters,
        lifecycle=True,
        priority=Priority.BACKGROUND,
        respawn=True,
    )


def _homing(arguments: Arguments, clock: Mapping[str, Any]) -> NodeSpec:
    """Brings the arm home for an operator: where there is a real arm, or a tool to ask for it with."""
    planner = "joint" if arguments.arm_backend == "ik" else "moveit"
    parameters = {"planner": planner, "dry_run": arguments.dry_run, **clock}
    return NodeSpec("fosp_arm", "homing_node", names.HOMING_NODE, parameters, role="robot", respawn=True)


def _servo(clock: Mapping[str, Any]) -> NodeSpec:
    """MoveIt Servo, which the arm node asks for joint positions; it moves nothing by itself."""
    config = Path(get_package_share_directory("fosp_bringup")) / "config" / "servo.yaml"
    parameters = {
        **yaml.safe_load(config.read_text(encoding="utf-8")),
        "robot_description": fosp_description.urdf_path().read_text(encoding="utf-8"),
        "robot_description_semantic": fosp_description.srdf_path().read_text(encoding="utf-8"),
        **clock,
    }
    return NodeSpec(
        "moveit_servo", "servo_node", names.SERVO_NODE, parameters, Priority.CONTROL, role="robot", respawn=True
    )


def _gazebo(arguments: Arguments) -> list[NodeSpec]:
    """Gazebo with the world and the arm, its controllers, the bridge, and the node that speaks for them."""
    from fosp_sim import sdf
    from fosp_sim.layout import Look
    from fosp_sim.observed import OBSTACLES
    from fosp_sim.world import HOME

    if arguments.namespace:
        raise GraphError("sim:=gazebo cannot be moved into a namespace; leave namespace empty")
    urdf = fosp_description.urdf_path().read_text(encoding="utf-8")
    controllers = str(Path(get_package_share_directory("fosp_bringup")) / "config" / "gazebo_controllers.yaml")
    world = sdf.world_sdf(Look(), real_time_factor=arguments.real_time_factor, arm=sdf.arm_model(urdf, controllers))
    clock = {"use_sim_time": True}
    role: dict[str, Any] = {"role": "simulation"}
    spawned = ("joint_state_broadcaster", "panda_arm_controller", "--controller-manager-timeout", "120")
    description = {"robot_description": sdf.controlled_urdf(urdf, HOME), **clock}
    return [
        NodeSpec("ros_gz_sim", "gzserver", "gzserver", {"world_sdf_string": world}, **role),
        NodeSpec("robot_state_publisher", "robot_state_publisher", "robot_state_publisher", description, **role),
        NodeSpec("controller_manager", "spawner", "spawner", clock, arguments=spawned, once=True, **role),
        NodeSpec(
            "ros_gz_bridge", "parameter_bridge", "gazebo_bridge", {}, arguments=sdf.bridge_arguments(OBSTACLES), **role
        ),
        NodeSpec("fosp_sim", "gazebo_node", names.SIMULATION_NODE, clock, **role),
    ]


def _operators(arguments: Arguments) -> list[NodeSpec]:
    own = {
        "models_root": str(Path(arguments.models_root).expanduser().absolute()),
        "scene": arguments.scene,
        "use_sim_time": arguments.simulated_clock,
    }
    common: dict[str, Any] = {"priority": Priority.RELAXED, "role": "operators", "respawn": True}
    specs: list[NodeSpec] = []
    if arguments.rviz:
        description = {"robot_description": fosp_description.urdf_path().read_text(encoding="utf-8")}
        clock = {"use_sim_time": arguments.simulated_clock}
        config = ("-d", str(Path(get_package_share_directory("fosp_bringup")) / "rviz" / "safereach.rviz"))
        publisher = NodeSpec(
            "robot_state_publisher",
            "robot_state_publisher",
            "robot_state_publisher",
            {**description, **clock},
            **common,
        )
        specs = [
            NodeSpec("fosp_bringup", "rviz_node", names.RVIZ_NODE, own, **common),
            *([] if arguments.sim == "gazebo" else [publisher]),
            NodeSpec("rviz2", "rviz2", "rviz2", clock, priority=Priority.RELAXED, role="operators", arguments=config),
        ]
    if arguments.console:
        port = {"port": arguments.console_port}
        specs.append(NodeSpec("fosp_bringup", "console_node", names.CONSOLE_NODE, {**own, **port}, **common))
    return specs


def remappings(arguments: Arguments) -> list[tuple[str, str]]:
    """Rules that move every topic, service and action of the graph into the namespace; the clock stays."""
    if not arguments.namespace:
        return []
    moved: list[str] = []
    declared = {v for k, v in vars(names).items() if k.isupper() and isinstance(v, str) and v.startswith("/")}
    for name in sorted(declared):
        is_action = name in (names.RUN_EPISODES, names.FINE_TUNE)
        moved += [f"{name}/_action/{part}" for part in ACTION_PARTS] if is_action else [name]
    return [(name, f"/{arguments.namespace.strip('/')}{name}") for name in moved]


def services(arguments: Arguments) -> list[str]:
    """Services that exist when the graph is ready."""
    return [
        names.SCENE_RESET,
        names.SCENE_START,
        names.SCENE_STOP,
        names.SAFETY_HALT,
        names.SAFETY_RESET,
        names.SAFETY_LOAD_MODEL,
        names.POLICY_LOAD_MODEL,
        f"{names.RUN_EPISODES}/_action/send_goal",
        *([f"{names.FINE_TUNE}/_action/send_goal"] if arguments.trainer else []),
    ]


def parameters_yaml(specs: list[NodeSpec]) -> str:
    """Parameters of all nodes as one ROS parameter file."""
    content = {f"/{spec.name}": {"ros__parameters": dict(spec.parameters)} for spec in specs}
    return str(yaml.safe_dump(content, sort_keys=False))


def _parse(name: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise GraphError(f"{name} must be true or false, got {text!r}")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError as error:
        raise GraphError(f"{name} must be a number, got {text!r}") from error
