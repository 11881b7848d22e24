"""What the camera shows of the table: a map of obstacles and goal read from every frame and kept in memory, the way
round the obstacles on that map, and how both look from where the tool is.

Reading is learned from labels that a simulation has; the way and the view are geometry and hold no parameters. The way
is value iteration on the map (Tamar et al. 2016 plan inside a network by the same recursion). Shapes: C cells a side of
``fosp_core.task``'s table map, N a flat batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fosp_core import task
from fosp_trainer.config import TableConfig

CELLS: Final = task.TABLE_CELLS
AREA: Final = CELLS * CELLS
LENGTH: Final = 4 * AREA + 2
"""Of the flat form of a ``Table``."""
HAND_CELLS: Final = (1, 5)
"""Half extent of the hand along x and y in cells, the cell under it not counted: 3 by 11 cm, a centimetre to spare."""
WRIST_CELLS: Final = 2
NEAR_LEVELS: Final = 4
DIRECTIONS: Final = 16
RADII_M: Final = (0.035, 0.07)
GOAL_CELLS: Final = 1.5
"""Nearer to the goal's place the way is the distance, whatever stands there."""
FAR: Final = 200.0
"""Of the way, where no way is known; in cells."""
REACH_M: Final = (0.31, 0.73)
BORDER_M: Final = 0.02
VIEW: Final = 1 + 1 + 2 + 2 + DIRECTIONS * (len(RADII_M) + 1)
"""Length of a view."""


@dataclass
class Reading:
    """What single frames show; logits. A gate says how much of the memory the frame replaces."""

    cover: Tensor  # (N, C, C)
    cover_gate: Tensor  # (N, C, C)
    goal: Tensor  # (N, C, C)
    goal_gate: Tensor  # (N,)


@dataclass
class Table:
    """What is believed of the table, and what follows from it; any leading shape."""

    cover: Tensor  # (..., C, C) logits that a cell is covered by an obstacle
    goal: Tensor  # (..., C, C) log weights of the goal's place
    near: Tensor  # (..., C, C) in [0, 1]: 1 where the hand would touch, falling to 0 at 6 cm of clearance
    way: Tensor  # (..., C, C) length of the best way to the goal in cells, places near obstacles counted dearer
    place: Tensor  # (..., 2) the goal's place, metres

    def flat(self) -> Tensor:
        """(..., LENGTH)."""
        grids = [x.flatten(-2) for x in (self.cover, self.goal, self.near, self.way)]
        return torch.cat([*grids, self.place], -1)


def unflatten(flat: Tensor) -> Table:
    """The table of its flat form (..., LENGTH)."""
    *grids, place = flat.split([AREA] * 4 + [2], -1)
    cover, goal, near, way = (x.unflatten(-1, (CELLS, CELLS)) for x in grids)
    return Table(cover, goal, near, way, place)


def centres() -> Tensor:
    """Coordinates (2, C) of the cells' centres along x and along y, metres."""
    steps = (torch.arange(CELLS) + 0.5) * task.TABLE_CELL_M
    return torch.stack([task.TABLE_LOW[0] + steps, task.TABLE_LOW[1] + steps])


def hat_weights(position: Tensor, along: Tensor) -> Tensor:
    """Weights (..., 2, C), along x and along y, that read a grid between its centres ``along`` (2, C) at positions
    (..., 2); places beyond the outer centres read the outermost cell.
    """
    held = torch.minimum(torch.maximum(position, along[:, 0]), along[:, -1])
    return (1.0 - (held[..., None] - along).abs() / task.TABLE_CELL_M).clamp_min(0.0)


def goal_target(goal: Tensor) -> Tensor:
    """Weights (N, C * C) that sum to 1 and whose mean place is the goal (N, 2 or 3) in metres."""
    along_x, along_y = hat_weights(goal[:, :2], centres().to(goal.device)).unbind(1)
    return (along_x[:, :, None] * along_y[:, None]).flatten(1)


def mean_place(weights: Tensor, along: Tensor) -> Tensor:
    """Mean place (N, 2) in metres of weights (N, C, C) that sum to 1, with the cells' centres (2, C)."""
    return torch.stack([weights.sum(2) @ along[0], weights.sum(1) @ along[1]], -1)


class Reader(nn.Module):
    """Features of the image encoder at three scales to a reading.

    The camera looks along the table's -x: rows of the picture run along x and columns along y, so that the picture's
    grid of features lies over the table's, but for perspective. Coordinates beside the features let it be learned.
    """

    grid4: Tensor
    grid8: Tensor
    grid16: Tensor

    def __init__(self, channels: Sequence[int], units: int) -> None:
        """``channels``: of the features at all scales, the finest first; the last three are read."""
        super().__init__()
        fine, middle, coarse = channels[-3:]
        self.deep = nn.Conv2d(coarse + 2, 4 * units, 3, 1, 1)
        self.middle = nn.Conv2d(units + middle + 2, 4 * units, 3, 1, 1)
        self.fine = nn.Conv2d(units + fine + 2, units, 3, 1, 1)
        self.out = nn.Conv2d(units, 3 * 4, 3, 1, 1)
        self.gate = nn.Linear(coarse, 1)
        self.shuffle = nn.PixelShuffle(2)
        for size in (4, 8, 16):
            line = torch.linspace(-1.0, 1.0, size)
            grid = torch.stack([line[:, None].expand(size, size), line[None].expand(size, size)])
            self.register_buffer(f"grid{size}", grid[None].clone(), persistent=False)
        nn.init.constant_(self.out.bias[:4], -2.0)  # type: ignore[index]  # few cells are covered

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> Reading:
        """Features (N, channels, 16, 16), (N, channels, 8, 8) and (N, channels, 4, 4)."""
        x = self.shuffle(F.silu(self.deep(_beside(self.grid4, coarse))))
        x = self.shuffle(F.silu(self.middle(_beside(self.grid8, x, middle))))
        x = F.silu(self.fine(_beside(self.grid16, x, fine)))
        cover, gate, goal = self.shuffle(self.out(x)).unbind(1)
        return Reading(cover, gate, goal, self.gate(coarse.mean((2, 3)))[:, 0])


def _beside(coordinates: Tensor, *features: Tensor) -> Tensor:
    """Features (N, channels, S, S) with coordinates (1, 2, S, S) as further channels."""
    return torch.cat([*features, coordinates.expand(features[0].shape[0], -1, -1, -1)], 1)


def remember(cover: Tensor, goal: Tensor, reading: Reading, is_first: Tensor) -> tuple[Tensor, Tensor]:
    """The beliefs (N, C, C) of obstacles and goal after one more reading. ``is_first`` (N,) 0 or 1 forgets them."""
    first = is_first[:, None, None]
    cover_gate = torch.maximum(torch.sigmoid(reading.cover_gate), first)
    goal_gate = torch.maximum(torch.sigmoid(reading.goal_gate)[:, None, None], first)
    return cover + cover_gate * (reading.cover - cover), goal + goal_gate * (reading.goal - goal)


class Geometry(nn.Module):
    """The way and the view. Holds constants only."""

    walls: Tensor
    along: Tensor
    offsets: Tensor
    compass: Tensor

    def __init__(self, config: TableConfig) -> None:
        super().__init__()
        self.config = config
        xs, ys = centres()
        gx, gy = torch.meshgrid(xs, ys, indexing="ij")
        radius = torch.hypot(gx, gy)
        outside = (gx > task.WORKSPACE.high[0] - BORDER_M) | (gy.abs() > task.WORKSPACE.high[1] - BORDER_M)
        walls = outside | (radius < REACH_M[0]) | (radius > REACH_M[1])
        self.register_buffer("walls", walls.float(), persistent=False)
        self.register_buffer("along", torch.stack([xs, ys]), persistent=False)
        angle = torch.arange(DIRECTIONS) * (2.0 * math.pi / DIRECTIONS)
        compass = torch.stack([angle.cos(), angle.sin()], -1)  # (directions, 2)
        self.register_buffer("compass", compass, persistent=False)
        offsets = torch.cat([torch.zeros(1, 2), *(radius * compass for radius in RADII_M)])
        self.register_buffer("offsets", offsets, persistent=False)

    def table(self, cover: Tensor, goal: Tensor) -> Table:
        """The table that beliefs (N, C, C) describe."""
        weights = torch.softmax(goal.flatten(1), -1).unflatten(1, (CELLS, CELLS))
        place = mean_place(weights, self.along)
        near, levels = self.clearance(torch.sigmoid(cover))
        return Table(cover, goal, near, self.way(levels, place), place)

    def clearance(self, covered: Tensor) -> tuple[Tensor, list[Tensor]]:
        """How near obstacles a hand would be at each cell, as ``Table.near``, from how sure cells are covered
        (N, C, C) in [0, 1]; and the levels it is the mean of, each two centimetres wider.
        """
        sure = ((covered - self.config.doubt) / (self.config.certainty - self.config.doubt)).clamp(0.0, 1.0)[:, None]
        hand = _widest(_widest(sure, 0, HAND_CELLS[0]), 1, HAND_CELLS[1])
        wrist = _widest(_widest(sure, 0, WRIST_CELLS), 1, WRIST_CELLS)
        levels = [torch.maximum(hand, wrist)]
        while len(levels) < NEAR_LEVELS:
            levels.append(F.max_pool2d(levels[-1], 3, 1, 1))
        squeezed = [x[:, 0] for x in levels]
        return torch.stack(squeezed).mean(0), squeezed

    def way(self, levels: list[Tensor], place: Tensor, goal_cells: float = GOAL_CELLS) -> Tensor:
        """Length (N, C, C) of the best way to places (N, 2) from each cell, in cells: value iteration in which a cell
        costs more, the nearer obstacles it is. Cells within ``goal_cells`` are where ways end.
        """
        price = 1.0 + self.config.wall_price * self.walls
        for weight, level in zip(self.config.prices, levels, strict=True):
            price = price + weight * level  # (N, C, C)
        dx = (self.along[0] - place[:, :1]) / task.TABLE_CELL_M
        dy = (self.along[1] - place[:, 1:]) / task.TABLE_CELL_M
        distance = torch.sqrt(dx[:, :, None] ** 2 + dy[:, None] ** 2 + 1e-6)
        value = torch.where(distance < goal_cells, -distance, torch.full_like(distance, -FAR))
        if torch.jit.is_tracing():
            return -sweep_pooled(value[:, None], price[:, None], self.config.sweeps)[:, 0]
        return -sweep(value, price, self.config.sweeps)

    def view(self, flat: Tensor, tool: Tensor) -> Tensor:
        """What a hand at ``tool`` (N, 2 or 3, metres) has around it, (N, VIEW), of tables (N, LENGTH) flat."""
        table = unflatten(flat)
        points = tool[:, None, :2] + self.offsets  # (N, K, 2)
        along_x, along_y = hat_weights(points, self.along).unbind(-2)
        fields = torch.stack([table.near, table.way], 1)  # (N, 2, C, C)
        read = ((along_x[:, None] @ fields) * along_y[:, None]).sum(-1)  # (N, 2, K)
        near, way = read.unbind(1)
        ahead = (way[:, 1 : 1 + DIRECTIONS] - way[:, :1]) * (task.TABLE_CELL_M / RADII_M[0])
        slope = ahead.clamp(-3.0, 3.0)
        heading = torch.softmax(-4.0 * slope, -1) @ self.compass
        goal = (table.place - tool[:, :2]) / 0.3
        return torch.cat([near, (way[:, :1] / 30.0).clamp_max(3.0), goal, heading, slope], -1)


def sweep(value: Tensor, price: Tensor, sweeps: int) -> Tensor:
    """Values (N, C, C) after sweeps in which a step into a cell costs its price (N, C, C), diagonally sqrt(2) times it:
    v <- max(v, max of the four neighbours - price, max of all eight - sqrt(2) price).
    """
    diagonal = math.sqrt(2.0) * price
    held = F.pad(value, (1, 1, 1, 1), value=-FAR)
    inner = held[:, 1:-1, 1:-1]
    for _ in range(sweeps):
        rows = torch.maximum(held[:, :-2], held[:, 2:])  # (N, C, C + 2)
        straight = rows[:, :, 1:-1].clone()
        straight[:, :, 1:] = torch.maximum(straight[:, :, 1:], inner[:, :, :-1])
        straight[:, :, :-1] = torch.maximum(straight[:, :, :-1], inner[:, :, 1:])
        corners = torch.maximum(rows[:, :, :-2], rows[:, :, 2:])
        inner.copy_(torch.maximum(inner, torch.maximum(straight.sub_(price), corners.sub_(diagonal))))
    return inner


def sweep_pooled(value: Tensor, price: Tensor, sweeps: int) -> Tensor:
    """``sweep`` of (N, 1, C, C) by pooling: few and fast operations in an exported graph, slow ones in torch."""
    diagonal = math.sqrt(2.0) * price
    for _ in range(sweeps):
        rows = F.max_pool2d(value, (3, 1), 1, (1, 0))
        columns = F.max_pool2d(value, (1, 3), 1, (0, 1))
        corners = F.max_pool2d(rows, (1, 3), 1, (0, 1))
        value = torch.maximum(value, torch.maximum(torch.maximum(rows, columns) - price, corners - diagonal))
    return value


def _widest(x: Tensor, axis: int, reach: int) -> Tensor:
    """Largest value within ``reach`` cells along x (axis 0) or y (axis 1) of (N, 1, C, C)."""
    kernel, pad = (2 * reach + 1, 1), (reach, 0)
    return F.max_pool2d(x, kernel, 1, pad) if axis == 0 else F.max_pool2d(x, kernel[::-1], 1, pad[::-1])


def reading_loss(
    cover: Tensor, goal: Tensor, footprints: Tensor, place: Tensor, cover_weight: float
) -> tuple[Tensor, Tensor]:
    """Losses (scalars) of beliefs (N, C, C) against coverage (N, C, C) in [0, 1] and the goal's place (N, 2 or 3)."""
    weight = torch.tensor(cover_weight, device=cover.device)
    covered = F.binary_cross_entropy_with_logits(cover, footprints, pos_weight=weight)
    log_p = torch.log_softmax(goal.flatten(1), -1)
    target = goal_target(place)
    cross = -(target * log_p).sum(-1).mean()
    mean = mean_place(log_p.exp().unflatten(1, (CELLS, CELLS)), centres().to(goal.device))
    off = F.smooth_l1_loss(mean / task.TABLE_CELL_M, place[:, :2] / task.TABLE_CELL_M)
    return covered, cross + off
