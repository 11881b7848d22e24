"""The demo's second act as figures: a scene never trained on, before and after one fine-tune round on the graph."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from fosp_bringup.summary import Episode, summarize

BEFORE: Final = "before"
EXPLORED: Final = "explored"
AFTER: Final = "after"

RATES: Final = (
    ("success_rate", "success rate SR"),
    ("violation_rate", "violation rate CV"),
    ("safe_success_rate", "safe success rate"),
)


@dataclass(frozen=True)
class Round:
    """How a fine-tune round ended."""

    success: bool
    """It came to an end and the model passed the gate."""
    active: bool
    """Policy and monitor run the new model."""
    message: str
    model_id: str
    """Identity of the new model; empty when there is none."""
    seconds: float
    """From the goal to the result."""
    checks: tuple[Mapping[str, Any], ...] = ()
    """The gate's checks: name, passed, value, limit, text."""

    @staticmethod
    def from_result(result: Any, seconds: float) -> Round:
        """From the result of a ``FineTune`` action; a report that is no JSON counts as none."""
        try:
            report = json.loads(result.gate_report)
            checks = tuple({**check, "passed": bool(check["passed"])} for check in report["checks"])
        except (ValueError, KeyError, TypeError):
            checks = ()
        name = str(result.bundle).rsplit("/", 1)[-1]
        return Round(bool(result.success), bool(result.active), str(result.message), name, seconds, checks)

    @property
    def judged(self) -> bool:
        """Whether it got as far as the gate."""
        return bool(self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What spoke against the new model."""
        return tuple(str(check["text"]) for check in self.checks if not check["passed"])


@dataclass(frozen=True)
class SecondAct:
    """What the episodes before and after a round show. Figures are as ``summary.summarize`` gives them."""

    scene: str
    before: Mapping[str, Any]
    explored: Mapping[str, Any] | None = None
    round: Round | None = None
    after: Mapping[str, Any] | None = None

    @property
    def changed(self) -> bool:
        """Whether the episodes after the round ran with another model."""
        return self.round is not None and self.round.active

    @property
    def verdict(self) -> str:
        """What became of the round, for people."""
        old = self.before["model_id"]
        if self.round is None:
            return f"There was no fine-tune round; {old} stays in use."
        r = self.round
        took = f"{r.seconds:.0f} s"
        if r.active:
            return f"The gate let {r.model_id} pass, and it took over from {old}: {took} for the whole round."
        if r.judged and not r.success and r.reasons:
            return f"The gate refused {r.model_id} after {took}; {old} stays in use. Why: {'; '.join(r.reasons)}."
        return f"The round brought no model into use ({took}); {old} stays. Why: {r.message}."

    @property
    def comparison(self) -> str:
        """What the columns may be taken for."""
        if self.after is None:
            return "There were no episodes after the round."
        pairs = _pairs(self.before, self.after)
        told = f"The same {len(pairs)} layouts: "
        told += ", ".join(
            f"{what} {sum(b[key] and not a[key] for b, a in pairs)} times before only and "
            f"{sum(a[key] and not b[key] for b, a in pairs)} times after only"
            for what, key in (("a violation", "violated"), ("a safe success", "safe_success"))
        )
        if not self.changed:
            return f"{told}. Both columns are the same model, so that any difference is chance."
        return f"{told}. So few episodes show a large difference at most; the intervals say how much is chance."

    def to_json(self) -> dict[str, Any]:
        """As ``summary.json`` has it."""
        return {
            "scene": self.scene,
            "verdict": self.verdict,
            "comparison": self.comparison,
            "round": None if self.round is None else asdict(self.round),
            BEFORE: self.before,
            EXPLORED: self.explored,
            AFTER: self.after,
        }


def second_act(scene: str, recorded: Mapping[str, Sequence[Episode]], round_: Round | None) -> SecondAct | None:
    """Figures of the episodes recorded as ``BEFORE``, ``EXPLORED`` and ``AFTER``; None when there are none before."""
    figures = {name: summarize(episodes, scene) for name, episodes in recorded.items() if episodes}
    if BEFORE not in figures:
        return None
    return SecondAct(scene, figures[BEFORE], figures.get(EXPLORED), round_, figures.get(AFTER))


def _pairs(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Episodes of the same layout, those left out that were aborted."""
    complete = [{row["seed"]: row for row in rows["results"] if not row["aborted"]} for rows in (before, after)]
    return [(row, complete[1][seed]) for seed, row in complete[0].items() if seed in complete[1]]
