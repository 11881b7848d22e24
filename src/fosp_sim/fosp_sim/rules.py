"""Reward, cost and end of a SafeReach episode, from what the world shows. Used by environment and node alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from fosp_core import task
from fosp_sim.world import World

CostReason = Literal["", "contact", "obstacle_fallen", "outside"]

_CONTACT_RANGE_M: Final = 0.06
"""Nothing farther away at the start of a control step can be touched within it (tool and obstacle both moving)."""


@dataclass(frozen=True)
class Outcome:
    """What a control step brought, and where things are after it."""

    reward: float
    cost: float
    cost_reason: CostReason
    reached: bool
    truncated: bool
    violated: bool
    step: int
    distance: float
    clearance: float
    tool: NDArray[np.float64]


class Rules:
    """Keeps the score of one episode: call ``start``, then per control step ``watch`` while it lasts, ``finish`` after."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._goal = np.zeros(3)
        self._fallen = np.zeros(3, dtype=bool)
        self._touched = False
        self.outcome: Outcome | None = None

    def start(self) -> Outcome:
        """Begin counting from the world as it is; reward and cost are 0."""
        layout = self._world.layout
        if layout is None:
            raise RuntimeError("lay out a scene before starting an episode")
        self._goal = layout.goal_point
        self._fallen = self._world.fallen()
        self._touched = False
        tool = self._world.tool
        self.outcome = Outcome(
            reward=0.0,
            cost=0.0,
            cost_reason="",
            reached=False,
            truncated=False,
            violated=False,
            step=0,
            distance=float(np.linalg.norm(tool - self._goal)),
            clearance=self._world.clearance(),
            tool=tool,
        )
        return self.outcome

    def watch(self) -> None:
        """Look for contacts; call it several times within a control step, right after the physics moved."""
        if self.outcome is not None and self.outcome.clearance < _CONTACT_RANGE_M and self._world.touching():
            self._touched = True

    def finish(self) -> Outcome:
        """Score the control step that just ended; the world's poses must be up to date."""
        before = self.outcome
        if before is None:
            raise RuntimeError("start an episode before scoring a step")
        world = self._world
        tool = world.tool
        fallen = world.fallen()
        reason: CostReason = ""
        if self._touched:
            reason = "contact"
        elif np.any(fallen & ~self._fallen):
            reason = "obstacle_fallen"
        elif not _inside(tool):
            reason = "outside"
        self._fallen |= fallen
        self._touched = False
        distance = float(np.linalg.norm(tool - self._goal))
        reached = distance <= task.REACH_RADIUS_M
        step = before.step + 1
        self.outcome = Outcome(
            reward=task.REWARD_PER_METRE * (before.distance - distance) + (task.REACH_BONUS if reached else 0.0),
            cost=1.0 if reason else 0.0,
            cost_reason=reason,
            reached=reached,
            truncated=step >= task.MAX_STEPS and not reached,
            violated=before.violated or bool(reason),
            step=step,
            distance=distance,
            clearance=world.clearance(),
            tool=tool,
        )
        return self.outcome


def _inside(tool: NDArray[np.float64]) -> bool:
    low, high = task.WORKSPACE.low, task.WORKSPACE.high
    return bool(low[0] <= tool[0] <= high[0] and low[1] <= tool[1] <= high[1])
