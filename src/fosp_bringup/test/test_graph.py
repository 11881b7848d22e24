"""The list of nodes for given launch arguments."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from fosp_bringup.graph import (
    OPERATOR_WAIT_S,
    SIMULATED_FUTURE_S,
    Arguments,
    GraphError,
    nodes,
    parameters_yaml,
    remappings,
    services,
)
from fosp_bringup.priority import Priority
from fosp_core.task import ARM_JOINTS
from fosp_ros import names
from fosp_ros.scheduling import REALTIME_VARIABLE


def names_of(arguments: Arguments) -> list[str]:
    return [spec.name for spec in nodes(arguments)]


def test_simulation_graph_has_every_part_once() -> None:
    assert names_of(Arguments()) == ["simulation_node", "arm_node", "safety_monitor", "policy_node", "episode_node"]


def test_real_robot_with_a_camera_gets_evaluator_and_camera_node_instead_of_the_simulation() -> None:
    assert names_of(Arguments(sim="none", camera="0"))[:2] == ["task_evaluator", "camera_node"]


def test_real_robot_with_its_own_camera_node_gets_neither() -> None:
    assert not {"camera_node", "simulation_node"} & set(names_of(Arguments(sim="none")))


def test_gazebo_takes_the_place_of_the_simulation_and_gives_the_time() -> None:
    specs = nodes(Arguments(sim="gazebo"))
    assert [spec.name for spec in specs] == [
        "gzserver",
        "robot_state_publisher",
        "spawner",
        "gazebo_bridge",
        *names_of(Arguments()),
    ]
    ours = [spec for spec in specs if spec.is_ours]
    assert all(spec.parameters["use_sim_time"] is True for spec in ours)
    world = ElementTree.fromstring(specs[0].parameters["world_sdf_string"])
    assert {model.get("name") for model in world.iter("model")} >= {"panda", "table", "camera"}
    controllers = Path(world.find("world/model[@name='panda']/plugin/parameters").text)
    content = yaml.safe_load(controllers.read_text())
    assert content["panda_arm_controller"]["ros__parameters"]["joints"] == list(ARM_JOINTS)
    assert set(specs[2].arguments[:2]) <= set(content["controller_manager"]["ros__parameters"])


def test_trainer_is_an_option_that_yields_and_has_no_simulation_to_ask_on_a_real_robot() -> None:
    assert "trainer_node" not in names_of(Arguments())
    simulated = next(s for s in nodes(Arguments(trainer=True, datasets="a:/b")) if s.name == "trainer_node")
    assert simulated.priority is Priority.BACKGROUND
    assert not any(s.priority is Priority.BACKGROUND for s in nodes(Arguments()))
    assert simulated.parameters["datasets"] == f"{Path('a').absolute()}:/b"
    assert "paired_episodes" not in simulated.parameters
    real = next(s for s in nodes(Arguments(sim="none", trainer=True)) if s.name == "trainer_node")
    assert real.parameters["paired_episodes"] == 0


def test_only_what_cannot_take_real_time_itself_starts_with_it() -> None:
    specs = {spec.name: spec for spec in nodes(Arguments(sim="none", arm_backend="servo", trainer=True))}
    assert all(not spec.starting_priority.realtime for spec in specs.values() if spec.is_ours)
    assert specs["trainer_node"].starting_priority is Priority.BACKGROUND
    assert specs["servo_node"].starting_priority is Priority.CONTROL
    asked = {name: spec.environment[REALTIME_VARIABLE] for name, spec in specs.items()}
    assert asked["safety_monitor"] == str(Priority.SAFETY.realtime)
    assert (asked["trainer_node"], asked["servo_node"]) == ("", "")
    without = nodes(Arguments(realtime=False))
    assert {spec.environment[REALTIME_VARIABLE] for spec in without} == {""}


def test_what_consents_and_holds_comes_before_what_decides_and_that_before_the_rest() -> None:
    ranks = {spec.name: spec.priority.realtime for spec in nodes(Arguments(sim="none", camera="0", trainer=True))}
    first = ranks[names.SAFETY_MONITOR]
    assert ranks[names.ARM_NODE] == first > ranks[names.POLICY_NODE] > 0
    rest = set(ranks) - {names.SAFETY_MONITOR, names.ARM_NODE, names.POLICY_NODE, names.CAMERA_NODE}
    assert not any(ranks[name] for name in rest)
    assert not any(spec.priority.realtime for spec in nodes(Arguments(realtime=False)))


@pytest.mark.parametrize(("factor", "realtime"), [(1.0, True), (0.5, True), (4.0, False)])
def test_simulator_waits_for_no_program_unless_it_is_faster_than_the_robot(factor: float, realtime: bool) -> None:
    simulator = nodes(Arguments(use_sim_time=True, real_time_factor=factor))[0]
    assert simulator.name == names.SIMULATION_NODE and bool(simulator.priority.realtime) is realtime


def test_robot_description_has_one_publisher_with_rviz_and_gazebo() -> None:
    assert names_of(Arguments(sim="gazebo", rviz=True)).count("robot_state_publisher") == 1


def test_gazebo_in_a_namespace_is_refused() -> None:
    with pytest.raises(GraphError, match="leave namespace empty"):
        nodes(Arguments(sim="gazebo", namespace="left"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sim": "unity"}, "sim must be one of"),
        ({"speed": "2"}, "unknown argument 'speed'"),
        ({"real_time_factor": "fast"}, "real_time_factor must be a number"),
        ({"real_time_factor": "0"}, "real_time_factor must be > 0"),
        ({"real_time_factor": "2"}, "needs use_sim_time"),
        ({"parameters": "/absent.yaml"}, "parameters: no such file: /absent.yaml"),
        ({"use_sim_time": "maybe"}, "use_sim_time must be true or false"),
    ],
)
def test_wrong_argument_is_named(values: dict[str, str], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        Arguments.from_text(values)


def test_texts_become_values_of_the_right_type() -> None:
    arguments = Arguments.from_text({"use_sim_time": "true", "real_time_factor": "2", "bundle": "safereach/a"})
    assert (arguments.use_sim_time, arguments.real_time_factor, arguments.bundle) == (True, 2.0, "safereach/a")


def test_policy_and_monitor_get_the_same_bundle_and_every_node_the_same_clock() -> None:
    specs = {spec.name: spec.parameters for spec in nodes(Arguments(bundle="safereach/a", use_sim_time=True))}
    assert specs["policy_node"]["bundle"] == specs["safety_monitor"]["bundle"] == "safereach/a"
    assert Path(specs["policy_node"]["models_root"]).is_absolute()
    assert all(parameters["use_sim_time"] for parameters in specs.values())


def test_parameters_are_written_as_a_ros_parameter_file() -> None:
    content = yaml.safe_load(parameters_yaml(nodes(Arguments(bundle="safereach/a"))))
    assert content["/policy_node"]["ros__parameters"]["bundle"] == "safereach/a"


def test_scenes_are_served_with_and_without_a_simulation_and_an_operator_is_waited_for() -> None:
    assert services(Arguments(sim="none")) == services(Arguments())
    episodes = next(spec for spec in nodes(Arguments(sim="none")) if spec.name == "episode_node")
    assert episodes.parameters["ready_timeout_s"] == OPERATOR_WAIT_S
    assert "ready_timeout_s" not in next(s for s in nodes(Arguments()) if s.name == "episode_node").parameters


def test_monitor_allows_for_the_steps_of_a_simulated_clock_and_for_nothing_else() -> None:
    def monitor(use_sim_time: bool) -> dict[str, object]:
        monitors = [spec for spec in nodes(Arguments(use_sim_time=use_sim_time)) if spec.name == "safety_monitor"]
        return dict(monitors[0].parameters)

    assert monitor(True)["future_s"] == SIMULATED_FUTURE_S
    assert "future_s" not in monitor(False)


@pytest.mark.parametrize("required", [True, False])
def test_monitor_is_told_whether_it_needs_a_calibrated_model(required: bool) -> None:
    specs = {spec.name: spec.parameters for spec in nodes(Arguments(require_calibration=required))}
    assert specs["safety_monitor"]["require_calibration"] is required


def test_namespace_moves_the_names_of_the_graph_and_nothing_else() -> None:
    assert remappings(Arguments()) == []
    rules = dict(remappings(Arguments(namespace="/left/")))
    assert all(re.fullmatch(r"(/[a-z_]+)+", name) and to == f"/left{name}" for name, to in rules.items())
    assert {names.CAMERA_IMAGE, names.ARM_COMMAND, names.SAFETY_HALT, names.SERVO_TWIST} <= set(rules)
    assert f"{names.RUN_EPISODES}/_action/send_goal" in rules and names.RUN_EPISODES not in rules
    assert "/clock" not in rules


def test_model_is_another_name_of_bundle_and_two_models_are_refused() -> None:
    named = Arguments.from_text({"model": "safereach/a"})
    assert (named.bundle, named.model) == ("safereach/a", "")
    assert replace(named, bundle="safereach/b").bundle == "safereach/b"
    assert Arguments(bundle="safereach/a", model="safereach/a").bundle == "safereach/a"
    with pytest.raises(GraphError, match="bundle and model mean the same"):
        Arguments(bundle="safereach/a", model="safereach/b")


def test_without_record_an_episode_leaves_its_steps_alone() -> None:
    def recorded(**values: object) -> list[object]:
        parameters = next(s.parameters for s in nodes(Arguments(**values)) if s.name == "episode_node")
        return [parameters["record_messages"], parameters["record_overview"]]

    assert recorded() == [True, True] and recorded(record_overview=False) == [True, False]
    assert recorded(record=False) == [False, False]


def test_arm_gets_its_backend_and_a_dry_run_by_argument() -> None:
    def arm(**values: object) -> dict[str, object]:
        return dict(next(spec for spec in nodes(Arguments(**values)) if spec.name == "arm_node").parameters)

    assert (arm()["backend"], arm()["dry_run"]) == ("mink", False)
    assert (arm(arm_backend="moveit")["backend"], arm(dry_run=True)["dry_run"]) == ("moveit", True)
    assert arm(arm_backend="servo")["backend"] == "servo"


def test_documentation_lists_every_argument_with_its_default_and_meaning() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "ros.md").read_text()
    rows = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("| `")]
    listed = {cells[0].strip(" `"): (cells[1].strip(" `"), cells[2].strip()) for cells in rows if len(cells) == 3}
    for argument in fields(Arguments):
        default = str(argument.default).lower() if isinstance(argument.default, bool) else str(argument.default)
        assert listed.get(argument.name) == (default, argument.metadata["help"]), argument.name


def test_arm_can_be_brought_home_on_a_real_robot_and_where_operators_have_a_tool() -> None:
    def homing(**values: object) -> list[dict[str, object]]:
        return [dict(s.parameters) for s in nodes(Arguments(**values)) if s.name == "homing_node"]

    assert homing() == [] and homing(arm_backend="moveit") == []
    for values in ({"sim": "none"}, {"console": True}, {"rviz": True}):
        assert [(p["planner"], p["dry_run"]) for p in homing(**values)] == [("joint", False)]
    for backend in ("moveit", "servo"):
        (parameters,) = homing(sim="none", arm_backend=backend, dry_run=True)
        assert (parameters["planner"], parameters["dry_run"]) == ("moveit", True)


@pytest.mark.parametrize("name", ["franka.yaml", "ros2_control_arm.yaml"])
def test_parameter_files_name_nodes_and_parameters_that_exist(name: str) -> None:
    from fosp_arm import arm_node, homing_node
    from fosp_sim import evaluator_node

    declared = {
        "/arm_node": arm_node.PARAMETERS,
        "/homing_node": homing_node.PARAMETERS,
        "/task_evaluator": evaluator_node.PARAMETERS,
    }
    content = yaml.safe_load((Path(__file__).parents[1] / "config" / name).read_text())
    for node, given in content.items():
        known = {p.name: p for p in declared[node]}
        for parameter, value in given["ros__parameters"].items():
            assert known[parameter].fault(value) == ""
