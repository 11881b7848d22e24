"""The word of the homing node that it moves the arm, for those who watch whether the arm holds."""

from __future__ import annotations

import math
import time
from typing import Final

from rclpy.node import Node
from std_msgs.msg import Bool

from fosp_ros import names, qos
from fosp_ros.polling import PolledSubscription

HOLDS_S: Final = 0.5
"""How long the word counts; it comes every 100 ms while the arm moves."""


class HomingWord:
    """Hears whether the arm is being brought home. Used by one thread."""

    def __init__(self, node: Node) -> None:
        self._words = PolledSubscription(node, Bool, names.ARM_HOMING, qos.TASK_STATE)
        self._heard_at = -math.inf

    def holds(self) -> bool:
        """Whether the arm is being brought home now, as far as was heard."""
        now = time.monotonic()
        for word in self._words.take():
            self._heard_at = now if word.data else -math.inf
        return now - self._heard_at < HOLDS_S
