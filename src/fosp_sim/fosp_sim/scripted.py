"""Scripted controllers with privileged knowledge of the layout, for data collection and as a ceiling for policies.

They see what a policy never sees (``info`` of the environment) and answer with actions (3,) in [-1, 1].
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from fosp_core import task
from fosp_sim.layout import ClearanceMap, sample_layout

Array = NDArray[np.float64]
Info = dict[str, Any]

FULL_SPEED: Final = task.TOOL_SPEED_LIMIT * task.CONTROL_PERIOD_S / task.ACTION_SCALE_M
"""Length of an action that moves the tool at its speed limit."""
HARD_CLEARANCE_M: Final = 0.015
LOOKAHEAD_CELLS: Final = 4


class Controller(Protocol):
    """A scripted behaviour."""

    def reset(self, info: Info, rng: np.random.Generator) -> None:
        """Begin an episode."""

    def act(self, info: Info) -> Array:
        """Action (3,) in [-1, 1]."""


def toward(tool: Array, target: Array, speed: float) -> Array:
    """Action that moves the tool straight towards a point, slowing down for the last step. ``speed`` in (0, 1]."""
    delta = (np.asarray(target, dtype=np.float64) - tool) / task.ACTION_SCALE_M
    length = float(np.linalg.norm(delta))
    limit = speed * FULL_SPEED
    return delta if length <= limit else delta * (limit / length)


class StraightController:
    """Heads straight for the goal, whatever stands in the way."""

    def reset(self, info: Info, rng: np.random.Generator) -> None:
        """See ``Controller``."""
        self._speed = rng.uniform(0.75, 1.0)
        self._noise = rng.uniform(0.0, 0.1)
        self._rng = rng

    def act(self, info: Info) -> Array:
        """See ``Controller``."""
        action = toward(info["tool"], info["goal"], self._speed)
        return np.clip(action + self._rng.normal(0.0, self._noise, 3), -1.0, 1.0)


class Way:
    """The cheapest way on a grid from anywhere to one target, where cells near obstacles are dear."""

    def __init__(self, clearance_map: ClearanceMap, target: Array, clearance: float) -> None:
        self._map = clearance_map
        self._target = np.asarray(target, np.float64)[:2]
        self._next = _flow_to(clearance_map, target, clearance)

    def waypoint(self, tool: Array) -> Array:
        """Point (x, y) to head for from a tool position."""
        position = np.asarray(tool, np.float64)[:2]
        if np.linalg.norm(self._target - position) < 2 * self._map.CELL:
            return self._target
        i, j = start = self._map.cell(position)
        best = self._map.grid[start]
        for step in range(LOOKAHEAD_CELLS):
            following = int(self._next[i, j])
            if following < 0:
                return self._target
            i, j = divmod(following, self._next.shape[1])
            # Shortcuts across the grid's corners only where the hand still fits.
            if step == 0 or self._clear(position, self._map.grid[i, j]):
                best = self._map.grid[i, j]
        return np.asarray(best)

    def _clear(self, start: Array, end: Array) -> bool:
        points = start + np.linspace(0.25, 1.0, 4)[:, None] * (end - start)
        return bool(self._map.at(points).min() >= 2 * HARD_CLEARANCE_M)


def _map_of(info: Info) -> ClearanceMap:
    layout = sample_layout(info["scene"], info["layout_seed"])
    return ClearanceMap(layout.obstacles, layout.housing)


class PlannerController:
    """Goes around obstacles to the goal.

    ``noise`` (standard deviation of the action) and ``clearance`` (metres kept where there is room) vary with the
    episode unless they are given.
    """

    def __init__(self, noise: float | None = None, clearance: float | None = None) -> None:
        self._given_noise, self._given_clearance = noise, clearance

    def reset(self, info: Info, rng: np.random.Generator) -> None:
        """See ``Controller``."""
        self._speed = rng.uniform(0.8, 1.0)
        self._noise = rng.uniform(0.0, 0.2) if self._given_noise is None else self._given_noise
        clearance = rng.uniform(0.05, 0.09) if self._given_clearance is None else self._given_clearance
        self._rng = rng
        self._way = Way(_map_of(info), info["goal"], clearance)
        self._start_height = float(info["tool"][2])
        self._start_distance = max(float(np.linalg.norm(info["goal"][:2] - info["tool"][:2])), 1e-6)

    def act(self, info: Info) -> Array:
        """See ``Controller``."""
        tool, goal = np.asarray(info["tool"], np.float64), np.asarray(info["goal"], np.float64)
        share = min(float(np.linalg.norm(goal[:2] - tool[:2])) / self._start_distance, 1.0)
        height = goal[2] + share * (self._start_height - goal[2])
        target = np.array([*self._way.waypoint(tool), height])
        action = toward(tool, target, self._speed) + self._rng.normal(0.0, self._noise, 3)
        return np.clip(action, -1.0, 1.0)


class RandomTargetController:
    """Wanders between random points of the workspace; in half of the episodes it avoids obstacles on the way."""

    CAREFUL_SHARE: Final = 0.5

    def reset(self, info: Info, rng: np.random.Generator) -> None:
        """See ``Controller``."""
        self._rng = rng
        self._left = 0
        self._target = np.zeros(3)
        self._speed = rng.uniform(0.5, 1.0)
        self._map = _map_of(info) if rng.random() < self.CAREFUL_SHARE else None
        self._way: Way | None = None

    def act(self, info: Info) -> Array:
        """See ``Controller``."""
        tool = np.asarray(info["tool"], np.float64)
        if self._left == 0 or np.linalg.norm(self._target - tool) < 0.02:
            self._choose_target()
        self._left -= 1
        target = self._target if self._way is None else np.array([*self._way.waypoint(tool), self._target[2]])
        return np.clip(toward(tool, target, self._speed) + self._rng.normal(0.0, 0.1, 3), -1.0, 1.0)

    def _choose_target(self) -> None:
        low, high = np.asarray(task.WORKSPACE.low), np.asarray(task.WORKSPACE.high)
        margin = np.array([0.08, 0.03, 0.0])
        self._left = int(self._rng.integers(8, 25))
        for _ in range(50):
            self._target = self._rng.uniform(low + margin, high - margin * [0.3, 1.0, 1.0])
            if self._map is None:
                return
            cell = self._map.cell(self._target[:2])
            if self._map.clearance[cell] > 2 * HARD_CLEARANCE_M and self._map.reachable[cell]:
                break
        assert self._map is not None
        self._way = Way(self._map, self._target, 0.06)


class NoisyController:
    """Switches between planner, straight line and wandering, with correlated noise on top."""

    def __init__(self) -> None:
        self._parts: list[Controller] = [PlannerController(), StraightController(), RandomTargetController()]

    def reset(self, info: Info, rng: np.random.Generator) -> None:
        """See ``Controller``."""
        self._rng = rng
        for part in self._parts:
            part.reset(info, rng)
        self._current = int(rng.choice(3, p=[0.5, 0.3, 0.2]))
        self._drift = np.zeros(3)
        self._strength = rng.uniform(0.1, 0.5)

    def act(self, info: Info) -> Array:
        """See ``Controller``."""
        if self._rng.random() < 0.1:
            self._current = int(self._rng.choice(3, p=[0.5, 0.3, 0.2]))
        self._drift = 0.8 * self._drift + 0.6 * self._rng.normal(0.0, self._strength, 3)
        return np.clip(self._parts[self._current].act(info) + self._drift, -1.0, 1.0)


CONTROLLERS: Final[dict[str, type[Controller]]] = {
    "planner": PlannerController,
    "straight": StraightController,
    "noisy": NoisyController,
    "random": RandomTargetController,
}


def _flow_to(grid: ClearanceMap, goal: Array, clearance: float) -> NDArray[np.int64]:
    """For every cell (I, J) the flat index of the next cell on the cheapest way to the goal; -1 at the goal."""
    rows, columns = grid.clearance.shape
    index = np.arange(rows * columns).reshape(rows, columns)
    near = np.clip((clearance - grid.clearance) / clearance, 0.0, 1.0)
    price = 1.0 + 8.0 * near**2 + 500.0 * (grid.clearance < HARD_CLEARANCE_M) + 50.0 * ~grid.reachable
    sources, targets, weights = [], [], []
    for di, dj in ((0, 1), (1, 0), (1, 1), (1, -1)):
        a = index[: rows - di, max(0, -dj) : columns - max(0, dj)].ravel()
        b = index[di:, max(0, dj) : columns - max(0, -dj)].ravel()
        weight = np.hypot(di, dj) * 0.5 * (price.ravel()[a] + price.ravel()[b])
        sources += [a, b]
        targets += [b, a]
        weights += [weight, weight]
    graph = coo_matrix(
        (np.concatenate(weights), (np.concatenate(sources), np.concatenate(targets))), shape=(index.size, index.size)
    ).tocsr()
    i, j = grid.cell(goal[:2])
    # The graph is symmetric: a cell's predecessor on the way from the goal is the next one on the way to it.
    _, before = dijkstra(graph, indices=int(index[i, j]), return_predecessors=True)
    return np.where(before < 0, -1, before).reshape(rows, columns).astype(np.int64)
