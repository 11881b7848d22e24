"""Entry point by which learning code finds ``SafeReach-v0`` without importing the simulator.

gymnasium from 1.0 on loads no plugins by itself: ``gymnasium.make("fosp_sim.registration:SafeReach-v0")`` does.
"""

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


register()
