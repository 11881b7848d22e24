"""Resumable checkpoints: safetensors and JSON, never pickle; a checkpoint appears complete or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fosp_trainer.errors import UserError

WEIGHTS: Final = "agent.safetensors"
OPTIMIZER: Final = "optimizer.safetensors"
STATE: Final = "state.json"
KEPT: Final = 2


class CheckpointError(UserError):
    """A checkpoint that cannot be written or read."""


@dataclass
class Checkpoint:
    """Weights of every module, optimiser tensors, extra tensors, and a JSON state."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any] = field(default_factory=dict)


def save(
    folder: Path, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: Mapping[str, Any]
) -> Path:
    """Write ``folder/<update>`` atomically and drop all but the newest ``KEPT``. ``state['update']`` orders them."""
    target = folder / f"{int(state['update']):09d}"
    staging = folder / f".{target.name}.{os.getpid()}"
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        save_file({k: v.detach().contiguous() for k, v in weights.items()}, staging / WEIGHTS)
        save_file({k: v.detach().contiguous() for k, v in optimizer.items()}, staging / OPTIMIZER)
        with (staging / STATE).open("w", encoding="utf-8") as stream:
            json.dump(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        shutil.rmtree(target, ignore_errors=True)
        os.replace(staging, target)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise CheckpointError(f"cannot write the checkpoint {target}: {error}") from error
    for old in sorted(_complete(folder))[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _complete(folder: Path) -> list[Path]:
    return [p for p in folder.glob("[0-9]*") if (p / STATE).is_file()] if folder.is_dir() else []


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint, if any."""
    return max(_complete(folder), default=None)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; raises ``CheckpointError``."""
    try:
        return Checkpoint(
            load_file(path / WEIGHTS),
            load_file(path / OPTIMIZER),
            json.loads((path / STATE).read_text(encoding="utf-8")),
        )
    except Exception as error:  # safetensors raises its own kinds
        raise CheckpointError(f"cannot read the checkpoint {path}: {type(error).__name__}: {error}") from error


def optimizer_tensors(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Flat tensors of an optimiser's state, named ``name/parameter/key``."""
    return {
        f"{name}/{index}/{key}": value
        for index, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
    }


def restore_optimizer(name: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what ``optimizer_tensors`` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        owner, _, rest = key.partition("/")
        if owner == name:
            index, _, item = rest.partition("/")
            state.setdefault(int(index), {})[item] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    # fused optimisers walk through memory: moments must lie there as their parameters do (channels_last)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            values = optimizer.state[parameter]
            for key, value in values.items():
                if value.shape == parameter.shape:
                    values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def restore_weights(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load weights; a mismatch raises ``CheckpointError`` that names the first differing entry."""
    own = module.state_dict()
    for name in [*(own.keys() - weights.keys()), *(weights.keys() - own.keys())]:
        raise CheckpointError(f"{source}: weights and configuration do not fit: {name} is on one side only")
    for name, value in weights.items():
        if own[name].shape != value.shape:
            raise CheckpointError(
                f"{source}: {name} has shape {tuple(value.shape)}, the configuration makes {tuple(own[name].shape)}"
            )
    module.load_state_dict(dict(weights))
