"""The simulation node: SafeReach in real time behind the topics that a robot and its camera would have."""

from __future__ import annotations

import math
import sys
import threading
from typing import Any, Final

import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from fosp_core import task
from fosp_interfaces.msg import TaskState
from fosp_interfaces.srv import ResetScene
from fosp_ros import names, qos, runner
from fosp_ros.diagnostics import Diagnostics, Health, Level
from fosp_ros.errors import ConfigurationError
from fosp_ros.images import to_message
from fosp_ros.loop import SteadyLoop
from fosp_ros.parameters import Parameter, Parameters
from fosp_ros.polling import PolledSubscription
from fosp_ros.stamps import from_nanoseconds
from fosp_sim.environment import OVERVIEW_SIZE
from fosp_sim.gl import GraphicsError
from fosp_sim.messages import CAMERA_FRAME, camera_info, task_state
from fosp_sim.session import TICKS_PER_FRAME, PhaseError, Session
from fosp_sim.world import World

OVERVIEW_PHASE: Final = 2
"""Ticks after a frame at which the overview is drawn, when the frame's command is on its way: drawing it takes a core
longer than the frame does.
"""

PARAMETERS = (
    Parameter("image_size", task.IMAGE_SIZE, "Side of the square camera image.", "px", 16, 1024, read_only=True),
    Parameter(
        "real_time_factor",
        1.0,
        "Simulated seconds per second. Anything but 1 needs use_sim_time in every node.",
        low=0.1,
        high=5.0,
        read_only=True,
    ),
    Parameter(
        "visual_randomization", False, "Small changes of light, colours and camera pose with the seed.", read_only=True
    ),
)


class SimulationNode(Node):
    """Wires a ``Session`` to its topics. Physics and drawing live in one thread of their own."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(names.SIMULATION_NODE, **kwargs)
        p = Parameters(self, PARAMETERS)
        self._size = p.integer("image_size")
        self._simulated_time = bool(self.get_parameter("use_sim_time").value)
        factor = p.float("real_time_factor")
        if factor != 1.0 and not self._simulated_time:
            raise ConfigurationError("parameter 'real_time_factor' other than 1 needs use_sim_time:=true in every node")
        try:
            with World() as trial:
                trial.render(self._size, self._size)
        except GraphicsError as error:
            raise ConfigurationError(str(error)) from error
        self._world = World()
        self._session = Session(self._world, p.boolean("visual_randomization"))
        self._lock = threading.Lock()  # guards session and world
        self._ticks = 0
        # A zero stamp means "unset" to much of ROS, so simulated time starts at one second.
        self._simulated_ns = 1_000_000_000
        self._tick_ns = round(1e9 / task.COMMAND_HZ)

        self._task = self.create_publisher(TaskState, names.TASK_STATE, qos.TASK_STATE)
        self._image = self.create_publisher(Image, names.CAMERA_IMAGE, qos.IMAGE)
        self._info = self.create_publisher(CameraInfo, names.CAMERA_INFO, qos.IMAGE)
        self._overview = self.create_publisher(Image, names.OVERVIEW_IMAGE, qos.IMAGE)
        self._joints = self.create_publisher(JointState, names.JOINT_STATES, qos.JOINT_STATES)
        self._clock_publisher = self.create_publisher(Clock, "/clock", 1) if self._simulated_time else None
        self._trajectories = PolledSubscription(self, JointTrajectory, names.JOINT_TRAJECTORY, qos.TRAJECTORY)
        self.create_service(ResetScene, names.SCENE_RESET, self._on_reset)
        self.create_service(Trigger, names.SCENE_START, self._on_start)
        self.create_service(Trigger, names.SCENE_STOP, self._on_stop)
        self._diagnostics = Diagnostics(self, self._health, hardware_id="mujoco")
        # Graphics contexts belong to threads: the world is closed where it draws.
        self._loop = SteadyLoop(
            1.0 / task.COMMAND_HZ / factor, self._tick, self._on_error, name="physics", on_end=self._world.close
        )
        self._loop.start()

    def close(self) -> None:
        """Stop the physics and free the graphics context."""
        self._loop.close()

    def _tick(self) -> None:
        targets = self._newest_targets()
        with self._lock:
            if self._ticks == 0:
                # Growing the drawing buffer takes long; better now than in the middle of an episode.
                self._world.render(*OVERVIEW_SIZE)
            self._session.tick(targets)
            self._ticks += 1
            self._simulated_ns += self._tick_ns
            stamp = self._now()
            if self._clock_publisher is not None:
                # Before anything is drawn: a frame must not overtake the clock that it is stamped with.
                self._clock_publisher.publish(Clock(clock=stamp))
            self._publish_joints(stamp)
            phase = self._ticks % TICKS_PER_FRAME
            if phase == 0:
                self._publish_frame(stamp)
            elif phase == OVERVIEW_PHASE and self._overview.get_subscription_count() > 0:
                self._overview.publish(to_message(self._world.render(*OVERVIEW_SIZE), stamp, CAMERA_FRAME))

    def _publish_joints(self, stamp: Time) -> None:
        world = self._world
        joints = JointState(name=list(task.ARM_JOINTS))
        joints.header.stamp = stamp
        joints.position, joints.velocity = world.joints.tolist(), world.joint_velocities.tolist()
        joints.effort = world.joint_efforts.tolist()
        self._joints.publish(joints)

    def _publish_frame(self, stamp: Time) -> None:
        # The task's state goes first, so that whoever sees the frame can know what it belongs to.
        self._task.publish(task_state(self._session.frame(), stamp))
        self._image.publish(to_message(self._world.render(self._size, self._size), stamp, CAMERA_FRAME))
        self._info.publish(camera_info(self._world.intrinsics(self._size, self._size), stamp))

    def _newest_targets(self) -> NDArray[np.float64] | None:
        targets = None
        for message in self._trajectories.take():
            try:
                targets = joint_targets(message)
            except ValueError as error:
                if self._diagnostics.count("bad_trajectory", str(error)) == 1:
                    self.get_logger().error(f"bad trajectory: {error}")
        return targets

    def _now(self) -> Time:
        if self._simulated_time:
            return from_nanoseconds(self._simulated_ns)
        now: Time = self.get_clock().now().to_msg()
        return now

    def _on_reset(self, request: ResetScene.Request, response: ResetScene.Response) -> ResetScene.Response:
        try:
            # Outside of the lock: the physics goes on while a layout is looked for.
            layout = self._session.sample(request.scene, int(request.seed))
            with self._lock:
                self._session.reset(layout, int(request.episode_id))
        except ValueError as error:
            response.success, response.message = False, str(error)
        else:
            response.success, response.message = True, f"scene {request.scene}, seed {request.seed}"
        return response

    def _on_start(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._phase_change(self._session.start, response)

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._phase_change(self._session.stop, response)

    def _phase_change(self, change: Any, response: Trigger.Response) -> Trigger.Response:
        try:
            with self._lock:
                change()
        except PhaseError as error:
            response.success, response.message = False, str(error)
        else:
            response.success, response.message = True, self._session.phase.name
        return response

    def _on_error(self, error: Exception) -> None:
        if self._diagnostics.count("internal_error", f"{type(error).__name__}: {error}") == 1:
            self.get_logger().error(f"simulation step failed: {type(error).__name__}: {error}")

    def _health(self) -> Health:
        values = {
            "phase": self._session.phase.name.lower(),
            "scene": self._session.scene,
            "late_ticks": self._loop.late_steps,
        }
        if self._diagnostics.counts.get("internal_error"):
            return Health(Level.ERROR, "simulation steps fail", values)
        return Health(Level.OK, f"simulating, {values['phase']}", values)


def joint_targets(message: JointTrajectory) -> NDArray[np.float64]:
    """Positions (7,) in radians of the last point, in the order of ``task.ARM_JOINTS``.

    Raises:
        ValueError: no point, other joints, or positions that are not finite.
    """
    if not message.points:
        raise ValueError("the trajectory has no point")
    positions = list(message.points[-1].positions)
    if sorted(message.joint_names) != sorted(task.ARM_JOINTS) or len(positions) != len(task.ARM_JOINTS):
        raise ValueError(f"expected positions of {', '.join(task.ARM_JOINTS)}, got {list(message.joint_names)}")
    if not all(map(math.isfinite, positions)):
        raise ValueError("positions are not finite")
    by_name = dict(zip(message.joint_names, positions, strict=True))
    return np.array([by_name[name] for name in task.ARM_JOINTS])


def main(args: list[str] | None = None) -> int:
    """Entry point of the executable ``simulation_node``."""
    return runner.run(SimulationNode, names.SIMULATION_NODE, args)


if __name__ == "__main__":
    sys.exit(main())
