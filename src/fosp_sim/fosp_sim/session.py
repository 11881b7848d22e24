"""The task as a running simulation sees it: phases, frames, and the physics between them. No ROS, no clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fosp_core import task
from fosp_sim.environment import TaskRules, TaskWorld
from fosp_sim.layout import Layout, sample_layout
from fosp_sim.world import TIMESTEP_S

TICKS_PER_FRAME: Final = round(task.COMMAND_HZ / task.CONTROL_HZ)
SUBSTEPS_PER_TICK: Final = round(1.0 / task.COMMAND_HZ / TIMESTEP_S)


class Phase(IntEnum):
    """Phases of ``fosp_interfaces/TaskState``."""

    IDLE = 0
    READY = 1
    RUNNING = 2
    ENDED = 3


class PhaseError(RuntimeError):
    """A request that does not fit the present phase; the message says which would."""


@dataclass(frozen=True)
class FrameState:
    """State of the task at one camera frame; metres in ``panda_link0``."""

    phase: Phase
    episode_id: int
    scene: str
    seed: int
    step: int
    is_first: bool
    tool: NDArray[np.float64]  # (3,)
    goal: NDArray[np.float64]  # (3,)
    distance: float
    clearance: float
    reward: float
    cost: float
    cost_reason: str
    reached: bool
    truncated: bool
    violated: bool


class Session:
    """Episodes in one world: ``reset`` lays out, ``start`` begins, ``tick`` is physics, ``frame`` dates a picture.

    Call ``tick`` at ``task.COMMAND_HZ`` and ``frame`` after every ``TICKS_PER_FRAME`` ticks.
    """

    def __init__(self, world: TaskWorld, visual_randomization: bool = False) -> None:
        self._world = world
        self._rules = TaskRules(world)
        self._visual_randomization = visual_randomization
        self._touched = False
        self._is_first = True
        self.phase = Phase.IDLE
        self.episode_id = 0
        self._lay_out(self.sample("standard", 0))

    @property
    def scene(self) -> str:
        """Name of the scene that is laid out."""
        return self._layout.scene

    def sample(self, scene: str, seed: int) -> Layout:
        """A layout for ``reset``; takes up to a quarter of a second and leaves the session alone.

        Raises:
            ValueError: unknown scene.
        """
        return sample_layout(scene, seed, self._visual_randomization)

    def reset(self, layout: Layout, episode_id: int) -> None:
        """Lay out a scene, arm at its start; the phase is READY then."""
        self._lay_out(layout)
        self.episode_id = episode_id
        self.phase = Phase.READY

    def start(self) -> None:
        """READY to RUNNING; raises ``PhaseError`` in any other phase."""
        if self.phase is not Phase.READY:
            raise PhaseError(f"cannot start in phase {self.phase.name}; reset the scene first")
        self._rules.restart()
        self._touched = False
        self._is_first = True
        self.phase = Phase.RUNNING

    def stop(self) -> None:
        """RUNNING or READY to ENDED; raises ``PhaseError`` in any other phase."""
        if self.phase not in (Phase.READY, Phase.RUNNING):
            raise PhaseError(f"nothing to stop in phase {self.phase.name}")
        self.phase = Phase.ENDED

    def tick(self, targets: NDArray[np.float64] | None) -> None:
        """One command period of physics, towards joint targets (7,) in radians; None keeps the last ones.

        Targets move nothing before the episode runs: the arm waits at its start.
        """
        if targets is not None and self.phase in (Phase.RUNNING, Phase.ENDED):
            self._world.set_joint_targets(targets)
        self._world.step(SUBSTEPS_PER_TICK)
        self._world.refresh()
        self._touched = self._touched or self._world.touching()

    def frame(self) -> FrameState:
        """Account for the control period that has just passed and describe the moment."""
        reward = cost = 0.0
        rules = self._rules
        first, self._is_first = self._is_first, False
        if self.phase is Phase.RUNNING and not first:
            reward, cost = rules.advance(rules.cost_now(self._touched))
        self._touched = False
        phase = self.phase
        if phase is Phase.RUNNING and (rules.reached or rules.truncated):
            phase = self.phase = Phase.ENDED
        running = phase in (Phase.RUNNING, Phase.ENDED)
        return FrameState(
            phase=phase,
            episode_id=self.episode_id,
            scene=self.scene,
            seed=self._layout.seed,
            step=rules.steps,
            is_first=first,
            tool=self._world.tool,
            goal=rules.goal.copy(),
            distance=float(np.linalg.norm(self._world.tool - rules.goal)),
            clearance=self._world.clearance() if phase is Phase.RUNNING else math.nan,
            reward=reward,
            cost=cost,
            cost_reason=rules.cost_reason if cost > 0 else "",
            reached=running and rules.reached,
            truncated=running and rules.truncated,
            violated=running and rules.violated,
        )

    def _lay_out(self, layout: Layout) -> None:
        self._world.reset(layout)
        self._rules.start(layout)
        self._layout = layout
        self._touched = False
        self._is_first = True
