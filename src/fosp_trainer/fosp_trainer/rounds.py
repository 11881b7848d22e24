"""A fine-tune round from recorded episodes to a judged bundle, without ROS: read, train, export, gate.

The bundle of a round is written under ``.rounds`` of the models folder, where no graph starts with it; the caller
promotes it (``fosp_core.models``).
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fosp_core import models, task
from fosp_core.bundle import Bundle, load_bundle, update_manifest
from fosp_core.episode import RECORD_FILE, Episode, EpisodeError, read_record
from fosp_trainer import gate
from fosp_trainer.config import FineTuneConfig
from fosp_trainer.data import DataError, Frames, from_episodes
from fosp_trainer.errors import UserError
from fosp_trainer.evaluation import Drive, run_episodes
from fosp_trainer.export import export_bundle, load_agent, parity_error
from fosp_trainer.fine_tune import Cancelled, Progress, Report, fine_tune
from fosp_trainer.latents import Tick
from fosp_trainer.provenance import provenance
from fosp_trainer.replay import Replay, read_replay

OnStep = Callable[[Progress], bool]


@dataclass(frozen=True)
class Order:
    """What a round is to do."""

    models_root: Path
    current: Path
    """Bundle to start from, and to be no worse than."""
    runs: tuple[Path, ...]
    """Folders of recorded runs."""
    steps: int = 0
    """Gradient steps; 0: as the bundle's configuration says."""
    seed: int = 0
    datasets: tuple[str, ...] = ()
    """Minari datasets of earlier episodes to mix in."""
    paired_episodes: int = 0
    """Episodes that the gate runs in simulation under both bundles, on the same layouts; 0 where there is none."""
    settings: gate.Settings = dataclasses.field(default_factory=gate.Settings)


@dataclass(frozen=True)
class Outcome:
    """A judged bundle."""

    bundle: Bundle
    verdict: gate.Verdict
    report: Report
    skipped: tuple[str, ...]
    """Episodes that could not be used, each with the reason."""

    @property
    def message(self) -> str:
        """One sentence for people."""
        told = f"{self.bundle.id}: {self.report.note()}; "
        told += (
            "passed the gate" if self.verdict.promoted else f"refused by the gate: {'; '.join(self.verdict.reasons)}"
        )
        return told + (f"; left out: {'; '.join(self.skipped)}" if self.skipped else "")


def newest_run(records: Path) -> Path:
    """The run with the newest recorded episode; raises ``UserError`` when there is none."""
    found = [(file.stat().st_mtime_ns, file.parent.parent) for file in records.glob(f"*/episode_*/{RECORD_FILE}")]
    if not found:
        raise UserError(f"{records} holds no recorded episodes; run some first")
    return max(found)[1]


def resolve_runs(records: Path, names: Iterable[str]) -> tuple[Path, ...]:
    """Folders of runs named relative to the records folder; the newest run when none is named.

    Raises:
        UserError: a name that leaves the folder or does not exist, or no run at all.
    """
    root, folders = records.resolve(), []
    for name in names:
        folder = (root / name).resolve()
        if not folder.is_relative_to(root):
            raise UserError(f"{name!r} lies outside of the records folder {root}")
        if not folder.is_dir():
            raise UserError(f"{name!r}: no such folder in {root}")
        folders.append(folder)
    return tuple(folders) or (newest_run(root),)


def read_runs(runs: Sequence[Path]) -> tuple[list[Episode], list[str]]:
    """Episodes of recorded runs, and those that cannot be used with the reason.

    Raises:
        UserError: there is no usable episode.
    """
    episodes, skipped = [], []
    for folder in (record.parent for run in runs for record in sorted(run.glob(f"episode_*/{RECORD_FILE}"))):
        try:
            episode = read_record(folder)
            if episode is None:
                skipped.append(f"{folder.name}: holds no frames")
                continue
            from_episodes([episode])
        except (EpisodeError, DataError) as error:
            skipped.append(f"{folder.name}: {error}")
            continue
        episodes.append(episode)
    if not episodes:
        told = f" ({'; '.join(skipped)})" if skipped else ""
        raise UserError(f"no usable episodes in {', '.join(str(run) for run in runs)}{told}; run some first")
    return episodes, skipped


def hold_out(frames: Frames, share: float) -> tuple[Frames, Frames | None]:
    """Episodes to train on and to judge on, by layout; nothing to judge on where there is one layout only."""
    if share == 0 or len(np.unique(frames.layout_seed)) < 2:
        return frames, None
    layouts = np.unique(frames.layout_seed)
    count = min(len(layouts) - 1, max(1, round(share * len(layouts))))
    # evenly spread, so that the choice is the same in every round on these episodes
    chosen = layouts[np.linspace(0, len(layouts) - 1, count).astype(int)]
    kept_out = np.isin(frames.layout_seed, chosen)
    return frames.select(np.flatnonzero(~kept_out)), frames.select(np.flatnonzero(kept_out))


def next_id(root: Path, current: str, task_name: str = task.TASK) -> str:
    """``NAME-rN``: the current bundle's name with the next number that is free."""
    stem = re.sub(r"-r\d+$", "", current)
    numbers = [
        int(found.group(1))
        for entry in models.catalogue(root, task_name)
        if (found := re.fullmatch(rf"{re.escape(stem)}-r(\d+)", entry.id))
    ]
    return f"{stem}-r{max(numbers, default=0) + 1}"


def prepare(current: Path, datasets: Sequence[str], tick: Tick | None = None) -> Replay | None:
    """What rounds from a bundle need of earlier episodes, read and looked at before one is asked for; None without
    datasets. ``tick`` hears how many more frames are done. Raises ``UserError`` or ``BundleError``.
    """
    if not datasets:
        return None
    agent = load_agent(current)
    replay = read_replay(datasets, agent.config)
    if replay is not None:
        replay.glimpses(agent.world_model, tick)
    return replay


def run_round(order: Order, on_step: OnStep = lambda _: True, replay: Replay | None = None) -> Outcome:
    """Read, train, export, judge; the bundle lies under ``.rounds`` then, with the verdict in its manifest.
    ``replay``: as ``prepare`` made it; read from the datasets otherwise.

    Raises:
        Cancelled: ``on_step`` answered no; nothing is left behind.
        UserError: no usable episodes, a bundle that cannot be trained, divergence, parity.
        BundleError: the current bundle does not load.
    """
    _hear(on_step, "reading", 0, 1)
    current = load_bundle(order.current)
    episodes, skipped = read_runs(order.runs)
    agent = load_agent(current)
    config: FineTuneConfig = agent.config.fine_tune
    if order.steps:
        config = dataclasses.replace(config, steps=order.steps)
    frames = from_episodes(episodes)
    own, own_held = hold_out(frames, config.held_out)
    replay = replay or read_replay(order.datasets, agent.config)
    old_held = None if replay is None else replay.held_out
    _hear(on_step, "reading", 1, 1)

    report = fine_tune(agent, own, replay, config, order.seed, on_step)

    _hear(on_step, "exporting", 0, 1)
    name = next_id(order.models_root, current.id)
    origin = provenance(
        parent=current.id, round=dataclasses.asdict(report), data=own.fingerprint(),
        episodes=[str(run.name) for run in order.runs],
    )  # fmt: skip
    # parity is the gate's business: a bundle that fails it is kept with the reason
    bundle = export_bundle(
        agent, order.models_root / task.TASK / models.ROUNDS / name, bundle_id=name, frames=None,
        thresholds=current.manifest.thresholds, selector=current.manifest.selector, provenance=origin,
    )  # fmt: skip
    _hear(on_step, "exporting", 1, 1)
    try:
        discount = agent.config.critic.reach_discount
        _hear(on_step, "gate", 0, 1)
        # simulated in a process of their own, while this one judges
        with ThreadPoolExecutor(1) as beside:
            paired = beside.submit(_paired, order, current, bundle, episodes, discount, on_step)
            evidence = gate.Evidence(
                parity_error=parity_error(agent, bundle, own),
                own=None if own_held is None else gate.read(current, bundle, own_held, discount),
                old=None if old_held is None else gate.read(current, bundle, old_held, discount),
                labels=gate.read_labels(current, frames, agent),
                step_ms=gate.time_steps(current, bundle, own),
            )
            violated, risk_errors = paired.result()
        evidence = dataclasses.replace(evidence, violated=violated, risk_errors=risk_errors)
        verdict = gate.judge(evidence, order.settings)
    except BaseException:
        models.discard(order.models_root, name)
        raise
    bundle = update_manifest(bundle, evaluation={**bundle.manifest.evaluation, "gate": verdict.to_json()})
    return Outcome(bundle, verdict, report, tuple(skipped))


def _hear(on_step: OnStep, stage: str, step: int, steps: int) -> None:
    if not on_step(Progress(stage, step, steps, {}, float("nan"))):
        raise Cancelled(f"cancelled in stage {stage}")


def _paired(
    order: Order, current: Bundle, new: Bundle, episodes: Sequence[Episode], discount: float, on_step: OnStep
) -> tuple[list[tuple[bool, bool]], NDArray[np.float64] | None]:
    """``violated`` and ``risk_errors`` of ``gate.Evidence``, in the scene that was seen most."""
    if order.paired_episodes == 0:
        return [], None
    scene = Counter(str(episode.metadata.get("scene", "standard")) for episode in episodes).most_common(1)[0][0]
    seeds = [task.calibration_seed(i) for i in range(order.paired_episodes)]
    drives = [
        (Drive(str(bundle.path), scene, monitor=False, reach_discount=discount), seeds) for bundle in (current, new)
    ]
    found: dict[str, dict[int, dict[str, Any]]] = {str(bundle.path): {} for bundle in (current, new)}
    for done, (drive, (record, _)) in enumerate(run_episodes(drives, workers=1, quiet=True), 1):
        found[drive.bundle][record["seed"]] = record
        _hear(on_step, "gate", done, 2 * order.paired_episodes)
    before, after = found.values()
    violated = [(bool(before[seed]["violated"]), bool(after[seed]["violated"])) for seed in seeds]
    return violated, np.asarray([(before[seed]["risk_error"], after[seed]["risk_error"]) for seed in seeds])
