"""Finding the scripted data collector: whoever provides the entry point group ``fosp.collectors``."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, Final

from fosp_trainer.errors import UserError

GROUP: Final = "fosp.collectors"


def collector(name: str = "safereach") -> Any:
    """The collector ``name``; raises ``UserError`` that lists what is installed."""
    found = {e.name: e for e in entry_points(group=GROUP)}
    if name not in found:
        known = ", ".join(sorted(found)) or "none"
        raise UserError(
            f"no data collector {name!r} is installed (entry point group {GROUP}; installed: {known}). "
            "Build the workspace with fosp_sim, for example by running through ./run"
        )
    try:
        return found[name].load()
    except Exception as error:
        raise UserError(f"the data collector {name!r} does not load: {type(error).__name__}: {error}") from error
