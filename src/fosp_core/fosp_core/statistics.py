"""Small statistics that figures and gates share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927); (0, 1) when there are no trials.

    Raises:
        ValueError: counts that are no proportion, or a confidence outside (0, 1).
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials is no proportion")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence {confidence} is outside (0, 1)")
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / trials
    centre = rate + z * z / (2 * trials)
    spread = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # At 0 and n successes the bound is exact; rounding must not move it.
    low = 0.0 if successes == 0 else max(0.0, (centre - spread) / scale)
    high = 1.0 if successes == trials else min(1.0, (centre + spread) / scale)
    return low, high


def paired_difference_interval(
    both: int, first: int, second: int, neither: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the difference of two proportions, first - second, on the same trials: Newcombe (1998), method 10.

    Args:
        both: trials that succeeded both times.
        first: trials that succeeded the first time only.
        second: trials that succeeded the second time only.
        neither: the rest.
        confidence: in (0, 1).

    Returns:
        Bounds in [-1, 1]; (-1, 1) when there are no trials.

    Raises:
        ValueError: a negative count, or a confidence outside (0, 1).
    """
    if min(both, first, second, neither) < 0:
        raise ValueError(f"counts must be >= 0, got {both}, {first}, {second} and {neither}")
    trials = both + first + second + neither
    if trials == 0:
        return -1.0, 1.0
    p, q = (both + first) / trials, (both + second) / trials
    (p_low, p_high), (q_low, q_high) = (wilson_interval(both + count, trials, confidence) for count in (first, second))
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    # correlation of the two outcomes; a positive one with Newcombe's continuity correction
    surplus = both * neither - first * second
    phi = (max(surplus - trials / 2, 0.0) if surplus > 0 else surplus) / math.sqrt(margins) if margins else 0.0
    below, above = p - p_low, q_high - q
    low = p - q - math.sqrt(max(below**2 - 2 * phi * below * above + above**2, 0.0))
    below, above = q - q_low, p_high - p
    high = p - q + math.sqrt(max(below**2 - 2 * phi * below * above + above**2, 0.0))
    return max(low, -1.0), min(high, 1.0)


def auroc(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve: the probability that a positive's score exceeds a negative's, ties counting half.

    Scores and marks (N,); None without both kinds.
    """
    count = int(positive.sum())
    others = len(positive) - count
    if count == 0 or others == 0:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))


def summarize_latency(milliseconds: Sequence[float]) -> dict[str, float | int | None]:
    """Count, p50, p99 and maximum of latencies in ms; ``None`` where there is no data."""
    values = np.asarray([v for v in milliseconds if math.isfinite(v)], dtype=np.float64)
    if values.size == 0:
        return {"count": 0, "p50": None, "p99": None, "max": None}
    p50, p99 = np.percentile(values, [50, 99])
    return {"count": int(values.size), "p50": float(p50), "p99": float(p99), "max": float(values.max())}
