"""The few-shot experiment: own episodes in a scene of transfer, fine-tune rounds, figures before and after."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from fosp_core import task
from fosp_core.bundle import Bundle, load_bundle
from fosp_core.episode import Episode
from fosp_trainer.config import FineTuneConfig
from fosp_trainer.data import Frames, from_episodes
from fosp_trainer.errors import UserError
from fosp_trainer.evaluation import Drive, evaluate, kept_episodes, summarize, without_records
from fosp_trainer.export import export_bundle, load_agent
from fosp_trainer.fine_tune import Progress, Report, fine_tune
from fosp_trainer.progress import bar
from fosp_trainer.provenance import provenance
from fosp_trainer.replay import Replay, read_replay

FIRST_SEED_INDEX: Final = 20_000_000
"""Of the data range; scripted collection and rounds in simulation stay below."""
LAYOUTS_A_SEED: Final = 10_000


def figures_before(file: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """Figures that ``fosp-train evaluate`` wrote; raises ``UserError`` where they are of something else."""
    try:
        figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from error
    for name, value in expected.items():
        if figures.get(name) != value:
            raise UserError(f"{file}: {name} is {figures.get(name)!r}, this experiment needs {value!r}")
    return figures


def explore(
    bundle: Path | str,
    scene: str,
    episodes: int,
    seed: int,
    noise: float,
    workers: int = 2,
    quiet: bool = False,
    expansion: bool = True,
    skip: int = 0,
) -> tuple[list[Episode], dict[str, Any]]:
    """Own episodes with policy expansion, every other one with action noise too; and their rates. Without expansion
    pi_on acts alone.

    The layouts are used for nothing else; another ``seed`` gives others. The first ``skip`` of a seed are left out.
    """
    first = FIRST_SEED_INDEX + LAYOUTS_A_SEED * seed + skip
    seeds = [task.data_seed(first + i) for i in range(episodes)]
    plain = Drive(str(bundle), scene, monitor=False, mode="sample" if expansion else "online", keep=True)
    drives = [("plain", plain, seeds[::2])]
    if seeds[1::2]:
        drives.append(("noisy", dataclasses.replace(plain, noise=noise), seeds[1::2]))
    own, records = kept_episodes(drives, workers, quiet, f"explore {scene}")
    return own, summarize([record for rows in records.values() for record in rows])


def tune_bundle(
    bundle: Bundle, own: Frames, old: Replay | None, output: Path, config: FineTuneConfig, seed: int, quiet: bool
) -> tuple[Bundle, Report]:
    """Fine-tune a bundle and write the result, under the thresholds and the selection of the one it came from; without
    expansion pi_on acts alone.
    """
    selector = bundle.manifest.selector
    if not config.expansion:
        selector = dataclasses.replace(selector, mode="online")
    agent = load_agent(bundle)
    with bar("fine-tune", 3 * config.steps, quiet=quiet) as shown:

        def on_step(progress: Progress) -> bool:
            shown.advance(1, f"{progress.stage} loss {progress.losses['loss']:.3g}")
            return True

        report = fine_tune(agent, own, old, config, seed, on_step)
    origin = provenance(parent=bundle.id, round=dataclasses.asdict(report), data=own.fingerprint())
    exported = export_bundle(
        agent, output, bundle_id=output.name, frames=own, thresholds=bundle.manifest.thresholds,
        selector=selector, provenance=origin,
    )  # fmt: skip
    return exported, report


def few_shot(
    bundle: Path,
    scene: str,
    episodes: int = 20,
    steps: int | None = None,
    seed: int = 0,
    data: Sequence[str | Path] = (),
    output: Path | None = None,
    evaluation_episodes: int = 200,
    monitor: bool = False,
    noise: float = 0.2,
    workers: int = 2,
    quiet: bool = False,
    expansion: bool | None = None,
    before: Path | None = None,
    rounds: int = 1,
) -> dict[str, Any]:
    """Evaluate, explore, fine-tune, evaluate on the same layouts. ``before`` is a file of ``fosp-train evaluate`` whose
    figures stand for the first evaluation. ``expansion`` overrides the bundle's configuration:
    without it the one policy is fine-tuned and acts alone, before as well. Of several ``rounds`` each starts where the
    one before ended, explores ``episodes`` more and learns from all of them.

    Returns:
        ``zero_shot`` and ``fine_tuned`` (after the last round) as ``evaluation.evaluate`` gives them, and for each of
        the ``rounds`` what was ``explored`` (rates of the own episodes), the ``report`` (``fine_tune.Report``) and how
        it was ``evaluated`` (rates).

    Raises:
        UserError: an unknown scene, counts that make no sense, an output that exists, divergence.
        BundleError: a bundle that must not be loaded.
    """
    if episodes <= 0 or evaluation_episodes <= 0 or rounds <= 0 or seed < 0:
        raise UserError(
            f"episodes and rounds must be > 0 and seed >= 0, got {episodes}, {evaluation_episodes}, {rounds} and {seed}"
        )
    if episodes * rounds > LAYOUTS_A_SEED:
        raise UserError(f"{rounds} rounds of {episodes} episodes are more than the {LAYOUTS_A_SEED} layouts of a seed")
    if output is not None and output.exists():
        raise UserError(f"{output} exists already; choose another --output")
    source = load_bundle(bundle)
    config = load_agent(source).config
    settings = config.fine_tune if steps is None else dataclasses.replace(config.fine_tune, steps=steps)
    if expansion is not None:
        settings = dataclasses.replace(settings, expansion=expansion)
    torch.set_num_threads(workers)

    def measure(path: Path) -> dict[str, Any]:
        return evaluate(
            path, scene, evaluation_episodes, monitor=monitor, workers=workers, quiet=quiet,
            mode=None if settings.expansion else "online", planner=config.planner.enabled,
        )  # fmt: skip

    expected = {"model_id": source.id, "scene": scene, "episodes": evaluation_episodes, "seed": 0, "monitor": monitor}
    zero_shot = measure(source.path) if before is None else figures_before(before, expected)
    old = read_replay(data, dataclasses.replace(config, fine_tune=settings), seed)
    known: list[Episode] = []
    done: list[dict[str, Any]] = []
    current, fine_tuned = source, zero_shot
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(1, rounds + 1):
            own, explored = explore(
                current.path, scene, episodes, seed, noise, workers, quiet, settings.expansion, len(known)
            )
            known += own
            target = Path(scratch) / f"{source.id}-{scene}-{seed}-r{number}"
            if output is not None and number == rounds:
                target = output
            current, report = tune_bundle(current, from_episodes(known), old, target, settings, seed, quiet)
            fine_tuned = measure(current.path)
            evaluated = without_records(fine_tuned)
            done.append({"explored": explored, "report": dataclasses.asdict(report), "evaluated": evaluated})
    return {
        "scene": scene, "seed": seed, "model_id": source.id, "monitor": monitor,
        "settings": dataclasses.asdict(settings), "rounds": done,
        "zero_shot": zero_shot, "fine_tuned": fine_tuned,
    }  # fmt: skip
