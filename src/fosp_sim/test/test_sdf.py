"""Gazebo's description says the same as MuJoCo's model."""

from __future__ import annotations

import math
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import fosp_description
from fosp_core import task
from fosp_sim import sdf
from fosp_sim.layout import Look, sample_layout
from fosp_sim.world import HOME, World

URDF = fosp_description.urdf_path().read_text()
SCENES = ("standard", "obstacle_shape", "goal_shape", "obstacle_count", "new_objects", "varied", "clutter")


@pytest.fixture(scope="module")
def root() -> ET.Element:
    return ET.fromstring(sdf.world_sdf(Look(), arm=sdf.arm_model(URDF, "/controllers.yaml")))


@pytest.fixture(scope="module")
def world() -> World:
    made = World()
    made.reset(sample_layout("standard", 0))
    return made


def numbers(element: ET.Element, path: str) -> np.ndarray:
    return np.array([float(v) for v in element.findtext(path).split()])


def transform(pose: ET.Element | None) -> np.ndarray:
    out = np.eye(4)
    if pose is None:
        return out
    values = [float(v) for v in pose.text.split()]
    out[:3, 3] = values[:3]
    if pose.get("rotation_format") == "quat_xyzw":
        out[:3, :3] = Rotation.from_quat(values[3:]).as_matrix()
    else:
        out[:3, :3] = Rotation.from_euler("xyz", values[3:]).as_matrix()
    return out


def size_of(element: ET.Element) -> tuple[str, np.ndarray]:
    """Kind and full size of a shape, as an item has it."""
    shape = element.find("geometry")[0]
    if shape.tag == "box":
        return "box", numbers(shape, "size")
    diameter = 2.0 * float(shape.findtext("radius"))
    return "cylinder", np.array([diameter, diameter, float(shape.findtext("length"))])


def mujoco_size(model: mujoco.MjModel, geom: int) -> tuple[str, np.ndarray]:
    half = model.geom_size[geom]
    if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_BOX:
        return "box", 2.0 * half
    return "cylinder", 2.0 * np.array([half[0], half[0], half[1]])


def assert_same_thing(model: ET.Element, world: World, geom: int) -> None:
    """Pose, size and colour of a model's visual are those of a geom."""
    data, mj = world.data, world.model
    pose = transform(model.find("pose"))
    np.testing.assert_allclose(pose[:3, 3], data.geom_xpos[geom], atol=1e-9)
    np.testing.assert_allclose(pose[:3, :3], data.geom_xmat[geom].reshape(3, 3), atol=1e-9)
    visual = model.find("link/visual")
    kind, size = size_of(visual)
    expected_kind, expected = mujoco_size(mj, geom)
    assert kind == expected_kind
    np.testing.assert_allclose(size, expected, atol=1e-12)
    for part in ("ambient", "diffuse"):
        np.testing.assert_allclose(numbers(visual, f"material/{part}"), mj.geom_rgba[geom], atol=1e-6)


def test_table_and_outline_are_where_mujoco_has_them(root: ET.Element, world: World) -> None:
    for name in ("table", "line0", "line1", "line2", "line3"):
        model = root.find(f"world/model[@name='{name}']")
        assert_same_thing(model, world, world.model.geom(name).id)
        assert (model.find("link/collision") is not None) == (name == "table")


@pytest.mark.parametrize("scene", SCENES)
def test_goal_and_obstacles_are_where_mujoco_has_them(scene: str, world: World) -> None:
    layout = sample_layout(scene, 7)
    world.reset(layout)
    things = [("goal", layout.goal), *((f"clutter{i}", item) for i, item in enumerate(layout.clutter))]
    for name, item in things:
        model = ET.fromstring(sdf.item_sdf(name, item, physical=False)).find("model")
        assert_same_thing(model, world, world.model.geom(name).id)
        assert model.findtext("static") == "true" and model.find("link/collision") is None
    for index, item in enumerate(layout.obstacles):
        name = f"obstacle{index}"
        model = ET.fromstring(sdf.item_sdf(name, item, physical=True)).find("model")
        assert_same_thing(model, world, world.model.geom(name).id)
        body = world.model.body(name).id
        np.testing.assert_allclose(float(model.findtext("link/inertial/mass")), world.model.body_mass[body])
        moments = [float(model.findtext(f"link/inertial/inertia/i{a}{a}")) for a in "xyz"]
        np.testing.assert_allclose(moments, world.model.body_inertia[body])
        assert size_of(model.find("link/collision"))[0] == item.shape
        np.testing.assert_allclose(size_of(model.find("link/collision"))[1], size_of(model.find("link/visual"))[1])
    world.reset(sample_layout("standard", 0))


@pytest.mark.parametrize("size", [64, 96, 128])
def test_camera_has_the_pose_and_intrinsics_of_mujocos(world: World, size: int) -> None:
    made = ET.fromstring(sdf.world_sdf(Look(), image_size=size))
    model = made.find("world/model[@name='camera']")
    camera = model.find("link/sensor[@name='image']/camera")
    width, height = int(camera.findtext("image/width")), int(camera.findtext("image/height"))
    expected = world.intrinsics(size, size)
    assert (width, height) == (expected.width, expected.height)
    focal = 0.5 * width / math.tan(0.5 * float(camera.findtext("horizontal_fov")))
    assert focal == pytest.approx(expected.fx, abs=1e-6) and focal == pytest.approx(expected.fy, abs=1e-6)
    overview = model.find("link/sensor[@name='overview']/camera")
    focal = 0.5 * int(overview.findtext("image/width")) / math.tan(0.5 * float(overview.findtext("horizontal_fov")))
    assert focal == pytest.approx(world.intrinsics(320, 240).fx, abs=1e-6)
    pose = transform(model.find("pose"))
    seen = world.data.cam_xmat[0].reshape(3, 3)  # columns right, up, back
    np.testing.assert_allclose(pose[:3, 3], world.data.cam_xpos[0], atol=1e-9)
    np.testing.assert_allclose(pose[:3, :3], np.stack([-seen[:, 2], -seen[:, 0], seen[:, 1]], axis=1), atol=1e-6)


def test_quaternions_are_those_of_the_rotations() -> None:
    for rotation in Rotation.from_quat(np.random.default_rng(0).normal(size=(200, 4))):
        w, x, y, z = sdf.quaternion(rotation.as_matrix())
        np.testing.assert_allclose(Rotation.from_quat([x, y, z, w]).as_matrix(), rotation.as_matrix(), atol=1e-9)


def test_light_is_mujocos(root: ET.Element, world: World) -> None:
    light = root.find("world/light")
    np.testing.assert_allclose(numbers(light, "diffuse")[:3], world.model.light_diffuse[0], atol=1e-6)
    np.testing.assert_allclose(numbers(light, "direction"), world.model.light_dir[0], atol=1e-9)
    np.testing.assert_allclose(numbers(root, "world/scene/ambient")[:3], world.model.vis.headlight.ambient, atol=1e-6)


def arm_frames(root: ET.Element, joints: np.ndarray) -> dict[str, np.ndarray]:
    """World poses of links and frames of the SDF arm, by its own rules."""
    model = root.find("world/model[@name='panda']")
    axes = {
        j.findtext("child"): (j.get("name"), numbers(j, "axis/xyz")) for j in model.findall("joint[@type='revolute']")
    }
    values = dict(zip(task.ARM_JOINTS, joints, strict=True))
    parts = {part.get("name"): part for part in model if part.tag in ("link", "frame")}
    placed: dict[str, np.ndarray] = {}

    def place(name: str) -> np.ndarray:
        if name in placed:
            return placed[name]
        pose = parts[name].find("pose")
        base = parts[name].get("attached_to") or (None if pose is None else pose.get("relative_to"))
        here = (np.eye(4) if base is None else place(base)) @ transform(pose)
        if name in axes:
            joint, axis = axes[name]
            turn = np.eye(4)
            turn[:3, :3] = Rotation.from_rotvec(values[joint] * axis).as_matrix()
            here = here @ turn
        placed[name] = here
        return here

    for name in parts:
        place(name)
    return placed


def test_forward_kinematics_are_mujocos_and_the_urdfs(root: ET.Element) -> None:
    model = mujoco.MjModel.from_xml_path(str(fosp_description.urdf_path()))
    data, rng = mujoco.MjData(model), np.random.default_rng(1)
    for _ in range(50):
        data.qpos[:] = rng.uniform(model.jnt_range[:, 0], model.jnt_range[:, 1])
        mujoco.mj_kinematics(model, data)
        placed = arm_frames(root, data.qpos)
        for name in ("panda_link4", "panda_link7", "panda_hand", "panda_leftfinger", task.TOOL_FRAME):
            np.testing.assert_allclose(placed[name][:3, 3], data.body(name).xpos, atol=1e-6)
            np.testing.assert_allclose(placed[name][:3, :3], data.body(name).xmat.reshape(3, 3), atol=1e-6)


def test_arm_keeps_every_shape_colour_and_limit(root: ET.Element) -> None:
    robot, model = ET.fromstring(URDF), root.find("world/model[@name='panda']")
    for link in robot.findall("link"):
        made = model.find(f"link[@name='{link.get('name')}']")
        for kind in ("visual", "collision"):
            assert len(link.findall(kind)) == (0 if made is None else len(made.findall(kind)))
    diffuse = {tuple(numbers(v, "material/diffuse")[:3]) for v in model.iter("visual")}
    assert diffuse == {(0.92, 0.92, 0.93), (0.16, 0.17, 0.19)}
    for joint in robot.findall("joint[@type='revolute']"):
        limit = model.find(f"joint[@name='{joint.get('name')}']/axis/limit")
        for name in ("lower", "upper", "effort", "velocity"):
            assert float(limit.findtext(name)) == float(joint.find("limit").get(name))


def test_description_for_the_controllers_names_every_joint_and_its_start() -> None:
    control = ET.fromstring(sdf.controlled_urdf(URDF, HOME)).find("ros2_control")
    assert [j.get("name") for j in control.findall("joint")] == list(task.ARM_JOINTS)
    starts = [float(j.findtext("state_interface[@name='position']/param")) for j in control.findall("joint")]
    assert starts == pytest.approx(HOME)


def test_bridge_carries_every_topic_of_the_description() -> None:
    layout = sample_layout("obstacle_count", 0)
    names = [f"obstacle{i}" for i in range(3)]
    made = [sdf.world_sdf(Look())]
    made += [sdf.item_sdf(name, item, True) for name, item in zip(names, layout.obstacles, strict=True)]
    topics = {t.text for text in made for t in ET.fromstring(text).iter("topic")}
    bridged = {argument.split("@")[0] for argument in sdf.bridge_arguments(names)}
    assert topics <= bridged
    assert {sdf.pose_topic(name) for name in names} <= bridged


def test_scenes_that_gazebo_cannot_show_are_named() -> None:
    assert [scene for scene in SCENES if sdf.unsupported(sample_layout(scene, 0))] == []
    assert sdf.unsupported(sample_layout("camera_shift", 0)) == ""
    assert "ambient" in sdf.unsupported(sample_layout("lights_off", 0))
    assert "moved" in sdf.unsupported(sample_layout("moving_obstacle", 0))
    assert "table" in sdf.unsupported(sample_layout("colors", 0))
    assert "housing" in sdf.unsupported(sample_layout("wide_gripper", 0))


def test_robot_of_unknown_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="prismatic"):
        sdf.arm_model(URDF.replace('type="revolute"', 'type="prismatic"'), "")
    with pytest.raises(ValueError, match="boxes and cylinders"):
        sdf.arm_model(URDF.replace('<box size="0.24 0.18 0.07"/>', '<sphere radius="0.1"/>'), "")


def test_parser_of_gazebo_accepts_every_file(tmp_path: Path) -> None:
    tool = shutil.which("gz") or shutil.which("ign")
    if tool is None:
        pytest.skip("no SDF parser here; Debian: ignition-tools and libsdformat-dev, with Gazebo: gz")
    layout = sample_layout("obstacle_count", 0)
    texts = [
        sdf.world_sdf(Look(), arm=sdf.arm_model(URDF, "/controllers.yaml")),
        sdf.item_sdf("goal", layout.goal, False),
        *(sdf.item_sdf(f"obstacle{i}", item, True) for i, item in enumerate(layout.obstacles)),
    ]
    for index, text in enumerate(texts):
        file = tmp_path / f"{index}.sdf"
        file.write_text(text)
        checked = subprocess.run([tool, "sdf", "--check", str(file)], capture_output=True, text=True, check=False)
        assert "Valid." in checked.stdout and "Error" not in checked.stdout, checked.stdout + checked.stderr


def test_parser_of_urdf_accepts_the_description_for_the_controllers(tmp_path: Path) -> None:
    if shutil.which("check_urdf") is None:
        pytest.skip("check_urdf (liburdfdom-tools) is not installed")
    file = tmp_path / "arm.urdf"
    file.write_text(sdf.controlled_urdf(URDF, HOME))
    checked = subprocess.run(["check_urdf", str(file)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
