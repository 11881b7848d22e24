"""Layouts of SafeReach: where start, goal and obstacles are, and how the scene looks.

A layout is a pure function of (scene, seed). It is always solvable: a way exists from start to goal along which
the hand keeps ``PATH_CLEARANCE_M`` from every obstacle (see ``ClearanceMap``). All lengths in metres, angles in
radians, positions in ``panda_link0``.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from fosp_core import task

Array = NDArray[np.float64]
Rgb = tuple[float, float, float]

MAX_OBSTACLES: Final = 3
MAX_CLUTTER: Final = 6
GOAL_POINT_HEIGHT: Final = 0.05
"""The goal point is the top of the 5 cm goal, where the tool can reach it without touching the table."""

DENSITY: Final = 400.0
"""Obstacles are of light wood, kg/m^3."""
TABLE_SIZE: Final = (1.5, 1.9, 0.04)
TABLE_CENTRE: Final = (0.45, 0.0, -0.02)
LINE_WIDTH: Final = 0.015
LINE_HEIGHT: Final = 0.002

HAND_HALF: Final = (0.0225, 0.10)
"""Half width of the hand along x and y; the gripper points down and keeps this orientation."""
WRIST_RADIUS: Final = 0.044
"""The last link above the hand, seen from above."""
HOUSING_M: Final = 0.03
"""How far the housing of scene ``wide_gripper`` reaches beyond the hand, on each side."""

PATH_CLEARANCE_M: Final = 0.03
START_CLEARANCE_M: Final = 0.05
GOAL_CLEARANCE_M: Final = 0.035
REACH_RADIUS_MIN: Final = 0.31
REACH_RADIUS_MAX: Final = 0.73
"""Where the gripper can point straight down at every height of the workspace."""
BORDER_M: Final = 0.02

CAMERA_POSITION: Final = task.CAMERA_POSITION
CAMERA_TARGET: Final = task.CAMERA_TARGET
CAMERA_FOVY_DEG: Final = task.CAMERA_FOVY_DEG

GREEN: Final[Rgb] = (0.10, 0.60, 0.16)
RED: Final[Rgb] = (0.85, 0.07, 0.06)
BLUE: Final[Rgb] = (0.08, 0.22, 0.80)
YELLOW: Final[Rgb] = (0.92, 0.78, 0.05)
TABLE: Final[Rgb] = (0.05, 0.05, 0.055)
LINE: Final[Rgb] = (0.90, 0.90, 0.90)
SKIN: Final[Rgb] = (0.80, 0.56, 0.42)


@dataclass(frozen=True)
class Item:
    """A thing on the table: full ``size`` (x, y, z) of a box, or (diameter, diameter, length) of a cylinder."""

    shape: Literal["box", "cylinder"]
    size: tuple[float, float, float]
    position: tuple[float, float]
    rgb: Rgb
    yaw: float = 0.0
    lying: bool = False

    @property
    def height(self) -> float:
        """Height above the table."""
        return self.size[0] if self.lying else self.size[2]

    def outline(self) -> Array:
        """Points (N, 2) about 1 cm apart on the outline seen from above."""
        if self.shape == "cylinder" and not self.lying:
            angle = np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False)
            local = 0.5 * self.size[0] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        else:
            half_x, half_y = 0.5 * self.size[0], 0.5 * (self.size[2] if self.lying else self.size[1])
            along = np.linspace(-1.0, 1.0, max(3, int(np.ceil(200.0 * max(half_x, half_y)))))
            ends = np.full_like(along, 1.0)
            local = np.concatenate(
                [
                    np.stack([half_x * along, half_y * ends], axis=1),
                    np.stack([half_x * along, -half_y * ends], axis=1),
                    np.stack([half_x * ends, half_y * along], axis=1),
                    np.stack([-half_x * ends, half_y * along], axis=1),
                ]
            )
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        return local @ np.array([[cos, sin], [-sin, cos]]) + np.asarray(self.position)

    def mass_properties(self) -> tuple[float, tuple[float, float, float]]:
        """Mass in kg and principal moments of inertia (x, y, z) in kg m^2 of a solid of ``DENSITY``."""
        x, y, z = (0.5 * side for side in self.size)
        if self.shape == "box":
            mass = DENSITY * 8.0 * x * y * z
            third = mass / 3.0
            return mass, (third * (y * y + z * z), third * (x * x + z * z), third * (x * x + y * y))
        mass = DENSITY * float(np.pi) * x * x * 2.0 * z
        side = mass * (x * x / 4.0 + z * z / 3.0)
        return mass, (side, side, mass * x * x / 2.0)

    def pose(self) -> Array:
        """Position (3) in metres and quaternion (w, x, y, z), together (7,), of the item on the table."""
        cos, sin = float(np.cos(0.5 * self.yaw)), float(np.sin(0.5 * self.yaw))
        # Lying: the item's z goes to its y first.
        tip = float(np.sqrt(0.5)) if self.lying else 1.0
        turn = (tip * cos, -tip * cos, -tip * sin, tip * sin) if self.lying else (cos, 0.0, 0.0, sin)
        return np.array([*self.position, 0.5 * self.height, *turn])

    @property
    def radius(self) -> float:
        """Radius of the circle around the outline."""
        if self.shape == "cylinder" and not self.lying:
            return 0.5 * self.size[0]
        return 0.5 * float(np.hypot(self.size[0], self.size[2] if self.lying else self.size[1]))


@dataclass(frozen=True)
class Motion:
    """An obstacle that goes to and fro: displacement = amplitude * sin(2 pi t / period) along ``direction``."""

    obstacle: int
    direction: tuple[float, float]
    amplitude: float
    period_s: float


@dataclass(frozen=True)
class Look:
    """What only the camera notices."""

    camera_position: tuple[float, float, float] = CAMERA_POSITION
    camera_target: tuple[float, float, float] = CAMERA_TARGET
    camera_fovy_deg: float = CAMERA_FOVY_DEG
    camera_roll: float = 0.0
    ambient: float = 0.40
    diffuse: float = 0.60
    light_direction: tuple[float, float, float] = (-0.35, 0.15, -0.9)
    table: Rgb = TABLE
    line: Rgb = LINE
    robot_tint: Rgb = (1.0, 1.0, 1.0)
    blur: float = 0.0
    """Standard deviation of a lens out of focus, as a part of the picture's width."""


@dataclass(frozen=True)
class Layout:
    """Everything that a reset lays out."""

    scene: str
    seed: int
    start: tuple[float, float, float]
    goal: Item
    obstacles: tuple[Item, ...]
    clutter: tuple[Item, ...] = ()
    motion: Motion | None = None
    housing: float = 0.0
    """How far a housing around the hand reaches beyond it, on each side seen from above."""
    look: Look = field(default_factory=Look)

    @property
    def goal_point(self) -> Array:
        """Goal point (3,)."""
        return np.array([*self.goal.position, GOAL_POINT_HEIGHT])


def outline() -> list[tuple[tuple[float, float, float], tuple[float, float, float]]]:
    """Centre and full size of the four white bars around the workspace."""
    low, high = task.WORKSPACE.low, task.WORKSPACE.high
    side = high[0] - low[0]
    middle = (0.5 * (low[0] + high[0]), 0.5 * (low[1] + high[1]))
    bars: list[tuple[tuple[float, float, float], tuple[float, float, float]]] = []
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        centre = (middle[0] + 0.5 * dx * side, middle[1] + 0.5 * dy * side, 0.5 * LINE_HEIGHT)
        long, short = side + LINE_WIDTH, LINE_WIDTH
        bars.append((centre, (long if dy else short, long if dx else short, LINE_HEIGHT)))
    return bars


def camera_rotation(look: Look) -> Array:
    """Rotation (3, 3) of the camera, columns right, up and back in ``panda_link0``; level, then rolled."""
    position, target = np.asarray(look.camera_position), np.asarray(look.camera_target)
    back = position - target
    back /= np.linalg.norm(back)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    up = np.cross(back, right)
    cos, sin = np.cos(look.camera_roll), np.sin(look.camera_roll)
    return np.stack([cos * right + sin * up, cos * up - sin * right, back], axis=1)


class Footprint:
    """Distance between the hand, seen from above, in a housing that reaches beyond it, and obstacles."""

    def __init__(self, obstacles: Iterable[Item], housing: float = 0.0) -> None:
        self._half = (HAND_HALF[0] + housing, HAND_HALF[1] + housing)
        outlines = [item.outline() for item in obstacles]
        self._points = np.concatenate(outlines) if outlines else np.zeros((0, 2))

    def clearance(self, positions: Array) -> Array:
        """Clearance (N,) at tool positions (N, 2); 1 m when there is no obstacle."""
        if not len(self._points):
            return np.ones(len(positions))
        dx = np.abs(positions[:, 0, None] - self._points[None, :, 0])
        dy = np.abs(positions[:, 1, None] - self._points[None, :, 1])
        to_hand = np.maximum(dx - self._half[0], 0.0) ** 2 + np.maximum(dy - self._half[1], 0.0) ** 2
        to_wrist = np.sqrt((dx * dx + dy * dy).min(-1)) - WRIST_RADIUS
        return np.asarray(np.minimum(np.sqrt(to_hand.min(-1)), to_wrist))


class ClearanceMap:
    """Distance between the hand's footprint and the obstacles for tool positions on a grid over the workspace.

    The footprint holds at any tool height (an obstacle is treated as taller than the hand), so a way found here
    is safe at every height.
    """

    CELL: Final = 0.02

    def __init__(self, obstacles: Iterable[Item], housing: float = 0.0) -> None:
        self._footprint = Footprint(obstacles, housing)
        low, high = task.WORKSPACE.low, task.WORKSPACE.high
        self.xs = np.arange(low[0], high[0] + 1e-9, self.CELL)
        self.ys = np.arange(low[1], high[1] + 1e-9, self.CELL)
        gx, gy = np.meshgrid(self.xs, self.ys, indexing="ij")
        self.grid = np.stack([gx, gy], axis=-1)
        self.clearance = self._footprint.clearance(self.grid.reshape(-1, 2)).reshape(gx.shape)
        self.reachable = (
            (np.hypot(gx, gy) >= REACH_RADIUS_MIN)
            & (np.hypot(gx, gy) <= REACH_RADIUS_MAX)
            & (gx <= high[0] - BORDER_M)
            & (np.abs(gy) <= high[1] - BORDER_M)
        )

    def at(self, positions: Array) -> Array:
        """Clearance (N,) at tool positions (N, 2), not rounded to the grid."""
        return self._footprint.clearance(positions)

    def cell(self, position: Iterable[float]) -> tuple[int, int]:
        """Grid indices nearest to a position (x, y)."""
        x, y = position
        i = int(np.clip(round((x - self.xs[0]) / self.CELL), 0, len(self.xs) - 1))
        j = int(np.clip(round((y - self.ys[0]) / self.CELL), 0, len(self.ys) - 1))
        return i, j

    def connected(self, a: Iterable[float], b: Iterable[float], clearance: float = PATH_CLEARANCE_M) -> bool:
        """Whether a way with at least this clearance joins two positions (x, y)."""
        free = (self.reachable & (self.clearance >= clearance)).astype(np.uint8)
        _, labels = cv2.connectedComponents(free, connectivity=4)
        label = labels[self.cell(a)]
        return bool(label != 0 and label == labels[self.cell(b)])


def sample_layout(scene: str, seed: int, visual_randomization: bool = False) -> Layout:
    """Layout number ``seed`` (>= 0) of a scene.

    ``visual_randomization`` changes lighting, colours and camera pose a little; it never changes geometry.

    Raises:
        ValueError: unknown scene or negative seed.
    """
    task.check_scene(scene)
    if seed < 0:
        raise ValueError(f"layout seed must not be negative, got {seed}")
    rng = np.random.default_rng((seed, task.SCENES.index(scene)))
    for _ in range(10_000):
        layout = _attempt(scene, seed, rng)
        if layout is not None:
            break
    else:
        raise RuntimeError(f"no solvable layout found for scene {scene!r}, seed {seed}")
    return _shifted_look(_jittered(layout, seed) if visual_randomization else layout, rng)


def _attempt(scene: str, seed: int, rng: np.random.Generator) -> Layout | None:
    anywhere = rng.random() < 0.25
    start = np.array(
        [
            rng.uniform(0.30, 0.66 if anywhere else 0.44),
            rng.uniform(-0.24, 0.24),
            rng.uniform(0.05, 0.15),
        ]
    )
    goal = np.array([rng.uniform(0.34 if anywhere else 0.44, 0.70), rng.uniform(-0.25, 0.25)])
    radii = np.hypot(*start[:2]), np.hypot(*goal)
    if max(radii) > 0.70 or min(radii) < 0.33 or np.linalg.norm(goal - start[:2]) < 0.22:
        return None
    templates = _obstacle_templates(scene, rng)
    line = goal - start[:2]
    normal = np.array([-line[1], line[0]]) / np.linalg.norm(line)
    obstacles: list[Item] = []
    in_the_way = rng.random() < 0.85
    for index, template in enumerate(templates):
        for _ in range(20):
            if index == 0 and in_the_way:
                position = start[:2] + rng.uniform(0.3, 0.75) * line + rng.normal(0.0, 0.06) * normal
            else:
                position = np.array([rng.uniform(0.28, 0.74), rng.uniform(-0.25, 0.25)])
            item = replace(
                template, position=(float(position[0]), float(position[1])), yaw=float(rng.uniform(-np.pi, np.pi))
            )
            if _fits(item, obstacles, goal):
                obstacles.append(item)
                break
        else:
            return None
    goal_item = _goal_item(scene, (float(goal[0]), float(goal[1])), rng)
    if any(_hides(item, goal) for item in obstacles):
        return None
    housing = HOUSING_M if scene == "wide_gripper" else 0.0
    if not _solvable(obstacles, start, goal, housing):
        return None
    at = (float(start[0]), float(start[1]), float(start[2]))
    layout = Layout(scene, seed, at, goal_item, tuple(obstacles), housing=housing)
    if scene == "moving_obstacle":
        return _with_motion(layout, rng)
    if scene == "clutter":
        return replace(layout, clutter=_clutter(layout, rng))
    if scene == "hand":
        hand = _hand(layout, rng)
        return None if hand is None else replace(layout, clutter=hand)
    return layout


def _solvable(obstacles: list[Item], start: Array, goal: Array, housing: float = 0.0) -> bool:
    """Whether start and goal are clear of obstacles and a way joins them."""
    at_start, at_goal = Footprint(obstacles, housing).clearance(np.stack([start[:2], goal]))
    if at_start < START_CLEARANCE_M or at_goal < GOAL_CLEARANCE_M:
        return False
    return ClearanceMap(obstacles, housing).connected(start[:2], goal)


def _obstacle_templates(scene: str, rng: np.random.Generator) -> list[Item]:
    cuboid = Item("box", (0.06, 0.06, 0.18), (0.0, 0.0), GREEN)
    cylinder = Item("cylinder", (0.06, 0.06, 0.18), (0.0, 0.0), GREEN)
    lying = Item("cylinder", (0.06, 0.06, 0.16), (0.0, 0.0), GREEN, lying=True)
    if scene == "obstacle_shape":
        return [cylinder, cylinder]
    if scene == "obstacle_count":
        return [cuboid, cuboid, lying]
    if scene == "new_objects":
        wide = Item("cylinder", (0.10, 0.10, 0.16), (0.0, 0.0), BLUE)
        return [wide, wide, replace(lying, rgb=BLUE)]
    if scene == "colors":
        return [replace(cuboid, rgb=_vivid(rng, (0.55, 0.95))) for _ in range(2)]
    if scene == "varied":
        return [_varied_cuboid(rng) for _ in range(1 if rng.random() < 0.2 else 2)]
    return [cuboid, cuboid]


def _goal_item(scene: str, position: tuple[float, float], rng: np.random.Generator) -> Item:
    if scene == "goal_shape":
        return Item("box", (0.05, 0.05, 0.05), position, RED, yaw=float(rng.uniform(-np.pi, np.pi)))
    if scene == "new_objects":
        return Item("box", (0.05, 0.05, 0.05), position, YELLOW, yaw=float(rng.uniform(-np.pi, np.pi)))
    if scene == "varied":
        width = float(rng.uniform(0.04, 0.065))
        rgb = _shade(rng, (-0.05, 0.05))
        return Item("cylinder", (width, width, float(rng.uniform(0.04, 0.06))), position, rgb)
    rgb = _vivid(rng, (0.08, 0.17)) if scene == "colors" else RED
    return Item("cylinder", (0.05, 0.05, 0.05), position, rgb)


def _varied_cuboid(rng: np.random.Generator) -> Item:
    """Sizes and greens around the standard ones, some lying; what transfer and shifted scenes show stays unseen."""
    x, y = (float(side) for side in rng.uniform(0.045, 0.11, 2))
    length, rgb = float(rng.uniform(0.12, 0.20)), _shade(rng, (0.22, 0.50))
    if rng.random() < 0.3:
        return Item("box", (x, x, length), (0.0, 0.0), rgb, lying=True)
    return Item("box", (x, y, length), (0.0, 0.0), rgb)


def _shade(rng: np.random.Generator, hue: tuple[float, float]) -> Rgb:
    return colorsys.hsv_to_rgb(rng.uniform(*hue) % 1.0, rng.uniform(0.65, 1.0), rng.uniform(0.45, 0.95))


def _vivid(rng: np.random.Generator, hue: tuple[float, float]) -> Rgb:
    return colorsys.hsv_to_rgb(rng.uniform(*hue), 0.85, 0.75)


def _fits(item: Item, others: list[Item], goal: Array) -> bool:
    position = np.asarray(item.position)
    low, high = task.WORKSPACE.low, task.WORKSPACE.high
    if not (low[0] + 0.04 <= position[0] <= high[0] - 0.04 and abs(position[1]) <= high[1] - 0.04):
        return False
    if np.linalg.norm(position - goal) < item.radius + 0.05:
        return False
    return all(
        np.linalg.norm(position - np.asarray(other.position)) > item.radius + other.radius + 0.02 for other in others
    )


def _hides(item: Item, goal: Array) -> bool:
    """Whether an obstacle stands between the camera and the upper half of the goal."""
    camera = np.asarray(CAMERA_POSITION)
    toward = camera[:2] - goal
    length = float(np.linalg.norm(toward))
    toward /= length
    offset = np.asarray(item.position) - goal
    along, across = float(offset @ toward), abs(float(offset[0] * toward[1] - offset[1] * toward[0]))
    if along <= 0.0 or across > item.radius + 0.02:
        return False
    height = 0.035 + (camera[2] - 0.035) * max(along - item.radius, 0.0) / length
    return height < item.height


def _with_motion(layout: Layout, rng: np.random.Generator) -> Layout | None:
    """Moves the last obstacle, if the layout is solvable wherever the obstacle is on its way."""
    angle = rng.uniform(0.0, 2.0 * np.pi)
    motion = Motion(1, (float(np.cos(angle)), float(np.sin(angle))), 0.05, 8.0)
    moved = layout.obstacles[motion.obstacle]
    for sign in (-1.0, 1.0):
        x = moved.position[0] + sign * motion.amplitude * motion.direction[0]
        y = moved.position[1] + sign * motion.amplitude * motion.direction[1]
        item = replace(moved, position=(x, y))
        others = [o for i, o in enumerate(layout.obstacles) if i != motion.obstacle]
        goal = np.asarray(layout.goal.position)
        if not _fits(item, others, goal):
            return None
        if not _solvable([*others, item], np.asarray(layout.start), goal):
            return None
    return replace(layout, motion=motion)


def _clutter(layout: Layout, rng: np.random.Generator) -> tuple[Item, ...]:
    """Flat or small things that are no obstacles, clear of goal and obstacles."""
    items: list[Item] = []
    taken = [np.asarray(item.position) for item in (*layout.obstacles, layout.goal)]
    while len(items) < MAX_CLUTTER:
        position = np.array([rng.uniform(0.15, 0.85), rng.uniform(-0.38, 0.38)])
        if any(np.linalg.norm(position - other) < 0.09 for other in taken):
            continue
        taken.append(position)
        size = (float(rng.uniform(0.03, 0.10)), float(rng.uniform(0.03, 0.10)), float(rng.uniform(0.004, 0.012)))
        rgb = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.1, 0.6), rng.uniform(0.4, 0.9))
        items.append(Item("box", size, (float(position[0]), float(position[1])), rgb, yaw=float(rng.uniform(0, np.pi))))
    return tuple(items)


def _hand(layout: Layout, rng: np.random.Generator) -> tuple[Item, ...] | None:
    """Somebody's fist and forearm, reaching in from the side; None where a thing is in the way."""
    side = 1.0 if rng.random() < 0.5 else -1.0
    x, y = float(rng.uniform(0.40, 0.70)), side * float(rng.uniform(0.08, 0.20))
    length = 0.40
    items = (
        Item("box", (0.09, 0.11, 0.07), (x, y), SKIN),
        Item("cylinder", (0.065, 0.065, length), (x, y + side * 0.5 * length), SKIN, lying=True),
    )
    reach = np.array([[x, y + side * d] for d in np.linspace(-0.05, length, 16)])
    things = (*layout.obstacles, layout.goal)
    clear = all(np.linalg.norm(reach - item.position, axis=1).min() > item.radius + 0.06 for item in things)
    return items if clear else None


def _jittered(layout: Layout, seed: int) -> Layout:
    """Small changes of lighting, colours and camera pose."""
    rng = np.random.default_rng((seed, task.SCENES.index(layout.scene), 1))

    def tint(rgb: Rgb, amount: float) -> Rgb:
        r, g, b = np.clip(np.asarray(rgb) * rng.uniform(0.85, 1.15) + rng.uniform(-amount, amount, 3), 0.0, 1.0)
        return float(r), float(g), float(b)

    def near(point: tuple[float, float, float], amount: float) -> tuple[float, float, float]:
        x, y, z = np.asarray(point) + rng.uniform(-amount, amount, 3)
        return float(x), float(y), float(z)

    look = layout.look
    return replace(
        layout,
        goal=replace(layout.goal, rgb=tint(layout.goal.rgb, 0.05)),
        obstacles=tuple(replace(item, rgb=tint(item.rgb, 0.05)) for item in layout.obstacles),
        look=replace(
            look,
            camera_position=near(look.camera_position, 0.012),
            camera_target=near(look.camera_target, 0.008),
            camera_fovy_deg=look.camera_fovy_deg + float(rng.uniform(-0.5, 0.5)),
            camera_roll=float(rng.uniform(-0.01, 0.01)),
            ambient=look.ambient * float(rng.uniform(0.8, 1.2)),
            diffuse=look.diffuse * float(rng.uniform(0.8, 1.2)),
            light_direction=near(look.light_direction, 0.2),
            table=tint(look.table, 0.02),
            line=tint(look.line, 0.05),
            robot_tint=tint((0.95, 0.95, 0.95), 0.03),
        ),
    )


def _shifted_look(layout: Layout, rng: np.random.Generator) -> Layout:
    """The out-of-distribution looks of a scene."""
    look = layout.look
    if layout.scene == "camera_shift":
        side = 1.0 if rng.random() < 0.5 else -1.0
        x, y, z = look.camera_position
        shifted = (x + float(rng.uniform(-0.06, 0.06)), y + side * float(rng.uniform(0.10, 0.18)), z)
        return replace(layout, look=replace(look, camera_position=shifted, camera_roll=side * 0.05))
    if layout.scene == "lights_off":
        return replace(layout, look=replace(look, ambient=0.06, diffuse=0.05))
    if layout.scene == "blur":
        return replace(layout, look=replace(look, blur=float(rng.uniform(0.02, 0.04))))
    if layout.scene == "colors":
        table = colorsys.hsv_to_rgb(float(rng.uniform()), 0.5, 0.35)
        return replace(layout, look=replace(look, table=table))
    return layout
