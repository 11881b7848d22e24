"""The comparison: what it trains, what it keeps, and what it tells. Made-up outcomes stand for the environment."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fosp_core.statistics import paired_difference_interval
from fosp_trainer import compare
from fosp_trainer import config as configuration
from fosp_trainer.agent import Agent
from fosp_trainer.compare import Comparison, draw
from fosp_trainer.config import Config
from fosp_trainer.data import Frames
from fosp_trainer.errors import UserError
from fosp_trainer.evaluation import summarize
from fosp_trainer.pretrain import Trainer, prepare_folder, pretrain
from fosp_trainer.testing import STEPS, random_episodes
from fosp_trainer.variants import Plan

CONFIG = dataclasses.replace(configuration.preset("debug"), stages=STEPS)
ROWS = ("fosp", "dreamerv3", "safedreamer", "safedreamer-planning", "no-expansion")


def record(seed: int, success: bool, violated: bool) -> dict[str, Any]:
    """Of one episode."""
    return {
        "seed": seed, "success": success, "violated": violated, "return": 1.0, "cost": float(violated), "steps": 9,
        "smallest_clearance_m": 0.01, "largest_risk": 0.0, "halt": [], "slowed": 0, "replaced": 0,
    }  # fmt: skip


@pytest.fixture(scope="module")
def frames() -> Frames:
    return random_episodes(6)


@pytest.fixture(scope="module")
def run(frames: Frames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained run."""
    folder: Path = tmp_path_factory.mktemp("runs") / "base"
    config: Config = prepare_folder(folder, CONFIG, False, {})
    pretrain(frames, folder, config, quiet=True)
    return folder


Weights = dict[str, Tensor]


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Config, Weights]]:
    """What was exported, by row and seed; the graphs themselves are tested elsewhere."""
    kept: dict[str, tuple[Config, Weights]] = {}

    def export_bundle(agent: Agent, folder: Path, **more: Any) -> None:
        folder.mkdir(parents=True)
        kept[folder.name] = agent.config, {name: value.clone() for name, value in agent.state_dict().items()}

    monkeypatch.setattr(compare, "export_bundle", export_bundle)
    return kept


@pytest.fixture
def world(frames: Frames, exported: object, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Evaluations that were asked for. Only DreamerV3 violates, on every other layout."""
    asked: list[dict[str, Any]] = []

    def evaluate(bundle: Path, scene: str, episodes: int, **more: Any) -> dict[str, Any]:
        asked.append({"bundle": bundle, "scene": scene, "episodes": episodes, **more})
        reckless = bundle.name.startswith("dreamerv3")
        return summarize([record(i, True, reckless and i % 2 == 0) for i in range(episodes)])

    monkeypatch.setattr(compare, "evaluate", evaluate)
    monkeypatch.setattr(compare, "read_dataset", lambda source, sample: frames)
    return asked


def plan_for(run: Path, **changes: Any) -> Plan:
    """A small one."""
    return Plan(**{"run": run, "data": ("made-up",), "variants": ROWS, "episodes": 10, "quiet": True, **changes})


def test_every_row_is_evaluated_alike_and_told_against_fosp_on_the_same_layouts(
    run: Path, world: list[dict[str, Any]], tmp_path: Path
) -> None:
    file, rows = tmp_path / "table.json", ("fosp", "dreamerv3")
    result = Comparison(plan_for(run, seeds=(0, 3), variants=rows), tmp_path / "work").run(file)
    assert list(result["rows"]) == list(rows)
    assert len(world) == 2 * len(rows)
    for ask in world:
        assert (ask["monitor"], ask["episodes"], ask["mode"]) == (False, 10, "offline")
        assert not ask["planner"]
    reckless = result["rows"]["dreamerv3"]
    assert reckless["episodes"] == 20 and reckless["violation_rate"] == 0.5
    assert reckless["safe_success_difference"] == -0.5
    assert reckless["safe_success_difference_interval"] == list(paired_difference_interval(10, 0, 10, 0))
    assert "safe_success_difference" not in result["rows"]["fosp"]
    assert reckless["switches"]["actor.extraction"] == "returns"
    assert json.loads(file.read_text())["rows"] == json.loads(json.dumps(result["rows"]))
    draw(result, tmp_path / "table.svg")
    assert "</svg>" in (tmp_path / "table.svg").read_text()


def test_rows_share_the_world_model_and_the_training_where_they_can(
    run: Path, world: list[dict[str, Any]], exported: dict[str, tuple[Config, Weights]], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    Comparison(plan_for(run), work).run()
    assert [ask["planner"] for ask in world] == [name == "safedreamer-planning" for name in ROWS]
    assert sorted(p.name for p in (work / "trained").iterdir()) == ["dreamerv3-0", "fosp-0", "safedreamer-0"]
    shared = compare.load_world_model(run)
    for name in ROWS:
        weights = exported[f"{name}-0"][1]
        assert all(torch.equal(weights[key], value) for key, value in shared.items()), name
        # pi_on starts from pi_off
        assert torch.equal(weights["online.net.0.weight"], weights["offline.net.0.weight"])
    for name, other, alike in (
        ("fosp", "no-expansion", True),
        ("safedreamer", "safedreamer-planning", True),
        ("dreamerv3", "safedreamer", False),
        ("fosp", "dreamerv3", False),
    ):
        first, second = (exported[f"{n}-0"][1]["offline.net.0.weight"] for n in (name, other))
        assert torch.equal(first, second) == alike, (name, other)
    assert exported["safedreamer-planning-0"][0].planner.enabled
    assert not exported["no-expansion-0"][0].fine_tune.expansion


def test_fine_tuned_rows_are_told_before_and_after_and_against_fosp(
    run: Path, world: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here fosp learns from its round and the one policy does not."""

    def few_shot(bundle: Path, scene: str, episodes: int, **more: Any) -> dict[str, Any]:
        assert (scene, episodes, more["evaluation_episodes"], more["data"]) == ("new_objects", 4, 10, ("made-up",))
        before = summarize([record(i, i < 4, False) for i in range(10)])
        after = summarize([record(i, bundle.name == "fosp-0" or i < 4, False) for i in range(10)])
        return {"zero_shot": before, "fine_tuned": after}

    monkeypatch.setattr(compare, "few_shot", few_shot)
    plan = plan_for(run, variants=("fosp", "no-expansion"), few_shot="new_objects", few_shot_episodes=4)
    rows = Comparison(plan, tmp_path).run()["rows"]
    assert rows["fosp"]["few_shot"]["fine_tuned"]["success_rate"] == 1.0
    told = rows["no-expansion"]["few_shot"]
    assert told["zero_shot"]["success_difference"] == 0.0
    assert told["fine_tuned"]["success_difference"] == pytest.approx(-0.6)


def test_an_interrupted_comparison_goes_on_where_it_stopped(
    run: Path,
    world: list[dict[str, Any]],
    exported: dict[str, tuple[Config, Weights]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = ("fosp", "dreamerv3")
    whole = Comparison(plan_for(run, variants=rows), tmp_path / "whole").run()
    expected = exported["dreamerv3-0"][1]
    steps = 0
    original = Trainer._take

    def take(self: Trainer) -> Any:
        nonlocal steps
        steps += 1
        if steps == 15:
            raise RuntimeError("power cut")
        return original(self)

    plan, broken = plan_for(run, variants=rows), tmp_path / "broken"
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_take", take)
        with pytest.raises(RuntimeError, match="power cut"):
            Comparison(plan, broken).run()
    assert list(Comparison(plan, broken).result()["rows"]) == ["fosp"]
    world.clear()
    resumed = Comparison(plan, broken).run()
    assert [ask["bundle"].name for ask in world] == ["dreamerv3-0"]
    assert resumed == whole
    assert all(torch.equal(value, exported["dreamerv3-0"][1][name]) for name, value in expected.items())


def test_the_work_of_another_comparison_is_not_mixed_in(run: Path, tmp_path: Path) -> None:
    Comparison(plan_for(run), tmp_path)
    Comparison(plan_for(run, variants=("fosp",), seeds=(5,)), tmp_path)  # more rows are no other comparison
    with pytest.raises(UserError, match="another episodes, actor_steps; choose another --work"):
        Comparison(plan_for(run, episodes=11, actor_steps=9), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": ("fosp", "ppo")}, "unknown variant 'ppo'"),
        ({"seeds": (1, 1)}, "--seeds"),
        ({"episodes": 0}, "--episodes must be > 0"),
    ],
)
def test_bad_plans_are_refused(run: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_for(run, **changes)


def test_a_world_model_that_still_learns_is_refused(frames: Frames, tmp_path: Path) -> None:
    config = prepare_folder(tmp_path / "run", CONFIG, False, {})
    trainer = pretrain(frames, tmp_path / "run", config, quiet=True, until="world_model")
    trainer.stage = "world_model"
    trainer.save()
    with pytest.raises(UserError, match="world model is not finished"):
        Comparison(plan_for(tmp_path / "run"), tmp_path / "work")
