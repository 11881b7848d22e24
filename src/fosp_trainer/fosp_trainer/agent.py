"""Everything that is learned, in one module: world model, critics, reachability and three actors."""

from __future__ import annotations

from torch import Tensor, nn

from fosp_trainer.actor import Actor, perturbations, propose
from fosp_trainer.checkpoint import CheckpointError, restore_weights
from fosp_trainer.config import Config
from fosp_trainer.critics import Critics
from fosp_trainer.extraction import Extraction
from fosp_trainer.nets import freeze
from fosp_trainer.ref import Reachability
from fosp_trainer.world_model import State, WorldModel


class Agent(nn.Module):
    """``behaviour`` clones good episodes and is where extraction starts; ``offline`` is pi_off, frozen once
    pretraining ends; ``online`` is pi_on.
    """

    offsets: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        space, model = config.space, config.world_model
        self.world_model = WorldModel(space, model)
        self.critics = Critics(space, model, config.critic)
        self.reach = Reachability(space, model, config.critic)
        self.behaviour = Actor(space, model, config.actor)
        self.offline = Actor(space, model, config.actor)
        self.online = Actor(space, model, config.actor)
        self.extraction = Extraction(config.actor)
        self.register_buffer("offsets", perturbations(config.proposals, space.action), persistent=False)

    def freeze_offline(self) -> None:
        """From here on nothing changes pi_off."""
        freeze(self.offline)

    def features(self, state: State, proprio: Tensor) -> Tensor:
        """(..., F) from a latent state and proprioception in metres (..., P)."""
        return self.world_model.features(state, self.world_model.normalize_proprio(proprio))

    def constrained(self, features: Tensor, mean: Tensor) -> Tensor:
        """The constrained best (N, A) of the fixed perturbations around means (N, A)."""
        return propose(self.critics, features, mean, self.offsets, self.config.proposals.cost_limit)

    def load_weights(self, weights: dict[str, Tensor], source: str) -> list[str]:
        """Load what the weights hold, module by module; returns the modules they do not hold. Raises
        ``CheckpointError``.
        """
        missing = []
        for name, module in self.named_children():
            own = {k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")}
            if own:
                restore_weights(module, own, source)
            elif module.state_dict():
                missing.append(name)
        known = tuple(f"{name}." for name, _ in self.named_children())
        stray = sorted(k for k in weights if not k.startswith(known))
        if stray:
            raise CheckpointError(f"{source}: unknown weights {stray[0]}")
        return missing
