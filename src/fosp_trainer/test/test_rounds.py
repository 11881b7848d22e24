"""A round from recorded episodes to a judged bundle: what it leaves behind, and what it refuses by name."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fosp_core import models, task
from fosp_core.bundle import Thresholds, load_bundle, newest
from fosp_trainer import config as configuration
from fosp_trainer import gate, rounds
from fosp_trainer.agent import Agent
from fosp_trainer.config import ProposalConfig
from fosp_trainer.data import Frames
from fosp_trainer.errors import UserError
from fosp_trainer.export import export_bundle, load_agent
from fosp_trainer.fine_tune import Cancelled, Progress
from fosp_trainer.testing import random_episodes

pytest.importorskip("onnx")
LENIENT = gate.Settings(risk_margin=1.0, calibration_margin=1.0, latency_ratio=100.0, latency_ms=1000.0)


def record(run: Path, number: int, frames: Frames, **changes: np.ndarray) -> Path:
    """An episode's folder as the episode node writes it."""
    folder = run / f"episode_{number:04d}"
    folder.mkdir(parents=True)
    names = ("image", "proprio", "action", "reward", "cost", "is_first", "is_terminal")
    arrays = {name: getattr(frames, name) for name in names} | changes
    np.savez_compressed(folder / "episode.npz", **arrays)
    summary = {
        "scene": "standard", "seed": number, "success": False, "violated": bool(arrays["cost"].any()),
        "model_id": "tiny", "aborted": False,
    }  # fmt: skip
    (folder / "episode.json").write_text(json.dumps({"schema_version": 1, "summary": summary}))
    return folder


@pytest.fixture
def order(tmp_path: Path) -> rounds.Order:
    """A debug-size model and a run of six recorded episodes."""
    torch.manual_seed(0)
    config = configuration.preset("debug")
    # untrained critics like all proposals equally: which is best would be up to rounding
    config = replace(config, proposals=ProposalConfig(count=1), fine_tune=replace(config.fine_tune, held_out=0.5))
    agent = Agent(config)
    agent.online.load_state_dict(agent.offline.state_dict())
    current = tmp_path / "models" / task.TASK / "tiny"
    thresholds = Thresholds(caution=0.5, halt=0.8, surprise=50.0)
    export_bundle(agent, current, bundle_id="tiny", frames=None, thresholds=thresholds)
    for number in range(6):
        frames = random_episodes(1, seed=number)
        record(tmp_path / "records" / "run", number, replace(frames, cost=frames.cost * 0))
    return rounds.Order(tmp_path / "models", current, (tmp_path / "records" / "run",), settings=LENIENT)


def test_round_leaves_a_judged_bundle_where_no_graph_starts_with_it(order: rounds.Order) -> None:
    heard: list[Progress] = []

    def on_step(progress: Progress) -> bool:
        heard.append(progress)
        return True

    outcome = rounds.run_round(order, on_step)
    assert outcome.verdict.promoted, outcome.verdict.reasons
    assert outcome.bundle.path == order.models_root / task.TASK / models.ROUNDS / "tiny-r1"
    assert newest(order.models_root).name == "tiny"
    entry = models.find(order.models_root, "tiny-r1")
    assert (entry.state, entry.parent) == ("waiting", "tiny")
    assert "tiny-r1" in outcome.message and "3 new episodes" in outcome.message
    assert list(dict.fromkeys(p.stage for p in heard)) == [
        "reading", "world_model", "critics", "actor", "exporting", "gate",
    ]  # fmt: skip
    before, after = (load_agent(path) for path in (order.current, outcome.bundle.path))
    for name, value in before.offline.state_dict().items():
        assert torch.equal(value, after.offline.state_dict()[name]), name
    assert any(not torch.equal(v, after.online.state_dict()[k]) for k, v in before.online.state_dict().items())


def test_refused_round_is_kept_with_its_report(order: rounds.Order) -> None:
    outcome = rounds.run_round(replace(order, settings=replace(LENIENT, latency_ms=1e-6)))
    assert not outcome.verdict.promoted and "refused by the gate" in outcome.message
    manifest = load_bundle(outcome.bundle.path).manifest
    assert manifest.evaluation["gate"]["reasons"] == list(outcome.verdict.reasons)
    assert models.find(order.models_root, outcome.bundle.id).state == "refused"


def test_next_round_gets_the_next_number_also_after_a_refused_one(order: rounds.Order) -> None:
    rounds.run_round(order)
    second = rounds.run_round(order)
    assert second.bundle.id == "tiny-r2"
    assert rounds.next_id(order.models_root, "tiny-r2") == "tiny-r3"


@pytest.mark.parametrize("stage", ["reading", "world_model", "actor", "exporting", "gate"])
def test_cancelled_round_leaves_nothing(order: rounds.Order, stage: str) -> None:
    with pytest.raises(Cancelled):
        rounds.run_round(order, lambda progress: progress.stage != stage)
    assert [entry.id for entry in models.catalogue(order.models_root)] == ["tiny"]
    assert not list((order.models_root / task.TASK).glob(f"{models.ROUNDS}/*"))


def test_episodes_with_flipped_labels_end_in_a_refused_round(order: rounds.Order, tmp_path: Path) -> None:
    run = tmp_path / "records" / "flipped"
    for number in range(4):
        frames = random_episodes(1, seed=number)
        record(run, number, frames, cost=1.0 - (frames.cost > 0))
    outcome = rounds.run_round(replace(order, runs=(run,)))
    assert not outcome.verdict.promoted
    assert "have a cost" in outcome.message


def test_unusable_episodes_are_left_out_by_name(order: rounds.Order) -> None:
    run = order.runs[0]
    (run / "episode_0000" / "episode.npz").write_bytes(b"torn")
    (run / "episode_0001" / "episode.npz").unlink()
    outcome = rounds.run_round(order)
    assert outcome.report.own_episodes == 2
    assert [text.split(":")[0] for text in outcome.skipped] == ["episode_0000", "episode_0001"]
    assert "unreadable" in outcome.message and "no frames" in outcome.message


def test_round_without_usable_episodes_is_refused(order: rounds.Order, tmp_path: Path) -> None:
    empty = tmp_path / "records" / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="no usable episodes"):
        rounds.run_round(replace(order, runs=(empty,)))


def test_runs_are_named_within_the_records_folder_and_the_newest_is_the_default(
    order: rounds.Order, tmp_path: Path
) -> None:
    records = tmp_path / "records"
    assert rounds.resolve_runs(records, ["run"]) == (order.runs[0].resolve(),)
    later = record(records / "later", 0, random_episodes(1)) / "episode.json"
    stamp = later.stat().st_mtime_ns + 10**10
    os.utime(later, ns=(stamp, stamp))
    assert rounds.resolve_runs(records, []) == (records.resolve() / "later",)
    for name, fault in (("../models", "outside"), ("absent", "no such folder")):
        with pytest.raises(UserError, match=fault):
            rounds.resolve_runs(records, [name])
    with pytest.raises(UserError, match="no recorded episodes"):
        rounds.resolve_runs(tmp_path / "models", [])


def test_held_out_episodes_share_no_layout_with_those_trained_on() -> None:
    frames = random_episodes(10, length=4)
    frames.layout_seed[:] = np.repeat(np.arange(5), 2)
    train, held = rounds.hold_out(frames, 0.4)
    assert held is not None
    assert set(train.layout_seed) | set(held.layout_seed) == set(range(5))
    assert not set(train.layout_seed) & set(held.layout_seed)
    assert rounds.hold_out(frames.select([0, 1]), 0.4)[1] is None
