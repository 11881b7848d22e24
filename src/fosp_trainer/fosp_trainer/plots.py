"""What the project's plots look like, and rates with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure

BLUE, RED, AMBER, GREEN, INK = "#3d6fb4", "#d1495b", "#e09f1f", "#2a9d6f", "#27313f"
_STYLE: Final[dict[Any, Any]] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": "#c3cad4",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8ebf0",
    "text.color": INK,
    "xtick.color": "#5b6675",
    "ytick.color": "#5b6675",
    "svg.fonttype": "path",
    "svg.hashsalt": "fosp",
    "legend.frameon": False,
}


def style() -> dict[Any, Any]:
    """What the project's plots look like, for ``matplotlib.rc_context``."""
    return dict(_STYLE)


def draw_rates(rows: Mapping[str, Sequence[Mapping[str, Any]]], title: str, path: Path) -> None:
    """Draw success, violation and safe success of every row with their intervals, as SVG; raises ``OSError``.

    A row has figures as ``evaluation.summarize`` gives them, one or several to be compared; all but its last are drawn
    hollow.
    """
    colors = {"success": BLUE, "violation": RED, "safe_success": GREEN}
    most = max(map(len, rows.values()), default=1)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 0.9 + len(rows) * (0.12 + 0.31 * most)), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title)
        for i, figures in enumerate(rows.values()):
            for j, found in enumerate(figures):
                last = j == len(figures) - 1
                for k, (rate, color) in enumerate(colors.items()):
                    y = i + 0.27 * (k - 1) + 0.11 * (j - (len(figures) - 1) / 2)
                    low, high = (100 * bound for bound in found[f"{rate}_rate_interval"])
                    axes.plot([low, high], [y, y], color=color, linewidth=2, alpha=0.35, solid_capstyle="butt")
                    axes.plot(
                        100 * found[f"{rate}_rate"], y, "o", color=color, markersize=4.5,
                        fillstyle="full" if last else "none",
                        label=rate.replace("_", " ") if i == 0 and last else None,
                    )  # fmt: skip
        axes.set_yticks(range(len(rows)), list(rows))
        axes.invert_yaxis()
        axes.set(xlabel="% of episodes, with 95 % intervals", xlim=(-1, 101))
        if rows:
            figure.legend(loc="outside lower center", ncols=3, fontsize=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})
