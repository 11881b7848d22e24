"""How a policy is extracted: behaviour cloning, the paper's closed form, the gradient through Q, or imagined returns.

N is a flat batch. What is called weight here multiplies log pi(a|s) of a dataset action.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fosp_trainer.actor import Actor
from fosp_trainer.config import ActorConfig, CriticConfig
from fosp_trainer.critics import Critics, Transitions, lambda_return
from fosp_trainer.ref import Reachability
from fosp_trainer.world_model import State, WorldModel


class PercentileRange(nn.Module):
    """Running range between the 5th and 95th percentile, by which advantages are divided (DreamerV3's return
    normalisation).
    """

    range: Tensor
    started: Tensor

    def __init__(self, rate: float = 0.01, floor: float = 1e-3) -> None:
        super().__init__()
        self.rate, self.floor = rate, floor
        self.register_buffer("range", torch.ones(()))
        self.register_buffer("started", torch.zeros(()))

    @torch.no_grad()
    def update(self, values: Tensor) -> Tensor:
        """Take a batch into account; returns the range (scalar)."""
        low, high = torch.quantile(values.float().flatten(), torch.tensor([0.05, 0.95], device=values.device))
        spread = (high - low).clamp_min(self.floor)
        rate = torch.where(self.started > 0, self.rate, 1.0)
        self.range.lerp_(spread, rate)
        self.started.fill_(1.0)
        return self.range


class AugmentedLagrangian(nn.Module):
    """Constraint J_c <= d: multiplier lambda and penalty coefficient c (SafeDreamer, Huang et al. 2024)."""

    multiplier: Tensor
    penalty: Tensor

    def __init__(self, config: ActorConfig) -> None:
        super().__init__()
        self.limit, self.growth, self.maximum = config.imagined_cost_limit, config.penalty_growth, config.penalty_max
        self.register_buffer("multiplier", torch.tensor(config.multiplier))
        self.register_buffer("penalty", torch.tensor(config.penalty))

    def forward(self, cost: Tensor) -> Tensor:
        """Psi(J_c; lambda, c) for the expected cost J_c (scalar); differentiable in it."""
        g = cost - self.limit
        # clones: ``update`` changes the buffers in place, possibly before the backward pass
        multiplier, penalty = self.multiplier.clone(), self.penalty.clone()
        active = multiplier * g + 0.5 * penalty * g * g
        return torch.where(multiplier + penalty * g > 0, active, -(multiplier**2) / (2.0 * penalty))

    @torch.no_grad()
    def update(self, cost: Tensor) -> None:
        """lambda <- max(0, lambda + c g); c grows slowly up to its maximum and never shrinks."""
        self.multiplier.copy_((self.multiplier + self.penalty * (cost - self.limit)).clamp_min(0.0))
        self.penalty.copy_(torch.maximum(self.penalty, (self.penalty * (1.0 + self.growth)).clamp_max(self.maximum)))


def closed_form_weight(
    u: Tensor, q_cost: Tensor, reward_advantage: Tensor, cost_advantage: Tensor, config: ActorConfig
) -> Tensor:
    """w = u 1[Q_c <= eps] exp(beta_r A_r) + (1 - u) exp(-beta_c A_c), clipped (FOSP, closed form of the offline
    policy); (N,).
    """
    safe = (q_cost <= config.cost_limit).to(u.dtype)
    best = torch.exp(config.reward_temperature * reward_advantage).clamp_max(config.weight_clip)
    least = torch.exp(-config.cost_temperature * cost_advantage).clamp_max(config.weight_clip)
    return u * safe * best + (1.0 - u) * least


class Extraction(nn.Module):
    """The actor's loss under a configuration. Its parameters are none; its buffers are the running ranges and
    multipliers.
    """

    def __init__(self, config: ActorConfig) -> None:
        super().__init__()
        self.config = config
        self.reward_range, self.cost_range = PercentileRange(), PercentileRange()
        self.lagrangian = AugmentedLagrangian(config)

    def clone_weight(self, batch: Transitions) -> Tensor:
        """(N,) 1 in good episodes, ``bc_bad_weight`` elsewhere."""
        return batch.good + self.config.bc_bad_weight * (1.0 - batch.good)

    def loss(
        self, actor: Actor, critics: Critics, reach: Reachability, batch: Transitions, kind: str | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (scalar) and figures. ``kind`` overrides the configured extraction."""
        kind = kind or self.config.extraction
        if kind == "bc":
            loss = -(self.clone_weight(batch) * actor.log_prob(batch.features, batch.action)).mean()
            return loss, {"bc": loss.detach()}
        with torch.no_grad():
            q_reward = critics.reward.value_of(batch.features, batch.action)
            q_cost = critics.cost.value_of(batch.features, batch.action)
            reward_advantage = q_reward - critics.reward.state_value(batch.features)
            cost_advantage = q_cost - critics.cost.state_value(batch.features)
            reward_scale = self.reward_range.update(reward_advantage)
            cost_scale = self.cost_range.update(cost_advantage)
            u = 1.0 - reach.probability(batch.features) if self.config.feasibility else torch.ones_like(q_cost)
        if kind == "awr":
            weight = closed_form_weight(
                u, q_cost, reward_advantage / reward_scale, cost_advantage / cost_scale, self.config
            )
            loss = -(weight * actor.log_prob(batch.features, batch.action)).mean()
            effective = weight.sum() ** 2 / (weight**2).sum().clamp_min(1e-9) / len(weight)
            return loss, {"awr": loss.detach(), "effective_samples": effective, "feasible": u.mean()}
        action = actor.sample(batch.features)
        reward = critics.reward.value_of(batch.features, action) / reward_scale.clone()
        cost = critics.cost.value_of(batch.features, action) / cost_scale.clone()
        improvement = -(u * reward - self.config.kappa * cost).mean()
        # the mean is regularised, not the spread: exploration noise is not what is cloned
        distance = ((actor(batch.features) - batch.action) ** 2).sum(-1)
        cloning = self.config.bc_weight * (self.clone_weight(batch) * distance).mean()
        loss = improvement + cloning
        figures = {"improvement": improvement.detach(), "bc": cloning.detach(), "q_reward": reward.mean().detach()}
        return loss, {**figures, "q_cost": cost.mean().detach(), "feasible": u.mean()}

    def imagine(self, model: WorldModel, actor: Actor, state: State, proprio: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, H + 1, F) and actions (N, H, A) of rollouts from states (N, ...) under the actor; gradients flow
        through the model.
        """
        rollout = model.imagine_differentiable(
            state,
            self.config.imagined_horizon,
            policy=lambda s, p: actor.sample(model.features(s, p)),
            proprio=proprio,
        )
        return model.features(rollout.states, rollout.proprio), rollout.actions

    def returns_loss(
        self, model: WorldModel, actor: Actor, critics: Critics, features: Tensor, actions: Tensor, config: CriticConfig
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (scalar) that makes the reward along imagined rollouts large, as DreamerV3's actor does (Hafner et al.
        2023): lambda-returns in units of their percentile range, at least 1, and entropy; and figures.
        """
        after = features[:, 1:]
        discount = config.discount * model.continuation(after)
        returns = lambda_return(model.reward(after), critics.reward.state_value(after), discount, config.trace)
        scale = self.reward_range.update(returns.detach()).clamp_min(1.0)
        # what lies behind a likely end counts less
        weight = torch.cumprod(torch.cat([torch.ones_like(discount[:, :1]), discount[:, :-1]], 1), 1).detach()
        entropy = -actor.log_prob(features[:, :-1].detach(), actions)
        loss = -(weight * (returns / scale + self.config.entropy * entropy)).mean()
        return loss, {"returns": returns.mean().detach(), "entropy": entropy.mean().detach()}

    def imagined_cost(
        self, model: WorldModel, features: Tensor, config: CriticConfig, critics: Critics | None = None
    ) -> Tensor:
        """Mean discounted cost (scalar) of imagined rollouts, features (N, H + 1, F). With critics, lambda-returns in
        which V_c stands for what comes after.
        """
        after = features[:, 1:]
        cost, alive = model.cost(after), model.continuation(after)
        if critics is not None:
            ahead = critics.cost.state_value(after)
            return lambda_return(cost, ahead, config.cost_discount * alive, config.trace)[:, 0].mean()
        survival = torch.cumprod(torch.cat([torch.ones_like(alive[:, :1]), alive[:, :-1]], 1), 1)
        steps = torch.arange(after.shape[1], device=after.device)
        total: Tensor = (cost * survival * config.cost_discount**steps).sum(1).mean()
        return total
