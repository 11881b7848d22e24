"""The map of the table: memory of readings, the way round obstacles, and what a hand has around it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fosp_core import task
from fosp_trainer import table
from fosp_trainer.config import TableConfig
from fosp_trainer.table import CELLS, FAR, Geometry, Reading

GEOMETRY = Geometry(TableConfig())
SURE = 8.0


def beliefs(goal: tuple[float, float], *blocks: tuple[slice, slice]) -> tuple[Tensor, Tensor]:
    """Sure beliefs (1, C, C): a goal in metres, and covered cells."""
    cover = torch.full((1, CELLS, CELLS), -SURE)
    for block in blocks:
        cover[0][block] = SURE
    weights = table.goal_target(torch.tensor([goal]))
    return cover, torch.log(weights + 1e-9).unflatten(1, (CELLS, CELLS))


def cell(x: float, y: float) -> tuple[int, int]:
    low = task.TABLE_LOW
    return int((x - low[0]) / task.TABLE_CELL_M), int((y - low[1]) / task.TABLE_CELL_M)


def reading(value: float, gate: float) -> Reading:
    grid = torch.full((1, CELLS, CELLS), value)
    return Reading(grid, torch.full_like(grid, gate), grid, torch.full((1,), gate))


def test_flat_form_and_back() -> None:
    known = GEOMETRY.table(*beliefs((0.5, 0.1), (np.s_[5:8], np.s_[9:12])))
    again = table.unflatten(known.flat())
    for name in ("cover", "goal", "near", "way", "place"):
        assert torch.equal(getattr(known, name), getattr(again, name))
    assert known.flat().shape == (1, table.LENGTH)


def test_first_frame_forgets_and_closed_gates_remember() -> None:
    before = torch.full((1, CELLS, CELLS), 3.0)
    forgotten, _ = table.remember(before, before, reading(-1.0, -20.0), torch.ones(1))
    assert torch.equal(forgotten, torch.full_like(before, -1.0))
    kept, goal = table.remember(before, before, reading(-1.0, -20.0), torch.zeros(1))
    torch.testing.assert_close(kept, before)
    torch.testing.assert_close(goal, before)
    replaced, _ = table.remember(before, before, reading(-1.0, 20.0), torch.zeros(1))
    torch.testing.assert_close(replaced, torch.full_like(before, -1.0))


@pytest.mark.parametrize("goal", [(0.413, -0.087), (0.62, 0.0), (0.7012, 0.2449)])
def test_weights_of_a_goal_have_the_goal_as_their_mean_place(goal: tuple[float, float]) -> None:
    known = GEOMETRY.table(*beliefs(goal))
    torch.testing.assert_close(known.place, torch.tensor([goal]), atol=1e-4, rtol=0)


def test_way_on_an_empty_table_is_the_distance_in_cells() -> None:
    goal = (0.5, 0.0)
    way = GEOMETRY.table(*beliefs(goal)).way[0]
    for x, y in ((0.4, 0.0), (0.5, 0.2), (0.6, 0.1), (0.45, -0.15)):
        i, j = cell(x, y)
        centre = (GEOMETRY.along[0][i], GEOMETRY.along[1][j])
        straight = float(torch.hypot(centre[0] - goal[0], centre[1] - goal[1])) / task.TABLE_CELL_M
        assert straight - 1.5 <= float(way[i, j]) <= 1.1 * straight + 1.5


def test_way_leads_round_a_wall_and_not_through_it() -> None:
    i, _ = cell(0.5, 0.0)
    wall = (np.s_[i : i + 2], np.s_[0:20])
    start, goal = (0.36, -0.1), (0.64, -0.1)
    free, blocked = (GEOMETRY.table(*beliefs(goal, *blocks)).way[0][cell(*start)] for blocks in ((), (wall,)))
    assert float(free) + 8.0 < float(blocked) < 70.0


def test_way_agrees_with_dijkstra_on_random_tables() -> None:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import dijkstra

    rng = np.random.default_rng(0)
    index = np.arange(CELLS * CELLS).reshape(CELLS, CELLS)
    for _ in range(3):
        corners = rng.integers(4, 26, (2, 2))
        cover, goal = beliefs((0.6, 0.1), *((np.s_[i : i + 3], np.s_[j : j + 3]) for i, j in corners))
        _, levels = GEOMETRY.clearance(torch.sigmoid(cover))
        weights = zip(GEOMETRY.config.prices, levels, strict=True)
        price = (1.0 + GEOMETRY.config.wall_price * GEOMETRY.walls + sum(w * x for w, x in weights))[0].numpy()  # type: ignore[index]
        rows, columns, values = [], [], []
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                if di or dj:
                    here = index[max(0, -di) : CELLS - max(0, di), max(0, -dj) : CELLS - max(0, dj)].ravel()
                    rows.append(here + di * CELLS + dj)  # entering ``here`` costs its price
                    columns.append(here)
                    values.append(np.hypot(di, dj) * price.ravel()[here])
        graph = coo_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))).tocsr()
        way = GEOMETRY.table(cover, goal).way[0]
        sources = torch.nonzero(way.flatten() < 1.5).flatten().numpy()
        expected = (dijkstra(graph, indices=sources) + way.flatten()[sources].numpy()[:, None]).min(0)
        near = expected < 30.0  # as far as the sweeps reach
        np.testing.assert_allclose(way.flatten().numpy()[near], expected[near], rtol=1e-3, atol=1e-2)
        assert float(way.max()) <= FAR


def test_exported_form_of_the_sweeps_gives_the_same_values() -> None:
    generator = torch.Generator().manual_seed(0)
    price = 1.0 + 20.0 * (torch.rand(3, CELLS, CELLS, generator=generator) > 0.8)
    value = torch.full((3, CELLS, CELLS), -FAR)
    value[:, 11, 7] = 0.0
    pooled = table.sweep_pooled(value[:, None], price[:, None], 20)[:, 0]
    torch.testing.assert_close(table.sweep(value, price, 20), pooled)


def test_clearance_covers_the_hand_and_widens_by_levels() -> None:
    covered = torch.zeros(1, CELLS, CELLS)
    covered[0, 16, 16] = 1.0
    near, levels = GEOMETRY.clearance(covered)
    assert levels[0][0, 16, 16 + 5] == 1.0 and levels[0][0, 16, 16 + 6] == 0.0  # the hand is wide along y
    assert levels[0][0, 16 + 2, 16] == 1.0 and levels[0][0, 16 + 3, 16] == 0.0  # and narrow along x, but for the wrist
    assert near[0, 16 + 3, 16] == 0.75 and near[0, 0, 0] == 0.0


def test_doubtful_cells_count_as_free_and_likely_ones_as_covered() -> None:
    config = GEOMETRY.config
    for probability, expected in ((config.doubt, 0.0), (config.certainty, 1.0)):
        _, levels = GEOMETRY.clearance(torch.full((1, CELLS, CELLS), probability))
        assert float(levels[0].max()) == pytest.approx(expected, abs=1e-6)


def test_view_points_along_the_way_and_tells_what_is_near() -> None:
    i, j = cell(0.5, 0.0)
    flat = GEOMETRY.table(*beliefs((0.68, 0.0), (np.s_[i : i + 3], np.s_[j - 1 : j + 2]))).flat()
    tool = torch.tensor([[0.40, 0.0, 0.1]])
    view = GEOMETRY.view(flat, tool)[0]
    directions = len(table.RADII_M) * table.DIRECTIONS
    near, rest = view[: 1 + directions], view[1 + directions :]
    assert view.shape == (table.VIEW,)
    assert near[1] > near[1 + table.DIRECTIONS // 2]  # towards the obstacle, and away from it
    torch.testing.assert_close(rest[1:3], torch.tensor([0.28 / 0.3, 0.0]), atol=1e-3, rtol=0)
    heading = rest[3:5]
    assert abs(float(heading[1])) > abs(float(heading[0]))  # sideways first


def test_mirrored_tables_have_mirrored_views() -> None:
    cover, goal = beliefs((0.61, 0.12), (np.s_[14:17], np.s_[10:13]))
    tool = torch.tensor([[0.42, -0.07, 0.1]])
    one = GEOMETRY.view(GEOMETRY.table(cover, goal).flat(), tool)[0]
    other = GEOMETRY.view(GEOMETRY.table(cover.flip(-1), goal.flip(-1)).flat(), tool * torch.tensor([1.0, -1.0, 1.0]))[
        0
    ]
    ring = (-torch.arange(table.DIRECTIONS)) % table.DIRECTIONS
    index = [torch.zeros(1, dtype=torch.long)]
    index += [1 + k * table.DIRECTIONS + ring for k in range(len(table.RADII_M))]
    start = 1 + len(table.RADII_M) * table.DIRECTIONS
    index += [torch.arange(start, start + 5), start + 5 + ring]
    mirrored = other[torch.cat(index)]
    mirrored[[start + 2, start + 4]] *= -1.0
    torch.testing.assert_close(one, mirrored, atol=1e-4, rtol=1e-4)


def test_reading_loss_is_least_at_the_truth() -> None:
    cover, goal = beliefs((0.55, -0.1), (np.s_[4:7], np.s_[20:23]))
    truth, place = torch.sigmoid(cover), torch.tensor([[0.55, -0.1]])
    right = table.reading_loss(cover, goal, truth, place, 2.0)
    wrong = table.reading_loss(cover.flip(-1), goal.flip(-1), truth, place, 2.0)
    assert all(float(a) < float(b) for a, b in zip(right, wrong, strict=True))
