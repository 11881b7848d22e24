"""The launch file, with the real ``launch`` where that is installed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "launch" / "safereach.launch.py"
SERVICE = """
import sys
from launch import LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description import LaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
source = PythonLaunchDescriptionSource(sys.argv[1])
arguments = [tuple(a.split(":=", 1)) for a in sys.argv[2:]]
service = LaunchService()
service.include_launch_description(
    LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)])
)
sys.exit(service.run())
"""


@pytest.fixture(autouse=True)
def _needs_launch() -> None:
    pytest.importorskip("launch_ros", reason="ros2 launch comes with a ROS 2 installation, not with the wheels")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", SERVICE, str(FILE), *arguments]


def test_launch_file_starts_the_graph_and_an_interrupt_ends_it(
    models: Path, tmp_path: Path, domain: int, eventually: Any
) -> None:
    from fosp_bringup import graph
    from fosp_bringup.client import GraphClient

    env = {**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_LOG_DIR": str(tmp_path / "ros")}
    log = tmp_path / "launch.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command(f"models_root:={models}", f"records_root:={tmp_path / 'records'}"),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
    try:
        with GraphClient() as client:
            services = graph.services(graph.Arguments())
            eventually(lambda: "has died" in log.read_text() or not client.missing(services), "the graph")
            assert "has died" not in log.read_text(), log.read_text()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert "has died" not in log.read_text()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("simm:=mujoco", "did you mean 'sim'"),
        ("sim:=unity", "sim must be one of"),
        ("bundle:=safereach/absent", "no such bundle"),
    ],
)
def test_launch_file_refuses_what_it_cannot_run(models: Path, tmp_path: Path, argument: str, message: str) -> None:
    env = {**os.environ, "ROS_LOG_DIR": str(tmp_path)}
    done = subprocess.run(
        command(f"models_root:={models}", argument), capture_output=True, text=True, timeout=120, env=env, check=False
    )
    assert done.returncode != 0 and message in done.stdout + done.stderr
