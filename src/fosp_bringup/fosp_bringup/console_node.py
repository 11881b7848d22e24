"""The operators' web page, served with viser: camera image, state, candidates, and the orders as buttons."""

from __future__ import annotations

import contextlib
import math
import sys
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import viser
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from sensor_msgs.msg import Image

from fosp_bringup.operators import Desk, Graph, Order, Sight
from fosp_core.images import ImageError
from fosp_ros import names, qos, runner
from fosp_ros.errors import ConfigurationError
from fosp_ros.images import from_message
from fosp_ros.parameters import Parameter, Parameters

PARAMETERS: Final = (
    Parameter("models_root", "models", "Folder of the model bundles.", read_only=True),
    Parameter("scene", "standard", "Scene of the episodes that are started here.", read_only=True),
    Parameter("episodes", 1, "Episodes of one run.", "", 1, 1000),
    Parameter("host", "127.0.0.1", "Address to listen on. Whoever reaches the page can give orders.", read_only=True),
    Parameter("port", 8080, "TCP port.", "", 1, 65535, read_only=True),
)
PERIOD_S: Final = 0.2


def summary(sight: Sight, line: str) -> str:
    """The page's text, Markdown."""
    known = math.isfinite(sight.violation_probability)
    rows = [
        f"**{sight.state}** {', '.join(sight.reasons)}",
        f"violation probability {sight.violation_probability:.2f} (halt from {sight.halt_threshold:.2f})"
        if known
        else "violation probability unknown",
        f"model {sight.model_id or 'unknown'}",
    ]
    for index, (name, action) in enumerate(zip(("offline", "online"), sight.candidates, strict=False)):
        weight = f", probability {sight.probabilities[index]:.2f}" if index < len(sight.probabilities) else ""
        mark = " (chosen)" if index == sight.chosen else ""
        rows.append(f"{name} [{', '.join(f'{a:+.2f}' for a in action)}]{weight}{mark}")
    return "\n\n".join([*rows, line])


class ConsoleNode(Node):
    """Wires the desk to buttons and the newest messages to the page."""

    def __init__(self) -> None:
        super().__init__(names.CONSOLE_NODE)
        p = Parameters(self, PARAMETERS)
        self._graph = Graph(self, Path(p.string("models_root")), p.string("scene"), lambda: p.integer("episodes"))
        self._desk = Desk(self._graph)
        self._newest: Image | None = None
        try:
            self._server = viser.ViserServer(host=p.string("host"), port=p.integer("port"), verbose=False)
        except OSError as error:
            raise ConfigurationError(f"parameter 'port': {p.integer('port')} cannot be used: {error}") from error
        gui = self._server.gui
        self._text = gui.add_markdown("")
        self._picture = gui.add_image(np.zeros((64, 64, 3), np.uint8), label="camera")
        for order in Order:
            gui.add_button(order.value).on_click(partial(self._on_click, order))
        self._confirm = gui.add_button("Confirm", color="red", visible=False)
        self._dismiss = gui.add_button("Dismiss", visible=False)
        self._confirm.on_click(lambda _: self._desk.confirm())
        self._dismiss.on_click(lambda _: self._desk.dismiss())
        self.create_subscription(Image, names.CAMERA_IMAGE, self._on_image, qos.IMAGE)
        # A simulated clock may stand still; the picture does not.
        self.create_timer(PERIOD_S, self._show, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def close(self) -> None:
        """Close the page."""
        self._server.stop()

    def _on_click(self, order: Order, event: object) -> None:
        self._desk.ask(order)

    def _on_image(self, message: Image) -> None:
        self._newest = message

    def _show(self) -> None:
        text = summary(self._graph.sight(), self._desk.line)
        if text != self._text.content:
            self._text.content = text
        if self._newest is not None:
            # The policy node says what is wrong with an image.
            with contextlib.suppress(ImageError):
                self._picture.image = from_message(self._newest)
            self._newest = None
        asked = self._desk.asked
        for button in (self._confirm, self._dismiss):
            if button.visible != (asked is not None):
                button.visible = asked is not None
        if asked is not None:
            self._confirm.label = f"Confirm: {asked.value}"


def main(args: list[str] | None = None) -> int:
    """Entry point of the executable ``console_node``."""
    return runner.run(ConsoleNode, names.CONSOLE_NODE, args)


if __name__ == "__main__":
    sys.exit(main())
