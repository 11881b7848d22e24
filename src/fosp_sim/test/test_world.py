"""The world: physics, distances, pictures."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace

import mujoco
import numpy as np
import pytest

from fosp_core import task
from fosp_sim.layout import CAMERA_TARGET, GREEN, RED, Item, Layout, sample_layout
from fosp_sim.world import HOME, TIMESTEP_S, TOOL_ROTATION, ArmKinematics, World

GOAL = Item("cylinder", (0.05, 0.05, 0.05), (0.65, 0.2), RED)
BLOCK = Item("box", (0.06, 0.06, 0.18), (0.5, 0.0), GREEN)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as it:
        yield it


def lay_out(world: World, *obstacles: Item, start: tuple[float, float, float] = (0.35, 0.0, 0.08)) -> None:
    world.reset(Layout("standard", 0, start, GOAL, obstacles))


def test_a_world_that_is_dropped_without_closing_leaves_the_next_ones_pictures_alone() -> None:
    layout = sample_layout("standard", 7)
    pictures = []
    it = World()
    for _ in range(4):
        it.reset(layout)
        it.render(64, 64)
        pictures.append(it.render(64, 64))
        it = World()
    for picture in pictures[1:]:
        assert np.array_equal(picture, pictures[0])


def test_footprints_cover_what_stands_on_the_table_and_follow_what_falls(world: World) -> None:
    cylinder = Item("cylinder", (0.10, 0.10, 0.16), (0.4, 0.1), GREEN)
    lying = Item("box", (0.05, 0.05, 0.20), (0.62, 0.1), GREEN, yaw=0.4, lying=True)
    lay_out(world, BLOCK, cylinder, lying)
    cells = world.footprints() / 255.0
    area = cells.sum() * task.TABLE_CELL_M**2
    assert area == pytest.approx(0.06**2 + np.pi * 0.05**2 + 0.05 * 0.20, rel=0.12)
    for item in (BLOCK, cylinder, lying):
        i, j = ((np.asarray(item.position) - task.TABLE_LOW) / task.TABLE_CELL_M).astype(int)
        assert cells[i, j] == 1.0
    lay_out(world)
    assert not world.footprints().any()
    lay_out(world, Item("box", (0.03, 0.03, 0.18), (0.5, 0.0), GREEN), start=(0.35, 0.0, 0.15))
    standing = float(world.footprints().sum())
    move(world, (0.6, 0.0, 0.15))
    world.step(200)
    world.refresh()
    assert world.fallen()[0] and float(world.footprints().sum()) > 2.0 * standing


def move(world: World, *targets: tuple[float, float, float], steps: int = 40) -> bool:
    """Moves the tool along a polyline; whether something was touched on the way."""
    touched, joints, position = False, world.joints, world.tool
    for target in targets:
        for fraction in np.linspace(0.0, 1.0, steps):
            joints = world.kinematics.solve(joints, (1 - fraction) * position + fraction * np.asarray(target))
            world.set_joint_targets(joints)
            world.step(4)
            touched = touched or world.touching()
        position = np.asarray(target)
    world.refresh()
    return touched


def test_reset_puts_the_tool_at_the_start_gripper_down(world: World) -> None:
    for seed in range(10):
        layout = sample_layout("standard", seed)
        world.reset(layout)
        np.testing.assert_allclose(world.tool, layout.start, atol=1e-3)
        np.testing.assert_allclose(world.kinematics.rotation(world.joints), TOOL_ROTATION, atol=0.01)
        assert not world.touching() and not world.fallen().any()


def test_a_start_out_of_reach_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="out of reach"):
        lay_out(world, start=(0.8, 0.3, 0.16))


def test_inverse_kinematics_reach_the_whole_task_space() -> None:
    kinematics, rng = ArmKinematics(), np.random.default_rng(0)
    for _ in range(300):
        radius, angle = rng.uniform(0.31, 0.73), rng.uniform(-0.75, 0.75)
        target = np.array([radius * np.cos(angle), radius * np.sin(angle), rng.uniform(0.03, 0.16)])
        joints = kinematics.solve(np.array(HOME), target, iterations=40)
        np.testing.assert_allclose(kinematics.tool(joints), target, atol=1.5e-3)
        np.testing.assert_allclose(kinematics.rotation(joints), TOOL_ROTATION, atol=0.01)


def test_the_arm_holds_still_and_obstacles_stand(world: World) -> None:
    layout = sample_layout("obstacle_count", 3)
    world.reset(layout)
    before = world.obstacles
    world.step(round(2.0 / TIMESTEP_S))
    world.refresh()
    np.testing.assert_allclose(world.tool, layout.start, atol=2e-3)
    np.testing.assert_allclose(world.obstacles, before, atol=2e-3)
    assert not world.fallen().any()


def test_going_around_an_obstacle_touches_nothing(world: World) -> None:
    lay_out(world, BLOCK)
    assert not move(world, (0.35, 0.22, 0.08), (0.62, 0.22, 0.08))


def test_pushing_an_obstacle_is_a_contact_and_knocks_it_over(world: World) -> None:
    lay_out(world, BLOCK, start=(0.35, 0.0, 0.15))
    assert move(world, (0.60, 0.0, 0.15), steps=60)
    assert world.fallen()[0] and not world.fallen()[1:].any()


def test_a_housing_touches_what_the_bare_hand_passes_and_is_seen(world: World) -> None:
    # the hand reaches 10 cm to the side, the block begins 12 cm beside its way
    block = Item("box", (0.06, 0.06, 0.18), (0.5, 0.15), GREEN)
    bare = Layout("standard", 0, (0.35, 0.0, 0.08), GOAL, (block,))
    met, looks = [], []
    for layout in (bare, replace(bare, housing=0.03), bare):
        world.reset(layout)
        looks.append(world.render(320, 240))
        met.append(move(world, (0.65, 0.0, 0.08)))
    assert met == [False, True, False]
    assert (looks[0] != looks[1]).any() and np.array_equal(looks[0], looks[2])


def test_a_lying_cylinder_that_rolls_has_not_fallen(world: World) -> None:
    cylinder = Item("cylinder", (0.06, 0.06, 0.16), (0.5, 0.0), GREEN, yaw=0.0, lying=True)
    lay_out(world, cylinder, start=(0.38, 0.0, 0.03))
    assert move(world, (0.55, 0.0, 0.03))
    assert not world.fallen().any()
    assert np.linalg.norm(world.obstacles[0, :2] - (0.5, 0.0)) > 0.01


def test_clearance_is_the_smallest_distance_of_all_pairs(world: World) -> None:
    for seed in range(8):
        world.reset(sample_layout("new_objects", seed))
        model, data = world.model, world.data
        arm = [g for g in range(model.ngeom) if model.geom_group[g] == 0]
        others = [model.geom(f"obstacle{i}").id for i in range(3)]
        distances = [mujoco.mj_geomDistance(model, data, a, b, 1.0, None) for a in arm for b in others]
        assert world.clearance(1.0) == pytest.approx(min(distances), abs=1e-9)


def test_clearance_without_obstacles_is_the_limit_and_their_places_are_nan(world: World) -> None:
    lay_out(world)
    assert world.clearance(0.5) == 0.5
    assert np.isnan(world.obstacles).all()


def test_a_moving_obstacle_goes_to_and_fro(world: World) -> None:
    layout = sample_layout("moving_obstacle", 2)
    assert layout.motion is not None
    world.reset(layout)
    way = []
    for _ in range(40):
        world.step(round(0.2 / TIMESTEP_S))
        world.refresh()
        way.append(world.obstacles[layout.motion.obstacle, :2])
    along = (np.array(way) - layout.obstacles[layout.motion.obstacle].position) @ np.asarray(layout.motion.direction)
    assert along.max() > 0.02 and along.max() - along.min() > 0.05
    assert not world.fallen().any()


@pytest.mark.parametrize("scene", task.SCENES)
def test_pictures_show_the_scene(world: World, scene: str) -> None:
    world.reset(sample_layout(scene, 4))
    picture = world.render(64, 64)
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert picture.std() > (2.0 if scene == "lights_off" else 15.0 if scene == "blur" else 20.0)


def test_a_lens_out_of_focus_softens_the_picture_at_any_size(world: World) -> None:
    layout = sample_layout("standard", 3)
    for size in ((64, 64), (320, 240)):
        edges = []
        for blur in (0.0, 0.03):
            world.reset(replace(layout, look=replace(layout.look, blur=blur)))
            edges.append(np.abs(np.diff(world.render(*size).astype(int), axis=1)).max())
        assert edges[1] < 0.5 * edges[0]


def test_the_goal_is_visible_at_the_start(world: World) -> None:
    for seed in range(30):
        world.reset(sample_layout("standard", seed))
        picture = world.render(64, 64).astype(int)
        red = (picture[..., 0] > 80) & (picture[..., 1] < 60) & (picture[..., 2] < 60)
        assert red.sum() >= 4, f"seed {seed}"


def test_intrinsics_project_a_point_to_where_it_is_drawn(world: World) -> None:
    lay_out(world)
    camera = world.intrinsics(320, 240)
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, world.model.cam_quat[0])
    point = rotation.reshape(3, 3).T @ (np.array([*GOAL.position, 0.03]) - world.model.cam_pos[0])
    column = camera.cx + camera.fx * point[0] / -point[2]
    row = camera.cy - camera.fy * point[1] / -point[2]
    picture = world.render(320, 240).astype(int)
    rows, columns = np.nonzero((picture[..., 0] > 80) & (picture[..., 1] < 60))
    assert abs(rows.mean() - row) < 4 and abs(columns.mean() - column) < 4
    assert CAMERA_TARGET[1] == 0.0


def test_a_picture_depends_on_the_layout_alone_not_on_what_was_before(world: World) -> None:
    layout = sample_layout("standard", 3)
    world.reset(layout)
    first = world.render(64, 64)
    for scene in task.SCENES:
        world.reset(sample_layout(scene, 8, True))
        world.step(20)
        world.render(320, 240)
    world.reset(layout)
    np.testing.assert_array_equal(world.render(64, 64), first)


def test_leaving_out_what_is_outside_the_picture_changes_no_pixel(world: World) -> None:
    hidden = 0
    for seed in range(6):
        world.reset(sample_layout("camera_shift", seed))
        for size in ((64, 64), (320, 240)):
            picture = world.render(*size)
            hidden += int((world.model.geom_group == 4).sum())
            renderer = world._renderer
            assert renderer is not None
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(renderer, "_hide_what_is_outside", lambda *_: None)
                world.model.geom_group[renderer._robot] = 1
                np.testing.assert_array_equal(world.render(*size), picture)
    assert hidden > 0


def test_several_worlds_draw_side_by_side() -> None:
    layouts = [sample_layout("standard", seed) for seed in range(3)]
    alone = []
    for layout in layouts:
        with World() as world:
            world.reset(layout)
            alone.append(world.render(64, 64))
    worlds = [World() for _ in layouts]
    for world, layout in zip(worlds, layouts, strict=True):
        world.reset(layout)
    for _ in range(2):
        for world, picture in zip(worlds, alone, strict=True):
            np.testing.assert_array_equal(world.render(64, 64), picture)
    worlds.pop(0).close()
    np.testing.assert_array_equal(worlds[0].render(64, 64), alone[1])
    for world in worlds:
        world.close()


def test_worlds_draw_in_threads_of_their_own() -> None:
    layout, pictures = sample_layout("standard", 1), []

    def draw() -> None:
        with World() as world:
            world.reset(layout)
            pictures.extend(world.render(64, 64) for _ in range(3))

    with World() as world:
        world.reset(layout)
        expected = world.render(64, 64)
        threads = [threading.Thread(target=draw) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        np.testing.assert_array_equal(world.render(64, 64), expected)
    assert len(pictures) == 6
    for picture in pictures:
        np.testing.assert_array_equal(picture, expected)


def test_where_nothing_can_draw_physics_works_and_the_message_says_what_to_install() -> None:
    script = (
        "import ctypes.util, os\n"
        "os.environ.pop('MUJOCO_GL', None)\n"
        "ctypes.util.find_library = lambda name: None\n"
        "from fosp_sim.gl import GraphicsError\n"
        "from fosp_sim.layout import sample_layout\n"
        "from fosp_sim.world import World\n"
        "world = World()\n"
        "world.reset(sample_layout('standard', 0))\n"
        "world.step(10)\n"
        "try:\n"
        "    world.render(64, 64)\n"
        "except GraphicsError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "libegl1" in done.stdout and "libosmesa6" in done.stdout
