"""Safe policy expansion: which candidate acts (Zhang et al. 2023; FOSP, ICLR 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fosp_core.runtime import StepOutput

OFFLINE, ONLINE = 0, 1
CANDIDATES = ("offline", "online")

Mode = Literal["greedy", "sample", "offline", "online"]


@dataclass(frozen=True)
class Selection:
    """The executed action (A,) in [-1, 1], the index of its candidate and all selection probabilities (2,)."""

    action: NDArray[np.float32]
    chosen: int
    probabilities: NDArray[np.float64]


def expansion_probabilities(
    q_reward: NDArray[np.floating],
    q_cost: NDArray[np.floating],
    kappa: float,
    temperature: float,
    cost_limit: float | None = None,
) -> NDArray[np.float64]:
    """Softmax over (Q_r - kappa Q_c) / T of the candidates' own actions.

    Args:
        q_reward: (N,) finite.
        q_cost: (N,) finite.
        kappa: weight of the cost value, >= 0.
        temperature: > 0.
        cost_limit: where given, candidates with a larger Q_c get probability 0 unless all exceed it; then the least
            cost gets probability 1.

    Returns:
        (N,) probabilities that sum to 1.

    Raises:
        ValueError: bad settings or values that are not finite.
    """
    if kappa < 0 or not np.isfinite(kappa):
        raise ValueError(f"kappa must be finite and >= 0, got {kappa}")
    if temperature <= 0 or not np.isfinite(temperature):
        raise ValueError(f"temperature must be finite and > 0, got {temperature}")
    reward = np.asarray(q_reward, dtype=np.float64)
    cost = np.asarray(q_cost, dtype=np.float64)
    if not (np.all(np.isfinite(reward)) and np.all(np.isfinite(cost))):
        raise ValueError("action values are not finite")
    if cost_limit is not None:
        allowed = cost <= cost_limit
        if not allowed.any():
            probabilities = np.zeros_like(cost)
            probabilities[int(np.argmin(cost))] = 1.0
            return probabilities
        reward = np.where(allowed, reward, -np.inf)
    logits = (reward - kappa * cost) / temperature
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())


class Selector:
    """Chooses between the frozen offline and the online candidate.

    Modes: ``sample`` draws from the softmax (exploration, as in the paper), ``greedy`` takes the most probable one,
    ``offline`` and ``online`` always take that candidate.
    """

    def __init__(
        self,
        kappa: float = 1.0,
        temperature: float = 1.0,
        mode: Mode = "greedy",
        cost_limit: float | None = None,
        seed: int = 0,
    ) -> None:
        """Raises ``ValueError`` for settings out of range."""
        if mode not in ("greedy", "sample", "offline", "online"):
            raise ValueError(f"unknown selection mode {mode!r}; use greedy, sample, offline or online")
        expansion_probabilities(np.zeros(2), np.zeros(2), kappa, temperature, cost_limit)
        self.kappa = kappa
        self.temperature = temperature
        self.mode = mode
        self.cost_limit = cost_limit
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Begin the random numbers of ``sample`` anew."""
        self._rng = np.random.default_rng(seed)

    def select(self, output: StepOutput) -> Selection:
        """Choose for one step; raises ``ValueError`` when the values are not finite."""
        probabilities = expansion_probabilities(
            output.q_reward, output.q_cost, self.kappa, self.temperature, self.cost_limit
        )
        if self.mode == "sample":
            chosen = int(self._rng.choice(len(probabilities), p=probabilities))
        elif self.mode == "greedy":
            # With equal values the frozen policy acts.
            chosen = int(np.argmax(probabilities))
        else:
            chosen = CANDIDATES.index(self.mode)
        return Selection(output.candidate_actions[chosen].copy(), chosen, probabilities)
