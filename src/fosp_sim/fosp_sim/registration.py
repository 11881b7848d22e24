"""Makes ``gymnasium.make("SafeReach-v0")`` work wherever this package is installed."""

from __future__ import annotations

import gymnasium

ENVIRONMENT_ID = "SafeReach-v0"


def register() -> None:
    """Register the environment; called by gymnasium's plugin loader."""
    gymnasium.register(
        id=ENVIRONMENT_ID,
        entry_point="fosp_sim.env:SafeReachEnv",
        disable_env_checker=True,  # it insists on five values a step
        order_enforce=True,
    )
