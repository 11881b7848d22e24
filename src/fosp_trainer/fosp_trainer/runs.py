"""What a finished training run left: its agent and where it was saved."""

from __future__ import annotations

from pathlib import Path

from fosp_trainer import checkpoint
from fosp_trainer import config as configuration
from fosp_trainer.agent import Agent
from fosp_trainer.checkpoint import Checkpoint
from fosp_trainer.config import Config, ConfigError
from fosp_trainer.errors import UserError


def load_config(run: Path) -> Config:
    """The configuration of a run folder; raises ``UserError`` where there is no run."""
    file = run / "config.json"
    if not file.is_file():
        raise UserError(f"{run} holds no run (no config.json); train first with fosp-train pretrain")
    return configuration.load(file)


def load_run(run: Path, proposals: int | None = None) -> tuple[Agent, Checkpoint]:
    """The agent of a run folder's newest checkpoint, in evaluation mode, and the checkpoint.

    ``proposals`` overrides how many constrained proposals the agent makes. pi_on starts from pi_off: only rounds on
    the robot change it.

    Raises:
        UserError: no run, no checkpoint, or training is not finished.
    """
    config = load_config(run)
    if proposals is not None:
        try:
            config = config.proposing(proposals)
        except ConfigError as error:
            raise UserError(f"--proposals: {error}") from error
    path = checkpoint.latest(run / "checkpoints")
    if path is None:
        raise UserError(f"{run} holds no checkpoint; train first with fosp-train pretrain")
    saved = checkpoint.load(path)
    if saved.state["stage"] != "done":
        raise UserError(f"{run} stopped in stage {saved.state['stage']}; continue it first")
    agent = Agent(config)
    agent.load_weights(saved.weights, str(path))
    agent.online.load_state_dict(agent.offline.state_dict())
    agent.eval()
    return agent, saved
