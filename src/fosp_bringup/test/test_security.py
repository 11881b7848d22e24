"""Who may do what: the shipped SROS 2 policy, and how policies are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from fosp_bringup import security
from fosp_bringup.graph import Arguments, nodes
from fosp_bringup.security import Permissions, PolicyError, enclave, read_policy
from fosp_ros import names

SHIPPED = Path(__file__).resolve().parents[1] / "config" / "sros2_policy.xml"
OPERATORS = {enclave(name) for name in ("operator", names.CONSOLE_NODE, names.RVIZ_NODE)}


@pytest.fixture(scope="module")
def policy() -> dict[str, Permissions]:
    return read_policy(SHIPPED)


def holders(policy: dict[str, Permissions], verb: str, name: str) -> set[str]:
    return {where for where, permissions in policy.items() if name in getattr(permissions, verb)}


def test_only_the_monitor_commands_the_arm_and_only_the_arms_own_nodes_the_joints(
    policy: dict[str, Permissions],
) -> None:
    assert holders(policy, "publish", names.ARM_COMMAND) == {enclave(names.SAFETY_MONITOR)}
    joints = {enclave(names.ARM_NODE), enclave(names.HOMING_NODE)}
    assert holders(policy, "publish", names.JOINT_TRAJECTORY) == joints
    assert holders(policy, "publish", names.SAFETY_STATUS) == {enclave(names.SAFETY_MONITOR)}
    assert holders(policy, "publish", names.POLICY_DECISION) == {enclave(names.POLICY_NODE)}


@pytest.mark.parametrize("name", [names.SAFETY_HALT, names.SAFETY_RESET, names.SAFETY_LOAD_MODEL])
def test_only_the_monitor_answers_for_itself(policy: dict[str, Permissions], name: str) -> None:
    assert holders(policy, "reply", name) == {enclave(names.SAFETY_MONITOR)}


@pytest.mark.parametrize("action", [names.RUN_EPISODES, names.FINE_TUNE])
def test_only_operators_give_orders(policy: dict[str, Permissions], action: str) -> None:
    assert holders(policy, "call", action) == OPERATORS


def test_only_operators_reset_and_load_models_and_the_nodes_that_carry_out_their_orders(
    policy: dict[str, Permissions],
) -> None:
    assert holders(policy, "request", names.SAFETY_RESET) == OPERATORS | {enclave(names.EPISODE_NODE)}
    for name in (names.SAFETY_LOAD_MODEL, names.POLICY_LOAD_MODEL):
        assert holders(policy, "request", name) == OPERATORS | {enclave(names.TRAINER_NODE)}
    assert holders(policy, "request", names.SAFETY_HALT) >= OPERATORS


def test_nobody_changes_the_monitors_parameters_and_only_the_launch_and_operators_its_state(
    policy: dict[str, Permissions],
) -> None:
    monitor = f"/{names.SAFETY_MONITOR}"
    for service in ("set_parameters", "set_parameters_atomically"):
        assert holders(policy, "request", f"{monitor}/{service}") == set()
    allowed = {enclave("launch"), enclave("operator")}
    assert holders(policy, "request", f"{monitor}/change_state") == allowed


def test_wildcards_are_granted_to_the_launch_alone_and_for_its_own_services(policy: dict[str, Permissions]) -> None:
    starred = {(where, line) for where, p in policy.items() for line in p.lines() if set("*?[") & set(line)}
    assert starred and all(w == enclave("launch") and line.startswith("reply /launch_ros_") for w, line in starred)


def test_every_node_of_the_mujoco_and_of_a_real_robots_graph_has_an_enclave(policy: dict[str, Permissions]) -> None:
    for arguments in (Arguments(trainer=True, console=True), Arguments(sim="none", camera="0", dry_run=True)):
        assert {enclave(spec.name) for spec in nodes(arguments)} <= set(policy)
    assert enclave(names.RVIZ_NODE) in policy


def test_nodes_get_their_enclave_only_where_security_is_on() -> None:
    assert security.environment("arm_node", {}) == {}
    assert security.environment("arm_node", {"ROS_SECURITY_ENABLE": "false"}) == {}
    given = {"ROS_SECURITY_ENABLE": "true", "ROS_SECURITY_ENCLAVE_OVERRIDE": "/fosp/launch"}
    assert security.environment("arm_node", given) == {"ROS_SECURITY_ENCLAVE_OVERRIDE": "/fosp/arm_node"}


PROFILE = '<profile ns="{ns}" node="n">{body}</profile>'
TOPICS = '<topics publish="ALLOW"><topic>{topic}</topic></topics>'


def written(folder: Path, body: str, ns: str = "/", version: str = "0.2.0", path: str = "/e") -> Path:
    file = folder / "policy.xml"
    profile = PROFILE.format(ns=ns, body=body)
    enclaves = f'<enclave path="{path}"><profiles>{profile}</profiles></enclave>'
    file.write_text(f'<policy version="{version}"><enclaves>{enclaves}</enclaves></policy>')
    return file


@pytest.mark.parametrize(
    ("ns", "topic", "absolute"),
    [("/", "a", "/a"), ("/x", "a/b", "/x/a/b"), ("/x", "~/a", "/x/n/a"), ("/", "~/a", "/n/a"), ("/x", "/a", "/a")],
)
def test_names_are_resolved_by_namespace_and_node(tmp_path: Path, ns: str, topic: str, absolute: str) -> None:
    policy = read_policy(written(tmp_path, TOPICS.format(topic=topic), ns))
    assert policy == {"/e": Permissions(publish=frozenset({absolute}))}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"version": "0.1.0"}, "version"),
        ({"path": "e"}, "absolute path"),
        ({"ns": ""}, "absolute ns"),
        ({"body": "<topics><topic>/a</topic></topics>"}, "publish, subscribe"),
        ({"body": '<topics publish="DENY"><topic>/a</topic></topics>'}, "ALLOW"),
        ({"body": '<topics publish="ALLOW"/>'}, "at least one"),
        ({"body": '<services publish="ALLOW"><service>/a</service></services>'}, "reply, request"),
        ({"body": '<topics publish="ALLOW"><service>/a</service></topics>'}, "topic elements only"),
        ({"body": '<nodes publish="ALLOW"><topic>/a</topic></nodes>'}, "nodes"),
    ],
)
def test_what_is_no_policy_is_refused_and_named(tmp_path: Path, changes: dict[str, str], named: str) -> None:
    with pytest.raises(PolicyError, match=named):
        read_policy(written(tmp_path, **{"body": TOPICS.format(topic="/a"), **changes}))


def test_a_broken_or_absent_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "policy.xml").write_text("<policy")
    for name in ("policy.xml", "absent.xml"):
        with pytest.raises(PolicyError, match=name):
            read_policy(tmp_path / name)
