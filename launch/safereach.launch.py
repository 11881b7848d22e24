"""SafeReach with ROS 2 launch: ``ros2 launch fosp_bringup safereach.launch.py sim:=mujoco bundle:=safereach/<id>``."""

from __future__ import annotations

from dataclasses import fields

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from fosp_bringup import graph, runner
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity


def generate_launch_description() -> LaunchDescription:
    """The arguments and nodes of ``fosp_bringup.graph``."""
    declared = [
        DeclareLaunchArgument(f.name, default_value=_text(f.default), description=f.metadata["help"])
        for f in fields(graph.Arguments)
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_nodes)])


def _nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    values = {f.name: LaunchConfiguration(f.name).perform(context) for f in fields(graph.Arguments)}
    arguments = runner.chosen_bundle(graph.Arguments.from_text(values))
    return [
        Node(
            package=spec.package,
            executable=spec.executable,
            name=spec.name,
            parameters=[dict(spec.parameters)],
            prefix=f"nice -n {spec.nice}" if spec.nice else None,
            output="screen",
            emulate_tty=True,
        )
        for spec in graph.nodes(arguments)
    ]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
