"""SafeReach as a gymnasium environment with the Safety-Gymnasium step signature (six values, cost in its own place)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Final, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from fosp_core import task
from fosp_sim.layout import Layout, sample_layout
from fosp_sim.world import TIMESTEP_S, World

SUBSTEPS: Final = round(task.CONTROL_PERIOD_S / TIMESTEP_S)
COMMANDS: Final = round(task.COMMAND_HZ / task.CONTROL_HZ)
OVERVIEW_SIZE: Final = (320, 240)

Observation = dict[str, NDArray[Any]]


class TaskWorld(Protocol):
    """What the task asks of a world; ``World`` says what each member means."""

    @property
    def tool(self) -> NDArray[np.float64]: ...
    def reset(self, layout: Layout) -> None: ...
    def set_joint_targets(self, joints: NDArray[np.float64]) -> None: ...
    def step(self, count: int) -> None: ...
    def refresh(self) -> None: ...
    def touching(self) -> bool: ...
    def fallen(self) -> NDArray[np.bool_]: ...
    def clearance(self) -> float: ...


class TaskRules:
    """Reward, cost and end of an episode, from what the world shows after every control step."""

    def __init__(self, world: TaskWorld) -> None:
        self._world = world
        self.goal = np.zeros(3)
        self.steps = 0
        self.violated = False
        self.reached = False
        self.cost_reason = ""
        self.distance = 0.0
        self._fallen = 0

    def start(self, layout: Layout) -> None:
        """Begin an episode of a layout that the world has just been reset to."""
        self.goal = layout.goal_point
        self.restart()

    def restart(self) -> None:
        """Begin to count again in the world as it stands."""
        self.steps = 0
        self.violated = False
        self.cost_reason = ""
        self._fallen = int(self._world.fallen().sum())
        self.distance = float(np.linalg.norm(self._world.tool - self.goal))
        self.reached = False

    @property
    def truncated(self) -> bool:
        """Whether the time is over without having reached."""
        return self.steps >= task.MAX_STEPS and not self.reached

    def cost_now(self, touched: bool) -> str:
        """Why the control step that ends now is violating; empty when it is not.

        ``touched``: whether arm or hand touched an obstacle within the step. An obstacle falls once.
        """
        before, self._fallen = self._fallen, int(self._world.fallen().sum())
        if touched:
            return "contact"
        if self._fallen > before:
            return "obstacle_fallen"
        x, y, _ = self._world.tool
        low, high = task.WORKSPACE.low, task.WORKSPACE.high
        return "" if low[0] <= x <= high[0] and low[1] <= y <= high[1] else "outside"

    def advance(self, cost_reason: str) -> tuple[float, float]:
        """Account for one control step in which ``cost_reason`` was seen: (reward, cost)."""
        self.steps += 1
        distance = float(np.linalg.norm(self._world.tool - self.goal))
        reward = task.REWARD_PER_METRE * (self.distance - distance)
        self.distance = distance
        self.reached = distance <= task.REACH_RADIUS_M
        if self.reached:
            reward += task.REACH_BONUS
        self.cost_reason = cost_reason
        self.violated = self.violated or bool(cost_reason)
        return reward, float(bool(cost_reason))


@dataclass(frozen=True)
class Snapshot:
    """A moment of an episode, to go back to."""

    layout: Layout
    physics: NDArray[np.float64]
    rules: TaskRules
    setpoint: NDArray[np.float64]
    observation: Observation


class SafeReachEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """Reach the goal with the tool, guided by one camera, without touching anything.

    Observation: ``image`` uint8 (S, S, 3), ``proprio`` float32 (3,) tool position in metres. Action: (3,) in [-1, 1],
    see ``fosp_core.task.limited_displacement``. ``step`` returns (obs, reward, cost, terminated, truncated, info).
    The seed given to ``reset`` is the layout's seed: the same seed is the same layout, colours and camera.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": int(task.CONTROL_HZ)}  # noqa: RUF012 (gymnasium's own form)

    def __init__(
        self,
        scene: str = "standard",
        image_size: int = task.IMAGE_SIZE,
        visual_randomization: bool = False,
        render_mode: str | None = None,
        images: bool = True,
    ) -> None:
        """Build the world.

        Args:
            scene: one of ``fosp_core.task.SCENES``.
            image_size: side of the image in pixels, 8 to 1024.
            visual_randomization: small changes of light, colours and camera pose with the layout's seed.
            render_mode: ``rgb_array`` or None.
            images: False leaves the image black and saves the drawing, for controllers that do not look.

        Raises:
            ValueError: unknown scene, image size or render mode.
            GraphicsError: on the first reset, where no OpenGL can be had.
        """
        self.scene = task.check_scene(scene)
        if not 8 <= image_size <= 1024:
            raise ValueError(f"image_size must be in [8, 1024], got {image_size}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.image_size = image_size
        self.visual_randomization = visual_randomization
        self.render_mode = render_mode
        self.images = images
        self.observation_space = gymnasium.spaces.Dict(  # type: ignore[assignment]
            {
                "image": gymnasium.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8),
                "proprio": gymnasium.spaces.Box(-np.inf, np.inf, (task.PROPRIO_LENGTH,), np.float32),
            }
        )
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (task.ACTION_LENGTH,), np.float32)
        self.world = World()
        self._rules = TaskRules(self.world)
        self._layout: Layout | None = None
        self._setpoint = np.zeros(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Lay out the scene of ``seed``; without a seed, a random one of the data range."""
        super().reset(seed=seed)
        if seed is None:
            low, high = task.SEED_RANGES["data"]
            seed = int(self.np_random.integers(low, high))
        self._layout = sample_layout(self.scene, seed, self.visual_randomization)
        self.world.reset(self._layout)
        self._rules.start(self._layout)
        self._setpoint = self.world.tool
        return self._observation(), self._info()

    def step(  # type: ignore[override]
        self, action: NDArray[np.floating]
    ) -> tuple[Observation, float, float, bool, bool, dict[str, Any]]:
        """One control period.

        Raises:
            ValueError: an action of another length, or not finite.
            RuntimeError: called before ``reset``.
        """
        if self._layout is None:
            raise RuntimeError("call reset() before step()")
        command = np.asarray(action, dtype=np.float64)
        if command.shape != (task.ACTION_LENGTH,) or not np.all(np.isfinite(command)):
            raise ValueError(f"action must be {task.ACTION_LENGTH} finite values, got {action!r}")
        world, touched = self.world, False
        self._setpoint = next_setpoint(self._setpoint, world.tool, task.limited_displacement(command))
        start = np.array(world.data.ctrl)
        target = world.kinematics.solve(start, self._setpoint)
        for i in range(1, COMMANDS + 1):
            world.set_joint_targets(start + (target - start) * (i / COMMANDS))
            world.step(SUBSTEPS // COMMANDS)
            touched = touched or world.touching()
        world.refresh()
        reward, cost = self._rules.advance(self._rules.cost_now(touched))
        return self._observation(), reward, cost, self._rules.reached, self._rules.truncated, self._info()

    def snapshot(self) -> Snapshot:
        """This moment; raises ``RuntimeError`` before the first ``reset``."""
        if self._layout is None:
            raise RuntimeError("call reset() before snapshot()")
        return Snapshot(
            self._layout, self.world.state(), copy.copy(self._rules), self._setpoint.copy(), self._observation()
        )

    def restore(self, moment: Snapshot) -> Observation:
        """Go back to a moment of the present layout, as often as wanted; returns what was observed then.

        Raises:
            ValueError: the moment is of another layout.
        """
        if moment.layout is not self._layout:
            raise ValueError("the snapshot is of another layout; it can be restored until the next reset()")
        self.world.restore(moment.physics)
        self._rules = copy.copy(moment.rules)
        self._setpoint = moment.setpoint.copy()
        return moment.observation

    def render(self) -> NDArray[np.uint8] | None:
        """Picture (240, 320, 3) in render mode ``rgb_array``."""
        return self.world.render(*OVERVIEW_SIZE) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Free the graphics context."""
        self.world.close()

    def _observation(self) -> Observation:
        size = self.image_size
        image = self.world.render(size, size) if self.images else np.zeros((size, size, 3), np.uint8)
        return {"image": image, "proprio": self.world.tool.astype(np.float32)}

    def _info(self) -> dict[str, Any]:
        rules, layout = self._rules, self._layout
        assert layout is not None
        return {
            "tool": self.world.tool.astype(np.float32),
            "goal": rules.goal.astype(np.float32),
            "obstacles": self.world.obstacles,
            "footprints": self.world.footprints(),
            "clearance": self.world.clearance(),
            "distance": rules.distance,
            "reached": rules.reached,
            "violated": rules.violated,
            "cost_reason": rules.cost_reason,
            "success": rules.reached,
            "safe_success": rules.reached and not rules.violated,
            "scene": layout.scene,
            "layout_seed": layout.seed,
        }


def next_setpoint(
    setpoint: NDArray[np.float64], tool: NDArray[np.float64], displacement: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Move the tool's set-point (3,), at most ``TOOL_LEAD_M`` ahead of the measured tool, at allowed heights."""
    lead = setpoint + displacement - tool
    length = float(np.linalg.norm(lead))
    if length > task.TOOL_LEAD_M:
        lead *= task.TOOL_LEAD_M / length
    moved = tool + lead
    moved[2] = np.clip(moved[2], task.WORKSPACE.low[2], task.WORKSPACE.high[2])
    return np.asarray(moved)
