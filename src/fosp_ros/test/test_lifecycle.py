from __future__ import annotations

from collections.abc import Iterator

import pytest
import rclpy
from rclpy.lifecycle import TransitionCallbackReturn

from fosp_core.bundle import BundleError
from fosp_ros.errors import ConfigurationError
from fosp_ros.lifecycle import ManagedNode


class Recorder(ManagedNode):
    """Notes its hooks; raises what a test puts in ``fault``."""

    def __init__(self) -> None:
        super().__init__("recorder")
        self.hooks: list[str] = []
        self.fault: Exception | None = None

    def configure(self) -> None:
        self._note("configure")

    def activate(self) -> None:
        self._note("activate")

    def deactivate(self) -> None:
        self._note("deactivate")

    def cleanup(self) -> None:
        self._note("cleanup")

    def _note(self, hook: str) -> None:
        self.hooks.append(hook)
        if self.fault is not None:
            raise self.fault


@pytest.fixture
def node() -> Iterator[Recorder]:
    rclpy.init()
    node = Recorder()
    yield node
    node.destroy_node()
    rclpy.shutdown()


def test_start_configures_and_activates(node: Recorder) -> None:
    node.start()
    assert node.is_active and node.is_configured and node.hooks == ["configure", "activate"]
    node.trigger_deactivate()
    assert not node.is_active and node.is_configured
    node.trigger_cleanup()
    assert not node.is_configured


@pytest.mark.parametrize("error", [ConfigurationError("no such camera"), BundleError("no such camera")])
def test_a_refusal_leaves_the_node_as_it_was_and_says_why(node: Recorder, error: Exception) -> None:
    node.fault = error
    with pytest.raises(ConfigurationError, match="no such camera"):
        node.start()
    assert not node.is_configured
    node.fault = None
    node.start()
    assert node.is_active and node.refusal == ""


def test_a_refused_activation_leaves_the_node_inactive(node: Recorder) -> None:
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    node.fault = ConfigurationError("not yet")
    assert node.trigger_activate() == TransitionCallbackReturn.FAILURE
    assert node.is_configured and not node.is_active


def test_an_unforeseen_error_is_named(node: Recorder) -> None:
    node.fault = RuntimeError("broken")
    with pytest.raises(ConfigurationError, match="RuntimeError: broken"):
        node.start()


def test_shutdown_deactivates_and_cleans_up(node: Recorder) -> None:
    node.start()
    node.trigger_shutdown()
    assert node.hooks == ["configure", "activate", "deactivate", "cleanup"]
