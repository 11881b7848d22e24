"""Model bundles: a folder with a manifest, two ONNX graphs and weights, checked before anything is loaded.

Nothing in a bundle is executable: JSON, ONNX and safetensors only. A bundle that is wrong in any way is refused with a
message that names the file and what is wrong.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from fosp_core import task as _task

SCHEMA_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
GRAPHS: Final = ("policy_step.onnx", "judge.onnx")
WEIGHTS: Final = "weights.safetensors"
FILES: Final = (*GRAPHS, WEIGHTS)


class BundleError(Exception):
    """A bundle that must not be loaded; the message names the file and the fault."""


@dataclass(frozen=True)
class Thresholds:
    """What the safety monitor compares with; written by calibration.

    caution and halt are violation probabilities in (0, 1], caution <= halt; surprises are in nats, > 0.
    """

    caution: float
    halt: float
    surprise: float
    """Bound on single frames."""
    surprise_average: float | None = None
    """Bound on the running average (``fosp_core.safety.average_surprise``); None: it is not judged."""
    confidence: float = 0.0
    """Confidence of the calibration's bound on missed violations, in [0, 1); 0 when no bound is claimed."""
    method: str = "quantile"
    data_hash: str = ""
    missed_rate: float = 1.0
    """The bound that ``confidence`` belongs to: largest rate of missed violations, in (0, 1]; 1 without a claim."""
    model_hash: str = ""
    """``graphs_hash`` of the model that was calibrated."""

    def __post_init__(self) -> None:
        for name in ("caution", "halt"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0.0 < value <= 1.0):
                raise ValueError(f"thresholds.{name} must be in (0, 1], got {value}")
        if self.caution > self.halt:
            raise ValueError(f"thresholds.caution ({self.caution}) must not exceed thresholds.halt ({self.halt})")
        bounds = {"surprise": self.surprise}
        if self.surprise_average is not None:
            bounds["surprise_average"] = self.surprise_average
        for name, value in bounds.items():
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"thresholds.{name} must be finite and > 0, got {value}")
        if not 0.0 <= self.confidence < 1.0:
            raise ValueError(f"thresholds.confidence must be in [0, 1), got {self.confidence}")
        if not 0.0 < self.missed_rate <= 1.0:
            raise ValueError(f"thresholds.missed_rate must be in (0, 1], got {self.missed_rate}")


@dataclass(frozen=True)
class SelectorSettings:
    """Softmax of the policy expansion: kappa >= 0, temperature > 0, optional limit on Q_c."""

    kappa: float = 1.0
    temperature: float = 1.0
    cost_limit: float | None = None
    mode: str = "greedy"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.kappa) and self.kappa >= 0.0):
            raise ValueError(f"selector.kappa must be >= 0, got {self.kappa}")
        if not (math.isfinite(self.temperature) and self.temperature > 0.0):
            raise ValueError(f"selector.temperature must be > 0, got {self.temperature}")
        if self.mode not in ("greedy", "sample", "offline", "online"):
            raise ValueError(f"selector.mode must be greedy, sample, offline or online, got {self.mode!r}")


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself. Sizes are elements; units are metres, seconds and nats."""

    id: str
    deter_size: int
    stoch_size: int
    lookahead_steps: int
    thresholds: Thresholds
    selector: SelectorSettings = SelectorSettings()
    task: str = _task.TASK
    image_size: int = _task.IMAGE_SIZE
    proprio_length: int = _task.PROPRIO_LENGTH
    action_length: int = _task.ACTION_LENGTH
    action_scale_m: float = _task.ACTION_SCALE_M
    control_hz: float = _task.CONTROL_HZ
    files: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if not self.id or not all(c.isalnum() or c in "-_." for c in self.id) or self.id.startswith("."):
            raise ValueError(f"id must be letters, digits, '-', '_' or '.', got {self.id!r}")
        for name in ("deter_size", "stoch_size", "image_size", "proprio_length", "action_length"):
            value = getattr(self, name)
            if not isinstance(value, int) or value <= 0:
                raise ValueError(f"{name} must be a positive whole number, got {value!r}")
        if not isinstance(self.lookahead_steps, int) or self.lookahead_steps < 0:
            raise ValueError(f"lookahead_steps must be a whole number >= 0, got {self.lookahead_steps!r}")

    def to_json(self) -> dict[str, Any]:
        """The manifest as it stands in the file."""
        return {
            "schema_version": self.schema_version,
            "id": self.id,
            "task": self.task,
            "observation": {
                "image": {"size": self.image_size, "channels": 3, "dtype": "uint8", "colour": "rgb"},
                "proprio": {"length": self.proprio_length, "unit": "m", "meaning": f"{_task.TOOL_FRAME} position"},
            },
            "action": {
                "length": self.action_length,
                "scale_m": self.action_scale_m,
                "hz": self.control_hz,
                "unit": "tool displacement per control period, in units of scale_m, in [-1, 1]",
            },
            "state": {"deter": self.deter_size, "stoch": self.stoch_size},
            "lookahead_steps": self.lookahead_steps,
            "selector": asdict(self.selector),
            "thresholds": asdict(self.thresholds),
            "files": dict(self.files),
            "provenance": dict(self.provenance),
            "evaluation": dict(self.evaluation),
        }

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> Manifest:
        """Parse and validate; raises ``ValueError`` that names the field."""
        try:
            version = raw["schema_version"]
            if version != SCHEMA_VERSION:
                raise ValueError(f"schema_version is {version!r}, this software reads {SCHEMA_VERSION}")
            return Manifest(
                schema_version=version,
                id=raw["id"],
                task=raw["task"],
                image_size=raw["observation"]["image"]["size"],
                proprio_length=raw["observation"]["proprio"]["length"],
                action_length=raw["action"]["length"],
                action_scale_m=float(raw["action"]["scale_m"]),
                control_hz=float(raw["action"]["hz"]),
                deter_size=raw["state"]["deter"],
                stoch_size=raw["state"]["stoch"],
                lookahead_steps=raw["lookahead_steps"],
                selector=SelectorSettings(**raw["selector"]),
                thresholds=Thresholds(**raw["thresholds"]),
                files=dict(raw["files"]),
                provenance=dict(raw.get("provenance", {})),
                evaluation=dict(raw.get("evaluation", {})),
            )
        except KeyError as error:
            raise ValueError(f"field {error.args[0]!r} is missing") from error
        except (TypeError, AttributeError) as error:
            raise ValueError(f"a field has the wrong type: {error}") from error


@dataclass(frozen=True)
class Bundle:
    """A checked bundle: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        """Identity of the model, as decisions and episodes carry it."""
        return self.manifest.id

    @property
    def weights(self) -> Path:
        """File with the trainer's weights."""
        return self.path / WEIGHTS

    @property
    def graphs_hash(self) -> str:
        """SHA-256 over the hashes of the graphs, hexadecimal: the identity of what acts and judges."""
        return hashlib.sha256("".join(self.manifest.files[name] for name in GRAPHS).encode()).hexdigest()

    @property
    def calibration_fault(self) -> str:
        """Why the thresholds carry no bound for this model; empty when they do."""
        thresholds = self.manifest.thresholds
        if thresholds.method != "conformal" or thresholds.confidence == 0.0:
            return (
                f"its thresholds are not calibrated (method {thresholds.method!r}, confidence {thresholds.confidence})"
            )
        if thresholds.model_hash != self.graphs_hash:
            return "its thresholds were calibrated for another model"
        if thresholds.surprise_average is None:
            return "its thresholds bound no average of the surprise"
        return ""


def load_bundle(path: Path | str, task: str = _task.TASK) -> Bundle:
    """Read and check a bundle: manifest, files, hashes, task, observation and action specification.

    Raises:
        BundleError: names the file and what is wrong with it; nothing is loaded then.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such bundle folder")
    file = folder / MANIFEST
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{file}: missing") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BundleError(f"{file}: unreadable: {error}") from error
    if not isinstance(raw, dict):
        raise BundleError(f"{file}: expected a JSON object, got {type(raw).__name__}")
    try:
        manifest = Manifest.from_json(raw)
    except ValueError as error:
        raise BundleError(f"{file}: {error}") from error
    _check_specification(file, manifest, task)
    for name in FILES:
        expected = manifest.files.get(name)
        if expected is None:
            raise BundleError(f"{file}: names no hash for {name}")
        target = folder / name
        if not target.is_file():
            raise BundleError(f"{target}: missing")
        found = file_hash(target)
        if found != expected:
            raise BundleError(
                f"{target}: hash {found[:12]}... differs from the manifest's {str(expected)[:12]}...; "
                "the file is damaged or was changed"
            )
    return Bundle(folder, manifest)


def _check_specification(file: Path, manifest: Manifest, task: str) -> None:
    if manifest.task != task:
        raise BundleError(f"{file}: the bundle is for task {manifest.task!r}, this graph runs {task!r}")
    expected = {
        "observation.proprio.length": (manifest.proprio_length, _task.PROPRIO_LENGTH),
        "action.length": (manifest.action_length, _task.ACTION_LENGTH),
        "action.scale_m": (manifest.action_scale_m, _task.ACTION_SCALE_M),
        "action.hz": (manifest.control_hz, _task.CONTROL_HZ),
    }
    for name, (found, needed) in expected.items():
        if found != needed:
            raise BundleError(f"{file}: {name} is {found}, this task needs {needed}")


def write_bundle(folder: Path | str, manifest: Manifest, files: Mapping[str, Path]) -> Bundle:
    """Write a bundle in one step: it appears complete under ``folder`` or not at all.

    Args:
        folder: where the bundle will stand; replaced when it exists.
        manifest: its ``files`` are filled in here.
        files: source path of each of ``FILES``.

    Raises:
        BundleError: a file of the bundle is not given or the result does not load.
    """
    target = Path(folder)
    missing = [name for name in FILES if name not in files]
    if missing:
        raise BundleError(f"{target}: {', '.join(missing)} not given")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for name in FILES:
            shutil.copyfile(files[name], staging / name)
        hashes = {name: file_hash(staging / name) for name in FILES}
        _write_json(staging / MANIFEST, {**manifest.to_json(), "files": hashes})
        staging.chmod(0o755)
        load_bundle(staging, task=manifest.task)
        if target.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
            os.replace(target, retired / "bundle")
            os.replace(staging, target)
            shutil.rmtree(retired)
        else:
            os.replace(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return load_bundle(target, task=manifest.task)


def update_manifest(bundle: Bundle, **sections: Any) -> Bundle:
    """Replace ``thresholds``, ``evaluation``, ``selector`` or ``provenance`` of a bundle's manifest, atomically."""
    unknown = set(sections) - {"thresholds", "evaluation", "selector", "provenance"}
    if unknown:
        raise ValueError(f"cannot update {', '.join(sorted(unknown))}")
    raw = bundle.manifest.to_json()
    for name, value in sections.items():
        raw[name] = asdict(value) if hasattr(value, "__dataclass_fields__") else dict(value)
    Manifest.from_json(raw)
    _write_json(bundle.path / MANIFEST, raw)
    return load_bundle(bundle.path, task=bundle.manifest.task)


def resolve(models_root: Path | str, relative: str) -> Path:
    """Path of a bundle named in a message; it stays inside the models folder.

    Raises:
        BundleError: an empty or absolute name, or one that leaves the folder (also through links).
    """
    root = Path(models_root).resolve()
    if not relative or Path(relative).is_absolute():
        raise BundleError(f"bundle {relative!r} must be a path relative to {root}")
    target = (root / relative).resolve()
    if target == root or not target.is_relative_to(root):
        raise BundleError(f"bundle {relative!r} is outside of the models folder {root}")
    return target


def newest(models_root: Path | str, task: str = _task.TASK) -> Path:
    """The bundle of a task that was written last.

    Raises:
        BundleError: there is none.
    """
    folder = Path(models_root) / task
    found = sorted(
        (m.parent for m in folder.glob(f"*/{MANIFEST}") if not m.parent.name.startswith(".")),
        key=lambda p: (created(p), p.name),
    )
    if not found:
        raise BundleError(f"{folder}: holds no bundle; train one with fosp-train or restore the released one")
    return found[-1]


def created(folder: Path) -> str:
    """When a bundle was made, as its manifest says (ISO 8601, UTC); empty where it says nothing."""
    try:
        raw = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return str(raw["provenance"].get("created", ""))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return ""


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=2, allow_nan=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
