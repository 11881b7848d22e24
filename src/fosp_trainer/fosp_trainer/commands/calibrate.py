"""``fosp-train calibrate``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from fosp_trainer.calibration import Settings
from fosp_trainer.errors import UserError


@dataclass
class Calibrate:
    """Set a bundle's thresholds on held-out episodes, with a bound on missed violations, and tell what it costs."""

    bundle: Path
    """Folder of the bundle, for example models/safereach/NAME."""
    output: Path | None = None
    """Folder of a new bundle with the calibrated manifest; without it the bundle's own manifest is replaced."""
    episodes: int = 1000
    """Layouts for the bundle's own policy."""
    exploratory_episodes: int = 600
    """Layouts in all for noisy variants of it, which violate more often."""
    noise: tuple[float, ...] = (0.3, 0.6, 1.0)
    """Standard deviations of their noise, in units of the action."""
    scene: str = "standard"
    """Scene name."""
    visual_randomization: bool = False
    """Small changes of light, colours and camera pose."""
    first: int = 0
    """First layout within the calibration range."""
    check_episodes: int = 0
    """Layouts of the evaluation range on which the result is checked, with as large a part of noisy ones."""
    json: Path | None = None
    """File for the figures."""
    plots: Path | None = None
    """Folder for the plots; beside the JSON file by default."""
    workers: int = 2
    """Processes."""
    dry_run: bool = False
    """Tell, but leave the bundle as it is."""
    quiet: bool = False
    """No progress bar, no table."""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)


def run(command: Calibrate) -> None:
    """Run the episodes, choose the thresholds, write bundle, figures and plots, print a table."""
    from fosp_core.bundle import BundleError, load_bundle, update_manifest, write_bundle
    from fosp_core.safety import Limits
    from fosp_trainer import calibration
    from fosp_trainer.calibration_plots import write_plots
    from fosp_trainer.evaluation import Drive, traced_episodes
    from fosp_trainer.provenance import provenance

    if command.episodes <= 0 or command.workers <= 0 or min(command.exploratory_episodes, command.check_episodes) < 0:
        raise UserError("episodes and workers must be > 0, exploratory-episodes and check-episodes >= 0")
    if command.exploratory_episodes and not command.noise:
        raise UserError("exploratory episodes need at least one level of --noise")
    if command.output is not None and command.output.exists():
        raise UserError(f"{command.output} exists; choose another --output, or leave it out to replace the manifest")
    try:
        bundle = load_bundle(command.bundle)
        drive = Drive(
            str(command.bundle), command.scene, monitor=False, visual_randomization=command.visual_randomization,
            trace=True, until_violation=True,
        )  # fmt: skip

        def traces(purpose: str, own: int, exploratory: int) -> list[calibration.Trace]:
            groups = {"own": (drive, range(command.first, command.first + own))}
            begin = command.first + own
            for i, level in enumerate(command.noise if exploratory else ()):
                count = len(range(i, exploratory, len(command.noise)))
                groups[f"noise {level:g}"] = (replace(drive, noise=level), range(begin, begin + count))
                begin += count
            records = traced_episodes(groups, command.workers, command.quiet, purpose)
            return [calibration.Trace.from_record(record, group) for group, record in records]

        frames = Limits().surprise_frames
        result = calibration.calibrate(
            traces("calibration", command.episodes, command.exploratory_episodes), command.settings, frames,
            bundle.graphs_hash,
        )  # fmt: skip
        if command.check_episodes:
            share = command.check_episodes / command.episodes
            fresh = traces("evaluation", command.check_episodes, round(share * command.exploratory_episodes))
            result.figures["check"] = calibration.check(fresh, result.thresholds, command.settings, frames)
    except (BundleError, ValueError) as error:
        raise UserError(str(error)) from error
    origin = provenance()
    figures = {
        "model_id": bundle.id, "scene": command.scene, "visual_randomization": command.visual_randomization,
        "first_layout": command.first, "image_size": bundle.manifest.image_size, **result.figures,
    }  # fmt: skip
    if not command.dry_run:
        record = {name: figures[name] for name in SUMMARY if name in figures}
        manifest = bundle.manifest
        sections: dict[str, Any] = {
            "thresholds": result.thresholds,
            "evaluation": {**manifest.evaluation, "calibration": record},
            "provenance": {**manifest.provenance, "calibration": origin},
        }
        try:
            if command.output is None:
                update_manifest(bundle, **sections)
            else:
                # a bundle of its own is newer than the one it comes from
                sections["provenance"] = {**sections["provenance"], "created": origin["created"]}
                files = {name: bundle.path / name for name in manifest.files}
                write_bundle(command.output, replace(manifest, id=command.output.name, **sections), files)
        except (BundleError, ValueError, OSError) as error:
            raise UserError(str(error)) from error
    try:
        if command.json is not None:
            command.json.parent.mkdir(parents=True, exist_ok=True)
            content = {**figures, "thresholds": vars(result.thresholds), "provenance": origin}
            command.json.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        folder = command.plots or (command.json.parent if command.json else None)
        if folder is not None:
            write_plots(figures, folder)
    except OSError as error:
        raise UserError(f"cannot write: {error}") from error
    if not command.quiet:
        show(figures)


SUMMARY = (
    "model_id", "scene", "visual_randomization", "first_layout", "image_size", "settings", "episodes", "halt",
    "caution", "surprise", "at_the_price", "auroc", "check",
)  # fmt: skip
"""What of the figures the manifest keeps; curves stay in the JSON file."""


def show(figures: dict[str, Any]) -> None:
    """Print thresholds, what is claimed of them, and the price."""
    from rich.table import Table

    from fosp_trainer.progress import console

    counts = ", ".join(f"{g}: {e['violating']} of {e['count']}" for g, e in figures["episodes"].items())
    console.print(f"violating episodes: {counts}")
    table = Table(title=f"{figures['model_id']} in {figures['scene']}")
    for heading in ("", "threshold", "missed at most", "confidence", "in time", "missed here", "median lead"):
        table.add_column(heading)
    for name in ("halt", "caution"):
        row = figures[name]
        here = row["missed"]["all"]
        lead = row["median_lead_s"]
        table.add_row(
            name, f"{row['threshold']:.3f}",
            f"{100 * row['missed_rate']:.1f} %" if row["confidence"] else "no claim",
            f"{100 * row['confidence']:.0f} %", f">= {row['lead_steps'] * figures['control_period_s']:.1f} s",
            f"{here['missed']} of {here['violating']}", f"{lead:.1f} s" if lead is not None else "-",
        )  # fmt: skip
    console.print(table)
    asked = figures["settings"]["missed"]
    for name in ("halt", "caution"):
        if not figures[name]["reached"]:
            console.print(f"{name}: the bound of {100 * asked:g} % is not reached: {figures[name]['reason']}")
    price, veto = figures["halt"]["false_halts"], figures["halt"]["false_vetoes"]
    console.print(
        f"price on clean episodes: {price['per_10_minutes']:.2f} halts per 10 minutes ({price['per_hour']:.1f} per "
        f"hour, at most {price['per_hour_bound']:.1f}), {veto['per_hour']:.1f} vetoes per hour, "
        f"{100 * figures['caution']['share_of_clean_steps']:.1f} % of the steps in caution"
    )
    if price["hours"] * figures["settings"]["false_halts_per_hour"] < 1.0:
        console.print(
            f"the clean episodes last {60 * price['hours']:.1f} minutes: too short to tell "
            f"{figures['settings']['false_halts_per_hour']:g} halts per hour from none, so none was allowed; "
            "run more --episodes"
        )
    surprise, at = figures["surprise"], figures["at_the_price"]
    console.print(
        f"surprise bounds {surprise['threshold']:.1f} nats for {surprise['frames']} frames, "
        f"{surprise['average_threshold']:.1f} nats on average: each halts at most "
        f"{100 * max(surprise['false_alarm_rate'], surprise['average_false_alarm_rate']):.2f} % of clean "
        f"episodes{'' if surprise['reached'] else ' (more was asked than the episodes can show)'}"
    )
    scores = ", ".join(f"{g} {v:.3f}" for g, v in figures["auroc"].items() if v is not None)
    console.print(f"AUROC, violation within {figures['horizon_steps']} steps: {scores}")
    if at["recall"] is not None:
        console.print(f"recall at the allowed price (threshold {at['threshold']:.3f}): {100 * at['recall']:.1f} %")
    if "check" in figures:
        fresh = figures["check"]
        rows = ", ".join(
            f"{name} missed {fresh[name]['missed']['all']['missed']} of {fresh[name]['missed']['all']['violating']}"
            for name in ("halt", "caution")
        )
        halts = [fresh[name]["false_halts"] for name in ("halt", "surprise")]
        console.print(
            f"on fresh layouts: {rows}; in {60 * halts[0]['hours']:.1f} clean minutes {halts[0]['events']} false halts "
            f"by risk, {halts[1]['events']} by surprise"
        )
