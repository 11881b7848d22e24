"""Plots of a calibration's figures, as SVG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fosp_core.task import CONTROL_PERIOD_S
from fosp_trainer.plots import AMBER, BLUE, GREEN, INK, RED, style


def write_plots(figures: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``recall``, ``false_halts``, ``reliability`` and ``lead_time`` as SVG; raises ``OSError``.

    Args:
        figures: of ``calibration.calibrate``.
        folder: made when it does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for draw in (recall, false_halts, reliability, lead_time):
        with matplotlib.rc_context(style()):
            figure = Figure(figsize=(4.7, 3.0), layout="constrained")
            draw(figure.add_subplot(), figures)
            path = folder / f"{draw.__name__}.svg"
            figure.savefig(path, format="svg", metadata={"Date": None})
        written.append(path)
    return written


def recall(axes: Axes, figures: Mapping[str, Any]) -> None:
    """Share of violations announced in time, against the halt threshold."""
    curves = figures["curves"]
    steps = figures["settings"]["lead_steps"]
    axes.set_title(f"Violations announced ≥ {steps * CONTROL_PERIOD_S:.1f} s ahead")
    _line(axes, curves["thresholds"], curves["recall"], BLUE, "the action is vetoed")
    _line(axes, curves["thresholds"], curves["recall_by_halts"], AMBER, "so is every way out")
    asked = 1.0 - figures["settings"]["missed"]
    axes.axhline(asked, color=GREEN, linewidth=0.9, linestyle=":")
    axes.annotate("asked", (0.01, asked), xycoords=("axes fraction", "data"), va="top", color=GREEN)
    _threshold(axes, figures)
    axes.set(xlabel="halt threshold", ylabel="recall", xlim=(0, 1), ylim=(0, 1.02))
    if curves["recall"] is not None:
        axes.legend(loc="lower left", fontsize=8)


def false_halts(axes: Axes, figures: Mapping[str, Any]) -> None:
    """Halts and vetoes per hour on clean episodes of the bundle's own policy, against the threshold."""
    curves = figures["curves"]
    axes.set_title("Price on clean episodes")
    _line(axes, curves["thresholds"], curves["false_vetoes_per_hour"], BLUE, "vetoes")
    _line(axes, curves["thresholds"], curves["false_halts_per_hour"], AMBER, "halts")
    allowed = figures["settings"]["false_halts_per_hour"]
    axes.axhline(allowed, color=GREEN, linewidth=0.9, linestyle=":")
    axes.annotate("allowed", (0.01, allowed), xycoords=("axes fraction", "data"), va="bottom", color=GREEN)
    _threshold(axes, figures)
    axes.set_yscale("symlog", linthresh=1.0)
    axes.set(xlabel="halt threshold", ylabel="per hour", xlim=(0, 1), ylim=(0, None))
    axes.legend(loc="upper right", fontsize=8)


def reliability(axes: Axes, figures: Mapping[str, Any]) -> None:
    """Observed frequency of a violation within the horizon against the predicted risk."""
    seconds = figures["horizon_steps"] * CONTROL_PERIOD_S
    axes.set_title(f"Risk against violations within {seconds:.0f} s")
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    rows = figures["reliability"]["bins"]
    for row in rows:
        axes.plot([row["predicted"]] * 2, row["interval"], color=BLUE, linewidth=4, alpha=0.25, solid_capstyle="butt")
    axes.plot([r["predicted"] for r in rows], [r["observed"] for r in rows], "o-", color=BLUE, markersize=4)
    axes.set(xlabel="predicted", ylabel="observed", xlim=(0, 1), ylim=(0, 1))


def lead_time(axes: Axes, figures: Mapping[str, Any]) -> None:
    """Time from the first alarm to the violation."""
    axes.set_title("Time from the first alarm to the violation")
    lead = figures["lead"]
    series = [("caution", lead["caution_steps"], AMBER), ("halt", lead["halt_steps"], RED)]
    longest = max((max(steps, default=0) for _, steps, _ in series), default=0)
    edges = [(i + 0.5) * CONTROL_PERIOD_S for i in range(longest + 1)]
    for name, steps, color in series:
        if steps:
            axes.hist([s * CONTROL_PERIOD_S for s in steps], bins=edges, color=color, alpha=0.55, label=name)
    axes.set(xlabel="s", ylabel="violating episodes", xlim=(0, None))
    if any(steps for _, steps, _ in series):
        axes.legend(loc="upper right", fontsize=8)


def _line(axes: Axes, x: Sequence[float], y: Sequence[float] | None, color: str, label: str) -> None:
    if y is not None:
        axes.plot(x, y, color=color, linewidth=1.5, label=label)


def _threshold(axes: Axes, figures: Mapping[str, Any]) -> None:
    chosen = figures["halt"]["threshold"]
    axes.axvline(chosen, color=RED, linewidth=0.9, linestyle="--")
    side = "right" if chosen > 0.8 else "left"
    axes.annotate(" halt ", (chosen, 0.5), xycoords=("data", "axes fraction"), color=RED, ha=side)
