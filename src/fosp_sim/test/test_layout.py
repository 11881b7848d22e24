"""Layouts: reproducible, solvable, and worth avoiding something in."""

import numpy as np
import pytest

from fosp_core import task
from fosp_sim.layout import (
    BLUE,
    GOAL_CLEARANCE_M,
    GREEN,
    SKIN,
    START_CLEARANCE_M,
    ClearanceMap,
    Footprint,
    Item,
    Layout,
    sample_layout,
)

SEEDS = range(12)


def straight_line_clearance(layout: Layout) -> float:
    line = np.linspace(layout.start[:2], layout.goal.position, 40)
    return float(Footprint(layout.obstacles, layout.housing).clearance(line).min())


@pytest.mark.parametrize("scene", task.SCENES)
def test_every_layout_has_a_way_to_the_goal(scene: str) -> None:
    for seed in SEEDS:
        layout = sample_layout(scene, seed)
        clearance = ClearanceMap(layout.obstacles, layout.housing)
        at_start, at_goal = clearance.at(np.array([layout.start[:2], layout.goal.position]))
        assert at_start >= START_CLEARANCE_M and at_goal >= GOAL_CLEARANCE_M
        assert clearance.connected(layout.start[:2], layout.goal.position)
        assert task.WORKSPACE.contains(np.asarray(layout.start)) and task.WORKSPACE.contains(layout.goal_point)


@pytest.mark.parametrize("scene", task.SCENES)
def test_the_same_seed_is_the_same_layout(scene: str) -> None:
    assert sample_layout(scene, 5, True) == sample_layout(scene, 5, True)
    assert sample_layout(scene, 5) != sample_layout(scene, 6)


def test_visual_randomization_leaves_the_geometry_alone() -> None:
    for seed in SEEDS:
        plain, varied = sample_layout("standard", seed), sample_layout("standard", seed, True)
        assert plain.start == varied.start and plain.look != varied.look
        for a, b in zip((plain.goal, *plain.obstacles), (varied.goal, *varied.obstacles), strict=True):
            assert (a.shape, a.size, a.position, a.yaw) == (b.shape, b.size, b.position, b.yaw)


def test_an_obstacle_is_in_the_way_in_most_layouts() -> None:
    blocked = [straight_line_clearance(sample_layout("standard", seed)) < 0.01 for seed in range(60)]
    assert 0.5 < np.mean(blocked) < 0.9


def test_scenes_hold_what_they_are_named_for() -> None:
    standard = sample_layout("standard", 1)
    assert [item.shape for item in standard.obstacles] == ["box", "box"] and standard.goal.shape == "cylinder"
    assert all(item.size == (0.06, 0.06, 0.18) and item.rgb == GREEN for item in standard.obstacles)
    assert {item.shape for item in sample_layout("obstacle_shape", 1).obstacles} == {"cylinder"}
    assert sample_layout("goal_shape", 1).goal.shape == "box"
    assert [item.lying for item in sample_layout("obstacle_count", 1).obstacles] == [False, False, True]
    new = sample_layout("new_objects", 1)
    assert len(new.obstacles) == 3 and new.obstacles[0].size[0] == 0.10 and new.obstacles[0].rgb == BLUE
    assert sample_layout("camera_shift", 1).look.camera_position != standard.look.camera_position
    assert sample_layout("lights_off", 1).look.ambient < 0.2 * standard.look.ambient
    assert sample_layout("clutter", 1).clutter and sample_layout("moving_obstacle", 1).motion is not None
    assert sample_layout("colors", 1).obstacles[0].rgb != GREEN
    assert {item.rgb for item in sample_layout("hand", 1).clutter} == {SKIN}
    assert sample_layout("blur", 1).look.blur > 0.0
    assert sample_layout("wide_gripper", 1).housing > 0.0 and standard.housing == 0.0


def test_a_hand_reaches_in_and_stays_clear_of_what_stands_there() -> None:
    for seed in range(20):
        layout = sample_layout("hand", seed)
        fist = layout.clutter[0]
        assert task.WORKSPACE.contains(np.array([*fist.position, 0.05]))
        things = (*layout.obstacles, layout.goal)
        assert all(np.linalg.norm(np.subtract(fist.position, t.position)) > t.radius + 0.05 for t in things)


def test_layouts_of_scenes_stay_what_they_were_when_scenes_are_added() -> None:
    # datasets, evaluations and calibrations name layouts by scene and seed
    assert task.SCENES.index("varied") == 10
    assert sample_layout("varied", 3).start == pytest.approx((0.36853, -0.20155, 0.07050), abs=1e-5)


def test_clearance_is_the_distance_from_the_hand_seen_from_above() -> None:
    block = Item("box", (0.06, 0.06, 0.18), (0.5, 0.0), GREEN)
    clearance = Footprint([block]).clearance(np.array([[0.5, 0.23], [0.4, 0.0], [0.5, 0.05]]))
    # Beside it the hand's half width of 10 cm counts, in front of it the wrist's radius of 4.4 cm.
    assert clearance[0] == pytest.approx(0.23 - 0.10 - 0.03, abs=1e-3)
    assert clearance[1] == pytest.approx(0.10 - 0.044 - 0.03, abs=1e-3)
    assert clearance[2] <= 0.0
    assert Footprint([]).clearance(np.zeros((2, 2))).tolist() == [1.0, 1.0]


def test_a_housing_is_part_of_the_hand() -> None:
    block = Item("box", (0.06, 0.06, 0.18), (0.5, 0.0), GREEN)
    beside = np.array([[0.5, 0.23]])
    bare, housed = (Footprint([block], housing).clearance(beside)[0] for housing in (0.0, 0.03))
    assert bare - housed == pytest.approx(0.03)


def test_a_wall_of_obstacles_disconnects() -> None:
    wall = [Item("box", (0.06, 0.06, 0.18), (0.5, y), GREEN) for y in (-0.24, -0.08, 0.08, 0.24)]
    assert not ClearanceMap(wall).connected((0.35, 0.0), (0.65, 0.0))
    assert ClearanceMap(wall[:1]).connected((0.35, 0.0), (0.65, 0.0))


def test_unknown_scene_and_negative_seed_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown scene 'nowhere'.*standard"):
        sample_layout("nowhere", 0)
    with pytest.raises(ValueError, match="negative"):
        sample_layout("standard", -1)
