"""Episodes while other programs on the same computer come and go: nodes that join and leave, as an operator's tools do,
or whole graphs that start and end. Halts and camera to command, over the loopback interface and through shared memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import tyro
from recording import record

from fosp_bringup import middleware, runner, workspace
from fosp_bringup.client import GraphClient
from fosp_bringup.demo import Graph, wait_ready
from fosp_bringup.domain import free_domain
from fosp_bringup.graph import Arguments
from fosp_bringup.priority import Priority, prefix
from fosp_bringup.summary import load_episodes, summarize
from fosp_core.statistics import summarize_latency
from fosp_core.task import evaluation_seed
from fosp_interfaces.action import RunEpisodes

Company = Literal["alone", "nodes", "graphs", "real-time graphs"]
Transport = Literal["loopback", "shared memory"]

NODE = """
import time
import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
rclpy.init()
node = rclpy.create_node("bystander")
for kind, topic in ((Image, "/camera/image_raw"), (JointState, "/joint_states")):
    node.create_subscription(kind, topic, lambda _: None, qos_profile_sensor_data)
end = time.monotonic() + 2.0
while time.monotonic() < end:
    rclpy.spin_once(node, timeout_sec=0.1)
"""
"""Listens for two seconds and ends without a farewell, as a program does that is interrupted."""
GRAPH_S = 10.0
"""Seconds that a second graph is left to start and run."""


@dataclass
class Options:
    """What is run."""

    company: tuple[Company, ...] = get_args(Company)
    """Who else is there: nobody, nodes of the same ROS domain one after the other, graphs of another domain, or such
    graphs whose processes have real time from their start on, as from a starter that does not leave it to the nodes.
    """
    transports: tuple[Transport, ...] = get_args(Transport)
    """How the nodes reach each other: as by default, or as Fast DDS does by itself on one computer."""
    episodes: int = 20
    """Episodes a row, on the same layouts."""
    bundle: str = ""
    """Bundle, relative to the models folder; empty: the newest."""
    output: Path | None = None
    """Result file; benchmarks/results/bystanders.json by default."""


@contextmanager
def bystanders(company: Company, folder: Path) -> Iterator[list[float]]:
    """Starts them one after the other until the block ends; gives how long each was there, s."""
    stays: list[float] = []
    if company == "alone":
        yield stays
        return
    ended = threading.Event()
    another = ["timeout", "--signal", "INT", str(GRAPH_S), sys.executable, "-m", "fosp_bringup.runner"]
    another += ["--run-folder", str(folder / "bystander")]
    elsewhere = {"ROS_DOMAIN_ID": str(free_domain())}
    commands = {
        "nodes": ([sys.executable, "-c", NODE], {}),
        "graphs": (another, elsewhere),
        "real-time graphs": (prefix(Priority.CONTROL) + another, elsewhere),
    }

    command, variables = commands[company]

    def come_and_go() -> None:
        while not ended.is_set():
            begin = time.monotonic()
            with (folder / "bystanders.log").open("a") as log:
                subprocess.run(
                    command, env={**os.environ, **variables}, stdout=log, stderr=subprocess.STDOUT, check=False
                )
            stays.append(round(time.monotonic() - begin, 2))

    thread = threading.Thread(target=come_and_go, daemon=True)
    thread.start()
    try:
        yield stays
    finally:
        ended.set()
        thread.join()


def row(options: Options, arguments: Arguments, company: Company, folder: Path) -> dict[str, Any]:
    """Episodes of a new graph in such company."""
    process = Graph(arguments, folder)
    try:
        with GraphClient() as client:
            wait_ready(client, arguments, folder, process.check)
            with bystanders(company, folder) as stays:
                goal = RunEpisodes.Goal(
                    scene="standard", count=options.episodes, seed=evaluation_seed(0), reset_after_halt=True
                )
                result = client.run_episodes(goal, lambda _: None, process.check)
    finally:
        process.stop()
    latencies = [round(float(v), 2) for episode in result.episodes for v in episode.latency_ms]
    figures = summarize(load_episodes(Path(result.path)), "standard")
    chosen = ("episodes", "success_rate", "violation_rate", "halts", "halt_reasons", "interventions")
    return {
        **{name: figures[name] for name in chosen},
        "bystanders": len(stays),
        "bystanders_s": stays,
        "camera_to_command": summarize_latency(latencies),
        "camera_to_command_ms": latencies,
    }


def main(options: Options) -> None:
    """Run all rows and write the result file."""
    arguments = runner.chosen_bundle(
        Arguments(models_root=str(workspace.models()), bundle=options.bundle, record_overview=False)
    )
    rows = []
    chosen = {name: os.environ.pop(name, "") for name in (middleware.RANGE, middleware.PROFILES)}
    for transport in options.transports:
        for company in options.company:
            os.environ.update({middleware.RANGE: "LOCALHOST"} if transport == "shared memory" else chosen)
            os.environ["ROS_DOMAIN_ID"] = str(free_domain())
            with tempfile.TemporaryDirectory() as scratch:
                os.environ.update(runner.environment(Path(scratch)))
                figures = row(options, arguments, company, Path(scratch))
            for name in chosen:
                os.environ.pop(name, None)
            rows.append({"transport": transport, "company": company, **figures})
            latency = figures["camera_to_command"]
            told = f"{figures['halts']} halts in {figures['episodes']} episodes, {figures['bystanders']} bystanders"
            times = f"camera to command p50 {latency['p50']:.1f} p99 {latency['p99']:.1f} ms"
            print(f"{transport}, {company}: {told}, {times}", flush=True)
    print(record("bystanders", {"rows": rows}, options.output))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
