"""SafeReach as SDF and URDF for Gazebo: the same sizes, poses, colours and camera as the MuJoCo world. Pure text.

Written for SDF 1.9 as Gazebo Harmonic reads it. Poses are in ``panda_link0``, which is Gazebo's world frame.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import Final

import numpy as np

from fosp_core import task
from fosp_sim.environment import OVERVIEW_SIZE
from fosp_sim.layout import TABLE_CENTRE, TABLE_SIZE, Array, Item, Layout, Look, Rgb, camera_rotation, outline

WORLD: Final = "safereach"
ARM: Final = "panda"
CAMERA: Final = "camera"
IMAGE_TOPIC: Final = "/gazebo/camera/image"
OVERVIEW_TOPIC: Final = "/gazebo/overview/image"
TIMESTEP_S: Final = 0.002
FRICTION: Final = 0.7
NEAR_M: Final = 0.2
FAR_M: Final = 5.0
_SYSTEMS: Final = (
    ("gz-sim-physics-system", "Physics"),
    ("gz-sim-user-commands-system", "UserCommands"),
    ("gz-sim-scene-broadcaster-system", "SceneBroadcaster"),
    ("gz-sim-contact-system", "Contact"),
)


def contact_topic(name: str) -> str:
    """Gazebo topic with what touches an obstacle."""
    return f"/gazebo/{name}/contacts"


def pose_topic(name: str) -> str:
    """Gazebo topic with the pose of an obstacle."""
    return f"/model/{name}/pose"


def bridge_arguments(obstacles: Sequence[str]) -> list[str]:
    """What ``ros_gz_bridge``'s ``parameter_bridge`` carries: clock, pictures, poses and contacts out, services in."""
    return [
        "/clock@rosgraph_msgs/msg/Clock[gz.msgs.Clock",
        f"{IMAGE_TOPIC}@sensor_msgs/msg/Image[gz.msgs.Image",
        f"{OVERVIEW_TOPIC}@sensor_msgs/msg/Image[gz.msgs.Image",
        *[f"{contact_topic(name)}@ros_gz_interfaces/msg/Contacts[gz.msgs.Contacts" for name in obstacles],
        *[f"{pose_topic(name)}@geometry_msgs/msg/PoseStamped[gz.msgs.Pose" for name in obstacles],
        f"/world/{WORLD}/create@ros_gz_interfaces/srv/SpawnEntity",
        f"/world/{WORLD}/remove@ros_gz_interfaces/srv/DeleteEntity",
        f"/world/{WORLD}/set_pose@ros_gz_interfaces/srv/SetEntityPose",
    ]


def world_sdf(
    look: Look,
    image_size: int = task.IMAGE_SIZE,
    real_time_factor: float = 1.0,
    arm: ElementTree.Element | None = None,
) -> str:
    """The world without goal and obstacles: physics, light, table, outline, camera and, where given, the arm."""
    root = ElementTree.Element("sdf", version="1.9")
    world = _add(root, "world", name=WORLD)
    physics = _add(world, "physics", name="steps", type="ignored")
    _text(physics, "max_step_size", TIMESTEP_S)
    _text(physics, "real_time_factor", real_time_factor)
    for library, name in _SYSTEMS:
        _add(world, "plugin", filename=library, name=f"gz::sim::systems::{name}")
    sensors = _add(world, "plugin", filename="gz-sim-sensors-system", name="gz::sim::systems::Sensors")
    _text(sensors, "render_engine", "ogre2")
    scene = _add(world, "scene")
    _text(scene, "ambient", *[look.ambient] * 3, 1)
    _text(scene, "background", 0, 0, 0, 1)
    _text(scene, "shadows", "false")
    _text(scene, "grid", "false")
    light = _add(world, "light", name="light", type="directional")
    _pose(light, [0.5, 0.0, 2.0, 1.0, 0.0, 0.0, 0.0])
    _text(light, "cast_shadows", "false")
    _text(light, "diffuse", *[look.diffuse] * 3, 1)
    _text(light, "specular", 0.1, 0.1, 0.1, 1)
    _text(light, "direction", *np.asarray(look.light_direction) / np.linalg.norm(look.light_direction))

    table = _static(world, "table", [*TABLE_CENTRE, 1.0, 0.0, 0.0, 0.0])
    _shape(_add(table, "visual", name="visual"), "box", TABLE_SIZE, look.table)
    _friction(_shape(_add(table, "collision", name="collision"), "box", TABLE_SIZE))
    for index, (centre, size) in enumerate(outline()):
        line = _static(world, f"line{index}", [*centre, 1.0, 0.0, 0.0, 0.0])
        _shape(_add(line, "visual", name="visual"), "box", size, look.line)
    camera = _static(world, CAMERA, camera_pose(look))
    for name, topic, width, height in (
        ("image", IMAGE_TOPIC, image_size, image_size),
        ("overview", OVERVIEW_TOPIC, *OVERVIEW_SIZE),
    ):
        _camera(camera, name, topic, width, height, math.radians(look.camera_fovy_deg))
    if arm is not None:
        world.append(arm)
    return _written(root)


def item_sdf(name: str, item: Item, physical: bool) -> str:
    """A thing on the table; ``physical``: an obstacle that can be knocked over and says what touches it."""
    root = ElementTree.Element("sdf", version="1.9")
    model = _add(root, "model", name=name)
    _pose(model, item.pose())
    _text(model, "static", "false" if physical else "true")
    link = _add(model, "link", name="link")
    _shape(_add(link, "visual", name="visual"), item.shape, item.size, item.rgb)
    if physical:
        mass, moments = item.mass_properties()
        inertial = _add(link, "inertial")
        _text(inertial, "mass", mass)
        inertia = _add(inertial, "inertia")
        for axis, moment in zip("xyz", moments, strict=True):
            _text(inertia, f"i{axis}{axis}", moment)
        _friction(_shape(_add(link, "collision", name="collision"), item.shape, item.size))
        sensor = _add(link, "sensor", name="contacts", type="contact")
        contact = _add(sensor, "contact")
        _text(contact, "collision", "collision")
        _text(contact, "topic", contact_topic(name))
        _text(sensor, "always_on", "true")
        _text(sensor, "update_rate", task.COMMAND_HZ)
        plugin = _add(model, "plugin", filename="gz-sim-pose-publisher-system", name="gz::sim::systems::PosePublisher")
        for what, wanted in (("link", False), ("nested_model", True), ("model", True)):
            _text(plugin, f"publish_{what}_pose", str(wanted).lower())
        _text(plugin, "use_pose_vector_msg", "false")
        _text(plugin, "update_frequency", task.COMMAND_HZ)
    return _written(root)


def controlled_urdf(urdf: str, start: Sequence[float]) -> str:
    """The URDF for ``robot_description`` with what ``gz_ros2_control`` reads; joints at ``start`` (7,), rad."""
    root = ElementTree.fromstring(urdf)
    control = _add(root, "ros2_control", name="gazebo", type="system")
    _text(_add(control, "hardware"), "plugin", "gz_ros2_control/GazeboSimSystem")
    for name, position in zip(task.ARM_JOINTS, start, strict=True):
        one = _add(control, "joint", name=name)
        _add(one, "command_interface", name="position")
        measured = _add(one, "state_interface", name="position")
        _text(measured, "param", float(position)).set("name", "initial_value")
        for kind in ("velocity", "effort"):
            _add(one, "state_interface", name=kind)
    return ElementTree.tostring(root, encoding="unicode")


def arm_model(urdf: str, controllers: str) -> ElementTree.Element:
    """The arm of a URDF as an SDF model, fixed to the world and driven by ``gz_ros2_control``.

    Gazebo's own conversion changes the colours and melts links at fixed joints together; this one keeps both.

    Args:
        urdf: text of a robot description of boxes and cylinders with revolute and fixed joints.
        controllers: path of the controllers' parameter file.

    Raises:
        ValueError: the description holds a joint or a shape of another kind.
    """
    robot = ElementTree.fromstring(urdf)
    colours = {
        m.get("name"): c.get("rgba", "") for m in robot.findall("material") if (c := m.find("color")) is not None
    }
    inbound = {joint.find("child").get("link"): joint for joint in robot.findall("joint")}  # type: ignore[union-attr]
    model = ElementTree.Element("model", name=ARM)
    fixed = _add(model, "joint", name="world_joint", type="fixed")
    _text(fixed, "parent", "world")
    _text(fixed, "child", task.BASE_FRAME)
    for link in robot.findall("link"):
        name = link.get("name", "")
        joint = inbound.get(name)
        parent = "" if joint is None else joint.find("parent").get("link", "")  # type: ignore[union-attr]
        inertial = link.find("inertial")
        if inertial is None and joint is not None:
            # A link without mass is a mere frame.
            _urdf_pose(_add(model, "frame", name=name, attached_to=parent), joint)
            continue
        made = _add(model, "link", name=name)
        if joint is not None:
            _urdf_pose(made, joint).set("relative_to", parent)
            _joint(model, joint, parent, name)
        if inertial is not None:
            _inertial(_add(made, "inertial"), inertial)
        for kind in ("visual", "collision"):
            for index, shape in enumerate(link.findall(kind)):
                copied = _add(made, kind, name=f"{kind}{index}")
                _urdf_pose(copied, shape)
                _urdf_shape(copied, shape, colours)
    plugin = _add(
        model, "plugin", filename="gz_ros2_control-system", name="gz_ros2_control::GazeboSimROS2ControlPlugin"
    )
    _text(plugin, "parameters", controllers)
    return model


def camera_pose(look: Look) -> Array:
    """Position and quaternion (w, x, y, z), (7,), of Gazebo's camera, which looks along its own x with z up."""
    right, up, back = camera_rotation(look).T
    return np.array([*look.camera_position, *quaternion(np.stack([-back, -right, up], axis=1))])


def quaternion(rotation: Array) -> Array:
    """Unit quaternion (w, x, y, z) of a rotation matrix (3, 3).

    It is the eigenvector of the largest eigenvalue of the matrix by I. Y. Bar-Itzhack, "New method for extracting the
    quaternion from a rotation matrix", 2000.
    """
    (a, b, c), (d, e, f), (g, h, i) = np.asarray(rotation, dtype=np.float64)
    k = np.array(
        [
            [a + e + i, h - f, c - g, d - b],
            [h - f, a - e - i, b + d, c + g],
            [c - g, b + d, e - a - i, f + h],
            [d - b, c + g, f + h, i - a - e],
        ]
    )
    largest: Array = np.linalg.eigh(k)[1][:, -1]
    return largest * (1.0 if largest[np.argmax(np.abs(largest))] > 0 else -1.0)


def unsupported(layout: Layout) -> str:
    """Why Gazebo cannot show a layout; empty when it can. Light and table stay as the world file has them."""
    plain = Look()
    if layout.motion is not None:
        return "obstacles cannot be moved along a path in Gazebo"
    if layout.housing:
        return "the hand wears no housing in Gazebo"
    for name in ("ambient", "diffuse", "light_direction", "table", "line", "robot_tint", "camera_fovy_deg", "blur"):
        if getattr(layout.look, name) != getattr(plain, name):
            return f"Gazebo cannot change the scene's {name.replace('_', ' ')}"
    return ""


def _add(parent: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, attributes)


def _text(parent: ElementTree.Element, tag: str, *values: object) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, tag)
    child.text = " ".join(repr(float(v)) if isinstance(v, np.floating) else str(v) for v in values)
    return child


def _pose(parent: ElementTree.Element, pose: Sequence[float] | Array) -> None:
    x, y, z, qw, qx, qy, qz = (float(v) for v in pose)
    _text(parent, "pose", x, y, z, qx, qy, qz, qw).set("rotation_format", "quat_xyzw")


def _static(world: ElementTree.Element, name: str, pose: Sequence[float] | Array) -> ElementTree.Element:
    """Link of a model that stays where it is."""
    model = _add(world, "model", name=name)
    _text(model, "static", "true")
    _pose(model, pose)
    return _add(model, "link", name="link")


def _shape(
    parent: ElementTree.Element, shape: str, size: Sequence[float], rgb: Rgb | None = None
) -> ElementTree.Element:
    geometry = _add(_add(parent, "geometry"), shape)
    if shape == "box":
        _text(geometry, "size", *size)
    else:
        _text(geometry, "radius", 0.5 * size[0])
        _text(geometry, "length", size[2])
    if rgb is not None:
        material = _add(parent, "material")
        for kind in ("ambient", "diffuse"):
            _text(material, kind, *rgb, 1)
        _text(material, "specular", 0, 0, 0, 1)
    return parent


def _joint(model: ElementTree.Element, joint: ElementTree.Element, parent: str, child: str) -> None:
    kind = joint.get("type", "")
    if kind not in ("revolute", "fixed"):
        raise ValueError(f"joint {joint.get('name')!r} is {kind}; only revolute and fixed joints are known")
    made = _add(model, "joint", name=joint.get("name", ""), type=kind)
    _text(made, "parent", parent)
    _text(made, "child", child)
    if kind == "fixed":
        return
    axis = _add(made, "axis")
    for tag, names in (("axis", ("xyz",)), ("limit", ("lower", "upper", "effort", "velocity"))):
        given = joint.find(tag)
        target = axis if tag == "axis" else _add(axis, tag)
        for name in names:
            _text(target, name, "" if given is None else given.get(name, ""))
    dynamics = joint.find("dynamics")
    if dynamics is not None:
        target = _add(axis, "dynamics")
        for name in ("damping", "friction"):
            _text(target, name, dynamics.get(name, "0"))


def _inertial(target: ElementTree.Element, given: ElementTree.Element) -> None:
    _urdf_pose(target, given)
    mass, inertia = given.find("mass"), given.find("inertia")
    _text(target, "mass", "0" if mass is None else mass.get("value", "0"))
    moments = _add(target, "inertia")
    for name in ("ixx", "ixy", "ixz", "iyy", "iyz", "izz"):
        _text(moments, name, "0" if inertia is None else inertia.get(name, "0"))


def _urdf_pose(target: ElementTree.Element, given: ElementTree.Element) -> ElementTree.Element:
    origin = given.find("origin")
    xyz, rpy = ("0 0 0", "0 0 0") if origin is None else (origin.get("xyz", "0 0 0"), origin.get("rpy", "0 0 0"))
    return _text(target, "pose", xyz, rpy)


def _urdf_shape(target: ElementTree.Element, given: ElementTree.Element, colours: dict[str | None, str]) -> None:
    geometry, material = given.find("geometry"), given.find("material")
    rgba = "" if material is None else colours.get(material.get("name"), "")
    rgb = tuple(float(v) for v in rgba.split()[:3])
    shape = None if geometry is None else next(iter(geometry), None)
    if shape is not None and shape.tag == "box":
        size = [float(v) for v in shape.get("size", "").split()]
    elif shape is not None and shape.tag == "cylinder":
        size = [2.0 * float(shape.get("radius", "0"))] * 2 + [float(shape.get("length", "0"))]
    else:
        raise ValueError("only boxes and cylinders are known")
    _shape(target, shape.tag, size, (rgb[0], rgb[1], rgb[2]) if len(rgb) == 3 else None)


def _friction(collision: ElementTree.Element) -> None:
    ode = _add(_add(_add(collision, "surface"), "friction"), "ode")
    for name in ("mu", "mu2"):
        _text(ode, name, FRICTION)


def _camera(link: ElementTree.Element, name: str, topic: str, width: int, height: int, fovy: float) -> None:
    sensor = _add(link, "sensor", name=name, type="camera")
    _text(sensor, "always_on", "true")
    _text(sensor, "update_rate", task.CONTROL_HZ)
    _text(sensor, "topic", topic)
    camera = _add(sensor, "camera", name=name)
    # SDF gives the horizontal field of view; the vertical one is the description's.
    _text(camera, "horizontal_fov", 2.0 * math.atan(math.tan(0.5 * fovy) * width / height))
    image = _add(camera, "image")
    _text(image, "width", width)
    _text(image, "height", height)
    _text(image, "format", "R8G8B8")
    clip = _add(camera, "clip")
    _text(clip, "near", NEAR_M)
    _text(clip, "far", FAR_M)


def _written(root: ElementTree.Element) -> str:
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False)
