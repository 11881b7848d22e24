"""The gymnasium environment ``SafeReach-v0``: six values a step, as Safety-Gymnasium has it."""

from __future__ import annotations

from typing import Any, Final

import gymnasium
import numpy as np
from numpy.typing import NDArray

from fosp_core import task
from fosp_sim.layout import sample_layout
from fosp_sim.rules import Outcome, Rules
from fosp_sim.world import TIMESTEP_S, World

Observation = dict[str, NDArray[Any]]
Info = dict[str, Any]

LEAD_M: Final = task.ACTION_SCALE_M
"""The set-point runs ahead of the measured tool by no more than this."""
OUTER_M: Final = 0.05
"""The set-point may leave the square (at a cost) by no more than this."""
TARGETS_PER_STEP: Final = int(task.COMMAND_HZ / task.CONTROL_HZ)
"""Servo targets per control step, as many as the robot's controller gets."""
SUBSTEPS: Final = round(task.CONTROL_PERIOD_S / TIMESTEP_S / TARGETS_PER_STEP)


class SafeReachEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """Reach the goal with the tool, touch nothing.

    Observation: ``image`` uint8 (S, S, 3), ``proprio`` float32 (3,) tool position in m. Action (3,) in [-1, 1]:
    see ``fosp_core.task.limited_displacement``. ``step`` returns (observation, reward, cost, terminated, truncated,
    info); ``info`` is privileged: it is for scoring and for scripted controllers, not for policies.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": int(task.CONTROL_HZ)}

    def __init__(
        self,
        scene: str = "standard",
        image_size: int = task.IMAGE_SIZE,
        visual_randomization: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self.scene = task.check_scene(scene)
        if not 16 <= image_size <= 1024:
            raise ValueError(f"image_size must be between 16 and 1024, got {image_size}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"unknown render_mode {render_mode!r}; use 'rgb_array' or None")
        self.image_size = image_size
        self.visual_randomization = visual_randomization
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Dict(
            {
                "image": gymnasium.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8),
                "proprio": gymnasium.spaces.Box(-2.0, 2.0, (task.PROPRIO_LENGTH,), np.float32),
            }
        )
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (task.ACTION_LENGTH,), np.float32)
        self.world = World()
        self._rules = Rules(self.world)
        self._set_point = np.zeros(3)
        self._joint_target = np.zeros(7)
        self._running = False
        self._goal = np.zeros(3, dtype=np.float32)
        self._set_point_low = np.array(task.WORKSPACE.low) - (OUTER_M, OUTER_M, 0.0)
        self._set_point_high = np.array(task.WORKSPACE.high) + (OUTER_M, OUTER_M, 0.0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Lay out scene number ``seed``; without a seed, a random one outside every reserved range.

        ``options={"scene": name}`` changes the scene from here on.
        """
        super().reset(seed=seed)
        if options and "scene" in options:
            self.scene = task.check_scene(options["scene"])
        layout_seed = int(self.np_random.integers(2**32, 2**62)) if seed is None else int(seed)
        layout = sample_layout(self.scene, layout_seed, self.visual_randomization)
        self.world.reset(layout)
        self._joint_target = self.world.joints
        self._set_point = self.world.tool
        self._goal = layout.goal_point.astype(np.float32)
        self._running = True
        outcome = self._rules.start()
        return self._observation(outcome), self._info(outcome)

    def step(  # type: ignore[override]
        self, action: NDArray[np.floating]
    ) -> tuple[Observation, float, float, bool, bool, Info]:
        """Move for one control period (0.1 s).

        Raises:
            ValueError: the action is not three finite numbers.
            RuntimeError: the episode is over or was never started.
        """
        if not self._running:
            raise RuntimeError("the episode is over: call reset first")
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (task.ACTION_LENGTH,) or not np.isfinite(action).all():
            raise ValueError(f"an action is {task.ACTION_LENGTH} finite numbers, got {action!r}")
        self._move(task.limited_displacement(action))
        outcome = self._rules.finish()
        self._running = not (outcome.reached or outcome.truncated)
        return (
            self._observation(outcome),
            outcome.reward,
            outcome.cost,
            outcome.reached,
            outcome.truncated,
            self._info(outcome),
        )

    def _move(self, displacement: NDArray[np.float64]) -> None:
        world, rules = self.world, self._rules
        tool = world.tool
        lead = self._set_point + displacement - tool
        length = float(np.sqrt(lead @ lead))
        set_point = tool + lead * (min(length, LEAD_M) / max(length, 1e-9))
        self._set_point = np.minimum(np.maximum(set_point, self._set_point_low), self._set_point_high)
        before = self._joint_target
        self._joint_target = world.kinematics.solve(before, self._set_point, iterations=1)
        change = (self._joint_target - before) / TARGETS_PER_STEP
        for index in range(1, TARGETS_PER_STEP + 1):
            world.set_joint_targets(before + index * change)
            world.step(SUBSTEPS)
            rules.watch()
        world.refresh()

    def _observation(self, outcome: Outcome) -> Observation:
        image = self.world.render(self.image_size, self.image_size)
        return {"image": image, "proprio": outcome.tool.astype(np.float32)}

    def _info(self, outcome: Outcome) -> Info:
        layout = self.world.layout
        assert layout is not None
        return {
            "tool": outcome.tool.astype(np.float32),
            "goal": self._goal,
            "obstacles": self.world.obstacles,
            "clearance": outcome.clearance,
            "reached": outcome.reached,
            "violated": outcome.violated,
            "cost_reason": outcome.cost_reason,
            "distance": outcome.distance,
            "success": outcome.reached,
            "safe_success": outcome.reached and not outcome.violated,
            "scene": layout.scene,
            "layout_seed": layout.seed,
        }

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """Picture (240, 320, 3) of the camera when ``render_mode`` is ``rgb_array``, else None."""
        return self.world.render(320, 240) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Free the graphics context."""
        self.world.close()
