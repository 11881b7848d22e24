"""The SafeReach world in MuJoCo: the arm, the table, what stands on it, a camera. No task rules, no ROS.

One model is compiled per ``World``. Scenes and layouts only change its numbers, so that a reset takes about a
millisecond. Positions are metres in ``panda_link0``, angles radians.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dposv

from fosp_core import task
from fosp_description import urdf_path
from fosp_sim import gl
from fosp_sim.layout import (
    MAX_CLUTTER,
    MAX_OBSTACLES,
    TABLE_CENTRE,
    TABLE_SIZE,
    Item,
    Layout,
    camera_rotation,
    outline,
)

gl.prepare()

import mujoco  # noqa: E402  (reads MUJOCO_GL when it is imported)

Array = NDArray[np.float64]

TIMESTEP_S: Final = 0.005
HOME: Final = (0.0, -0.30, 0.0, -2.30, 0.0, 2.00, 0.7853981633974483)
"""Joint positions (7,) with the gripper above the middle of the square; the arm prefers this elbow posture."""
TOOL_ROTATION: Final = np.diag([1.0, -1.0, -1.0])
"""Gripper straight down, wide side along y."""

SERVO_STIFFNESS: Final = (4500.0, 4500.0, 4500.0, 4500.0, 2000.0, 2000.0, 2000.0)
SERVO_DAMPING: Final = (110.0, 110.0, 90.0, 80.0, 24.0, 24.0, 24.0)
ARMATURE: Final = 0.1
MAX_IK_STEP: Final = 0.4
"""Largest change of a joint in one iteration of the inverse kinematics, rad."""
FALLEN_COSINE: Final = float(np.cos(np.deg2rad(30.0)))

_SUBCELLS: Final = 4
"""Along each side of a cell, when obstacles are drawn into the map of the table."""
_ARM_BIT, _OBSTACLE_BIT, _TABLE_BIT = 1, 2, 4
_HIDDEN_GROUP: Final = 4
_STATE: Final = mujoco.mjtState.mjSTATE_INTEGRATION
_AWAY: Final = (0.0, 0.0, -5.0)


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole camera: focal lengths and principal point in pixels."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float


def build_spec() -> mujoco.MjSpec:
    """The scene with every slot (obstacles, clutter) that a layout may fill."""
    spec = mujoco.MjSpec.from_file(str(urdf_path()))
    spec.modelname = "safereach"
    option = spec.option
    option.timestep = TIMESTEP_S
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.iterations = 20
    option.ls_iterations = 10
    # Bounding volumes of bodies would have to follow the slots' sizes; bodies have so few geoms that they gain nothing.
    option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_MIDPHASE)
    option.enableflags |= int(mujoco.mjtEnableBit.mjENBL_SLEEP)
    quality = spec.visual.quality
    quality.shadowsize = 0
    quality.offsamples = 0
    # A cylinder's side needs no more than two stacks.
    quality.numslices, quality.numstacks, quality.numquads = 16, 2, 1
    spec.visual.headlight.diffuse = [0.0, 0.0, 0.0]
    spec.visual.headlight.specular = [0.0, 0.0, 0.0]
    # The default clipping planes scale with the model's extent; these suit a camera one metre away.
    spec.stat.extent = 1.0
    spec.stat.center = [0.5, 0.0, 0.1]
    spec.visual.map.znear = 0.2
    spec.visual.map.zfar = 5.0

    for body in spec.bodies:
        body.gravcomp = 1.0
    for joint in spec.joints:
        joint.armature = ARMATURE
    for geom in spec.geoms:
        if geom.contype:
            geom.contype, geom.conaffinity = _ARM_BIT, 0
    for name, stiffness, damping in zip(task.ARM_JOINTS, SERVO_STIFFNESS, SERVO_DAMPING, strict=True):
        servo = spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        servo.set_to_position(kp=stiffness, kv=damping)

    world = spec.worldbody
    world.add_camera(name="camera", pos=[1.15, 0.0, 0.85])
    world.add_light(
        name="light",
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        pos=[0.5, 0.0, 2.0],
        dir=[0.0, 0.0, -1.0],
        castshadow=False,
        specular=[0.1, 0.1, 0.1],
    )
    world.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[0.5 * side for side in TABLE_SIZE],
        pos=list(TABLE_CENTRE),
        contype=_TABLE_BIT,
        conaffinity=0,
        friction=[0.7, 0.005, 0.0001],
        group=2,
    )
    for index, (centre, size) in enumerate(outline()):
        world.add_geom(
            name=f"line{index}",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[0.5 * side for side in size],
            pos=list(centre),
            contype=0,
            conaffinity=0,
            group=2,
        )
    for index in range(MAX_OBSTACLES):
        body = world.add_body(name=f"obstacle{index}", pos=[0.3 + 0.2 * index, 0.0, 0.09])
        body.add_freejoint(name=f"obstacle{index}")
        body.add_geom(
            name=f"obstacle{index}",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[0.03, 0.03, 0.09],
            mass=0.25,
            contype=_OBSTACLE_BIT,
            conaffinity=_ARM_BIT | _OBSTACLE_BIT | _TABLE_BIT,
            friction=[0.7, 0.005, 0.0001],
            group=2,
        )
    for name in ("goal", *(f"clutter{i}" for i in range(MAX_CLUTTER))):
        body = world.add_body(name=name, mocap=True, pos=list(_AWAY))
        body.add_geom(
            name=name,
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            size=[0.025, 0.025, 0.025],
            contype=0,
            conaffinity=0,
            group=2,
        )
    return spec


class World:
    """Physics and pictures of one layout at a time. Close it, or use it as a context manager.

    Draw and close in the same thread: a graphics context belongs to one.
    """

    def __init__(self) -> None:
        self.model: Any = build_spec().compile()
        self.data: Any = mujoco.MjData(self.model)
        self.kinematics = ArmKinematics()
        self.layout: Layout | None = None
        model = self.model
        self._joint_address = np.array([model.joint(name).qposadr[0] for name in task.ARM_JOINTS])
        self._velocity_address = np.array([model.joint(name).dofadr[0] for name in task.ARM_JOINTS])
        self._tool = model.body(task.TOOL_FRAME).id
        self._goal = _Slot(model, "goal")
        self._obstacles = [_Slot(model, f"obstacle{i}") for i in range(MAX_OBSTACLES)]
        self._clutter = [_Slot(model, f"clutter{i}") for i in range(MAX_CLUTTER)]
        self._free = [model.joint(f"obstacle{i}") for i in range(MAX_OBSTACLES)]
        self._is_arm = (model.geom_contype == _ARM_BIT) & (model.geom_conaffinity == 0)
        self._arm_geoms = np.flatnonzero(self._is_arm)
        self._obstacle_geoms = np.array([slot.geom for slot in self._obstacles])
        self._robot_visuals = np.flatnonzero(model.geom_group == 1)
        self._robot_rgba = model.geom_rgba[self._robot_visuals].copy()
        hand = (model.geom_bodyid == model.body("panda_hand").id) & (model.geom_type == mujoco.mjtGeom.mjGEOM_BOX)
        self._hand_geoms = np.flatnonzero(hand)
        self._hand_sizes = model.geom_size[self._hand_geoms].copy()
        self._lines = [model.geom(f"line{i}").id for i in range(4)]
        self._present = 0
        self._upright = np.zeros((MAX_OBSTACLES, 3))
        self._reach = np.zeros((len(self._arm_geoms), 0))
        self._motion_time = 0.0
        self._renderer: _Renderer | None = None

    def reset(self, layout: Layout) -> None:
        """Lay out a scene, arm at rest at the layout's start.

        Raises:
            ValueError: the start is out of the arm's reach, or the layout has too many things.
        """
        if len(layout.obstacles) > MAX_OBSTACLES or len(layout.clutter) > MAX_CLUTTER:
            raise ValueError(f"a layout has at most {MAX_OBSTACLES} obstacles and {MAX_CLUTTER} clutter items")
        joints = self.kinematics.solve(np.array(HOME), np.asarray(layout.start), iterations=40)
        error = float(np.linalg.norm(self.kinematics.tool(joints) - layout.start))
        if error > 2e-3:
            raise ValueError(f"start {layout.start} is out of reach by {error:.3f} m")
        model, data = self.model, self.data
        self.layout = layout
        self._present = len(layout.obstacles)
        self._motion_time = 0.0
        for index, slot in enumerate(self._obstacles):
            item = layout.obstacles[index] if index < self._present else None
            slot.fill(model, item, contype=_OBSTACLE_BIT, conaffinity=_ARM_BIT | _OBSTACLE_BIT | _TABLE_BIT)
        self._goal.fill(model, layout.goal)
        for index, slot in enumerate(self._clutter):
            slot.fill(model, layout.clutter[index] if index < len(layout.clutter) else None)
        wider = np.array([layout.housing, layout.housing, 0.0])
        model.geom_size[self._hand_geoms] = self._hand_sizes + wider
        model.geom_rbound[self._hand_geoms] = np.linalg.norm(model.geom_size[self._hand_geoms], axis=1)
        model.geom_aabb[self._hand_geoms, 3:] = model.geom_size[self._hand_geoms]
        self._apply_look(layout)
        mujoco.mj_setConst(model, data)
        mujoco.mj_resetData(model, data)
        data.qpos[self._joint_address] = joints
        data.ctrl[:] = joints
        for index, joint in enumerate(self._free):
            item = layout.obstacles[index] if index < self._present else None
            address = joint.qposadr[0]
            data.qpos[address : address + 7] = _pose(item, index)
        for slot, item in ((self._goal, layout.goal), *zip(self._clutter, layout.clutter, strict=False)):
            pose = _pose(item, 0)
            data.mocap_pos[slot.mocap], data.mocap_quat[slot.mocap] = pose[:3], pose[3:]
        mujoco.mj_forward(model, data)
        self._upright = self._obstacle_axes().copy()
        radius = model.geom_rbound
        self._reach = radius[self._arm_geoms][:, None] + radius[self._obstacle_geoms[: self._present]][None]

    def _apply_look(self, layout: Layout) -> None:
        model, look = self.model, layout.look
        tint = np.array([*look.robot_tint, 1.0])
        model.geom_rgba[self._robot_visuals] = np.clip(self._robot_rgba * tint, 0.0, 1.0)
        model.geom_rgba[model.geom("table").id, :3] = look.table
        for line in self._lines:
            model.geom_rgba[line, :3] = look.line
        model.light_dir[0] = np.asarray(look.light_direction) / np.linalg.norm(look.light_direction)
        model.light_diffuse[0] = look.diffuse
        model.vis.headlight.ambient[:] = look.ambient
        model.cam_pos[0] = look.camera_position
        mujoco.mju_mat2Quat(model.cam_quat[0], camera_rotation(look).ravel())
        model.cam_fovy[0] = look.camera_fovy_deg
        if self._renderer is not None:
            self._renderer.camera_moved()

    # -- motion ---------------------------------------------------------------------------------------------

    def set_joint_targets(self, joints: Array) -> None:
        """Servo targets (7,) in radians."""
        self.data.ctrl[:] = joints

    def step(self, count: int) -> None:
        """Advance the physics by ``count`` timesteps of ``TIMESTEP_S``."""
        motion = None if self.layout is None else self.layout.motion
        if motion is None:
            mujoco.mj_step(self.model, self.data, nstep=count)
            return
        address = self._free[motion.obstacle].dofadr[0]
        omega = 2.0 * np.pi / motion.period_s
        for _ in range(count):
            if not self.fallen()[motion.obstacle]:
                speed = motion.amplitude * omega * np.cos(omega * self._motion_time)
                self.data.qvel[address : address + 2] = speed * np.asarray(motion.direction)
            mujoco.mj_step(self.model, self.data)
            self._motion_time += TIMESTEP_S

    def refresh(self) -> None:
        """Bring poses up to date with the joint positions; call it after ``step`` before reading or drawing."""
        mujoco.mj_kinematics(self.model, self.data)

    def state(self) -> Array:
        """Everything that the physics of this layout goes on from, for ``restore``."""
        state = np.empty(mujoco.mj_stateSize(self.model, _STATE))
        mujoco.mj_getState(self.model, self.data, state, _STATE)
        return np.append(state, self._motion_time)

    def restore(self, state: Array) -> None:
        """Go back to a ``state`` of the layout that stands now."""
        mujoco.mj_setState(self.model, self.data, state[:-1], _STATE)
        self._motion_time = float(state[-1])
        self.refresh()

    @property
    def joints(self) -> Array:
        """Measured joint positions (7,), radians."""
        return np.asarray(self.data.qpos[self._joint_address])

    @property
    def joint_velocities(self) -> Array:
        """Measured joint velocities (7,), rad/s."""
        return np.asarray(self.data.qvel[self._velocity_address])

    @property
    def joint_efforts(self) -> Array:
        """Servo torques (7,), N m."""
        return np.asarray(self.data.qfrc_actuator[self._velocity_address])

    # -- what is where --------------------------------------------------------------------------------------

    @property
    def tool(self) -> Array:
        """Tool position (3,)."""
        return self.data.xpos[self._tool].copy()

    @property
    def obstacles(self) -> NDArray[np.float32]:
        """Obstacle centres (3, 3); rows of NaN for slots without an obstacle."""
        out = np.full((MAX_OBSTACLES, 3), np.nan, dtype=np.float32)
        for index in range(self._present):
            out[index] = self.data.xpos[self._obstacles[index].body]
        return out

    def footprints(self) -> NDArray[np.uint8]:
        """How much of each cell of the table's map (see ``fosp_core.task``) obstacles cover, seen from above:
        (TABLE_CELLS, TABLE_CELLS), 255 is all of it.
        """
        fine = task.TABLE_CELLS * _SUBCELLS
        drawn = np.zeros((fine, fine), np.uint8)
        items = () if self.layout is None else self.layout.obstacles
        for slot, item in zip(self._obstacles, items, strict=False):
            corners = _corners(item) @ self.data.xmat[slot.body].reshape(3, 3).T + self.data.xpos[slot.body]
            cells = (corners[:, :2] - task.TABLE_LOW) * (_SUBCELLS / task.TABLE_CELL_M) - 0.5
            # a picture's first coordinate is the map's second index; four binary digits of a sub-cell are kept
            hull = cv2.convexHull(np.ascontiguousarray(np.round(16.0 * cells[:, ::-1])).astype(np.int32))
            cv2.fillConvexPoly(drawn, hull, 255, cv2.LINE_8, 4)
        coarse = cv2.resize(drawn, (task.TABLE_CELLS, task.TABLE_CELLS), interpolation=cv2.INTER_AREA)
        return np.asarray(coarse, np.uint8)

    def touching(self) -> bool:
        """Whether arm or hand touched an obstacle in the last physics step."""
        data = self.data
        if data.ncon == 0:
            return False
        contact = data.contact
        pairs = contact.geom
        return bool(np.any(self._is_arm[pairs].any(axis=1) & (contact.dist < 0.0)))

    def fallen(self) -> NDArray[np.bool_]:
        """Which obstacles (3,) lean more than 30 degrees from how they were put down."""
        fallen = (self._obstacle_axes() * self._upright).sum(axis=1) < FALLEN_COSINE
        fallen[self._present :] = False
        return np.asarray(fallen)

    def _obstacle_axes(self) -> Array:
        """The obstacles' own z axes (3, 3), one a row."""
        first = self._obstacles[0].body
        return np.asarray(self.data.xmat[first : first + MAX_OBSTACLES, 2::3])

    def clearance(self, limit: float = 0.5) -> float:
        """Smallest distance between arm or hand and an obstacle; ``limit`` if nothing is nearer.

        Negative when they penetrate.
        """
        if not self._present:
            return limit
        arm, others = self._arm_geoms, self._obstacle_geoms[: self._present]
        position = self.data.geom_xpos
        offset = position[arm][:, None] - position[others][None]
        bound = (np.sqrt((offset * offset).sum(axis=-1)) - self._reach).ravel()
        nearest = limit
        for k in bound.argsort():
            if bound[k] >= nearest:
                break
            first, second = int(arm[k // self._present]), int(others[k % self._present])
            nearest = min(nearest, mujoco.mj_geomDistance(self.model, self.data, first, second, nearest, None))
        return float(nearest)

    # -- pictures -------------------------------------------------------------------------------------------

    def render(self, width: int, height: int) -> NDArray[np.uint8]:
        """Picture (height, width, 3) of the camera, RGB."""
        if self._renderer is None:
            self._renderer = _Renderer(self.model, width, height)
        picture = self._renderer.draw(self.data, width, height)
        blur = 0.0 if self.layout is None else self.layout.look.blur
        return np.asarray(cv2.GaussianBlur(picture, (0, 0), blur * width), np.uint8) if blur else picture

    def intrinsics(self, width: int, height: int) -> Intrinsics:
        """Intrinsics of the camera for a picture size."""
        focal = 0.5 * height / float(np.tan(0.5 * np.deg2rad(self.model.cam_fovy[0])))
        return Intrinsics(width, height, focal, focal, 0.5 * width, 0.5 * height)

    def close(self) -> None:
        """Free the graphics context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ArmKinematics:
    """Forward and inverse kinematics of the arm alone, gripper straight down."""

    def __init__(self) -> None:
        spec = mujoco.MjSpec.from_file(str(urdf_path()))
        self._model: Any = spec.compile()
        self._data: Any = mujoco.MjData(self._model)
        self._tool = self._model.body(task.TOOL_FRAME).id
        self._low = self._model.jnt_range[:, 0] + 0.02
        self._high = self._model.jnt_range[:, 1] - 0.02
        self._jacobian = np.zeros((6, 7))
        self._error = np.zeros(6)
        self._home = np.array(HOME)

    def _update(self, joints: Array) -> None:
        self._data.qpos[:] = joints
        mujoco.mj_kinematics(self._model, self._data)

    def tool(self, joints: Array) -> Array:
        """Tool position (3,) at joint positions (7,)."""
        self._update(joints)
        return self._data.xpos[self._tool].copy()

    def rotation(self, joints: Array) -> Array:
        """Tool rotation (3, 3) at joint positions (7,)."""
        self._update(joints)
        return self._data.xmat[self._tool].reshape(3, 3).copy()

    def solve(self, joints: Array, position: Array, iterations: int = 2, damping: float = 0.02) -> Array:
        """Joint positions (7,) within the limits that bring the tool near ``position`` (3,), gripper down.

        Damped least squares from ``joints``, the spare degree of freedom pulled towards ``HOME``. Outside the
        arm's reach it returns the nearest that the damping allows.
        """
        q = np.array(joints, dtype=np.float64)
        home = self._home
        jacobian, error = self._jacobian, self._error
        for _ in range(iterations):
            self._update(q)
            mujoco.mj_comPos(self._model, self._data)
            mujoco.mj_jacBody(self._model, self._data, jacobian[:3], jacobian[3:], self._tool)
            m = self._data.xmat[self._tool]
            error[:3] = position - self._data.xpos[self._tool]
            # Half the sum of cross products between the axes wanted (x, -y, -z) and those at hand.
            error[3] = 0.5 * (m[7] - m[5])
            error[4] = 0.5 * (m[6] + m[2])
            error[5] = -0.5 * (m[1] + m[3])
            square = jacobian @ jacobian.T
            square.ravel()[::7] += damping**2
            pull = 0.1 * (home - q)
            change = pull + jacobian.T @ dposv(square, error - jacobian @ pull)[1]
            # A long way is gone in steps, or the first one would overshoot into a joint limit.
            change *= min(1.0, MAX_IK_STEP / max(float(np.abs(change).max()), 1e-9))
            q += change
            np.minimum(np.maximum(q, self._low, out=q), self._high, out=q)
        return q


class _Slot:
    """A body with one geom that a layout may fill."""

    def __init__(self, model: Any, name: str) -> None:
        self.body = int(model.body(name).id)
        self.geom = int(model.geom(name).id)
        self.mocap = int(model.body_mocapid[self.body])

    def fill(self, model: Any, item: Item | None, contype: int = 0, conaffinity: int = 0) -> None:
        geom, body = self.geom, self.body
        model.geom_contype[geom] = contype if item is not None else 0
        model.geom_conaffinity[geom] = conaffinity if item is not None else 0
        if item is None:
            # Transparent geoms are not drawn; without gravity an absent obstacle stays where it is put.
            model.geom_rgba[geom, 3] = 0.0
            model.body_gravcomp[body] = 1.0
            return
        model.body_gravcomp[body] = 0.0
        model.geom_rgba[geom] = (*item.rgb, 1.0)
        x, y, z = (0.5 * side for side in item.size)
        if item.shape == "box":
            model.geom_type[geom] = mujoco.mjtGeom.mjGEOM_BOX
            model.geom_size[geom] = (x, y, z)
            model.geom_rbound[geom] = np.sqrt(x * x + y * y + z * z)
        else:
            model.geom_type[geom] = mujoco.mjtGeom.mjGEOM_CYLINDER
            model.geom_size[geom] = (x, z, 0.0)
            model.geom_rbound[geom] = np.hypot(x, z)
        model.geom_aabb[geom] = (0.0, 0.0, 0.0, x, y, z)
        if model.body_bvhnum[body] == 1:
            model.bvh_aabb[model.body_bvhadr[body]] = model.geom_aabb[geom]
        if self.mocap < 0:
            model.body_mass[body], model.body_inertia[body] = item.mass_properties()


def _corners(item: Item) -> Array:
    """Points (N, 3) in the item's own frame whose convex hull is the item, or for cylinders nearly so."""
    x, y, z = (0.5 * side for side in item.size)
    if item.shape == "box":
        rim = np.array([[x, y], [x, -y], [-x, y], [-x, -y]])
    else:
        angle = np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False)
        rim = x * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.concatenate([np.column_stack([rim, np.full(len(rim), end)]) for end in (-z, z)])


def _pose(item: Item | None, index: int) -> Array:
    """Position and quaternion (7,) of a thing on the table, or of an empty slot."""
    return np.array([_AWAY[0] + index, _AWAY[1], _AWAY[2], 1.0, 0.0, 0.0, 0.0]) if item is None else item.pose()


def _picture_edges(quaternion: Array, fovy_deg: float, aspect: float) -> Array:
    """Normals (3, 4) of the planes through the camera and the picture's edges, pointing inwards, in the world."""
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, quaternion)
    vertical = np.tan(0.5 * np.deg2rad(fovy_deg))
    horizontal = vertical * aspect
    normals = np.array([[1, 0, -horizontal], [-1, 0, -horizontal], [0, 1, -vertical], [0, -1, -vertical]])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return np.asarray(rotation.reshape(3, 3) @ normals.T)


class _Renderer:
    """One offscreen context; several may live in one process. Draw and close in one and the same thread."""

    # What OpenGL calls current is so for a thread. By number: the one before must not live on because of it.
    _thread = threading.local()

    def __init__(self, model: Any, width: int, height: int) -> None:
        gl.check()
        try:
            self._gl = mujoco.GLContext(width, height)
            self._gl.make_current()
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except Exception as error:  # each backend raises its own kinds
            raise gl.GraphicsError(f"cannot draw with MUJOCO_GL={gl.prepare()}: {error}. {gl.ADVICE}") from error
        self._thread.current = id(self)
        self._closed = False
        mujoco.mjr_resizeOffscreen(width, height, self._context)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._size = (width, height)
        self._model = model
        self._scene = mujoco.MjvScene(model, maxgeom=64)
        for flag in (
            mujoco.mjtRndFlag.mjRND_SHADOW,
            mujoco.mjtRndFlag.mjRND_REFLECTION,
            mujoco.mjtRndFlag.mjRND_SKYBOX,
            mujoco.mjtRndFlag.mjRND_HAZE,
            mujoco.mjtRndFlag.mjRND_FOG,
        ):
            self._scene.flags[flag] = 0
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = (0, 1, 1, 0, 0, 0)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = 0
        self._perturb = mujoco.MjvPerturb()
        self._buffers: dict[tuple[int, int], NDArray[np.uint8]] = {}
        self._robot = np.flatnonzero(model.geom_group == 1)
        self._edges: dict[float, Array] = {}

    def draw(self, data: Any, width: int, height: int) -> NDArray[np.uint8]:
        self._make_current()
        if width > self._size[0] or height > self._size[1]:
            self._size = (max(width, self._size[0]), max(height, self._size[1]))
            mujoco.mjr_resizeOffscreen(*self._size, self._context)
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        mujoco.mj_camlight(self._model, data)
        self._hide_what_is_outside(data, width / height)
        mujoco.mjv_updateScene(
            self._model, data, self._option, self._perturb, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        viewport = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(viewport, self._scene, self._context)
        pixels = self._buffers.setdefault((width, height), np.empty((height, width, 3), dtype=np.uint8))
        mujoco.mjr_readPixels(pixels, None, viewport, self._context)
        return pixels[::-1].copy()

    def camera_moved(self) -> None:
        self._edges.clear()

    def _hide_what_is_outside(self, data: Any, aspect: float) -> None:
        """Spare the renderer those parts of the robot that are out of the picture."""
        model, robot = self._model, self._robot
        if aspect not in self._edges:
            self._edges[aspect] = _picture_edges(model.cam_quat[0], float(model.cam_fovy[0]), aspect)
        inside = (data.geom_xpos[robot] - data.cam_xpos[0]) @ self._edges[aspect]
        outside = (inside < -model.geom_rbound[robot][:, None]).any(axis=1)
        model.geom_group[robot] = np.where(outside, _HIDDEN_GROUP, 1)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # what is freed belongs to the current context, whichever that is
        self._gl.make_current()
        self._context.free()
        self._gl.free()
        self._thread.current = None

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            with contextlib.suppress(Exception):  # at the interpreter's end parts of MuJoCo may be gone
                self.close()

    def _make_current(self) -> None:
        if getattr(self._thread, "current", None) != id(self):
            self._gl.make_current()
            self._thread.current = id(self)
