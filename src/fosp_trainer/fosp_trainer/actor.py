"""Gaussian policies on latent features, and constrained proposals around their mean."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fosp_trainer.config import ActorConfig, ProposalConfig, SpaceConfig, WorldModelConfig
from fosp_trainer.critics import Critics
from fosp_trainer.nets import MLP
from fosp_trainer.world_model import feature_length


class Actor(nn.Module):
    """A Gaussian around a tanh-bounded mean, or a mixture of them; samples are clipped to [-1, 1]."""

    def __init__(self, space: SpaceConfig, world_model: WorldModelConfig, config: ActorConfig) -> None:
        super().__init__()
        self.action, self.components = space.action, config.components
        self.min_std, self.max_std = config.min_std, config.max_std
        outputs = config.components * (2 * space.action + 1)
        self.net = MLP(feature_length(space, world_model), config.units, config.layers, outputs, out_scale=0.1)

    def parts(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means and standard deviations (..., K, A) and log weights (..., K)."""
        out = self.net(features).float().unflatten(-1, (self.components, 2 * self.action + 1))
        mean = torch.tanh(out[..., : self.action])
        spread = torch.sigmoid(out[..., self.action : 2 * self.action])
        return mean, self.min_std + (self.max_std - self.min_std) * spread, torch.log_softmax(out[..., -1], -1)

    def forward(self, features: Tensor) -> Tensor:
        """The mean (..., A) of the likeliest component: the deterministic policy."""
        mean, _, weights = self.parts(features)
        if self.components == 1:
            return mean[..., 0, :]
        best = weights.argmax(-1)[..., None, None].expand(*weights.shape[:-1], 1, self.action)
        return mean.gather(-2, best)[..., 0, :]

    def log_prob(self, features: Tensor, action: Tensor) -> Tensor:
        """Log density (...) of actions (..., A)."""
        mean, std, weights = self.parts(features)
        z = (action[..., None, :] - mean) / std
        densities = (-0.5 * z * z - std.log() - 0.5 * math.log(2.0 * math.pi)).sum(-1)
        return torch.logsumexp(densities + weights, -1)

    def sample(self, features: Tensor) -> Tensor:
        """A reparameterised sample (..., A) in [-1, 1]."""
        mean, std, weights = self.parts(features)
        if self.components == 1:
            chosen, spread = mean[..., 0, :], std[..., 0, :]
        else:
            index = torch.distributions.Categorical(logits=weights).sample()[..., None, None]
            index = index.expand(*weights.shape[:-1], 1, self.action)
            chosen, spread = mean.gather(-2, index)[..., 0, :], std.gather(-2, index)[..., 0, :]
        return (chosen + spread * torch.randn_like(chosen)).clamp(-1.0, 1.0)


def perturbations(config: ProposalConfig, action: int) -> Tensor:
    """Fixed perturbations (K, A): none first, then antithetic Gaussian pairs of the configured size."""
    generator = torch.Generator().manual_seed(20240704)
    half = torch.randn(config.count // 2, action, generator=generator) * config.sigma
    pairs = torch.stack([half, -half], 1).flatten(0, 1)
    return torch.cat([torch.zeros(1, action), pairs])[: config.count]


def constrained_choice(q_reward: Tensor, q_cost: Tensor, limit: float) -> Tensor:
    """Index (N,) of the candidate with the best Q_r (N, K) among those with Q_c (N, K) <= limit, or with the least Q_c
    where none is within.
    """
    allowed = q_cost <= limit
    best = torch.where(allowed, q_reward, torch.full_like(q_reward, -torch.inf))
    return torch.where(allowed.any(-1, keepdim=True), best, -q_cost).argmax(-1)


def propose(critics: Critics, features: Tensor, mean: Tensor, offsets: Tensor, limit: float) -> Tensor:
    """The constrained best (N, A) of the mean (N, A) and its perturbations (K, A)."""
    if len(offsets) == 1:
        return mean
    candidates = (mean[:, None] + offsets).clamp(-1.0, 1.0)  # (N, K, A)
    repeated = features[:, None].expand(-1, len(offsets), -1)
    q_reward = critics.reward.value_of(repeated, candidates)
    q_cost = critics.cost.value_of(repeated, candidates)
    index = constrained_choice(q_reward, q_cost, limit)
    return candidates.gather(1, index[:, None, None].expand(-1, 1, candidates.shape[-1]))[:, 0]
