"""The few-shot experiment: who acts with policy expansion, and without."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fosp_core.bundle import Bundle
from fosp_core.testing import make_bundle
from fosp_trainer import evaluation, few_shot
from fosp_trainer.config import Config
from fosp_trainer.data import Frames
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
