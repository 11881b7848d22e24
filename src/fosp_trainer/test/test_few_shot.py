"""The few-shot experiment: who acts with policy expansion, and without."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fosp_core.bundle import Bundle
from fosp_core.testing import make_bundle
from fosp_trainer import evaluation, few_shot
from fosp_trainer.config import Config
from fosp_trainer.data import Frames
from fosp_trainer.errors import UserError
from fosp_trainer.evaluation import Drive
from fosp_trainer.fine_tune import Report


@pytest.mark.parametrize(("expansion", "mode"), [(True, "sample"), (False, "online")])
def test_own_episodes_are_run_by_both_policies_or_the_one(
    expansion: bool, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driven: list[Drive] = []

    def run_episodes(drives: Sequence[tuple[Drive, Sequence[int]]], *_: Any) -> Iterator[tuple[Drive, Any]]:
        for drive, seeds in drives:
            driven.append(drive)
            for seed in seeds:
                record = {
                    "seed": seed, "success": True, "violated": False, "return": 1.0, "cost": 0.0, "steps": 5,
                    "smallest_clearance_m": 0.1, "halt": [], "slowed": 0, "replaced": 0,
                }  # fmt: skip
                yield drive, (record, object())

    monkeypatch.setattr(evaluation, "run_episodes", run_episodes)
    episodes, rates = few_shot.explore("bundle", "new_objects", 5, 0, noise=0.2, expansion=expansion)
    assert len(episodes) == rates["episodes"] == 5
    assert [(drive.mode, drive.noise) for drive in driven] == [(mode, 0.0), (mode, 0.2)]


@pytest.mark.parametrize(("expansion", "mode"), [(True, "greedy"), (False, "online")])
def test_the_fine_tuned_bundle_selects_as_the_round_meant(
    expansion: bool, mode: str, frames: Frames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(tmp_path / "safereach" / "before")
    written: dict[str, Any] = {}

    def export_bundle(agent: object, folder: Path, **settings: Any) -> Bundle:
        written.update(settings)
        return bundle

    monkeypatch.setattr(few_shot, "load_agent", lambda _: object())
    monkeypatch.setattr(few_shot, "fine_tune", lambda *_: Report(3, 0, 1, 0))
    monkeypatch.setattr(few_shot, "export_bundle", export_bundle)
    config = dataclasses.replace(Config().fine_tune, expansion=expansion)
    few_shot.tune_bundle(bundle, frames, None, tmp_path / "after", config, 0, quiet=True)
    assert written["selector"].mode == mode
    assert written["thresholds"] == bundle.manifest.thresholds


def test_each_round_goes_on_from_the_one_before_and_learns_from_all_own_episodes(
    frames: Frames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = make_bundle(tmp_path / "safereach" / "start")
    layouts: list[int] = []
    trained: list[tuple[str, int]] = []

    def explore(bundle: Path, _: str, episodes: int, *rest: Any) -> tuple[list[Any], dict[str, Any]]:
        layouts.append(rest[-1])
        return [object()] * episodes, {"violation_rate": 0.0}

    def tune_bundle(bundle: Bundle, own: Sequence[Any], old: object, output: Path, *_: Any) -> tuple[Bundle, Report]:
        trained.append((bundle.path.name, len(own)))
        return make_bundle(output), Report(40, 0, len(own), 0)

    def evaluate(path: Path, *_: Any, **__: Any) -> dict[str, Any]:
        return {"bundle": path.name, "records": [1]}

    monkeypatch.setattr(few_shot, "load_agent", lambda _: SimpleNamespace(config=Config()))
    for name, fake in (("explore", explore), ("tune_bundle", tune_bundle), ("evaluate", evaluate)):
        monkeypatch.setattr(few_shot, name, fake)
    monkeypatch.setattr(few_shot, "from_episodes", lambda episodes: episodes)
    result = few_shot.few_shot(start.path, "new_objects", 5, rounds=3, output=tmp_path / "end", quiet=True)
    first = f"{start.id}-new_objects-0"
    assert trained == [("start", 5), (f"{first}-r1", 10), (f"{first}-r2", 15)]
    assert layouts == [0, 5, 10]
    assert result["zero_shot"]["bundle"] == "start" and result["fine_tuned"]["bundle"] == "end"
    assert [done["evaluated"] for done in result["rounds"]] == [
        {"bundle": name} for name in (f"{first}-r1", f"{first}-r2", "end")
    ]


def test_rounds_need_layouts_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="layouts of a seed"):
        few_shot.few_shot(tmp_path, "new_objects", 200, rounds=100)
    with pytest.raises(UserError, match="rounds must be > 0"):
        few_shot.few_shot(tmp_path, "new_objects", rounds=0)
