"""``fosp-train shifts``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fosp_core import task
from fosp_trainer.errors import UserError

FAMILIAR: Final = "standard"


@dataclass
class Shifts:
    """Measure how often and how soon a bundle's surprise notices scenes unlike those it was calibrated on."""

    bundle: Path
    """Folder of the bundle, for example models/safereach/NAME."""
    scenes: tuple[str, ...] = (*task.SHIFTED_SCENES, "obstacle_count")
    """Shifted scenes; ``standard`` is always run, for the false alarms."""
    episodes: int = 100
    """Layouts a scene."""
    seed: int = 0
    """First layout within the evaluation range."""
    json: Path | None = None
    """File for the figures."""
    workers: int = 2
    """Processes."""
    quiet: bool = False
    """No progress bar, no table."""


def run(command: Shifts) -> None:
    """Run the episodes without the monitor, print a table, write the file."""
    from fosp_core.bundle import BundleError, load_bundle
    from fosp_core.safety import Limits
    from fosp_trainer.calibration import Trace, detection
    from fosp_trainer.evaluation import Drive, traced_episodes
    from fosp_trainer.provenance import write_result

    if command.episodes <= 0 or command.workers <= 0:
        raise UserError(f"episodes and workers must be > 0, got {command.episodes} and {command.workers}")
    names = dict.fromkeys((FAMILIAR, *command.scenes))
    indices = range(command.seed, command.seed + command.episodes)
    traces: dict[str, list[Trace]] = {name: [] for name in names}
    try:
        bundle = load_bundle(command.bundle)
        groups = {name: (Drive(str(command.bundle), name, monitor=False, trace=True), indices) for name in names}
        for name, record in traced_episodes(groups, command.workers, command.quiet, "evaluation"):
            traces[name].append(Trace.from_record(record, name))
    except (BundleError, ValueError) as error:
        raise UserError(str(error)) from error
    thresholds, frames = bundle.manifest.thresholds, Limits().surprise_frames
    result = {
        "model_id": bundle.id,
        "seed": command.seed,
        "surprise_bound": thresholds.surprise,
        "surprise_average_bound": thresholds.surprise_average,
        "surprise_frames": frames,
        "halt_threshold": thresholds.halt,
        "thresholds_method": thresholds.method,
        "control_period_s": task.CONTROL_PERIOD_S,
        "scenes": {name: detection(found, traces[FAMILIAR], thresholds, frames) for name, found in traces.items()},
    }
    if command.json is not None:
        write_result(command.json, result, allow_nan=False)
    if not command.quiet:
        show(result)


def show(result: dict[str, Any]) -> None:
    """Print a row a scene."""
    from rich.table import Table

    from fosp_trainer.progress import console

    average = result["surprise_average_bound"]
    table = Table(
        title=f"{result['model_id']}: surprise above {result['surprise_bound']:.1f} nats for "
        f"{result['surprise_frames']} frames{f' or {average:.1f} nats on average' if average is not None else ''}"
    )
    for heading in ("scene", "detected", "95 % interval", "delay", "AUROC", "violating", "not halted before"):
        table.add_column(heading)
    for name, row in result["scenes"].items():
        low, high = row["detection_rate_interval"]
        delay, score = row["delay_steps"], row["auroc_of_average"]
        table.add_row(
            f"{name} (false alarms)" if name == FAMILIAR else name, f"{100 * row['detection_rate']:.0f} %",
            f"{100 * low:.0f} to {100 * high:.0f} %",
            f"{delay['median'] * result['control_period_s']:.1f} s" if delay else "-",
            "-" if name == FAMILIAR or score is None else f"{score:.2f}",
            f"{row['violating']} of {row['episodes']}", str(row["violating_without_a_halt_before"]),
        )  # fmt: skip
    console.print(table)
