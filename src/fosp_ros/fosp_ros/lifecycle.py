"""Lifecycle nodes whose refusals say why, and which can start by themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lifecycle_msgs.msg import State
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from fosp_core.bundle import BundleError
from fosp_ros import scheduling
from fosp_ros.errors import ConfigurationError
from fosp_ros.parameters import Parameter

AUTOSTART: Final = Parameter("autostart", True, "Configure and activate at start; otherwise wait for transitions.")


class ManagedNode(LifecycleNode):
    """A lifecycle node with plain hooks.

    A subclass overrides ``configure``, ``activate``, ``deactivate`` and ``cleanup``. A hook that raises
    ``ConfigurationError`` or ``BundleError`` refuses the transition: the node stays as it was and ``refusal`` says why.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.refusal = ""

    def configure(self) -> None:
        """Load what the node needs; unconfigured -> inactive."""

    def activate(self) -> None:
        """Begin to act; inactive -> active."""

    def deactivate(self) -> None:
        """Cease to act; active -> inactive. Must leave the arm at rest."""

    def cleanup(self) -> None:
        """Let go of what ``configure`` loaded; inactive -> unconfigured."""

    @property
    def is_active(self) -> bool:
        """Whether the node is in the state ``active``."""
        return bool(self._state_machine.current_state[0] == State.PRIMARY_STATE_ACTIVE)

    @property
    def is_configured(self) -> bool:
        """Whether the node has configured itself: it is inactive or active."""
        return self._state_machine.current_state[0] in (State.PRIMARY_STATE_INACTIVE, State.PRIMARY_STATE_ACTIVE)

    def start(self) -> None:
        """Configure and activate; raises ``ConfigurationError`` with the reason when the node refuses."""
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() != TransitionCallbackReturn.SUCCESS:
                raise ConfigurationError(self.refusal)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Transition callback; see ``configure``."""
        return self._transition("configure", self.configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Transition callback; see ``activate``."""
        super().on_activate(state)
        result = self._transition("activate", self._become_active)
        if result != TransitionCallbackReturn.SUCCESS:
            super().on_deactivate(state)
        return result

    def _become_active(self) -> None:
        self.activate()
        scheduling.claim_real_time()

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Transition callback; see ``deactivate``. Publishers work until the hook has returned."""
        result = self._transition("deactivate", self.deactivate)
        super().on_deactivate(state)
        return result

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Transition callback; see ``cleanup``."""
        return self._transition("cleanup", self.cleanup)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Transition callback: deactivate if need be, then clean up."""
        if state.state_id == State.PRIMARY_STATE_ACTIVE:
            self.on_deactivate(state)
        if state.state_id != State.PRIMARY_STATE_UNCONFIGURED:
            self.on_cleanup(state)
        return TransitionCallbackReturn.SUCCESS

    def _transition(self, name: str, hook: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            hook()
        except (ConfigurationError, BundleError) as error:
            self.refusal = str(error)
            self.get_logger().error(f"cannot {name}: {error}")
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            # rclpy would swallow it without a word.
            self.refusal = f"{type(error).__name__}: {error}"
            self.get_logger().error(f"{name} failed: {self.refusal}")
            return TransitionCallbackReturn.ERROR
        self.refusal = ""
        return TransitionCallbackReturn.SUCCESS
