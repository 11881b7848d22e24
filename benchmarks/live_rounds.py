"""Fine-tune rounds on the running graph: episodes before, exploring ones, the round, the gate, the episodes again.

Every row (scene, seed) starts the graph anew from the same bundle, in a models folder of its own. While the round goes
on, episodes are run and halted in motion: camera to command and halt to hold, beside the same figures without a round.
Finished rows are kept and skipped when the benchmark is started again with the same settings.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro
from geometry_msgs.msg import TwistStamped
from recording import RESULTS, record
from rich.console import Console
from rich.table import Table
from std_srvs.srv import Trigger

from fosp_bringup import runner, workspace
from fosp_bringup.client import GraphClient, SilenceError
from fosp_bringup.demo import DemoError, Graph, wait_ready
from fosp_bringup.domain import free_domain
from fosp_bringup.graph import Arguments
from fosp_bringup.second_act import Round
from fosp_bringup.summary import load_episodes, summarize
from fosp_core.bundle import load_bundle
from fosp_core.statistics import summarize_latency, wilson_interval
from fosp_core.task import TRANSFER_SCENES, data_seed, evaluation_seed
from fosp_interfaces.action import FineTune, RunEpisodes
from fosp_ros import names, qos
from fosp_ros.messages import linear_velocity
from fosp_ros.polling import Listener, PolledSubscription

EXPLORE_INDEX = 50_000_000
"""Of the layouts that are explored: used for nothing else."""
HALT_AT_STEP = 10
MOVING_S = 0.15
"""An arm that was last told to move longer ago than this was not halted in motion."""


@dataclass
class Options:
    """What is run, and how often."""

    scenes: tuple[str, ...] = TRANSFER_SCENES
    """Scenes, each with every seed."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the rounds; each explores layouts of its own."""
    episodes: int = 20
    """Evaluated before and after, on the same layouts for every seed."""
    explored: int = 20
    """Exploring episodes that a round learns from."""
    steps: int = 40
    """Gradient steps."""
    paired_episodes: int = 40
    """Layouts that the gate runs in simulation under both models."""
    probes: int = 10
    """Episodes halted in motion without a round; as many as fit in while one goes on."""
    bundle: str = ""
    """Bundle to start from, relative to the models folder; empty: the newest."""
    models_root: Path | None = None
    """Folder of the model bundles; by default the workspace's. It is only read."""
    datasets: str = ""
    """Earlier Minari datasets that the rounds mix in, separated by ':'."""
    real_time_factor: float = 1.0
    """Speed of the simulation. Latencies are measured in real time only; with another speed there are none."""
    name: str = "live_rounds"
    """Name of the result file."""
    keep: Path | None = None
    """Folder for models, logs and records, kept afterwards; by default a temporary one for each row."""

    def settings(self) -> dict[str, Any]:
        """What rows must have in common."""
        chosen = ("episodes", "explored", "steps", "paired_episodes", "datasets", "real_time_factor")
        return {name: getattr(self, name) for name in chosen}


@dataclass
class Reactions:
    """Commands to the arm as they come, and how long the monitor takes from a halt to hold."""

    times_ms: list[float] = field(default_factory=list)
    commands: list[tuple[int, bool]] = field(default_factory=list)
    """When received (ns), and whether it moves."""

    def hear(self, message: TwistStamped) -> None:
        """Take in a command."""
        self.commands.append((time.time_ns(), bool(linear_velocity(message).any())))

    def moving(self) -> bool:
        """Whether the arm was told to move just now."""
        now = time.time_ns()
        return any(moves and now - at < MOVING_S * 1e9 for at, moves in self.commands[-20:])

    def measure(self, halted_ns: int) -> None:
        """From a halt to the first command that holds, after which none moves."""
        later = [(at, moves) for at, moves in list(self.commands) if at >= halted_ns]
        last = max((at for at, moves in later if moves), default=halted_ns)
        held = next((at for at, moves in later if not moves and at >= last), None)
        if held is not None:
            self.times_ms.append((held - halted_ns) * 1e-6)


class Row:
    """One round on a running graph."""

    def __init__(self, options: Options, scene: str, seed: int, arguments: Arguments, folder: Path) -> None:
        self.options, self.scene, self.seed, self.folder = options, scene, seed, folder
        scratch = folder / "models"
        shutil.copytree(Path(arguments.models_root) / arguments.bundle, scratch / arguments.bundle)
        self.arguments = replace(arguments, models_root=str(scratch))
        self.measured = options.real_time_factor == 1.0

    def run(self) -> dict[str, Any]:
        """Figures of the row; raises ``DemoError`` or ``SilenceError`` when a part of the graph is lost."""
        os.environ["ROS_DOMAIN_ID"] = str(free_domain())
        os.environ.update(runner.environment(self.folder / runner.LOG_FOLDER))
        process = Graph(self.arguments, self.folder)
        try:
            with GraphClient() as self.client:
                wait_ready(self.client, self.arguments, self.folder, process.check)
                self.reactions = Reactions()
                commands = PolledSubscription(self.client.node, TwistStamped, names.ARM_COMMAND, qos.COMMAND)
                self.halt = self.client.node.create_client(Trigger, names.SAFETY_HALT)
                listener = Listener(self.client.node, [(commands, self.reactions.hear)], _fail, "commands")
                listener.start()
                try:
                    return self._act(process.check)
                finally:
                    listener.close()
        finally:
            process.stop()

    def _act(self, check: Callable[[], None]) -> dict[str, Any]:
        options = self.options
        layouts = evaluation_seed(0)
        before = self._evaluate(layouts, check)
        idle = self._probe(options.probes, lambda: False, check) if self.measured else None
        explored = self._episodes(
            options.explored, data_seed(EXPLORE_INDEX + 1000 * self.seed), check, RunEpisodes.Goal.EXPLORE
        )
        round_, stages, busy = self._round(Path(explored.path).name, check)
        after = self._evaluate(layouts, check)
        return {
            "scene": self.scene,
            "seed": self.seed,
            "model_id": before["model_id"],
            "settings": options.settings(),
            "before": before,
            "explored": _rates(self._figures(explored)),
            "round": {**asdict(round_), "stages_s": stages},
            "after": after,
            "without_round": idle,
            "during_round": busy,
        }

    def _round(
        self, run: str, check: Callable[[], None]
    ) -> tuple[Round, dict[str, float], dict[str, list[float]] | None]:
        """The round, seconds of its stages, and what the probes found while it went on."""
        self.client.set_parameter(names.TRAINER_NODE, "paired_episodes", self.options.paired_episodes, check)
        began, ended, busy = {"waiting": time.monotonic()}, threading.Event(), None
        result: list[Any] = []

        def heard(feedback: FineTune.Feedback) -> None:
            began.setdefault(str(feedback.stage), time.monotonic())

        def tune() -> None:
            goal = FineTune.Goal(steps=self.options.steps, seed=self.seed, episodes=[run])
            try:
                result.append(self.client.fine_tune(goal, heard, check))
            except Exception as error:
                result.append(error)
            finally:
                ended.set()

        start = time.monotonic()
        thread = threading.Thread(target=tune, daemon=True)
        thread.start()
        if self.measured:
            # the swap needs rest
            busy = self._probe(1000, lambda: ended.is_set() or "swap" in began, check)
        thread.join()
        seconds = time.monotonic() - start
        if isinstance(result[0], Exception):
            raise result[0]
        ends = [*list(began.values())[1:], start + seconds]
        stages = {name: end - at for (name, at), end in zip(began.items(), ends, strict=True)}
        return Round.from_result(result[0], seconds), stages, busy

    def _evaluate(self, seed: int, check: Callable[[], None]) -> dict[str, Any]:
        return _rates(self._figures(self._episodes(self.options.episodes, seed, check)))

    def _episodes(
        self,
        count: int,
        seed: int,
        check: Callable[[], None],
        mode: int = RunEpisodes.Goal.EVALUATE,
        on_feedback: Callable[[Any], None] = lambda _: None,
    ) -> Any:
        goal = RunEpisodes.Goal(scene=self.scene, count=count, seed=seed, mode=mode, reset_after_halt=True)
        result = self.client.run_episodes(goal, on_feedback, check)
        if not result.success:
            raise DemoError(result.message)
        return result

    def _figures(self, result: Any) -> dict[str, Any]:
        return summarize(load_episodes(Path(result.path)), self.scene)

    def _probe(self, count: int, stop: Callable[[], bool], check: Callable[[], None]) -> dict[str, list[float]]:
        """Episodes that are halted in motion; camera to command and halt to hold, ms."""
        latencies: list[float] = []
        self.reactions.times_ms = []
        for number in range(count):
            if stop():
                break
            halted: list[int] = []

            def halt(feedback: Any, halted: list[int] = halted) -> None:
                if not halted and feedback.step >= HALT_AT_STEP and self.reactions.moving():
                    halted.append(time.time_ns())
                    self.halt.call_async(Trigger.Request())

            seed = data_seed(EXPLORE_INDEX + 1000 * self.seed + 500 + number % 500)
            result = self._episodes(1, seed, check, on_feedback=halt)
            latencies += [float(v) for episode in result.episodes for v in episode.latency_ms]
            for at in halted:
                self.reactions.measure(at)
            self.reactions.commands.clear()
        rounded = [[round(v, 2) for v in values] for values in (latencies, self.reactions.times_ms)]
        return {"camera_to_command_ms": rounded[0], "halt_to_hold_ms": rounded[1]}


def _rates(figures: dict[str, Any]) -> dict[str, Any]:
    """What a row keeps of ``summary.summarize``."""
    kept = ("success", "violated", "safe_success", "halted")
    results = [{name: row[name] for name in (*kept, "seed", "steps")} for row in figures["results"]]
    names_ = [n for n in figures if "rate" in n]
    chosen = ("episodes", "aborted", "halts", "halt_reasons", "interventions", "latency_ms", "model_id", *names_)
    return {**{name: figures[name] for name in chosen}, "results": results}


def _fail(error: Exception) -> None:
    raise error


def pooled(rows: Sequence[dict[str, Any]], when: str, key: str) -> tuple[int, int]:
    """Hits and episodes over rows."""
    results = [result for row in rows for result in row[when]["results"]]
    return sum(bool(result[key]) for result in results), len(results)


def aggregate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rates by scene over all seeds, promoted rounds, and latencies over all rows."""
    scenes: dict[str, Any] = {}
    for scene in dict.fromkeys(row["scene"] for row in rows):
        own = [row for row in rows if row["scene"] == scene]
        figures: dict[str, Any] = {"rounds": len(own), "promoted": sum(row["round"]["active"] for row in own)}
        for when in ("before", "after"):
            for key, name in (("success", "success_rate"), ("violated", "violation_rate")):
                hits, count = pooled(own, when, key)
                figures[f"{when}_{name}"] = hits / count if count else None
                figures[f"{when}_{name}_interval"] = list(wilson_interval(hits, count))
        scenes[scene] = figures
    found: dict[str, Any] = {"scenes": scenes}
    for part in ("without_round", "during_round"):
        for what in ("camera_to_command_ms", "halt_to_hold_ms"):
            values = [v for row in rows if row[part] for v in row[part][what]]
            found[f"{what}_{part}"] = summarize_latency(values)
    found["round_s"] = summarize_latency([row["round"]["seconds"] for row in rows])
    return found


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """A line a scene."""
    shown = Table("scene", "rounds", "promoted", "SR before", "SR after", "CV before", "CV after")
    for scene, figures in aggregate(rows)["scenes"].items():
        cells = [figures[f"{when}_{rate}_rate"] for rate in ("success", "violation") for when in ("before", "after")]
        counts = (str(figures["rounds"]), str(figures["promoted"]))
        shown.add_row(scene, *counts, *("-" if v is None else f"{v:.0%}" for v in cells))
    return shown


def finished_rows(path: Path, options: Options, model_hash: str) -> list[dict[str, Any]]:
    """Rows of an earlier run of these settings and this model; none when there was none."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["figures"]["rows"]
    except (OSError, ValueError, KeyError):
        return []
    return [row for row in rows if row["settings"] == options.settings() and row["model_hash"] == model_hash]


def main(options: Options) -> int:
    """Run the rows that are missing; returns the exit code."""
    console = Console()
    root = (options.models_root or workspace.models()).absolute()
    datasets = ":".join(str(Path(part).absolute()) for part in options.datasets.split(":") if part)
    arguments = runner.chosen_bundle(
        Arguments(
            models_root=str(root),
            require_calibration=False,
            bundle=options.bundle,
            trainer=True,
            datasets=datasets,
            record_overview=False,
            real_time_factor=options.real_time_factor,
            use_sim_time=options.real_time_factor != 1.0,
        )
    )
    model_hash = load_bundle(root / arguments.bundle).graphs_hash
    rows = finished_rows(RESULTS / f"{options.name}.json", options, model_hash)
    failures = 0
    for scene in options.scenes:
        for seed in options.seeds:
            if any((row["scene"], row["seed"]) == (scene, seed) for row in rows):
                console.print(f"{scene}, seed {seed}: finished before", highlight=False)
                continue
            with tempfile.TemporaryDirectory() as scratch:
                folder = (options.keep.absolute() if options.keep else Path(scratch)) / f"{scene}-{seed}"
                folder.mkdir(parents=True)
                try:
                    row = Row(options, scene, seed, arguments, folder).run()
                except KeyboardInterrupt:
                    console.print("stopped; finished rows are kept", highlight=False)
                    return 130
                except (DemoError, SilenceError) as error:
                    failures += 1
                    console.print(f"{scene}, seed {seed}: {error}", style="red", highlight=False, markup=False)
                    continue
            rows.append({**row, "model_hash": model_hash})
            record(options.name, {**_finite(aggregate(rows)), "rows": _finite(rows)})
            told = f"{scene}, seed {seed}: {row['round']['message']}"
            console.print(told, highlight=False, markup=False, soft_wrap=True)
    console.print(table(rows))
    return 1 if failures else 0


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
