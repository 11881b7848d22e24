"""``make demo``: the whole graph on SafeReach in simulation, a fine-tune round in a new scene, tables, and a report."""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import tyro
from rich.console import Console

from fosp_bringup import domain, graph, runner, workspace
from fosp_bringup.graph import Arguments, GraphError
from fosp_bringup.holding import Killed, measure_hold
from fosp_bringup.lifetime import child_setup
from fosp_bringup.second_act import AFTER, BEFORE, EXPLORED, Round, SecondAct, second_act
from fosp_bringup.summary import Episode, load_episodes, outcome, summarize
from fosp_bringup.view import Progress, Tuning, View, before_after_table, final_table
from fosp_core.safety import SafetyState
from fosp_core.task import check_scene, data_seed
from fosp_episodes.storage import StorageError, write_json
from fosp_ros import names

if TYPE_CHECKING:
    from fosp_bringup.client import GraphClient
    from fosp_bringup.report import Demonstration
    from fosp_interfaces.action import FineTune, RunEpisodes

EXIT_INTERRUPTED: Final = 130
READY_TIMEOUT_S: Final = 90.0
_STOP_TIMEOUT_S: Final = 15.0
_LOG_LINES: Final = 12
_MAX_EPISODES: Final = 1000
_STANDARD: Final = "standard"
_KILLED: Final = "killed"
"""What a goal's episodes are for, besides the parts of the second act."""
EXPLORE_INDEX: Final = 40_000_000
"""Of the layouts that the second act explores: used for nothing else."""


@dataclass(frozen=True)
class Options:
    """Run SafeReach live on the ROS graph in simulation: episodes, a fine-tune round in a scene never trained on, and
    what happens when the monitor dies.

    Ctrl-C stops everything and keeps what was recorded.
    """

    episodes: int = 10
    """Number of episodes."""
    scene: str = "standard"
    """Scene, for example standard, obstacle_shape, goal_shape, obstacle_count, new_objects."""
    seed: int = 0
    """Seed of the first episode's layout; the next ones count up."""
    bundle: str = ""
    """Model bundle: a folder, or a path relative to the models folder; empty: the newest."""
    fine_tune: bool = True
    """The second act: a scene never trained on, exploring episodes, a fine-tune round, the gate, episodes again."""
    new_scene: str = "new_objects"
    """Scene of the second act."""
    new_episodes: int = 6
    """Episodes of the second act before and after the round, on the same layouts."""
    explored_episodes: int = 15
    """Episodes with policy expansion that the round learns from, on other layouts."""
    paired_episodes: int = 40
    """Layouts that the gate runs in simulation under both models; few show little, and it refuses then."""
    datasets: str = ""
    """Earlier Minari datasets that the round mixes in, separated by ':'."""
    kill_monitor_at_step: int = 8
    """After the episodes, one more in which the monitor is killed in mid motion, at this step; 0 leaves it out."""
    models_root: Path | None = None
    """Folder of the model bundles; by default the workspace's."""
    runs: Path | None = None
    """Folder that the run gets its folder in; by default the workspace's."""


class DemoError(Exception):
    """The demo cannot go on; the message says why and what to do."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM."""


class Graph:
    """The graph of the demo: ``fosp-up`` as a process that ends with this one."""

    def __init__(self, arguments: Arguments, run_folder: Path) -> None:
        self._folder = run_folder
        log = run_folder / runner.LOG_FOLDER / "graph.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        options = {
            **({"--datasets": arguments.datasets} if arguments.datasets else {}),
            "--bundle": arguments.bundle,
            "--models-root": arguments.models_root,
            "--run-folder": str(run_folder),
            "--when-node-exits": "keep",
        }
        command = [sys.executable, "-m", "fosp_bringup.runner", *(part for pair in options.items() for part in pair)]
        command += ["--trainer"] if arguments.trainer else []
        if arguments.use_sim_time:
            command += ["--use-sim-time", "--real-time-factor", str(arguments.real_time_factor)]
        command += [] if arguments.record_overview else ["--no-record-overview"]
        command += [] if arguments.require_calibration else ["--no-require-calibration"]
        with log.open("w", encoding="utf-8") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal is for the demo alone: it stops the graph when the records are safe.
                start_new_session=True,
                preexec_fn=child_setup(signal.SIGTERM),
            )

    def check(self) -> None:
        """Raise ``DemoError`` when a part of the graph has ended, with its last words."""
        for name, state in runner.read_processes(self._folder).items():
            code = state["returncode"]
            if code is not None and not (name == runner.READY and code == 0):
                log = self._folder / runner.LOG_FOLDER / f"{name}.log"
                raise DemoError(f"{name} {runner.describe_exit(code)}; the end of {log}:\n{_tail(log)}")
        if self._process.poll() is not None:
            raise DemoError(f"the graph did not start:\n{_tail(self._log)}")

    def pid(self, name: str) -> int | None:
        """Process id of a node."""
        return runner.read_processes(self._folder).get(name, {}).get("pid")

    def stop(self) -> None:
        """End every process of the graph."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                # Its helpers see it die and end the nodes.
                self._process.kill()
                self._process.wait()


def wait_ready(client: GraphClient, arguments: Arguments, folder: Path, check: Callable[[], None]) -> None:
    """Wait until every part of the graph in ``folder`` can be asked; ``DemoError`` names those that cannot."""
    begin = time.monotonic()
    while missing := client.missing(graph.services(arguments)):
        check()
        if time.monotonic() - begin > READY_TIMEOUT_S:
            told = f"after {READY_TIMEOUT_S:g} s the graph still lacks {', '.join(missing)}"
            raise DemoError(f"{told}; see {folder / runner.LOG_FOLDER}")
        time.sleep(0.1)


class Demo:
    """One run of the demo."""

    def __init__(self, options: Options, console: Console) -> None:
        """Check the options; raises ``DemoError``."""
        self._options = options
        self._console = console
        try:
            check_scene(options.scene)
            check_scene(options.new_scene)
            self._arguments = runner.chosen_bundle(_bundle_arguments(options))
        except (ValueError, GraphError) as error:
            raise DemoError(str(error)) from error
        for name in ("episodes", "new_episodes", "explored_episodes", "paired_episodes"):
            if not 1 <= getattr(options, name) <= _MAX_EPISODES:
                shown = name.replace("_", "-")
                raise DemoError(f"--{shown} must be in [1, {_MAX_EPISODES}], got {getattr(options, name)}")
        if options.seed < 0 or options.kill_monitor_at_step < 0:
            raise DemoError("--seed and --kill-monitor-at-step must not be negative")
        self._progress = Progress(count=options.episodes)
        self._goals: list[str] = []
        self._round: Round | None = None
        self._left_out = ""
        self._stop = False
        self._phases: dict[str, float] = {}

    def run(self) -> int:
        """Run everything; returns the exit code."""
        self._choose_domain()
        bundle = Path(self._arguments.models_root) / self._arguments.bundle
        try:
            self._folder = workspace.new_run(self._options.runs or workspace.runs())
            if self._options.fine_tune:
                self._arguments = self._with_trainer(bundle)
        except OSError as error:
            raise DemoError(f"no folder for the run: {error}") from error
        self._console.print(
            f"FOSP SafeReach demo: model {self._arguments.bundle}, scene {self._options.scene}, "
            f"ROS domain {os.environ['ROS_DOMAIN_ID']}, records in {self._folder}",
            highlight=False,
            soft_wrap=True,
        )
        previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        note, killed = "", None
        try:
            killed = self._live()
        except Interrupted:
            note = "Stopped before its end; what was recorded until then is kept."
        except (DemoError, StorageError) as error:
            note = f"Ended early: {error}"
        code = EXIT_INTERRUPTED if self._stop else int(bool(note))
        try:
            self._finish(killed, note)
        except KeyboardInterrupt:
            self._console.print("the report was left out; the records are kept", highlight=False)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        return code

    def _with_trainer(self, bundle: Path) -> Arguments:
        """The arguments for a graph that trains, with models of its own; as they are when this bundle cannot."""
        if importlib.util.find_spec("torch") is None:
            self._left_out = "torch is not installed"
            return self._arguments
        scratch = self._folder / "models"
        # nothing changes a bundle's file in place, so that a second name is as good as a copy
        shutil.copytree(bundle, scratch / self._arguments.bundle, copy_function=_link_or_copy)
        return replace(
            self._arguments, models_root=str(scratch), trainer=True, datasets=_absolute(self._options.datasets)
        )

    def _choose_domain(self) -> None:
        try:
            if not os.environ.get("ROS_DOMAIN_ID"):
                os.environ["ROS_DOMAIN_ID"] = str(domain.free_domain())
            domain.current_domain()
        except (RuntimeError, ValueError) as error:
            raise DemoError(str(error)) from error

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stop:
            # Twice means now: the report is not worth waiting for.
            raise KeyboardInterrupt
        self._stop = True

    # --- the live part ---------------------------------------------------------------------------------------------

    def _live(self) -> Killed | None:
        """Start the graph, run the episodes and the demonstration, stop the graph."""
        os.environ.update(runner.environment(self._folder / runner.LOG_FOLDER))
        graph_process = Graph(self._arguments, self._folder)
        try:
            # Imported while the graph starts: both need seconds.
            from fosp_bringup.client import GraphClient, SilenceError

            with View(self._console) as view, GraphClient() as client:
                check = self._checker(graph_process, view)
                try:
                    self._wait_ready(client, check)
                    goal = self._goal(self._options.episodes, self._options.seed)
                    self._run_episodes(client, check, _STANDARD, "running episodes", goal, "episodes took (s)")
                    if self._arguments.trainer:
                        self._second_act(client, check)
                    if self._options.kill_monitor_at_step:
                        return self._kill_monitor(client, graph_process, view)
                except SilenceError as error:
                    raise DemoError(f"{error}; see {self._folder / runner.LOG_FOLDER}") from error
        finally:
            graph_process.stop()
        return None

    def _checker(self, graph_process: Graph, view: View) -> Callable[[], None]:
        last = 0.0

        def check() -> None:
            nonlocal last
            if self._stop:
                raise Interrupted
            view.show(self._progress)
            if time.monotonic() - last > 0.5:
                last = time.monotonic()
                graph_process.check()

        return check

    def _wait_ready(self, client: GraphClient, check: Callable[[], None]) -> None:
        begin = time.monotonic()
        self._progress.stage = "starting the graph"
        # the trainer has time until the second act
        wait_ready(client, replace(self._arguments, trainer=False), self._folder, check)
        self._phases["graph ready after (s)"] = time.monotonic() - begin

    def _run_episodes(
        self, client: GraphClient, check: Callable[[], None], part: str, stage: str, goal: RunEpisodes.Goal, phase: str
    ) -> None:
        """Run the episodes of a part; raises ``DemoError`` when the run does not come to its end."""
        self._progress = Progress(stage=stage, count=int(goal.count))
        self._goals.append(part)
        begin = time.monotonic()
        result = client.run_episodes(goal, self._on_feedback, check)
        self._phases[phase] = time.monotonic() - begin
        self._progress.running = False
        check()
        if not result.success:
            raise DemoError(result.message)

    def _second_act(self, client: GraphClient, check: Callable[[], None]) -> None:
        """Episodes in a scene never trained on, exploring ones, a fine-tune round, the same episodes again."""
        from fosp_interfaces.action import FineTune, RunEpisodes

        options = self._options
        scene, begin = options.new_scene, time.monotonic()
        evaluated = self._goal(options.new_episodes, options.seed, scene)
        self._run_episodes(
            client, check, BEFORE, f"second act: scene {scene}, never trained on", evaluated, "new scene, before (s)"
        )
        explored = self._goal(
            options.explored_episodes, data_seed(EXPLORE_INDEX + 1000 * (options.seed % 10_000)), scene
        )
        explored.mode = RunEpisodes.Goal.EXPLORE
        stage = "second act: exploring episodes with policy expansion, to learn from"
        self._run_episodes(client, check, EXPLORED, stage, explored, "new scene, exploring (s)")
        self._round = self._fine_tune(client, check, FineTune.Goal(seed=options.seed))
        again = "the new model" if self._round.active else "the same model, as the round brought no other"
        self._run_episodes(
            client, check, AFTER, f"second act: the same layouts with {again}", evaluated, "new scene, after (s)"
        )
        self._phases["second act took (s)"] = time.monotonic() - begin

    def _fine_tune(self, client: GraphClient, check: Callable[[], None], goal: FineTune.Goal) -> Round:
        tuning = Tuning()
        self._progress = Progress(stage="second act: fine-tune round while the graph runs", tuning=tuning)

        def on_feedback(feedback: FineTune.Feedback) -> None:
            losses = dict(zip(feedback.loss_names, map(float, feedback.losses), strict=False))
            left = float(feedback.seconds_left)
            tuning.hear(str(feedback.stage), int(feedback.step), int(feedback.steps), losses, left)

        client.set_parameter(names.TRAINER_NODE, "paired_episodes", self._options.paired_episodes, check)
        begin = time.monotonic()
        result = client.fine_tune(goal, on_feedback, check)
        done = Round.from_result(result, time.monotonic() - begin)
        self._phases["fine-tune round (s)"] = done.seconds
        for line in (result.message, *(_mark(c) for c in done.checks)):
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        return done

    def _kill_monitor(self, client: GraphClient, graph_process: Graph, view: View) -> Killed | None:
        self._progress = Progress(stage="safety demonstration: the monitor is killed in mid motion")
        self._goals.append(_KILLED)
        pid = graph_process.pid("safety_monitor")
        if pid is None:
            raise DemoError("the safety monitor has no process")

        def check() -> None:
            if self._stop:
                raise Interrupted
            view.show(self._progress)

        goal = self._goal(1, self._options.seed + self._options.episodes)
        killed = client.kill_in_motion(goal, pid, self._options.kill_monitor_at_step, self._follow, check)
        self._progress.running = False
        return killed

    def _goal(self, count: int, seed: int, scene: str = "") -> RunEpisodes.Goal:
        from fosp_interfaces.action import RunEpisodes

        return RunEpisodes.Goal(scene=scene or self._options.scene, count=count, seed=seed, reset_after_halt=True)

    def _on_feedback(self, feedback: RunEpisodes.Feedback) -> None:
        self._follow(feedback)
        self._progress.finished = [_row(e) for e in feedback.finished]

    def _follow(self, feedback: RunEpisodes.Feedback) -> None:
        p = self._progress
        p.running, p.episode, p.step = True, int(feedback.episode), int(feedback.step)
        p.distance, p.violation_probability = float(feedback.distance), float(feedback.violation_probability)
        p.chosen, p.state = int(feedback.chosen), SafetyState(feedback.safety_state)
        p.reasons = tuple(feedback.reason_names)

    # --- afterwards ------------------------------------------------------------------------------------------------

    def _finish(self, killed: Killed | None, note: str) -> None:
        """Summary, table and report of what was recorded."""
        from fosp_bringup import report

        if note:
            self._console.print(note, style="yellow", highlight=False, markup=False, soft_wrap=True)
        recorded = self._recorded()
        episodes = recorded.get(_STANDARD, [])
        act = second_act(self._options.new_scene, recorded, self._round)
        figures = summarize(episodes, self._options.scene)
        figures["model_id"] = figures["model_id"] or Path(self._arguments.bundle).name
        demonstration = self._demonstration(killed)
        content = {
            **figures,
            "seed": self._options.seed,
            "note": note,
            "timing": self._phases,
            "fine_tune": None if act is None else act.to_json(),
            "safety_demonstration": None
            if demonstration is None
            else {
                "at_step": demonstration.killed.at_step,
                "speed_before_m_s": demonstration.hold.speed_before,
                "travel_m": demonstration.hold.travel_m,
                "hold_ms": None if demonstration.hold.hold_s is None else 1000 * demonstration.hold.hold_s,
                "limit_ms": 200,
                "within_limit": demonstration.hold.within_limit,
            },
        }
        write_json(self._folder / "summary.json", content)
        if demonstration is not None:
            write_json(self._folder / "safety_demonstration.json", asdict(demonstration.killed))
        self._console.print()
        self._console.print(final_table(figures))
        self._tell_second_act(act, note)
        if demonstration is not None:
            style = "green" if demonstration.hold.within_limit else "bold red"
            self._console.print(demonstration.text, style=style, highlight=False, soft_wrap=True)
        elif not note and self._options.kill_monitor_at_step:
            self._console.print("The arm stood still in the last episode, so killing the monitor showed nothing.")
        target = report.write_report(self._folder, figures, episodes, self._facts(), demonstration, note, act)
        self._console.print(f"Report: {target}", highlight=False, soft_wrap=True)

    def _tell_second_act(self, act: SecondAct | None, note: str) -> None:
        if act is not None:
            self._console.print(before_after_table(act))
            style = "green" if act.changed else "yellow"
            self._console.print(act.verdict, style=style, highlight=False, markup=False, soft_wrap=True)
            self._console.print(act.comparison, highlight=False, markup=False, soft_wrap=True)
        elif self._left_out and not note:
            self._console.print(f"The second act was left out: {self._left_out}.", highlight=False)

    def _recorded(self) -> dict[str, list[Episode]]:
        """Episodes by what they were for; the demonstration's own one is not counted."""
        records = Path(self._folder / "records")
        # folders are named by the time of their goal
        folders = sorted(p for p in records.iterdir() if p.is_dir()) if records.is_dir() else []
        return {part: load_episodes(folder) for part, folder in zip(self._goals, folders, strict=False)}

    def _demonstration(self, killed: Killed | None) -> Demonstration | None:
        from fosp_bringup.report import Demonstration

        if killed is None:
            return None
        try:
            return Demonstration(killed, measure_hold(killed.samples, killed.at_s))
        except ValueError as error:
            self._console.print(f"The safety demonstration was not measured: {error}.", highlight=False)
            return None

    def _facts(self) -> dict[str, str]:
        facts = {
            "command": shlex.join(["fosp-demo", *sys.argv[1:]]),
            "bundle": self._arguments.bundle,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
            "Python": platform.python_version(),
            "ROS": os.environ.get("ROS_DISTRO") or "wheels",
            "records": str(self._folder),
        }
        return facts | {name: f"{value:.1f}" for name, value in self._phases.items()}


def _bundle_arguments(options: Options) -> Arguments:
    root = (options.models_root or workspace.models()).absolute()
    bundle = options.bundle
    known = bundle and not Path(bundle).is_absolute() and (root / bundle).is_dir()
    if bundle and not known and Path(bundle).is_dir():
        # A folder given by its path: the models folder is two levels above it.
        folder = Path(bundle).resolve()
        root, bundle = folder.parent.parent, f"{folder.parent.name}/{folder.name}"
    # a simulation, in which a model that a round has just made may show what it can
    return Arguments(models_root=str(root), bundle=bundle, require_calibration=False)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _absolute(datasets: str) -> str:
    return ":".join(str(Path(part).absolute()) for part in datasets.split(":") if part)


def _mark(check: Mapping[str, Any]) -> str:
    """A check of the gate as a line."""
    return f"  {'passed ' if check['passed'] else 'REFUSED'}  {check['name']}: {check['text']}"


def _row(summary: Any) -> dict[str, Any]:
    """A finished episode, from its ``EpisodeSummary``, as a row of the live view."""
    reasons = ", ".join(name.lower() for name in summary.halt_reasons)
    note = f", {summary.interventions} interventions" if summary.interventions else ""
    return {
        "episode": summary.episode_id + 1,
        "outcome": outcome(summary),
        "steps": summary.steps,
        "note": f", halted: {reasons}" if reasons else note,
    }


def _tail(file: Path) -> str:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "  (no log)"
    return "\n".join(f"  {line}" for line in lines[-_LOG_LINES:])


def main() -> None:
    """Entry point of ``fosp-demo``."""
    options = tyro.cli(Options, prog="fosp-demo")
    console = Console()
    try:
        code = Demo(options, console).run()
    except DemoError as error:
        print(f"fosp-demo: {error}", file=sys.stderr)
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
