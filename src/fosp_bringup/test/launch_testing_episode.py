"""An episode, and a tidy end, with the tools of ``launch_testing``.

With an installed ROS 2: ``./run launch_test src/fosp_bringup/test/launch_testing_episode.py records_root:=DIR``. The
arguments are those of ``safereach.launch.py``. ``tests/test_launch.py`` runs it where ``launch_testing`` is installed.
"""

from __future__ import annotations

import time
import unittest
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_testing import post_shutdown_test
from launch_testing.actions import ReadyToTest
from launch_testing.asserts import assertExitCodes

from fosp_bringup import graph
from fosp_bringup.client import GraphClient
from fosp_interfaces.action import RunEpisodes
from launch import LaunchDescription

PATIENCE_S = 600.0
FILE = Path(get_package_share_directory("fosp_bringup")) / "launch" / "safereach.launch.py"


def generate_test_description() -> LaunchDescription:
    """The whole graph."""
    return LaunchDescription([IncludeLaunchDescription(PythonLaunchDescriptionSource(str(FILE))), ReadyToTest()])


class TestWhileItRuns(unittest.TestCase):
    def test_an_episode_runs_to_its_end_and_is_recorded(self, test_args: dict[str, str]) -> None:
        services = graph.services(graph.Arguments())
        with GraphClient() as client:
            end = time.monotonic() + PATIENCE_S
            while client.missing(services):
                assert time.monotonic() < end, f"nobody offers {client.missing(services)}"
                time.sleep(0.1)
            goal = RunEpisodes.Goal(scene="standard", count=1, seed=0, reset_after_halt=True)
            result = client.run_episodes(goal, lambda feedback: None, lambda: None)
        assert result.success, result.message
        assert [episode.scene for episode in result.episodes] == ["standard"]
        records = Path(test_args["records_root"])
        assert len(list(records.glob("*/episode_*/episode.json"))) == 1


@post_shutdown_test()
class TestWhenItHasEnded(unittest.TestCase):
    def test_every_node_ended_by_itself(self, proc_info: Any, proc_output: Any) -> None:
        assertExitCodes(proc_info)
        assert len(proc_info.process_names()) >= 5
        for name in proc_output.process_names():
            said = b"".join(event.text for event in proc_output[name]).decode(errors="replace")
            assert "Traceback" not in said
