"""The embedded runner: starts the graph as separate processes where there is no ``ros2 launch``.

honcho supervises: it starts every node, prefixes and collects its output and passes signals on. Added here: one log
file a node, a file with the process ids, priorities, a node's death said by name, and that no node outlives the runner,
however that ends.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, Literal

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from honcho.manager import Manager
from honcho.printer import Message, Printer
from honcho.process import Popen, Process

from fosp_bringup import domain, graph, middleware, workspace
from fosp_bringup.graph import Arguments, GraphError, NodeSpec
from fosp_bringup.lifetime import child_setup, die_with_parent
from fosp_bringup.priority import NO_REALTIME, Priority, realtime_allowed
from fosp_core.bundle import BundleError, load_bundle, newest, resolve

PROCESS_FILE: Final = "processes.json"
PARAMETER_FILE: Final = "parameters.yaml"
LOG_FOLDER: Final = "logs"
READY: Final = "ready"
"""Name of the process that waits for the graph."""
_STOP_WAIT_S: Final = 3.0


class GraphProcess(Process):
    """A node under honcho. It runs in a helper process of its own, which relays the node's output."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.priority = Priority.NORMAL

    def run(self, events: Any = None, ignore_signals: bool = False) -> None:
        """Start the node and relay its output until it ends."""
        signal.signal(signal.SIGHUP, self._on_runner_death)
        parent = multiprocessing.parent_process()
        die_with_parent(os.getppid() if parent is None else parent.pid or 0, signal.SIGHUP)
        setup = child_setup(signal.SIGKILL, self.priority)
        # A group of its own for signals, but no session: where Linux schedules by session (sched_autogroup), niceness
        # says nothing between sessions.
        self._child_ctor = partial(Popen, shell=False, preexec_fn=setup, start_new_session=False, process_group=0)
        super().run(events, ignore_signals)

    def _on_runner_death(self, number: int, frame: object) -> None:
        child = self._child
        if child is not None and child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)
            try:
                child.wait(_STOP_WAIT_S)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
        os._exit(1)


class _Events:
    """The queue between honcho and its helpers; shows every event to an observer first."""

    def __init__(self, wrapped: Any, observe: Callable[[Message | None], None]) -> None:
        self._wrapped = wrapped
        self._observe = observe

    def put(self, item: Message) -> None:
        self._wrapped.put(item)

    def get(self, timeout: float | None = None) -> Message:
        try:
            item: Message = self._wrapped.get(timeout=timeout)
        except queue.Empty:
            self._observe(None)
            raise
        self._observe(item)
        return item


class GraphManager(Manager):
    """honcho's manager with a state file and a choice of what a node's death means."""

    def __init__(self, printer: Printer, state_file: Path, stop_when_node_exits: bool) -> None:
        super().__init__(printer)
        self._process_ctor = GraphProcess
        self._state_file = state_file
        self._stop_when_node_exits = stop_when_node_exits
        self._stop_asked = False
        self._state: dict[str, dict[str, int | None]] = {}
        self.events: Any = _Events(self.events, self._on_event)

    def add_node(
        self, name: str, command: Sequence[str], env: Mapping[str, str], priority: Priority = Priority.NORMAL
    ) -> None:
        """Add a process; it starts with ``loop``."""
        self.add_process(name, list(command), env=dict(env)).priority = priority

    def terminate(self) -> None:
        """Ask every process to end."""
        if not self._all_started():
            # honcho cannot signal a process before it has reported its id; the next event tries again.
            self._stop_asked = True
            return
        super().terminate()

    def _any_stopped(self) -> bool:
        # honcho ends the graph, and kills what does not end in time, once this is true.
        if self._terminating:
            return True
        return self._stop_when_node_exits and any(
            entry.get("returncode") is not None for name, entry in self._processes.items() if name != READY
        )

    def _on_event(self, event: Message | None) -> None:
        if self._stop_asked and self._all_started():
            self._stop_asked = False
            super().terminate()
        if event is None or event.type == "line":
            return
        self._state.setdefault(event.name, {"pid": None, "returncode": None}).update(event.data)
        if (
            event.type == "stop"
            and not self._terminating
            and not (event.name == READY and not event.data["returncode"])
        ):
            self._system_print(f"{event.name} {describe_exit(event.data['returncode'])}\n")
        _write_state(self._state_file, self._state)


class LogPrinter(Printer):
    """Prints as honcho does, and keeps the lines of every process in a file of its own."""

    def __init__(self, folder: Path, output: IO[str]) -> None:
        super().__init__(output)
        self._folder = folder
        self._files: dict[str, IO[str]] = {}

    def write(self, message: Message) -> None:
        """Print one line and append it to the file of its process."""
        super().write(message)
        if message.name not in self._files:
            self._files[message.name] = (self._folder / f"{message.name}.log").open("a", encoding="utf-8", buffering=1)
        data = message.data
        self._files[message.name].write(data.decode("utf-8", "replace") if isinstance(data, bytes) else data)


def describe_exit(code: int) -> str:
    """How a process ended, for people."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return "ended" if code == 0 else f"ended with an error (exit code {code})"


def read_processes(run_folder: Path) -> dict[str, dict[str, int | None]]:
    """Process id and exit code (None while it runs) of each node of a run; empty before they have started."""
    try:
        state: dict[str, dict[str, int | None]] = json.loads((run_folder / PROCESS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return state


def environment(log_folder: Path, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Environment of the nodes: this computer only, one thread a library."""
    defaults = {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "RCUTILS_COLORIZED_OUTPUT": "0",
    }
    forced = {"PYTHONUNBUFFERED": "1", "ROS_LOG_DIR": str(log_folder / "ros")}
    return {**defaults, **base, **middleware.environment(base), **forced}


def executable(spec: NodeSpec) -> Path:
    """The program of a node; ``GraphError`` when its package is not built or not sourced."""
    try:
        file = Path(get_package_prefix(spec.package)) / "lib" / spec.package / spec.executable
    except PackageNotFoundError as error:
        raise GraphError(f"package {spec.package} is not built or not sourced; run `make build`") from error
    if not file.is_file():
        raise GraphError(f"{file} is missing; run `make build`")
    return file


def chosen_bundle(arguments: Arguments) -> Arguments:
    """The arguments with a checked bundle, the newest one when none is named; ``GraphError`` says what is wrong."""
    root = Path(arguments.models_root).expanduser().absolute()
    try:
        bundle = load_bundle(resolve(root, arguments.bundle) if arguments.bundle else newest(root))
    except BundleError as error:
        raise GraphError(str(error)) from error
    return replace(arguments, models_root=str(root), bundle=str(bundle.path.resolve().relative_to(root.resolve())))


def check_domain(specs: Sequence[NodeSpec]) -> None:
    """Raise ``GraphError`` when nodes of these names run in this ROS domain already."""
    try:
        number = domain.current_domain()
    except ValueError as error:
        raise GraphError(str(error)) from error
    if number not in domain.used_domains():
        return
    names = [spec.name for spec in specs]
    command = [sys.executable, "-m", "fosp_bringup.discovery", "clashes", *names]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    if found:
        raise GraphError(
            f"ROS domain {number} has a running graph with {', '.join(found)}; "
            "stop it, or set ROS_DOMAIN_ID to another number"
        )


def run(
    arguments: Arguments,
    run_folder: Path,
    when_node_exits: str = "stop",
    output: IO[str] = sys.stdout,
    remap: Sequence[str] = (),
) -> int:
    """Run the graph until a signal comes or, with ``when_node_exits`` "stop", until one of the nodes ends.

    Every node gets the remapping rules ``remap``.

    Returns:
        0 after SIGINT or SIGTERM, else the exit code of the node that ended first.

    Raises:
        GraphError: it cannot be started; the message says why.
    """
    if arguments.sim == "gazebo":
        raise GraphError("sim gazebo needs ros2 launch: ros2 launch fosp_bringup safereach.launch.py sim:=gazebo")
    arguments = chosen_bundle(arguments)
    specs = graph.nodes(arguments)
    programs = {spec.name: executable(spec) for spec in specs}
    check_domain(specs)
    logs = run_folder / LOG_FOLDER
    try:
        logs.mkdir(parents=True, exist_ok=True)
        parameters = run_folder / PARAMETER_FILE
        parameters.write_text(graph.parameters_yaml(specs), encoding="utf-8")
    except OSError as error:
        raise GraphError(f"{run_folder}: cannot be written: {error.strerror or error}") from error
    # The helpers must be children of this process, so that they notice its end.
    multiprocessing.set_start_method("fork", force=True)
    manager = GraphManager(LogPrinter(logs, output), run_folder / PROCESS_FILE, when_node_exits == "stop")
    env = environment(logs)
    rules = [part for rule in remap for part in ("-r", rule)]
    for spec in specs:
        ros_args = ["--ros-args", "-r", f"__node:={spec.name}", "--params-file", str(parameters), *rules]
        command = [str(programs[spec.name]), *ros_args]
        manager.add_node(spec.name, command, {**env, **spec.environment}, spec.starting_priority)
    waiter = [sys.executable, "-m", "fosp_bringup.discovery", "wait", *graph.services(arguments)]
    manager.add_node(READY, waiter, env, Priority.RELAXED)
    if arguments.realtime and not realtime_allowed():
        print(NO_REALTIME, file=output, flush=True)
    manager.loop()
    code = int(manager.returncode or 0)
    return 0 if code in (128 + signal.SIGINT, 128 + signal.SIGTERM) else abs(code)


@dataclass(frozen=True)
class Options:
    """Run the whole graph without `ros2 launch`; Ctrl-C stops it."""

    sim: Literal["mujoco", "gazebo", "none"] = "mujoco"
    """Where the world is; none: a real robot."""
    bundle: str = ""
    """Model bundle, relative to the models folder; empty: the newest."""
    models_root: Path | None = None
    """Folder of the model bundles; by default the workspace's."""
    camera: str = ""
    """With sim none: video device, video file or image folder; empty: a camera node of your own."""
    real_time_factor: float = 1.0
    """Speed of the simulation; 1 is real time."""
    use_sim_time: bool = False
    """Stamp with the simulation's clock."""
    require_calibration: bool = True
    """Refuse models whose thresholds carry no bound on missed violations, as after a fine-tune round."""
    record_overview: bool = True
    """Record the overview camera too."""
    realtime: bool = True
    """Run the way from camera to command in real time, where the system allows it."""
    trainer: bool = False
    """Fine-tune rounds while deployed; needs torch."""
    datasets: str = ""
    """With --trainer: earlier Minari datasets to mix in, separated by ':'."""
    run_folder: Path | None = None
    """Folder for logs, parameters and records; by default runs/<time>."""
    remap: tuple[str, ...] = ()
    """ROS remapping rules: FROM:=TO for every node, NODE:FROM:=TO for one."""
    when_node_exits: Literal["stop", "keep"] = "stop"
    """When a node ends: stop the graph, or say so and keep the others running (the arm holds)."""


def main() -> None:
    """Entry point of ``fosp-up``."""
    import tyro

    options = tyro.cli(Options, prog="fosp-up")
    try:
        folder = (options.run_folder or workspace.new_run(workspace.runs())).absolute()
        arguments = Arguments(
            sim=options.sim,
            models_root=str(options.models_root or workspace.models()),
            bundle=options.bundle,
            records_root=str(folder / "records"),
            camera=options.camera,
            real_time_factor=options.real_time_factor,
            use_sim_time=options.use_sim_time,
            require_calibration=options.require_calibration,
            record_overview=options.record_overview,
            realtime=options.realtime,
            trainer=options.trainer,
            datasets=options.datasets,
        )
        print(f"logs and records: {folder}", flush=True)
        code = run(arguments, folder, options.when_node_exits, remap=options.remap)
    except (GraphError, OSError) as error:
        print(f"fosp-up: {error}", file=sys.stderr)
        code = 1
    sys.exit(code)


def _write_state(path: Path, state: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{time.monotonic_ns()}")
    temporary.write_text(json.dumps(state), encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
