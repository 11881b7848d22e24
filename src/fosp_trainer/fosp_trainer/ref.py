"""Reachability estimation function: the probability that the policy violates from here on (RESPO, Ganai et al. 2023).

Trained as Bernoulli on Bellman targets max(1[c > 0], gamma_p p_slow(s')), supervised by real costs. Float32 always.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fosp_trainer.config import CriticConfig, SpaceConfig, WorldModelConfig
from fosp_trainer.critics import Transitions
from fosp_trainer.nets import MLP, freeze, update_slow
from fosp_trainer.world_model import feature_length


def reach_target(cost: Tensor, next_probability: Tensor, alive: Tensor, discount: float) -> Tensor:
    """max(1[c > 0], gamma_p * alive * p(s')); all (N,)."""
    return torch.maximum((cost > 0).to(next_probability.dtype), discount * alive * next_probability)


class Reachability(nn.Module):
    """p(s) counts a violation at s itself; p(s, a), asked before acting, counts from the successor on."""

    def __init__(self, space: SpaceConfig, world_model: WorldModelConfig, config: CriticConfig) -> None:
        super().__init__()
        self.config = config
        features = feature_length(space, world_model)
        self.state_net = MLP(features, config.units, config.layers, 1)
        self.action_net = MLP(features + space.action, config.units, config.layers, 1)
        with torch.no_grad():  # start at a low probability rather than at 1/2 everywhere
            for net in (self.state_net, self.action_net):
                nn.init.constant_(net[-1].bias, -2.0)  # type: ignore[arg-type]
        self.slow_net = freeze(copy.deepcopy(self.state_net))

    def probability(self, features: Tensor, action: Tensor | None = None) -> Tensor:
        """p(s) or p(s, a) in [0, 1], shape (...)."""
        logits = self.state_net(features) if action is None else self.action_net(torch.cat([features, action], -1))
        return torch.sigmoid(logits.float()[..., 0])

    def slow_probability(self, features: Tensor) -> Tensor:
        """p_slow(s) (...)."""
        return torch.sigmoid(self.slow_net(features).float()[..., 0])

    def forward(
        self, batch: Transitions, imagined: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (scalar) and its parts. ``imagined``: features (M, F), actions (M, A), targets of p(s, a) (M,)."""
        with torch.autocast(batch.features.device.type, enabled=False):
            with torch.no_grad():
                ahead = self.slow_probability(batch.next_features)
                discount = self.config.reach_discount
                # a state that ends its episode (alive = 0) is judged by its own cost alone
                action_target = reach_target(batch.cost, ahead, batch.alive, discount)
                after = torch.maximum((batch.cost > 0).float(), batch.alive * ahead)
                state_target = torch.maximum((batch.cost_here > 0).float(), discount * after)
            bce = F.binary_cross_entropy_with_logits
            x = torch.cat([batch.features, batch.action], -1)
            losses = {
                "state": bce(self.state_net(batch.features)[..., 0], state_target),
                "action": bce(self.action_net(x)[..., 0], action_target),
            }
            if imagined is not None and self.config.imagined_weight > 0:
                features, action, target = imagined
                logits = self.action_net(torch.cat([features, action], -1))[..., 0]
                losses["imagined"] = self.config.imagined_weight * bce(logits, target)
            return torch.stack(list(losses.values())).sum(), {k: v.detach() for k, v in losses.items()}

    def update_slow(self) -> None:
        """Move the slow target."""
        update_slow(self.slow_net, self.state_net, self.config.slow_rate)
