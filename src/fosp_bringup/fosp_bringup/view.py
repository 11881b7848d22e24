"""What a person sees while the demo runs: a live view in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fosp_bringup.second_act import RATES, SecondAct
from fosp_core.safety import SafetyState
from fosp_episodes.recorder import POLICIES

STATE_STYLES: Final = {
    SafetyState.INACTIVE: "dim",
    SafetyState.NOMINAL: "green",
    SafetyState.CAUTION: "yellow",
    SafetyState.HALTED: "bold red",
}
OUTCOME_STYLES: Final = {"safe success": "green", "violation": "red", "halted": "yellow", "aborted": "dim"}
_PLAIN_PERIOD_S: Final = 2.0


@dataclass
class Tuning:
    """Where a fine-tune round is, as the action's feedback says."""

    stage: str = "waiting for the trainer"
    step: int = 0
    steps: int = 1
    losses: Mapping[str, float] = field(default_factory=dict)
    seconds_left: float = math.nan
    done: list[str] = field(default_factory=list)
    """Stages that are behind it."""

    @property
    def text(self) -> str:
        """One line for people."""
        told = f"{self.stage.replace('_', ' ')} {self.step}/{self.steps}"
        if "loss" in self.losses:
            told += f", loss {self.losses['loss']:.3g}"
        return told + (f", {self.seconds_left:.0f} s left" if math.isfinite(self.seconds_left) else "")

    def hear(self, stage: str, step: int, steps: int, losses: Mapping[str, float], seconds_left: float) -> None:
        """Take in a feedback message."""
        if stage != self.stage and self.step:
            self.done.append(self.stage)
        self.stage, self.step, self.steps = stage, step, max(steps, 1)
        self.losses, self.seconds_left = losses, seconds_left


@dataclass
class Progress:
    """Where the run is, as the action's feedback says."""

    stage: str = ""
    count: int = 0
    episode: int = 0
    running: bool = False
    step: int = 0
    distance: float = math.nan
    chosen: int = 0
    violation_probability: float = math.nan
    state: SafetyState = SafetyState.INACTIVE
    reasons: Sequence[str] = ()
    finished: list[Mapping[str, Any]] = field(default_factory=list)
    """Rows for the table: episode, outcome, steps, note."""
    tuning: Tuning | None = None
    """A fine-tune round that is going on."""


class View:
    """Shows a ``Progress``; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=8, transient=True) if console.is_terminal else None
        self._shown: Progress | None = None
        self._stage = ""
        self._tuned = ""
        self._lines = 0
        self._last_line = 0.0

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        """Show the state of things; cheap enough to be called ten times a second."""
        if self._live is not None:
            self._live.update(render(progress))
            return
        if progress is not self._shown:
            self._shown, self._lines = progress, 0
        if progress.stage != self._stage:
            self._stage = progress.stage
            self._print(progress.stage)
        while self._lines < len(progress.finished):
            row = progress.finished[self._lines]
            self._print(
                f"episode {row['episode']}/{progress.count}: {row['outcome']}, {row['steps']} steps{row['note']}"
            )
            self._lines += 1
        now = time.monotonic()
        tuning = progress.tuning
        if tuning is not None and (tuning.stage != self._tuned or now - self._last_line >= _PLAIN_PERIOD_S):
            self._tuned, self._last_line = tuning.stage, now
            self._print(f"  {tuning.text}")
        if progress.running and now - self._last_line >= _PLAIN_PERIOD_S:
            self._last_line = now
            self._print(
                f"  episode {progress.episode + 1}/{progress.count} step {progress.step:2d} "
                f"distance {_number(progress.distance, '.3f')} m, {POLICIES[progress.chosen]}, "
                f"p(violation) {_number(progress.violation_probability, '.2f')}, {progress.state.name.lower()}"
            )

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def render(progress: Progress) -> RenderableType:
    """The live view."""
    parts: list[RenderableType] = [Text(progress.stage, style="bold")]
    if progress.count:
        done = len(progress.finished)
        head = Table.grid(padding=(0, 2))
        head.add_row(
            f"episode {min(done + 1, progress.count)} of {progress.count}", ProgressBar(progress.count, done, 40)
        )
        parts.append(head)
    if progress.running:
        grid = Table.grid(padding=(0, 3))
        for title in ("step", "distance", "policy", "p(violation)", "monitor"):
            grid.add_column(title, min_width=len(title))
        grid.add_row(*(Text(title, style="dim") for title in ("step", "distance", "policy", "p(violation)", "monitor")))
        monitor = Text(progress.state.name.lower(), style=STATE_STYLES[progress.state])
        if progress.reasons:
            monitor.append(f" ({', '.join(progress.reasons)})".lower())
        grid.add_row(
            f"{progress.step}",
            f"{_number(progress.distance, '.3f')} m",
            POLICIES[progress.chosen],
            _number(progress.violation_probability, ".2f"),
            monitor,
        )
        parts.append(grid)
    if progress.tuning is not None:
        tuning = progress.tuning
        bar = Table.grid(padding=(0, 2))
        bar.add_row(ProgressBar(tuning.steps, tuning.step, 40), tuning.text)
        parts.append(bar)
        if tuning.done:
            parts.append(Text(f"done: {', '.join(tuning.done)}".replace("_", " "), style="dim"))
    if progress.finished:
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for title in ("episode", "outcome", "steps", ""):
            table.add_column(title)
        for row in progress.finished[-12:]:
            style = OUTCOME_STYLES.get(row["outcome"], "")
            table.add_row(str(row["episode"]), Text(row["outcome"], style=style), str(row["steps"]), row["note"])
        parts.append(table)
    return Panel(Group(*parts), title="FOSP SafeReach", border_style="blue", padding=(1, 2))


def final_table(figures: Mapping[str, Any]) -> Table:
    """The figures of a run."""
    table = Table(title=f"{figures['episodes']} episodes of scene {figures['scene']}, model {figures['model_id']}")
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    for key, title in RATES:
        low, high = figures[f"{key}_interval"]
        value = figures[key]
        table.add_row(title, "-" if value is None else f"{value:.0%}", f"{low:.0%} to {high:.0%}")
    reasons = ", ".join(f"{name.lower()} ({n})" for name, n in figures["halt_reasons"].items())
    table.add_row("halts", str(figures["halts"]), reasons)
    latency = figures["latency_ms"]
    if latency["count"]:
        table.add_row("camera to command, p50", f"{latency['p50']:.1f} ms", "")
        table.add_row("camera to command, p99", f"{latency['p99']:.1f} ms", f"{latency['count']} commands")
    return table


def before_after_table(act: SecondAct) -> Table:
    """The figures of a scene before and after a fine-tune round."""
    columns = [("before", act.before)]
    if act.after is not None:
        columns.append(("after" if act.changed else "after, same model", act.after))
    table = Table(title=f"Scene {act.scene}, never trained on")
    table.add_column("measure")
    for name, figures in columns:
        table.add_column(f"{name}: {figures['model_id']}", justify="right")
        table.add_column("95 % interval", justify="right")
    for key, title in RATES:
        cells = []
        for _, figures in columns:
            low, high = figures[f"{key}_interval"]
            cells += ["-" if figures[key] is None else f"{figures[key]:.0%}", f"{low:.0%} to {high:.0%}"]
        table.add_row(title, *cells)
    for key in ("halts", "episodes"):
        table.add_row(key, *(cell for _, figures in columns for cell in (str(figures[key]), "")))
    return table


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"
