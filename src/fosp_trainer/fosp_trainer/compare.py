"""The comparison: every variant trained on one frozen world model, the same latents and the same number of updates, and
evaluated on the same layouts.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from fosp_core.bundle import Thresholds
from fosp_core.statistics import paired_difference_interval, wilson_interval
from fosp_trainer import checkpoint
from fosp_trainer.agent import Agent
from fosp_trainer.config import Config
from fosp_trainer.data import Frames, concatenate, read_dataset, split
from fosp_trainer.errors import UserError
from fosp_trainer.evaluation import evaluate
from fosp_trainer.export import export_bundle
from fosp_trainer.few_shot import few_shot
from fosp_trainer.latents import glimpse
from fosp_trainer.pretrain import Latents, Trainer, flips_of
from fosp_trainer.progress import bar, console
from fosp_trainer.provenance import write_result
from fosp_trainer.runs import load_config
from fosp_trainer.variants import BASELINE, VARIANTS, Plan, configure, differences, trained_like

RATES: Final = {
    "success": lambda record: record["success"],
    "violation": lambda record: record["violated"],
    "safe_success": lambda record: record["success"] and not record["violated"],
}
_UNWATCHED: Final = Thresholds(caution=0.5, halt=0.9, surprise=1e6, method="none", data_hash="")
_WORLD_MODEL: Final = "world_model."
_KEPT: Final = ("seed", "success", "violated", "return", "cost", "steps", "smallest_clearance_m")
"""What the result keeps of an episode's record."""


def base_config(plan: Plan) -> Config:
    """The baseline's configuration: the run's, with the plan's numbers of updates, critics that learn to the end in
    every row, as those must that follow their policy, and the actor's own action, as ``fosp-train export`` writes it.
    """
    config = load_config(plan.run)
    if config.stages.mode != "staged":
        raise UserError(f"{plan.run} was trained jointly; the comparison needs cached latents (staged)")
    changes: dict[str, Any] = {"critics_beside_actor": True}
    for name in ("critic_steps", "actor_steps"):
        if getattr(plan, name) is not None:
            changes[name] = getattr(plan, name)
    data = config.data if plan.flip is None else dataclasses.replace(config.data, flip=plan.flip)
    stages = dataclasses.replace(config.stages, **changes)
    return dataclasses.replace(config, stages=stages, data=data).proposing(1)


def load_world_model(run: Path) -> dict[str, Tensor]:
    """The weights of a run's world model, as the agent names them; raises ``UserError`` while it is still learning."""
    path = checkpoint.latest(run / "checkpoints")
    if path is None:
        raise UserError(f"{run} holds no checkpoint; train first with fosp-train pretrain")
    saved = checkpoint.load(path)
    if saved.state["stage"] not in ("critics", "actor", "done"):
        raise UserError(f"{run} stopped in stage {saved.state['stage']}; its world model is not finished")
    return {name: value for name, value in saved.weights.items() if name.startswith(_WORLD_MODEL)}


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Hash of weights."""
    import hashlib

    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


class Comparison:
    """A plan at work in its folder: trained agents, bundles and finished rows are kept there and not made again."""

    def __init__(self, plan: Plan, work: Path) -> None:
        self.plan, self.work = plan, work
        self.base = base_config(plan)
        self.world_model = load_world_model(plan.run)
        self.configs = {name: configure(name, self.base) for name in plan.variants}
        self._data: tuple[Frames, Frames, Latents] | None = None
        self._claim()

    def _claim(self) -> None:
        """Make the work folder, or refuse one that belongs to another comparison."""
        terms = {
            "world_model": fingerprint(self.world_model), "data": list(self.plan.data), "sample": self.plan.sample,
            "flip": self.base.data.flip, "scene": self.plan.scene, "episodes": self.plan.episodes,
            "critic_steps": self.base.stages.critic_steps, "actor_steps": self.base.stages.actor_steps,
            "few_shot": self.plan.few_shot and [self.plan.few_shot, self.plan.few_shot_episodes],
        }  # fmt: skip
        file = self.work / "comparison.json"
        if file.is_file():
            known = json.loads(file.read_text())
            other = [name for name, value in terms.items() if known.get(name) != value]
            if other:
                raise UserError(
                    f"{self.work} holds a comparison with another {', '.join(other)}; choose another --work"
                )
            return
        self.work.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(terms, indent=1) + "\n")

    def _row_file(self, name: str, seed: int) -> Path:
        return self.work / "rows" / f"{name}-{seed}.json"

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """Finished evaluations by variant, in the order of seeds."""
        files = {name: [self._row_file(name, seed) for seed in self.plan.seeds] for name in self.plan.variants}
        return {name: [json.loads(f.read_text()) for f in known if f.is_file()] for name, known in files.items()}

    def run(self, written: Path | None = None) -> dict[str, Any]:
        """Finish what is not finished; ``written`` is the result's file, kept up to date after every row."""
        jobs = [(name, seed) for seed in self.plan.seeds for name in self.plan.variants]
        open_jobs = [job for job in jobs if not self._row_file(*job).is_file()]
        result = self.result()
        with bar("rows", len(jobs), len(jobs) - len(open_jobs), self.plan.quiet) as shown:
            for name, seed in open_jobs:
                row = self._measure(name, self._train(name, seed), seed)
                file = self._row_file(name, seed)
                file.parent.mkdir(exist_ok=True)
                staging = file.with_suffix(".tmp")
                staging.write_text(json.dumps(row) + "\n")
                os.replace(staging, file)
                shown.advance(1, f"{name}, seed {seed}: safe success {100 * row['safe_success_rate']:.0f} %")
                result = self.result()
                if written is not None:
                    write_result(written, result)
        if written is not None and not open_jobs:
            write_result(written, result)
        return result

    # -- one row

    def _load(self) -> tuple[Frames, Frames, Latents]:
        """Training and held-out episodes and the latents of the former, read and encoded once."""
        if self._data is None:
            plan = self.plan
            frames = concatenate([read_dataset(source, plan.sample) for source in plan.data])
            train, held_out = split(frames, self.base.data.held_out)
            imagining = next((c for c in self.configs.values() if c.critic.imagined_weight or c.actor.imagines), None)
            agent = Agent(imagining or self.base)
            agent.load_weights(self.world_model, str(plan.run))
            agent.eval()
            torch.set_num_threads(self.base.hardware.threads)
            flips, glimpses = flips_of(self.base), {}
            passes = 2 if agent.world_model.reader is not None else 1
            with bar("encode", passes * train.count * len(flips), quiet=plan.quiet) as shown:

                def tick(count: int) -> None:
                    shown.advance(count, "")

                if agent.world_model.reader is not None:
                    glimpses = {flip: glimpse(agent.world_model, train, flip, tick) for flip in flips}
                latents = Latents(agent, train, flips, tick, glimpses)
            for known in glimpses.values():
                known.seen = torch.zeros(0)  # encoded; only the tables are looked at again
            self._data = train, held_out, latents
        return self._data

    def _train(self, name: str, seed: int) -> Agent:
        """The agent of a row, trained unless that is done; rows that differ only after training share it."""
        every = {other: configure(other, self.base) for other in VARIANTS}
        key = next(other for other in every if trained_like(every[other]) == trained_like(self.configs[name]))
        folder = self.work / "trained" / f"{key}-{seed}"
        path = checkpoint.latest(folder / "checkpoints")
        saved = None if path is None else checkpoint.load(path)
        if saved is None or saved.state["stage"] != "done":
            train, held_out, latents = self._load()
            config = dataclasses.replace(every[key], seed=seed)
            trainer = Trainer(config, train, held_out, folder, self.plan.quiet)
            trainer.stages = ("critics", "actor", "done")
            if not trainer.resume():
                trainer.agent.load_weights(self.world_model, str(self.plan.run))
                trainer.stage = "critics"
            trainer.latents = latents
            if not self.plan.quiet:
                console.print(f"{name}, seed {seed}: {trainer.stage} step {trainer.step}")
            trainer.run()
            weights: Mapping[str, Tensor] = trainer.agent.state_dict()
        else:
            weights = saved.weights
        agent = Agent(dataclasses.replace(self.configs[name], seed=seed))
        agent.load_state_dict(dict(weights))
        agent.online.load_state_dict(agent.offline.state_dict())
        return agent.eval()

    def _measure(self, name: str, agent: Agent, seed: int) -> dict[str, Any]:
        plan = self.plan
        folder = self.work / "bundles" / f"{name}-{seed}"
        if not folder.exists():
            export_bundle(agent, folder, bundle_id=folder.name, frames=None, thresholds=_UNWATCHED)
        planned = agent.config.planner.enabled
        result = evaluate(
            folder, plan.scene, plan.episodes, monitor=False, workers=plan.workers, quiet=plan.quiet, mode="offline",
            planner=planned,
        )  # fmt: skip
        if result.get("interrupted"):
            raise KeyboardInterrupt
        row = {**result, "training_seed": seed}
        if plan.few_shot is not None:
            tuned = few_shot(
                folder, plan.few_shot, plan.few_shot_episodes, seed=seed, data=plan.data,
                evaluation_episodes=plan.episodes, workers=plan.workers, quiet=plan.quiet,
            )  # fmt: skip
            row["few_shot"] = tuned
        return row

    # -- the table

    def result(self) -> dict[str, Any]:
        """Figures of the finished rows; differences are to the baseline on the same layouts and seeds."""
        plan, rows = self.plan, self.rows()
        known = rows.get(BASELINE, [])
        stages = self.base.stages
        return {
            "run": plan.run.name, "world_model": fingerprint(self.world_model),
            "data": [Path(source).name for source in plan.data], "sample": plan.sample, "flip": self.base.data.flip,
            "scene": plan.scene, "episodes": plan.episodes, "monitor": False, "seeds": list(plan.seeds),
            "updates": {"critics": stages.critic_steps + stages.actor_steps, "actor": stages.actor_steps},
            "few_shot": plan.few_shot,
            "rows": {
                name: {
                    "summary": VARIANTS[name].summary,
                    "switches": differences(self.configs[name], self.base),
                    **figures(found, known if name != BASELINE else []),
                }
                for name, found in rows.items() if found
            },
        }  # fmt: skip


def figures(rows: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rates of one variant's rows together, and their difference to the baseline's where that ran the same seeds and
    layouts.
    """
    told: dict[str, Any] = {"seeds": [row["training_seed"] for row in rows], **rates(rows, baseline)}
    for name in ("return", "cost", "steps"):
        told[f"mean_{name}"] = sum(row[f"mean_{name}"] for row in rows) / len(rows)
    tuned = [row for row in rows if "few_shot" in row]
    if tuned:
        told["few_shot"] = {
            stage: rates(
                [{**row["few_shot"][stage], "training_seed": row["training_seed"]} for row in tuned],
                [
                    {**row["few_shot"][stage], "training_seed": row["training_seed"]}
                    for row in baseline if "few_shot" in row
                ],
            )
            for stage in ("zero_shot", "fine_tuned")
        }  # fmt: skip
    told["records"] = {
        str(row["training_seed"]): [{key: record[key] for key in _KEPT} for record in row["records"]] for row in rows
    }
    return told


def rates(rows: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``RATES`` of rows together with Wilson 95 % intervals, and their differences to a baseline's, paired by
    ``training_seed`` and layout, where it has the same.
    """
    outcomes = {(row["training_seed"], r["seed"]): r for row in rows for r in row["records"]}
    others = {(row["training_seed"], r["seed"]): r for row in baseline for r in row["records"]}
    shared = sorted(outcomes.keys() & others.keys())
    told: dict[str, Any] = {"episodes": len(outcomes)}
    for name, hit in RATES.items():
        count = sum(bool(hit(record)) for record in outcomes.values())
        told[f"{name}_rate"] = count / len(outcomes)
        told[f"{name}_rate_interval"] = list(wilson_interval(count, len(outcomes)))
        if shared:
            pairs = [(bool(hit(outcomes[key])), bool(hit(others[key]))) for key in shared]
            cells = [pairs.count(cell) for cell in ((True, True), (True, False), (False, True), (False, False))]
            told[f"{name}_difference"] = (cells[1] - cells[2]) / len(pairs)
            told[f"{name}_difference_interval"] = list(paired_difference_interval(*cells))
    return told


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw success, violation and safe success of every row with their intervals, as SVG; raises ``OSError``."""
    from fosp_trainer.plots import draw_rates

    title = f"{result['scene']}, {result['episodes']} layouts, {len(result['seeds'])} training seed(s)"
    draw_rates({name: [row] for name, row in result["rows"].items()}, title, path)
