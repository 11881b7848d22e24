"""The SROS 2 policy against the graph that really runs: every topic, service and action of every node."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest

pytestmark = pytest.mark.system

POLICY = Path(__file__).resolve().parents[1] / "src/fosp_bringup/config/sros2_policy.xml"
ELSEWHERE = {"operator", "launch"}
"""Enclaves of programs that are no nodes of ours: the command line and ros2 launch."""
OURS = {"fosp_demo", "fosp_discovery"}
"""The test's own eyes."""
_ACTION = "/_action/"


def observed(node: Any) -> dict[str, Any]:
    """What each living node publishes, hears, offers and asks for, by its name; in whatever namespace it stands."""
    from fosp_bringup.security import Permissions

    found: dict[str, Permissions] = {}
    for name, namespace in node.get_node_names_and_namespaces():
        if name in OURS:
            continue
        own = f"{namespace.rstrip('/')}/{name}/"

        def names(ask: Callable[[str, str], Any], name: str = name, namespace: str = namespace, own: str = own) -> Any:
            return {n.replace(own, f"/{name}/", 1) if n.startswith(own) else n for n, _ in ask(name, namespace)}

        replies = names(node.get_service_names_and_types_by_node)
        requests = names(node.get_client_names_and_types_by_node)
        found[name] = found.get(name, Permissions()) | Permissions(
            publish=_without_actions(names(node.get_publisher_names_and_types_by_node)),
            subscribe=_without_actions(names(node.get_subscriber_names_and_types_by_node)),
            reply=_without_actions(replies),
            request=_without_actions(requests),
            execute=_actions(replies),
            call=_actions(requests),
        )
    return found


def _without_actions(names: set[str]) -> frozenset[str]:
    return frozenset(n for n in names if _ACTION not in n)


def _actions(names: set[str]) -> frozenset[str]:
    return frozenset(n.split(_ACTION)[0] for n in names if _ACTION in n)


def difference(granted: dict[str, Any], seen: dict[str, Any]) -> list[str]:
    """What living nodes do without permission, and what they may do and don't."""
    from fosp_bringup.security import Permissions, enclave

    lines = []
    for name, does in sorted(seen.items()):
        may = granted.get(enclave(name), Permissions())
        lines += [f"{name} is not allowed to {line}" for line in (does - may).lines()]
        lines += [f"{name} has no use for {line}" for line in (may - does).lines()]
    return lines


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_policy_grants_what_the_running_graph_does_and_nothing_else(
    start: Callable[..., Any], models: Path, tmp_path: Path, eventually: Any, another_domain: Callable[[], None]
) -> None:
    from fosp_bringup.client import GraphClient
    from fosp_bringup.security import Permissions, enclave, read_policy
    from fosp_ros.testing import plain_image

    granted = read_policy(POLICY)
    seen: dict[str, Permissions] = {}
    found: list[str] = []

    def agrees(client: Any, nodes: set[str], but: str = "") -> bool:
        """Everything that was ever seen counts: nodes come up piece by piece, and parts are heard of one by one."""
        for name, does in observed(client.node).items():
            seen[name] = seen.get(name, Permissions()) | does
        found[:] = [line for line in difference(granted, seen) if line != but]
        found.extend(f"{name} does not run" for name in nodes - set(seen))
        return not found

    def compare(nodes: set[str], but: str = "") -> None:
        with GraphClient() as client, contextlib.suppress(pytest.fail.Exception):
            eventually(lambda: agrees(client, nodes, but), "agreement", timeout_s=180.0)
        assert not found, "\n".join(found)

    common = ("--models-root", str(models), "--no-require-calibration", "--use-sim-time", "--when-node-exits", "keep")
    clock = ("-p", "use_sim_time:=true")
    tools = ("--ros-args", *clock, "-p", f"models_root:={models}")
    programs = [
        start("fosp_bringup.runner", *common, "--run-folder", str(tmp_path / "simulated"), "--trainer"),
        start("fosp_bringup.console_node", *tools, "-p", f"port:={free_port()}"),
        start("fosp_bringup.rviz_node", *tools),
    ]
    core = {"arm_node", "safety_monitor", "policy_node", "episode_node"}
    dry = "arm_node has no use for publish /fosp/arm/dry_run"
    compare({*core, "simulation_node", "trainer_node", "console_node", "rviz_node"}, dry)
    for program in programs:
        program.stop()

    # A real robot's graph, without the robot; then an arm node that may only say what it would do. In this order: the
    # runner starts no graph where a node of its names runs already.
    another_domain()
    images = tmp_path / "images"
    images.mkdir()
    cv2.imwrite(str(images / "frame.png"), plain_image())
    robot = (*common, "--run-folder", str(tmp_path / "robot"), "--sim", "none", "--camera", str(images))
    start("fosp_bringup.runner", *robot)
    compare({*core, "task_evaluator", "camera_node", "homing_node"}, dry)
    start("fosp_arm.arm_node", "--ros-args", *clock, "-p", "dry_run:=true", "-r", "__ns:=/dry")
    compare(core)
    # Nothing is granted to programs that nobody looked at.
    assert set(granted) == {enclave(name) for name in {*seen, *ELSEWHERE}}
