"""The report's plots, as SVG texts."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fosp_bringup.holding import HOLD_LIMIT_S, ToolSample
from fosp_bringup.second_act import SecondAct
from fosp_bringup.summary import Episode
from fosp_core.task import REACH_RADIUS_M
from fosp_trainer.plots import AMBER, BLUE, GREEN, INK, RED, style

COLORS: Final = {
    "safe success": GREEN,
    "violation": RED,
    "halted": AMBER,
    "not reached": "#6b7a90",
    "aborted": "#b8c0cc",
}
_RATES: Final = (
    ("success", "success_rate", BLUE),
    ("violation", "violation_rate", COLORS["violation"]),
    ("safe success", "safe_success_rate", COLORS["safe success"]),
)


def before_after(act: SecondAct) -> str:
    """The rates of a scene before (hollow) and after (filled) a fine-tune round, with their intervals."""
    figure, axes = _figure("Before (hollow) and after (filled), 95 % intervals", width=9.6)
    for y, (_, key, color) in enumerate(reversed(_RATES)):
        for figures, offset, face in ((act.before, 0.16, "white"), (act.after, -0.16, color)):
            if figures is None or figures[key] is None:
                continue
            low, high = figures[f"{key}_interval"]
            span = ([100 * low, 100 * high], [y + offset, y + offset])
            axes.plot(*span, color=color, linewidth=5, alpha=0.25, solid_capstyle="butt")
            axes.plot(100 * figures[key], y + offset, "o", color=color, markerfacecolor=face, markersize=8)
    axes.set(xlim=(-3, 103), ylim=(-0.6, len(_RATES) - 0.4), xlabel="% of episodes")
    axes.set_yticks(range(len(_RATES)), [name for name, _, _ in reversed(_RATES)])
    axes.grid(axis="y", visible=False)
    return _svg(figure)


def rates(figures: Mapping[str, Any]) -> str:
    """Success, violation and safe success with their intervals."""
    rows = _RATES
    figure, axes = _figure("Rates with 95 % intervals")
    for y, (_, key, color) in enumerate(reversed(rows)):
        low, high = figures[f"{key}_interval"]
        axes.plot([100 * low, 100 * high], [y, y], color=color, linewidth=6, alpha=0.25, solid_capstyle="butt")
        if figures[key] is not None:
            axes.plot(100 * figures[key], y, "o", color=color, markersize=9)
    axes.set(xlim=(-3, 103), ylim=(-0.6, len(rows) - 0.4), xlabel="% of episodes")
    axes.set_yticks(range(len(rows)), [name for name, _, _ in reversed(rows)])
    axes.grid(axis="y", visible=False)
    return _svg(figure)


def distances(episodes: Sequence[Episode]) -> str:
    """Distance to the goal over time, one line an episode."""
    figure, axes = _figure("Distance to the goal")
    for episode in episodes:
        times = [step["time_s"] for step in episode.steps]
        values = [_value(step["distance"]) for step in episode.steps]
        axes.plot(times, values, color=COLORS[episode.outcome], linewidth=1.3, alpha=0.8)
    axes.axhline(REACH_RADIUS_M, color=INK, linewidth=0.8, linestyle=":")
    axes.annotate("reached", (0.99, REACH_RADIUS_M), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    axes.set(xlabel="time in the episode (s)", ylabel="m", ylim=(0, None))
    _outcomes_legend(axes, episodes)
    return _svg(figure)


def risks(episodes: Sequence[Episode]) -> str:
    """Predicted violation probability of the chosen action, with the monitor's thresholds."""
    figure, axes = _figure("Predicted violation probability of the chosen action")
    for episode in episodes:
        points = [
            (step["time_s"], _value(step["safety"]["violation_probability"]))
            for step in episode.steps
            if step["safety"]
        ]
        if points:
            times, values = zip(*points, strict=True)
            axes.plot(times, values, color=COLORS[episode.outcome], linewidth=1.2, alpha=0.8)
    thresholds = next((e.thresholds for e in episodes if e.thresholds), {})
    for name, dashes in (("caution", "--"), ("halt", "-")):
        level = _value(thresholds.get(name))
        if math.isfinite(level):
            axes.axhline(level, color=INK, linewidth=0.8, linestyle=dashes)
            axes.annotate(name, (0.99, level), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    axes.set(xlabel="time in the episode (s)", ylim=(0, 1))
    return _svg(figure)


def latencies(episodes: Sequence[Episode], latency: Mapping[str, Any]) -> str:
    """Histogram of the camera-to-command latency."""
    figure, axes = _figure("Camera stamp to arm command")
    values = [v for e in episodes for v in e.summary.latency_ms]
    if values:
        # A single stall must not squeeze the rest into one bar; the figures beside the plot tell the maximum.
        limit = max(1.5 * float(latency["p99"]), 1.0)
        axes.hist([min(v, limit) for v in values], bins=40, range=(0, limit), color=BLUE, alpha=0.85)
        axes.margins(y=0.15)
        for name, dashes, side in (("p50", "-", "right"), ("p99", "--", "left")):
            axes.axvline(latency[name], color=INK, linewidth=0.9, linestyle=dashes)
            text, place = f" {name} {latency[name]:.1f} ms ", (latency[name], 1.0)
            axes.annotate(text, place, xycoords=("data", "axes fraction"), va="top", ha=side)
    axes.set(xlabel="ms", ylabel="commands")
    return _svg(figure)


def hold(samples: Sequence[ToolSample], killed_at_s: float, hold_s: float | None) -> str:
    """Tool speed around the moment the monitor was killed."""
    figure, axes = _figure("Measured speed of the tool", width=9.6)
    times = [1000 * (s.time_s - killed_at_s) for s in samples]
    axes.axvspan(0, 1000 * HOLD_LIMIT_S, color=GREEN, alpha=0.12, linewidth=0)
    axes.plot(times, [s.speed for s in samples], color=BLUE, linewidth=1.6)
    axes.axvline(0, color=COLORS["violation"], linewidth=1.2)
    axes.annotate(" monitor killed", (0, 0.97), xycoords=("data", "axes fraction"), color=COLORS["violation"], va="top")
    if hold_s is not None:
        axes.axvline(1000 * hold_s, color=COLORS["safe success"], linewidth=1.2, linestyle="--")
        axes.annotate(
            f" arm holds after {1000 * hold_s:.0f} ms",
            (1000 * hold_s, 0.85),
            xycoords=("data", "axes fraction"),
            color=COLORS["safe success"],
            va="top",
        )
    axes.set(xlabel="ms after the kill", ylabel="m/s", xlim=(-600, 1000), ylim=(0, None))
    return _svg(figure)


def _figure(title: str, width: float = 4.7) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(style()):
        figure = Figure(figsize=(width, 2.7), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title)
    return figure, axes


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context(style()):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", text[text.index("<svg") :], count=1)


def _outcomes_legend(axes: Axes, episodes: Sequence[Episode]) -> None:
    present = [name for name in COLORS if any(e.outcome == name for e in episodes)]
    handles = [Line2D([], [], color=COLORS[name], label=name) for name in present]
    if handles:
        axes.legend(handles=handles, fontsize=8, loc="upper right")


def _value(value: float | None) -> float:
    return math.nan if value is None else float(value)
