"""The real graph for system tests: every test gets processes, a ROS domain and folders of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Generous: the tests share two cores with whatever else runs, and no test is about speed.
PATIENCE_S = 120.0


class Program:
    """A program of the project in a process of its own, in this process's ROS domain, with its output in a file."""

    def __init__(self, module: str, *arguments: str, log: Path) -> None:
        self.log = log
        from fosp_bringup.lifetime import child_setup

        env = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
                preexec_fn=child_setup(signal.SIGTERM),
            )

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for its end; returns the exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {timeout_s:g} s:\n{self.output}")

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal and wait for the end."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()


class Patience:
    """Waiting with an end."""

    def __call__(self, condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
        """Wait until ``condition`` gives something true, and give that; fails the test when it does not."""
        end = time.monotonic() + timeout_s
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > end:
                pytest.fail(f"waited {timeout_s:g} s for {what}")
            time.sleep(0.05)


class RunFolder:
    """What a run leaves on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def processes(self) -> dict[str, dict[str, int | None]]:
        """Process id and exit code of each node."""
        file = self.path / "processes.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def living(self) -> list[str]:
        """Nodes whose process is still there."""
        return [name for name, state in self.processes().items() if _is_alive(state["pid"])]

    def episodes(self) -> list[Path]:
        """Folders of complete episodes."""
        return sorted(p.parent for p in self.path.glob("records/*/episode_*/episode.json"))

    def logs(self) -> str:
        """Everything the nodes said."""
        return "\n".join(f"--- {f.name}\n{f.read_text(errors='replace')}" for f in sorted(self.path.glob("logs/*.log")))


@pytest.fixture
def eventually() -> Patience:
    return Patience()


def unused_domain() -> int:
    """A ROS domain that nobody uses, and that no other worker of this test run will choose."""
    from fosp_bringup.domain import free_domain, used_domains

    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    mine = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return free_domain(used_domains() | {number for number in range(256) if number % workers != mine})


@pytest.fixture(scope="module")
def domain() -> Iterator[int]:
    """A ROS domain that nobody else uses, also for nodes in the test's own process."""
    with pytest.MonkeyPatch.context() as patch:
        number = unused_domain()
        patch.setenv("ROS_DOMAIN_ID", str(number))
        yield number


@pytest.fixture
def another_domain(domain: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Moves the rest of the test to one more ROS domain: no graph starts where nodes of another, ended or not, are
    still heard of.
    """
    return lambda: monkeypatch.setenv("ROS_DOMAIN_ID", str(unused_domain()))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with a small bundle ``safereach/tiny`` whose policy moves the tool steadily sideways."""
    from fosp_core.testing import make_bundle

    root = tmp_path_factory.mktemp("models")
    make_bundle(root / "safereach" / "tiny")
    return root


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with an untrained model of debug size, whose monitor lets everything pass."""
    import torch

    from fosp_core.bundle import Thresholds
    from fosp_trainer import config as configuration
    from fosp_trainer.agent import Agent
    from fosp_trainer.config import ProposalConfig
    from fosp_trainer.export import export_bundle

    torch.manual_seed(0)
    config = configuration.preset("debug")
    fine_tune = dataclasses.replace(config.fine_tune, held_out=0.5)
    agent = Agent(dataclasses.replace(config, proposals=ProposalConfig(count=1), fine_tune=fine_tune))
    agent.online.load_state_dict(agent.offline.state_dict())
    root = tmp_path_factory.mktemp("models")
    export_bundle(
        agent, root / "safereach" / "small", bundle_id="small", frames=None,
        thresholds=Thresholds(caution=1.0, halt=1.0, surprise=1e9),
    )  # fmt: skip
    return root


@pytest.fixture(scope="session")
def made_up_run() -> Callable[..., None]:
    """Writes a recorded run of noise, without costs, into a folder."""
    import numpy as np

    from fosp_trainer.testing import random_episodes

    def write(folder: Path, episodes: int = 6) -> None:
        names = ("image", "proprio", "action", "reward", "cost", "is_first", "is_terminal")
        for number in range(episodes):
            frames = random_episodes(1, seed=number)
            target = folder / f"episode_{number:04d}"
            target.mkdir(parents=True)
            arrays = {name: getattr(frames, name) for name in names} | {"cost": np.zeros_like(frames.cost)}
            np.savez_compressed(target / "episode.npz", **arrays)
            summary = {"scene": "standard", "seed": number, "success": False, "violated": False, "aborted": False}
            content = {"schema_version": 1, "summary": {**summary, "model_id": "small"}}
            (target / "episode.json").write_text(json.dumps(content))

    return write


@pytest.fixture
def start(tmp_path: Path, domain: int) -> Iterator[Callable[..., Program]]:
    """Starts programs, and ends those that are left; a failing test shows what they said."""
    started: list[Program] = []

    def launch(module: str, *arguments: str) -> Program:
        program = Program(module, *arguments, log=tmp_path / f"program{len(started)}.log")
        started.append(program)
        return program

    yield launch
    for program in started:
        program.stop(signal.SIGTERM)
        print(f"--- {program.log.name}: {' '.join(program.process.args)}\n{program.output}")


@pytest.fixture
def run_folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def _is_alive(pid: int | None) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
