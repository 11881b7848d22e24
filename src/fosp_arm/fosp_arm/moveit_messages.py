"""What is said in MoveIt's messages: the one module that needs ``moveit_msgs`` (Jazzy or newer)."""

from __future__ import annotations

from geometry_msgs.msg import Pose
from moveit_msgs.msg import CollisionObject, ServoStatus
from moveit_msgs.srv import ServoCommandType
from shape_msgs.msg import SolidPrimitive

from fosp_arm.collision import TABLE_CENTRE, TABLE_SIZE
from fosp_core.task import BASE_FRAME

__all__ = ["CollisionObject", "ServoCommandType", "ServoStatus", "box", "table"]


def box(name: str, size: tuple[float, float, float], centre: tuple[float, float, float]) -> CollisionObject:
    """A box, metres in ``panda_link0``, as MoveIt's planning scene takes it."""
    message = CollisionObject(id=name, operation=CollisionObject.ADD)
    message.header.frame_id = BASE_FRAME
    message.primitives = [SolidPrimitive(type=SolidPrimitive.BOX, dimensions=list(size))]
    pose = Pose()
    pose.position.x, pose.position.y, pose.position.z = centre
    pose.orientation.w = 1.0
    message.primitive_poses = [pose]
    return message


def table() -> CollisionObject:
    """The table."""
    return box("table", TABLE_SIZE, TABLE_CENTRE)
