"""The catalogue of bundles: what graphs start with, what rounds leave, and the way back."""

from __future__ import annotations

from pathlib import Path

import pytest

from fosp_core import models, task
from fosp_core.bundle import BundleError, newest, update_manifest
from fosp_core.testing import make_bundle

pytest.importorskip("onnx")


def add(root: Path, name: str, minute: int, parent: str = "", promoted: bool | None = None) -> Path:
    """A bundle; with ``promoted`` given it is a round's that has not been moved yet."""
    folder = root / task.TASK / (name if promoted is None else f"{models.ROUNDS}/{name}")
    bundle = make_bundle(folder)
    origin = {"created": f"2026-01-01T00:{minute:02d}:00+00:00"} | ({"parent": parent} if parent else {})
    evaluation = {} if promoted is None else {"gate": {"promoted": promoted}}
    update_manifest(bundle, provenance=origin, evaluation=evaluation)
    return folder


def test_catalogue_tells_what_is_in_use_refused_waiting_or_damaged(tmp_path: Path) -> None:
    add(tmp_path, "v1", 0)
    add(tmp_path, "bad", 1, "v1", promoted=False)
    add(tmp_path, "good", 2, "v1", promoted=True)
    (add(tmp_path, "torn", 3, "v1") / "judge.onnx").write_bytes(b"")
    found = {entry.id: entry.state for entry in models.catalogue(tmp_path)}
    assert found == {"v1": "in use", "bad": "refused", "good": "waiting", "torn": "damaged"}
    assert "judge.onnx" in models.find(tmp_path, "torn").fault
    with pytest.raises(BundleError, match="there are: v1, bad, good, torn"):
        models.find(tmp_path, "other")


def test_rounds_are_never_the_newest_until_promoted(tmp_path: Path) -> None:
    add(tmp_path, "v1", 0)
    add(tmp_path, "r1", 1, "v1", promoted=True)
    assert newest(tmp_path).name == "v1"
    models.promote(tmp_path, "r1")
    assert newest(tmp_path).name == "r1"


def test_damaged_round_is_not_promoted(tmp_path: Path) -> None:
    folder = add(tmp_path, "r1", 1, "v1", promoted=True)
    (folder / "judge.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"judge\.onnx"):
        models.promote(tmp_path, "r1")
    assert folder.exists()


def test_rollback_goes_back_one_round_at_a_time_and_never_past_a_released_bundle(tmp_path: Path) -> None:
    add(tmp_path, "v1", 0)
    add(tmp_path, "r1", 1, "v1")
    add(tmp_path, "r2", 2, "r1")
    for retired, left in (("r2", "r1"), ("r1", "v1")):
        gone, now = models.rollback(tmp_path)
        assert (gone.id, now.id, newest(tmp_path).name) == (retired, left, left)
    with pytest.raises(BundleError, match="no way back"):
        models.rollback(tmp_path)
    assert {entry.id for entry in models.catalogue(tmp_path)} == {"v1", "r1", "r2"}


def test_prune_keeps_the_newest_rounds_the_protected_and_every_released_bundle(tmp_path: Path) -> None:
    add(tmp_path, "v1", 0)
    for minute in range(1, 5):
        add(tmp_path, f"r{minute}", minute, "v1")
        add(tmp_path, f"refused{minute}", minute, "v1", promoted=False)
    gone = models.prune(tmp_path, keep=2, protect=("r1",))
    assert gone == ["r2", "refused1", "refused2"]
    assert newest(tmp_path).name == "r4"
    with pytest.raises(ValueError, match="at least 1"):
        models.prune(tmp_path, keep=0)


def test_clean_removes_what_a_killed_writer_left_and_nothing_else(tmp_path: Path) -> None:
    kept = add(tmp_path, "r1", 1, "v1", promoted=False)
    left = kept.parent / ".r2-abc"
    left.mkdir()
    (left / "judge.onnx").write_bytes(b"half")
    assert models.clean(tmp_path) == [left]
    assert kept.exists() and not left.exists()
    assert models.clean(tmp_path / "nowhere") == []


def test_differences_name_each_field_that_is_not_the_same(tmp_path: Path) -> None:
    add(tmp_path, "v1", 0)
    add(tmp_path, "r1", 1, "v1", promoted=False)
    first, second = (models.find(tmp_path, name) for name in ("v1", "r1"))
    found = models.differences(first, second)
    assert 'standing: "in use" -> "refused"' in found and 'provenance.parent: null -> "v1"' in found
    assert not [line for line in found if line.startswith("lookahead_steps")]
    assert models.differences(first, first) == []


def test_round_that_was_interrupted_before_the_gate_says_that_it_was_not_judged(tmp_path: Path) -> None:
    update_manifest(make_bundle(tmp_path / task.TASK / models.ROUNDS / "r1"), provenance={"parent": "v1"})
    entry = models.find(tmp_path, "r1")
    assert entry.state == "refused" and entry.reasons == ("the gate has not judged it",)


def test_swap_is_noted_until_it_ends_and_a_damaged_note_is_none(tmp_path: Path) -> None:
    assert models.unfinished_swap(tmp_path) is None
    models.begin_swap(tmp_path, models.Swap("new", "old"))
    assert models.unfinished_swap(tmp_path) == models.Swap("new", "old")
    assert models.clean(tmp_path) == [], "the note is no rest of a killed writer"
    (tmp_path / task.TASK / models.ROUNDS / models.SWAP).write_text("{")
    assert models.unfinished_swap(tmp_path) is None
    models.end_swap(tmp_path)
    models.end_swap(tmp_path)
    assert not (tmp_path / task.TASK / models.ROUNDS / models.SWAP).exists()
