"""Where a run, a figure or a bundle comes from: the command, the commit and the time."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fosp_trainer.errors import UserError


def provenance(**more: Any) -> dict[str, Any]:
    """JSON values: command line, commit, creation time (ISO 8601, UTC), and what else is given."""
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **more,
    }


def write_result(path: Path, result: Mapping[str, Any], allow_nan: bool = True) -> None:
    """Write figures with their provenance as JSON, making the folder where it is missing.

    Raises:
        UserError: the file cannot be written.
        ValueError: a figure is not finite and ``allow_nan`` is off.
    """
    text = json.dumps({**result, "provenance": provenance()}, indent=1, allow_nan=allow_nan)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error


def commit() -> str:
    """The checkout's commit, or an empty text."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
