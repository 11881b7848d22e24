"""ROS 2 launch descriptions of the node list, one for each set of roles. Needs ``launch`` and ``launch_ros``."""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch.actions import DeclareLaunchArgument, EmitEvent, LogInfo, OpaqueFunction, RegisterEventHandler, Shutdown
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.events import matches_action
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from lifecycle_msgs.msg import Transition

from fosp_bringup import graph, priority, runner, security
from fosp_bringup.graph import Arguments, GraphError, NodeSpec
from fosp_ros import names
from fosp_ros.runner import EXIT_CONFIGURATION
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

RESPAWN_DELAY_S: Final = 2.0
TIDY_END_S: Final = "20"
"""How long a node may take to end after Ctrl-C, and after SIGTERM: on a busy machine more than the 5 s of launch."""
_SIMILAR: Final = 0.75


def description(roles: Sequence[str] = graph.ROLES, **defaults: str) -> LaunchDescription:
    """The arguments of the graph and its nodes of the given roles; ``defaults`` replace those of the arguments."""
    declared = [
        DeclareLaunchArgument(
            f.name, default_value=defaults.get(f.name, text(f.default)), description=f.metadata["help"]
        )
        for f in fields(Arguments)
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_entities, args=[tuple(roles)])])


def text(value: object) -> str:
    """A default as it is written on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_names(given: Sequence[str]) -> None:
    """Raise ``GraphError`` for a misspelt argument, which launch would pass over in silence.

    Names that resemble none of ours belong to the launch file that includes this one.
    """
    known = [f.name for f in fields(Arguments)]
    for name in given:
        similar = difflib.get_close_matches(name, known, 1, _SIMILAR)
        if name not in known and similar:
            raise GraphError(f"unknown argument {name!r}; did you mean {similar[0]!r}?")


def check_installed(packages: Iterable[str]) -> None:
    """Raise ``GraphError`` that names every package that is not there, before anything starts."""
    missing = []
    for package in sorted(set(packages)):
        try:
            get_package_prefix(package)
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        raise GraphError(f"not installed: {', '.join(missing)}; see docs/ros.md (rosdep install --from-paths src)")


def _entities(context: LaunchContext, roles: Sequence[str]) -> list[LaunchDescriptionEntity]:
    check_names(list(context.launch_configurations))
    values = {f.name: LaunchConfiguration(f.name).perform(context) for f in fields(Arguments)}
    arguments = Arguments.from_text(values)
    if "policy" in roles:
        arguments = runner.chosen_bundle(arguments)
    specs = [spec for spec in graph.nodes(arguments) if spec.role in roles]
    check_installed(spec.package for spec in specs)
    actions = {spec.name: _action(spec, arguments) for spec in specs}
    managed = [actions[spec.name] for spec in specs if _managed(spec)]
    handlers = [handler for node in managed for handler in _bring_up(node)]
    handlers += [_say_when_it_ends(spec, actions[spec.name]) for spec in specs]
    monitor, policy = actions.get(names.SAFETY_MONITOR), actions.get(names.POLICY_NODE)
    if monitor is not None and policy is not None:
        # No decision is made before somebody judges it.
        del actions[names.POLICY_NODE]
        handlers.append(
            RegisterEventHandler(
                OnStateTransition(
                    target_lifecycle_node=monitor, goal_state="active", entities=[policy], handle_once=True
                )
            )
        )
    told: list[LaunchDescriptionEntity] = []
    if arguments.realtime and "policy" in roles and not priority.realtime_allowed():
        told = [LogInfo(msg=priority.NO_REALTIME)]
    return [*told, *handlers, *actions.values()]


def _action(spec: NodeSpec, arguments: Arguments) -> Node:
    # The kernel ends the node with the launcher, however that dies; a node told to end leaves the arm holding.
    prefix = ["setpriv --pdeathsig TERM --"] if shutil.which("setpriv") else []
    prefix += priority.prefix(spec.starting_priority)
    # Texts stay texts: launch may read "2024", or XML with a colon, as YAML.
    parameters = {
        name: ParameterValue(value, value_type=str) if isinstance(value, str) else value
        for name, value in spec.parameters.items()
    }
    overriding = [str(Path(arguments.parameters).expanduser().absolute())] if arguments.parameters else []
    environment = {"PYTHONUNBUFFERED": "1", **spec.environment, **security.environment(spec.name, os.environ)}
    if spec.package == "ros_gz_sim":
        # Where Gazebo looks for gz_ros2_control.
        paths = [os.environ.get(name, "") for name in ("GZ_SIM_SYSTEM_PLUGIN_PATH", "LD_LIBRARY_PATH")]
        environment["GZ_SIM_SYSTEM_PLUGIN_PATH"] = os.pathsep.join(filter(None, paths))
    options: dict[str, Any] = {
        "package": spec.package,
        "executable": spec.executable,
        "name": spec.name,
        "namespace": arguments.namespace,
        "arguments": list(spec.arguments),
        "remappings": graph.remappings(arguments),
        "prefix": " ".join(prefix) or None,
        "output": "screen",
        "emulate_tty": True,
        "respawn": spec.respawn,
        "respawn_delay": RESPAWN_DELAY_S,
        "sigterm_timeout": TIDY_END_S,
        "sigkill_timeout": TIDY_END_S,
        "additional_env": environment,
    }
    if _managed(spec):
        return LifecycleNode(**options, parameters=[{**parameters, "autostart": False}, *overriding])
    return Node(**options, parameters=[parameters, *overriding])


def _managed(spec: NodeSpec) -> bool:
    """Whether launch brings the node up; one that is started again brings itself up.

    A request to a node that was killed a moment ago is never answered, and launch would wait for it for ever.
    """
    return spec.lifecycle and not spec.respawn


def _say_when_it_ends(spec: NodeSpec, node: Node) -> RegisterEventHandler:
    # What launch itself says names the prefix of the command, not the node.
    def say(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity] | None:
        if context.is_shutdown:
            return None
        if event.returncode == EXIT_CONFIGURATION and spec.is_ours:
            return [LogInfo(msg=f"{spec.name} refused to start; it says why above"), Shutdown(reason="a node refused")]
        if spec.once and event.returncode == 0:
            return None
        if spec.respawn:
            consequence = "; it is started again"
        else:
            consequence = "" if spec.role == "operators" else "; the arm holds until the launch is started again"
        return [LogInfo(msg=f"{spec.name} {runner.describe_exit(event.returncode)}{consequence}")]

    return RegisterEventHandler(OnProcessExit(target_action=node, on_exit=say))


def _bring_up(node: Node) -> list[LaunchDescriptionEntity]:
    """Configure when the process has started, then activate; a refusal ends the launch."""

    def change(transition: int) -> EmitEvent:
        return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))

    def on(start: str, goal: str, entities: list[LaunchDescriptionEntity]) -> RegisterEventHandler:
        return RegisterEventHandler(
            OnStateTransition(target_lifecycle_node=node, start_state=start, goal_state=goal, entities=entities)
        )

    refused = [LogInfo(msg="a node refused to start; it says why above"), Shutdown(reason="a node refused to start")]
    return [
        RegisterEventHandler(OnProcessStart(target_action=node, on_start=[change(Transition.TRANSITION_CONFIGURE)])),
        on("configuring", "inactive", [change(Transition.TRANSITION_ACTIVATE)]),
        on("configuring", "unconfigured", refused),
        on("activating", "inactive", refused),
    ]
