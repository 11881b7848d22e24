"""Thresholds for a bundle that has not been calibrated: quantiles over held-out scripted episodes, no bound claimed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fosp_core.bundle import Thresholds

SURPRISE_MARGIN = 2.0


def provisional_thresholds(risk: NDArray[np.floating], surprise: NDArray[np.floating], data_hash: str) -> Thresholds:
    """Quantile thresholds.

    Args:
        risk: (N,) p(s, a) in [0, 1] on frames of episodes that reached their goal without violation.
        surprise: (M,) nats on any clean frames.
        data_hash: of the episodes.

    Returns:
        Caution at the 95 % quantile of the safe risk (at least 0.3), halt at the 99.8 % quantile (at least 0.6), the
        surprise bound at twice the 99.9 % quantile.
    """
    halt = float(np.clip(np.quantile(risk, 0.998), 0.6, 0.98))
    caution = float(np.clip(np.quantile(risk, 0.95), 0.3, halt))
    bound = SURPRISE_MARGIN * float(np.quantile(surprise, 0.999))
    return Thresholds(caution=caution, halt=halt, surprise=max(bound, 1.0), method="quantile", data_hash=data_hash)
