"""Where a run, a figure or a bundle comes from: the command, the commit and the time."""

from __future__ import annotations

import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def provenance(**more: Any) -> dict[str, Any]:
    """JSON values: command line, commit, creation time (ISO 8601, UTC), and what else is given."""
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **more,
    }


def commit() -> str:
    """The checkout's commit, or an empty text."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
