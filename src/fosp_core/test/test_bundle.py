"""A bundle that is wrong in any way is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fosp_core.bundle import (
    FILES,
    BundleError,
    Thresholds,
    load_bundle,
    newest,
    resolve,
    update_manifest,
    write_bundle,
)
from fosp_core.runtime import PolicyRuntime
from fosp_core.testing import make_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "safereach" / "sample").path


def edit(folder: Path, *keys: str, value: Any) -> None:
    file = folder / "manifest.json"
    raw = json.loads(file.read_text())
    section = raw
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = value
    file.write_text(json.dumps(raw))


def test_written_bundle_loads_again(folder: Path) -> None:
    bundle = load_bundle(folder)
    assert bundle.id == "sample"
    assert bundle.manifest.from_json(bundle.manifest.to_json()) == bundle.manifest


@pytest.mark.parametrize("name", FILES)
def test_flipped_byte_is_refused_and_the_file_named(folder: Path, name: str) -> None:
    file = folder / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=f"{name}.*hash"):
        load_bundle(folder)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_missing_file_is_refused_and_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: missing"):
        load_bundle(folder)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        load_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "{", "[]", "\0"])
def test_unreadable_manifest_is_refused(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("task",), "pouring", "task 'pouring'"),
        (("schema_version",), 99, "schema_version is 99"),
        (("action", "length"), 7, "action.length is 7"),
        (("action", "scale_m"), 0.3, "action.scale_m"),
        (("observation", "proprio", "length"), 9, "proprio.length is 9"),
        (("observation", "image", "size"), "large", "image_size"),
        (("thresholds", "halt"), 1.5, "thresholds.halt"),
        (("thresholds", "caution"), 0.9, "thresholds.caution"),
        (("thresholds", "surprise"), 0.0, "thresholds.surprise"),
        (("thresholds", "surprise_average"), -1.0, "thresholds.surprise_average"),
        (("selector", "temperature"), 0.0, "selector.temperature"),
        (("id",), "../other", "id must be"),
        (("thresholds",), None, "wrong type"),
    ],
)
def test_wrong_specification_is_refused_by_name(folder: Path, keys: tuple[str, ...], value: Any, message: str) -> None:
    edit(folder, *keys, value=value)
    with pytest.raises(BundleError, match=message):
        load_bundle(folder)


def test_missing_field_is_named(folder: Path) -> None:
    file = folder / "manifest.json"
    raw = json.loads(file.read_text())
    del raw["thresholds"]
    file.write_text(json.dumps(raw))
    with pytest.raises(BundleError, match="'thresholds' is missing"):
        load_bundle(folder)


def test_graph_with_another_input_shape_than_the_manifest_is_refused(folder: Path) -> None:
    edit(folder, "observation", "image", "size", value=96)
    with pytest.raises(BundleError, match=r"policy_step.onnx: input 'image' has shape \[1, 64, 64, 3\]"):
        PolicyRuntime(load_bundle(folder))


def test_incomplete_bundle_is_never_written(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "safereach" / "next"
    with pytest.raises(BundleError, match=r"weights.safetensors not given"):
        write_bundle(target, load_bundle(folder).manifest, {n: folder / n for n in FILES[:-1]})
    assert not target.exists()


def test_failed_write_keeps_the_bundle_that_was_there(folder: Path) -> None:
    files = {n: folder / n for n in FILES}
    files["judge.onnx"] = folder / "absent"
    with pytest.raises(FileNotFoundError):
        write_bundle(folder, load_bundle(folder).manifest, files)
    assert load_bundle(folder).id == "sample"
    assert [p.name for p in folder.parent.iterdir()] == ["sample"]


def test_bundle_can_be_replaced_in_place(folder: Path) -> None:
    again = make_bundle(folder, caution=0.1)
    assert again.manifest.thresholds.caution == 0.1
    assert [p.name for p in folder.parent.iterdir()] == ["sample"]


def test_thresholds_can_be_updated_and_others_stay(folder: Path) -> None:
    bundle = update_manifest(load_bundle(folder), thresholds=Thresholds(caution=0.2, halt=0.4, surprise=3.0))
    assert load_bundle(folder).manifest.thresholds.halt == 0.4
    assert bundle.manifest.files == load_bundle(folder).manifest.files


@pytest.mark.parametrize("name", ["", "/etc", "..", "../x", "safereach/../../x", "."])
def test_bundle_name_from_a_message_stays_inside_the_models_folder(folder: Path, name: str) -> None:
    with pytest.raises(BundleError):
        resolve(folder.parents[1], name)


def test_link_out_of_the_models_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "link").symlink_to(folder)
    with pytest.raises(BundleError, match="outside"):
        resolve(models, "link")


def test_newest_bundle_is_the_one_created_last(folder: Path) -> None:
    root = folder.parents[1]
    make_bundle(root / "safereach" / "a-later-one")
    edit(root / "safereach" / "a-later-one", "provenance", value={"created": "2026-01-02T00:00:00+00:00"})
    assert newest(root).name == "a-later-one"
    with pytest.raises(BundleError, match="holds no bundle"):
        newest(root, task="nothing")
