"""Recorded episodes as figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fosp_core.statistics import summarize_latency, wilson_interval
from fosp_episodes import storage
from fosp_episodes.recorder import Summary


def outcome(summary: Any) -> str:
    """The label that matters most, of a ``Summary`` or an ``EpisodeSummary`` message."""
    if summary.aborted:
        return "aborted"
    if summary.violated:
        return "violation"
    if summary.halted:
        return "halted"
    return "safe success" if summary.success else "not reached"


@dataclass(frozen=True)
class Episode:
    """A recorded episode: its summary, its per-step table and thresholds."""

    summary: Summary
    steps: Sequence[Mapping[str, Any]]
    thresholds: Mapping[str, float | None]
    folder: Path

    @property
    def outcome(self) -> str:
        """See ``outcome``."""
        return outcome(self.summary)


def load_episodes(folder: Path) -> list[Episode]:
    """Every complete episode below a folder, in the order of its path; raises ``storage.StorageError``."""
    episodes = []
    for path in sorted(p.parent for p in folder.rglob(storage.EPISODE_FILE)):
        content = storage.read_episode(path)
        episodes.append(Episode(storage.read_summary(path), content["steps"], content["thresholds"], path))
    return episodes


def summarize(episodes: Sequence[Episode], scene: str) -> dict[str, Any]:
    """Figures of a run, as ``summary.json`` has them.

    Rates are over the episodes that were not aborted; they are None when there is none. Latencies are camera stamp to
    command, milliseconds.
    """
    counted = [e.summary for e in episodes if not e.summary.aborted]
    latency = summarize_latency([value for e in episodes for value in e.summary.latency_ms])
    halts = [s for s in counted if s.halted]
    figures: dict[str, Any] = {"episodes": len(counted)}
    for name, hits in (
        ("success_rate", sum(s.success for s in counted)),
        ("violation_rate", sum(s.violated for s in counted)),
        ("safe_success_rate", sum(s.safe_success for s in counted)),
    ):
        figures[name] = hits / len(counted) if counted else None
        figures[f"{name}_interval"] = list(wilson_interval(hits, len(counted)))
    figures |= {
        "halts": len(halts),
        "halt_reasons": dict(Counter(reason for s in halts for reason in s.halt_reasons)),
        "latency_ms": latency,
        "model_id": next((s.model_id for s in counted if s.model_id), ""),
        "scene": scene,
        "aborted": len(episodes) - len(counted),
        "interventions": sum(s.interventions for s in counted),
        "results": [
            {k: v for k, v in asdict(e.summary).items() if k not in ("latency_ms", "path")} | {"outcome": e.outcome}
            for e in episodes
        ],
    }
    return figures
