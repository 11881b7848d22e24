"""The report of a run: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2

from fosp_bringup import plots, video
from fosp_bringup.holding import Hold, Killed
from fosp_bringup.second_act import RATES, SecondAct
from fosp_bringup.summary import Episode
from fosp_core.statistics import summarize_latency

REPORT_FILE = "report.html"


@dataclass(frozen=True)
class Demonstration:
    """The monitor killed in mid motion: what was seen and measured."""

    killed: Killed
    hold: Hold

    @property
    def text(self) -> str:
        """One sentence for people."""
        start = f"Monitor killed at step {self.killed.at_step}, tool moving at {self.hold.speed_before:.2f} m/s"
        if self.hold.hold_s is None:
            return f"{start}: the arm did NOT hold within the time watched."
        verdict = "within" if self.hold.within_limit else "NOT within"
        took = f"{1000 * self.hold.hold_s:.0f} ms and {100 * self.hold.travel_m:.1f} cm"
        return f"{start}: the arm held after {took}, {verdict} the limit of 200 ms."


def write_report(
    folder: Path,
    figures: Mapping[str, Any],
    episodes: Sequence[Episode],
    facts: Mapping[str, str],
    demonstration: Demonstration | None = None,
    note: str = "",
    act: SecondAct | None = None,
) -> Path:
    """Write ``report.html`` into a folder, atomically.

    Args:
        folder: the run's.
        figures: as ``summary.summarize`` gives them.
        episodes: the episodes they are about.
        facts: how the run was made, for the last section.
        demonstration: the monitor killed in mid motion, when that was shown.
        note: said at the top, for example that the run was cut short.
        act: the second act, when there was one.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fosp_bringup", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    shown: list[str] = []
    if episodes:
        shown = [
            plots.rates(figures),
            plots.latencies(episodes, figures["latency_ms"]),
            plots.distances(episodes),
            plots.risks(episodes),
        ]
    html = environment.get_template("report.html.j2").render(
        figures=figures,
        created=f"{datetime.now():%Y-%m-%d %H:%M}",
        note=note,
        videos=[_video(e) for e in video.choose(episodes)],
        plots=shown,
        demonstration=None
        if demonstration is None
        else {
            "text": demonstration.text,
            "plot": plots.hold(demonstration.killed.samples, demonstration.killed.at_s, demonstration.hold.hold_s),
        },
        rows=[_row(e) for e in episodes],
        act=act,
        act_plot="" if act is None else plots.before_after(act),
        rates=RATES,
        facts=facts,
        colors=plots.COLORS,
        percent=lambda value: "-" if value is None else f"{value:.0%}",
        interval=lambda pair: f"{pair[0]:.0%} to {pair[1]:.0%}",
        number=_number,
        centimetres=lambda value: "-" if value is None or not math.isfinite(value) else f"{100 * value:.1f} cm",
    )
    target = folder / REPORT_FILE
    temporary = folder / f".{REPORT_FILE}.tmp"
    temporary.write_text(html, encoding="utf-8")
    os.replace(temporary, target)
    return target


def _video(episode: Episode) -> dict[str, Any]:
    content: dict[str, Any] = {"episode": episode, "number": episode.summary.episode_id + 1, "data": "", "error": ""}
    try:
        content["data"] = base64.b64encode(video.encode(episode)).decode("ascii")
    except video.VideoError as error:
        content["error"] = f"No video: {error}."
    return content


def _row(episode: Episode) -> dict[str, Any]:
    s = episode.summary
    latency = summarize_latency(s.latency_ms)
    costs = {step["cost_reason"] for step in episode.steps if step["cost_reason"]}
    why = s.abort_reason or ", ".join(sorted(costs)) or ", ".join(name.lower() for name in s.halt_reasons)
    decided = sum(1 for step in episode.steps if step["decision"])
    return {
        "number": s.episode_id + 1,
        "outcome": episode.outcome,
        "why": why.replace("_", " "),
        "seed": s.seed,
        "steps": s.steps,
        "episode_return": s.episode_return,
        "episode_cost": s.episode_cost,
        "min_clearance": s.min_clearance,
        "interventions": s.interventions,
        "online": f"{s.online_choices}/{decided}",
        "p50": latency["p50"],
        "p99": latency["p99"],
    }


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
