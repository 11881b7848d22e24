"""Thresholds with a bound, from traces of held-out episodes: split conformal prediction and the price of its result.

A violating episode is missed when no decision at least ``lead_steps`` before its first violation had a risk at or above
the threshold. Let a violating episode's score be its largest risk up to then; the threshold is an order statistic of
the scores (Vovk 2012, conditional validity of split conformal prediction: with probability ``confidence`` over the
calibration episodes, at most the stated share of new violating episodes is missed). It holds for episodes that are
exchangeable with those calibrated on: same scene, same policies, same camera. Nothing is assumed of the model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from fosp_core.bundle import Thresholds
from fosp_core.safety import average_surprise
from fosp_core.statistics import auroc, wilson_interval
from fosp_core.task import CONTROL_PERIOD_S

Array = NDArray[np.float64]

HORIZON_STEPS: Final = 10
"""A step counts as dangerous when a violation follows within so many steps."""
LARGEST_CLAIM: Final = 0.5
"""A bound above this promises nothing that is worth the name; no confidence is claimed then."""
LEAST_THRESHOLD: Final = 0.01
SECONDS_PER_HOUR: Final = 3600.0


@dataclass(frozen=True)
class Trace:
    """What the monitor would have compared in one episode that ran without it; a row per decision."""

    risk: Array  # (T,) largest of p(s, a) of the executed action and its imagined future, in [0, 1]
    least_risk: Array  # (T,) smallest such risk among the executed action and the monitor's ways out
    surprise: Array  # (T,) nats; the first is meaningless
    cost: Array  # (T,) received on arriving at the next frame
    group: str = "own"
    """Which variant of the policy acted; ``own`` is the bundle's own selection without noise."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not len(self.risk) == len(self.least_risk) == len(self.surprise) == len(self.cost) > 0:
            raise ValueError("a trace needs as many risks, surprises and costs, and at least one")

    @property
    def steps_to_violation(self) -> int | None:
        """Decisions before the first violating frame: the decision t has a lead of this minus t steps."""
        hits = np.flatnonzero(self.cost > 0)
        return int(hits[0]) + 1 if len(hits) else None

    @staticmethod
    def from_record(record: Mapping[str, Any], group: str) -> Trace:
        """From a record of ``evaluation.run_episode`` with a trace."""
        arrays = {name: np.asarray(values, np.float64) for name, values in record["trace"].items()}
        return Trace(**arrays, group=group, seed=int(record["seed"]))


@dataclass(frozen=True)
class Settings:
    """What is asked of the thresholds."""

    missed: float = 0.05
    """Largest rate of missed violations, of the halt and of the caution threshold each."""
    confidence: float = 0.95
    """Confidence of every bound."""
    lead_steps: int = 2
    """Control steps before a violation by which the halt must have come."""
    caution_lead_steps: int = 5
    """The same for caution."""
    false_halts_per_hour: float = 6.0
    """Most halts on clean episodes of the bundle's own policy that the bound may cost."""
    caution_share: float = 0.05
    """Largest share of clean steps in caution that the bound may cost; a way out of no danger may lead into one."""
    false_surprise: float = 0.005
    """Largest rate of clean episodes that are taken for out of distribution, by single frames and by their average
    each.
    """

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = getattr(self, spec.name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{spec.name} must be finite and > 0, got {value}")
            if spec.name in ("missed", "confidence", "caution_share", "false_surprise") and value >= 1:
                raise ValueError(f"{spec.name} must be below 1, got {value}")
        if self.caution_lead_steps < self.lead_steps:
            raise ValueError("caution_lead_steps must not be below lead_steps: caution comes before the halt")


# -- bounds


def lower_quantile(scores: Array, rate: float, confidence: float) -> float | None:
    """The largest score q with P(new score < q) <= ``rate``, with ``confidence`` over the given (n,) scores.

    The r-th smallest of n exchangeable scores has at most a Beta(r, n + 1 - r) distributed share of new ones strictly
    below it. None when n is too small for any r: the least n is ln(1 - confidence) / ln(1 - rate).
    """
    n = len(scores)
    # number of ranks whose binomial tail is within 1 - confidence: P(Bin(n, rate) <= r - 1) <= 1 - confidence
    ranks = int(np.searchsorted(special.bdtr(np.arange(n), n, rate), 1.0 - confidence, side="right"))
    return None if ranks == 0 else float(np.sort(scores)[ranks - 1])


def upper_quantile(scores: Array, rate: float, confidence: float) -> float | None:
    """The smallest score q with P(new score > q) <= ``rate``, with ``confidence``; None when n is too small."""
    mirrored = lower_quantile(-np.asarray(scores), rate, confidence)
    return None if mirrored is None else -mirrored


def rate_bound(events: int, trials: int, confidence: float) -> float:
    """Upper bound on a rate after ``events`` of ``trials`` (Clopper and Pearson 1934, one-sided); 1 without trials."""
    if not 0 <= events <= trials:
        raise ValueError(f"{events} events of {trials} trials is no rate")
    return 1.0 if events == trials else float(special.betaincinv(events + 1, trials - events, confidence))


def poisson_bound(events: int, exposure: float, confidence: float) -> float:
    """Upper bound on events per unit of exposure (Garwood 1936, one-sided); infinite without exposure."""
    return float(special.gammaincinv(events + 1, confidence)) / exposure if exposure > 0 else math.inf


# -- scores and curves


def early_peak(trace: Trace, lead_steps: int, *, least: bool = False) -> float:
    """Largest risk among decisions at least ``lead_steps`` before the first violation; -inf when there is none.

    ``least`` asks for the risk of the least risky action, which is what a halt, rather than a veto, needs.

    Raises:
        ValueError: the episode does not violate.
    """
    ahead = trace.steps_to_violation
    if ahead is None:
        raise ValueError("the episode does not violate")
    row = trace.least_risk if least else trace.risk
    return float(row[: max(0, ahead - lead_steps + 1)].max(initial=-math.inf))


def sustained(surprise: Array, frames: int) -> float:
    """The largest bound that ``frames`` consecutive frames all exceed or equal; 0 when the episode is too short.

    The first frame is left out: an episode begins without a past to be surprised by.
    """
    row = surprise[1:]
    if len(row) < frames:
        return 0.0
    return float(np.lib.stride_tricks.sliding_window_view(row, frames).min(axis=1).max())


def averages(surprise: Array) -> Array:
    """The monitor's running average (T,) of the surprise after each frame; 0 on the first."""
    rows = np.zeros(len(surprise))
    for t in range(1, len(surprise)):
        rows[t] = average_surprise(rows[t - 1], surprise[t])
    return rows


def first_alarm(row: Array, threshold: float) -> int | None:
    """The first decision whose value reaches the threshold."""
    hits = np.flatnonzero(row >= threshold)
    return int(hits[0]) if len(hits) else None


def burst_alarm(surprise: Array, bound: float, frames: int) -> int | None:
    """The frame, counted from the episode's first, at which ``frames`` consecutive ones lie above the bound."""
    above = surprise > bound
    above[0] = False
    run = 0
    for index, value in enumerate(above):
        run = run + 1 if value else 0
        if run >= frames:
            return index
    return None


def average_alarm(surprise: Array, bound: float | None) -> int | None:
    """The frame, counted from the episode's first, at which the average lies above the bound; None without one."""
    return None if bound is None else first_alarm(averages(surprise), float(np.nextafter(bound, np.inf)))


def surprise_alarm(surprise: Array, thresholds: Thresholds, frames: int) -> int | None:
    """The frame, counted from the episode's first, at which the monitor halts for surprise."""
    return _earlier(
        burst_alarm(surprise, thresholds.surprise, frames), average_alarm(surprise, thresholds.surprise_average)
    )


def _earlier(*frames: int | None) -> int | None:
    return min((frame for frame in frames if frame is not None), default=None)


def alarms_per_hour(clean: Sequence[Array], threshold: float) -> tuple[int, float]:
    """Alarms (at most one an episode) and hours until then, over clean episodes' rows."""
    events, steps = 0, 0
    for row in clean:
        at = first_alarm(row, threshold)
        events += at is not None
        steps += len(row) if at is None else at + 1
    return events, steps * CONTROL_PERIOD_S / SECONDS_PER_HOUR


def affordable_threshold(clean: Sequence[Array], per_hour: float) -> float:
    """The smallest threshold whose alarms on clean episodes stay within ``per_hour``, at most 1.

    The rate falls with the threshold, because alarms get fewer and the time without alarm longer. At 1 it may still be
    above ``per_hour``; without clean episodes the answer is 1.
    """
    if not clean:
        return 1.0
    # rising records, not only peaks: a later alarm also leaves more time without one
    records = np.unique(np.concatenate([np.maximum.accumulate(row) for row in clean]))
    options = [LEAST_THRESHOLD, *(float(np.nextafter(r, 2.0)) for r in records if LEAST_THRESHOLD <= r < 1.0), 1.0]
    low, high = 0, len(options) - 1
    while low < high:
        middle = (low + high) // 2
        events, hours = alarms_per_hour(clean, options[middle])
        low, high = (low, middle) if events <= per_hour * hours else (middle + 1, high)
    return options[low]


def affordable_caution(risks: Array, share: float) -> float:
    """The smallest threshold that at most ``share`` of the (N,) risks reach, at most 1; 1 without risks."""
    if len(risks) == 0:
        return 1.0
    ordered = np.sort(risks)[::-1]
    allowed = int(share * len(ordered))
    return float(np.clip(np.nextafter(ordered[allowed], 2.0), LEAST_THRESHOLD, 1.0))


def dangerous(trace: Trace, horizon: int = HORIZON_STEPS) -> tuple[Array, NDArray[np.bool_]]:
    """Risks up to the first violation, and whether it follows within ``horizon`` steps."""
    ahead = trace.steps_to_violation
    end = len(trace.risk) if ahead is None else ahead
    leads = np.full(end, np.iinfo(np.int64).max) if ahead is None else ahead - np.arange(end)
    return trace.risk[:end], leads <= horizon


def reliability(scores: Array, positive: NDArray[np.bool_], bins: int = 10) -> dict[str, Any]:
    """Predicted against observed frequency in equal bins of [0, 1], with Wilson 95 % intervals.

    ``error`` is the expected calibration error: the mean distance of the two, weighted by count.
    """
    rows: list[dict[str, Any]] = []
    index = np.minimum((np.asarray(scores) * bins).astype(np.int64), bins - 1)
    for b in range(bins):
        chosen = index == b
        count, hits = int(chosen.sum()), int(positive[chosen].sum())
        if count:
            rows.append({
                "low": b / bins, "high": (b + 1) / bins, "count": count, "predicted": float(scores[chosen].mean()),
                "observed": hits / count, "interval": list(wilson_interval(hits, count)),
            })  # fmt: skip
    total = sum(r["count"] for r in rows)
    error = sum(r["count"] * abs(r["predicted"] - r["observed"]) for r in rows) / total if total else None
    return {"bins": rows, "error": error}


def recall(violating: Sequence[Trace], threshold: float, lead_steps: int, *, least: bool = False) -> float | None:
    """Share of violating episodes with an alarm at least ``lead_steps`` before the violation; None without any."""
    if not violating:
        return None
    return float(np.mean([early_peak(t, lead_steps, least=least) >= threshold for t in violating]))


def leads(violating: Sequence[Trace], threshold: float) -> list[int]:
    """Steps from the first alarm to the violation, for the episodes whose alarm came before it."""
    found = []
    for trace in violating:
        ahead = trace.steps_to_violation
        assert ahead is not None
        at = first_alarm(trace.risk[:ahead], threshold)
        if at is not None:
            found.append(ahead - at)
    return found


# -- the calibration


@dataclass(frozen=True)
class Choice:
    """A threshold and what can be said of it."""

    threshold: float
    missed_rate: float
    """Bound on the rate of missed violations, at ``confidence``; 1 when there is none."""
    confidence: float
    """0 when nothing is claimed."""
    reached: bool
    """Whether the bound that was asked for holds."""
    reason: str
    """Why not; empty when reached."""


def choose(scores: Array, settings: Settings, affordable: float) -> Choice:
    """The threshold that keeps the asked bound, where it can be afforded; the affordable one and its bound elsewhere.

    Both branches together keep the confidence: the second is taken only when the affordable threshold's own bound
    exceeds the asked one, and that threshold does not depend on the violating episodes.

    Args:
        scores: (n,) ``early_peak`` of the violating episodes.
        settings: bound and confidence.
        affordable: smallest threshold within the price, from clean episodes alone, in (0, 1].
    """
    n = len(scores)
    wanted = lower_quantile(scores, settings.missed, settings.confidence)
    if wanted is not None and affordable <= wanted <= 1.0:
        return Choice(wanted, settings.missed, settings.confidence, True, "")
    misses = int(np.sum(scores < affordable))
    bound = rate_bound(misses, n, settings.confidence)
    if wanted is None:
        needed = math.ceil(math.log(1.0 - settings.confidence) / math.log(1.0 - settings.missed))
        reason = f"{n} violating episodes are too few, at least {needed} are needed"
    else:
        reason = (
            f"it would need a threshold of {max(wanted, 0.0):.3f}, the price allows no less than {affordable:.3f}"
            if math.isfinite(wanted)
            else "too many violations come before any decision could have been early enough"
        )
    if bound > LARGEST_CLAIM:
        return Choice(affordable, 1.0, 0.0, False, reason)
    return Choice(affordable, bound, settings.confidence, False, reason)


@dataclass(frozen=True)
class Calibration:
    """Thresholds, and figures as JSON values."""

    thresholds: Thresholds
    figures: dict[str, Any]


def data_hash(traces: Sequence[Trace]) -> str:
    """SHA-256 of the traces in the order of group and seed, hexadecimal."""
    digest = hashlib.sha256()
    for trace in sorted(traces, key=lambda t: (t.group, t.seed)):
        digest.update(f"{trace.group} {trace.seed} {len(trace.risk)};".encode())
        for row in (trace.risk, trace.least_risk, trace.surprise, trace.cost):
            digest.update(np.ascontiguousarray(row, np.float64).tobytes())
    return digest.hexdigest()


def calibrate(traces: Sequence[Trace], settings: Settings, surprise_frames: int, model_hash: str = "") -> Calibration:
    """Thresholds and figures from held-out episodes that ran without the monitor.

    Args:
        traces: of the bundle's own policy (group ``own``) and of variants that violate more often.
        settings: what is asked.
        surprise_frames: consecutive frames above the bound that the monitor halts on, >= 1.
        model_hash: of the graphs that acted.

    Raises:
        ValueError: no clean episode of the bundle's own policy: neither price nor surprise can be told.
    """
    violating = [t for t in traces if t.steps_to_violation is not None]
    clean = [t for t in traces if t.steps_to_violation is None and t.group == "own"]
    if not clean:
        raise ValueError("no episode of the bundle's own policy went without violation; there is nothing to calibrate")
    confidence = settings.confidence

    halts = [t.least_risk for t in clean]
    affordable = affordable_threshold(halts, settings.false_halts_per_hour)
    peaks = np.array([early_peak(t, settings.lead_steps) for t in violating])
    halt = choose(peaks, settings, affordable)
    clean_risks = np.concatenate([t.risk for t in clean])
    caution_scores = np.array([early_peak(t, settings.caution_lead_steps) for t in violating])
    caution = choose(caution_scores, settings, affordable_caution(clean_risks, settings.caution_share))
    if caution.threshold > halt.threshold:  # a lower one misses no more: its bound holds for it too
        caution = Choice(halt.threshold, caution.missed_rate, caution.confidence, caution.reached, caution.reason)

    bound, false_bursts = _surprise_bound([sustained(t.surprise, surprise_frames) for t in clean], settings)
    average, false_averages = _surprise_bound([float(averages(t.surprise).max()) for t in clean], settings)

    thresholds = Thresholds(
        caution=caution.threshold, halt=halt.threshold, surprise=bound, surprise_average=average,
        confidence=halt.confidence, method="conformal", data_hash=data_hash(traces), missed_rate=halt.missed_rate,
        model_hash=model_hash,
    )  # fmt: skip
    groups = sorted({t.group for t in traces})
    figures: dict[str, Any] = {
        "settings": asdict(settings),
        "control_period_s": CONTROL_PERIOD_S,
        "episodes": {
            g: {
                "count": sum(t.group == g for t in traces),
                "violating": sum(t.group == g for t in violating),
                "hours": sum(len(t.risk) for t in traces if t.group == g) * CONTROL_PERIOD_S / SECONDS_PER_HOUR,
            }
            for g in groups
        },
        "halt": {
            **asdict(halt),
            **_detection(violating, halt.threshold, settings.lead_steps, groups, confidence),
            "false_halts": _price(halts, halt.threshold, confidence),
            "false_vetoes": _price([t.risk for t in clean], halt.threshold, confidence),
        },
        "caution": {
            **asdict(caution),
            **_detection(violating, caution.threshold, settings.caution_lead_steps, groups, confidence),
            "share_of_clean_steps": float(np.mean(clean_risks >= caution.threshold)),
        },
        "surprise": {
            "threshold": bound,
            "frames": surprise_frames,
            "false_alarm_rate": false_bursts,
            "average_threshold": average,
            "average_false_alarm_rate": false_averages,
            "confidence": confidence,
            "reached": max(false_bursts, false_averages) <= settings.false_surprise,
            "clean_episodes": len(clean),
            "false_halts": _surprise_price(clean, thresholds, surprise_frames, confidence),
        },
        "at_the_price": {
            "threshold": affordable,
            "recall": recall(violating, affordable, settings.lead_steps),
            "recall_before_violation": recall(violating, affordable, 1),
            "recall_own": recall([t for t in violating if t.group == "own"], affordable, settings.lead_steps),
            **_lead_figures(leads(violating, affordable)),
        },
        "auroc": {g: _auroc([t for t in traces if t.group == g]) for g in groups} | {"all": _auroc(traces)},
        "horizon_steps": HORIZON_STEPS,
        "reliability": reliability(*_labelled([t for t in traces if t.group == "own"])),
        "curves": _curves(violating, clean, settings),
        "lead": {
            "steps": list(range(1, 21)),
            "recall_halt": [recall(violating, halt.threshold, k) for k in range(1, 21)],
            "recall_caution": [recall(violating, caution.threshold, k) for k in range(1, 21)],
            "halt_steps": leads(violating, halt.threshold),
            "caution_steps": leads(violating, caution.threshold),
        },
    }  # fmt: skip
    return Calibration(thresholds, figures)


def check(traces: Sequence[Trace], thresholds: Thresholds, settings: Settings, surprise_frames: int) -> dict[str, Any]:
    """Misses and price of given thresholds on other episodes; JSON values."""
    violating = [t for t in traces if t.steps_to_violation is not None]
    clean = [t for t in traces if t.steps_to_violation is None and t.group == "own"]
    groups = sorted({t.group for t in traces})
    confidence = settings.confidence
    return {
        "episodes": len(traces),
        "halt": {
            **_detection(violating, thresholds.halt, settings.lead_steps, groups, confidence),
            "false_halts": _price([t.least_risk for t in clean], thresholds.halt, confidence),
        },
        "caution": _detection(violating, thresholds.caution, settings.caution_lead_steps, groups, confidence),
        "surprise": {
            "false_halts": _surprise_price(clean, thresholds, surprise_frames, confidence),
            "clean_episodes": len(clean),
        },
        "auroc": _auroc(traces),
    }


def _surprise_bound(scores: Sequence[float], settings: Settings) -> tuple[float, float]:
    """A bound on clean episodes' (n,) scores, and the largest share of new ones that exceed it: as asked, or what the
    largest of too few scores supports.
    """
    row = np.array(scores)
    bound, rate = upper_quantile(row, settings.false_surprise, settings.confidence), settings.false_surprise
    if bound is None:
        bound, rate = float(row.max()), 1.0 - (1.0 - settings.confidence) ** (1.0 / len(row))
    return max(bound, 1e-6), rate


def _labelled(traces: Sequence[Trace]) -> tuple[Array, NDArray[np.bool_]]:
    pairs = [dangerous(t) for t in traces]
    if not pairs:
        return np.zeros(0), np.zeros(0, np.bool_)
    return np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs])


def _auroc(traces: Sequence[Trace]) -> float | None:
    return auroc(*_labelled(traces))


def _lead_figures(steps: Sequence[int]) -> dict[str, float | None]:
    return {"median_lead_s": float(np.median(steps)) * CONTROL_PERIOD_S if steps else None}


def _detection(
    violating: Sequence[Trace], threshold: float, lead_steps: int, groups: Sequence[str], confidence: float
) -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = {}
    for group in (*groups, "all"):
        chosen = [t for t in violating if group in (t.group, "all")]
        misses = sum(early_peak(t, lead_steps) < threshold for t in chosen)
        rows[group] = {
            "violating": len(chosen), "missed": misses, "missed_rate_bound": rate_bound(misses, len(chosen), confidence)
        }  # fmt: skip
    return {
        "lead_steps": lead_steps,
        "missed": rows,
        "recall": recall(violating, threshold, lead_steps),
        "recall_by_halts": recall(violating, threshold, lead_steps, least=True),
        **_lead_figures(leads(violating, threshold)),
    }


def _price(clean: Sequence[Array], threshold: float, confidence: float) -> dict[str, Any]:
    return _rate(*alarms_per_hour(clean, threshold), confidence)


def _surprise_price(clean: Sequence[Trace], thresholds: Thresholds, frames: int, confidence: float) -> dict[str, Any]:
    alarms = [surprise_alarm(t.surprise, thresholds, frames) for t in clean]
    steps = sum(len(t.surprise) if a is None else a + 1 for t, a in zip(clean, alarms, strict=True))
    events = sum(a is not None for a in alarms)
    return _rate(events, steps * CONTROL_PERIOD_S / SECONDS_PER_HOUR, confidence)


def _rate(events: int, hours: float, confidence: float) -> dict[str, Any]:
    return {
        "events": events,
        "hours": hours,
        "per_hour": events / hours if hours else None,
        "per_10_minutes": events / hours / 6.0 if hours else None,
        "per_hour_bound": poisson_bound(events, hours, confidence) if hours else None,
    }


def _curves(violating: Sequence[Trace], clean: Sequence[Trace], settings: Settings) -> dict[str, Any]:
    grid = np.round(np.arange(1, 101) / 100, 2)

    def recalls(least: bool) -> list[float] | None:
        peaks = np.array([early_peak(t, settings.lead_steps, least=least) for t in violating])
        return (peaks[:, None] >= grid).mean(0).tolist() if len(peaks) else None

    def rates(rows: Sequence[Array]) -> list[float]:
        events, steps = np.zeros(len(grid)), np.zeros(len(grid))
        for row in rows:
            at = np.searchsorted(np.maximum.accumulate(row), grid)  # the first decision that reaches the threshold
            events += at < len(row)
            steps += np.minimum(at + 1, len(row))
        found: list[float] = (events / (steps * CONTROL_PERIOD_S / SECONDS_PER_HOUR)).tolist()
        return found

    return {
        "thresholds": grid.tolist(),
        "recall": recalls(least=False),
        "recall_by_halts": recalls(least=True),
        "false_halts_per_hour": rates([t.least_risk for t in clean]),
        "false_vetoes_per_hour": rates([t.risk for t in clean]),
    }


# -- out of distribution


def detection(
    traces: Sequence[Trace], familiar: Sequence[Trace], thresholds: Thresholds, frames: int
) -> dict[str, Any]:
    """How well surprise tells the episodes of one scene from familiar ones; JSON values.

    Args:
        traces: episodes of the scene, which run without the monitor.
        familiar: episodes of the scene that was calibrated.
        thresholds: of the monitor; that of the risk for the share of episodes that one or the other would have stopped.
        frames: consecutive ones above the bound of single frames that halt.
    """
    count = len(traces)
    by_frames = [burst_alarm(t.surprise, thresholds.surprise, frames) for t in traces]
    by_average = [average_alarm(t.surprise, thresholds.surprise_average) for t in traces]
    alarms = [_earlier(*pair) for pair in zip(by_frames, by_average, strict=True)]
    delays = [a for a in alarms if a is not None]
    either = [
        _earlier(alarm, first_alarm(t.least_risk, thresholds.halt)) for alarm, t in zip(alarms, traces, strict=True)
    ]
    violations = [t.steps_to_violation for t in traces]
    unwarned = sum(v is not None and (e is None or e >= v) for v, e in zip(violations, either, strict=True))
    strange = np.arange(count + len(familiar)) < count
    bursts = np.array([sustained(t.surprise, frames) for t in (*traces, *familiar)])
    peaks = np.array([averages(t.surprise).max() for t in (*traces, *familiar)])
    hours = sum(len(t.surprise) if a is None else a + 1 for t, a in zip(traces, alarms, strict=True))
    return {
        "episodes": count,
        "detected": len(delays),
        "detection_rate": len(delays) / count if count else 0.0,
        "detection_rate_interval": list(wilson_interval(len(delays), count)),
        "detected_by_single_frames": sum(a is not None for a in by_frames),
        "detected_by_average": sum(a is not None for a in by_average),
        "delay_steps": {"median": float(np.median(delays)), "p90": float(np.percentile(delays, 90))}
        if delays
        else None,
        "alarms_per_hour": len(delays) / (hours * CONTROL_PERIOD_S / SECONDS_PER_HOUR) if hours else 0.0,
        "auroc": auroc(bursts, strange),
        "auroc_of_average": auroc(peaks, strange),
        "median_surprise": float(np.median(np.concatenate([t.surprise[1:] for t in traces]))) if count else None,
        "violating": sum(v is not None for v in violations),
        "violating_without_a_halt_before": unwarned,
        "stopped_by_surprise_or_risk": sum(e is not None for e in either),
    }
