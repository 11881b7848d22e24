"""Entry point by which gymnasium finds ``SafeReach-v0`` without anyone importing the simulator."""

from __future__ import annotations

import gymnasium

ENVIRONMENT_ID = "SafeReach-v0"


def register() -> None:
    """Register the environment. The six-value step does not pass gymnasium's own checkers, so they stay off."""
    if ENVIRONMENT_ID not in gymnasium.registry:
        gymnasium.register(
            ENVIRONMENT_ID,
            entry_point="fosp_sim.environment:SafeReachEnv",
            disable_env_checker=True,
            order_enforce=False,
        )
