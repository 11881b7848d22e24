"""The main function of nodes, in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import sys
from rclpy.node import Node
from fosp_ros import runner
from fosp_ros.errors import ConfigurationError

class Example(Node):
    def __init__(self):
        super().__init__("example")
        if "refuse" in sys.argv:
            raise ConfigurationError("parameter 'camera': no such device")
        if "break" in sys.argv:
            self.create_timer(0.01, self.broken)
        else:
            self.create_timer(0.01, self.ready)

    def ready(self):
        print("ready", flush=True)

    def broken(self):
        raise RuntimeError("broken")

    def close(self):
        print("closed", self.context.ok(), flush=True)

sys.exit(runner.run(Example, "example", []))
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_node_tidily_while_messages_can_still_be_sent(number: signal.Signals) -> None:
    process = start()
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output.endswith("closed True\n")
    assert "Traceback" not in errors


def test_a_wrong_configuration_is_one_line_and_no_traceback() -> None:
    process = start("refuse")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.strip() == "example: parameter 'camera': no such device"


def test_an_error_in_a_callback_closes_the_node_and_fails() -> None:
    process = start("break")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert output == "closed True\n"
    assert "RuntimeError: broken" in errors


def test_a_second_interrupt_while_the_node_ends_does_no_harm() -> None:
    process = start()
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)  # people and launchers, not a storm: a handler must have time to return
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output.endswith("closed True\n")
    assert "Traceback" not in errors
