"""In-sample critics for reward and cost: twin Q, V, slow targets (implicit Q-learning, Kostrikov et al. 2021).

Always float32: fitted under bf16 autocast they diverge. N is a flat batch, F the feature length.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fosp_trainer.config import CriticConfig, SpaceConfig, WorldModelConfig
from fosp_trainer.nets import MLP, TwoHot, freeze, update_slow
from fosp_trainer.world_model import feature_length


@dataclass
class Transitions:
    """Flat transitions s, a -> r, c, s'. ``usable`` is 0 where an episode was cut off and there is no successor."""

    features: Tensor  # (N, F)
    action: Tensor  # (N, A)
    cost_here: Tensor  # (N,) cost on arriving at s
    reward: Tensor  # (N,) on arriving at s'
    cost: Tensor  # (N,) on arriving at s'
    next_features: Tensor  # (N, F)
    alive: Tensor  # (N,) 0 when s' ends the episode
    good: Tensor  # (N,) 1 in episodes that reached their goal without violation
    table: Tensor  # (N, M) the state's table, where rollouts are imagined from it; (N, 0) elsewhere


class Head(nn.Module):
    """A real-valued network, two-hot or scalar, with the matching loss."""

    def __init__(self, inputs: int, config: CriticConfig, world_model: WorldModelConfig) -> None:
        super().__init__()
        self.two_hot = TwoHot(world_model.bin_count, world_model.bin_limit) if config.head == "two_hot" else None
        outputs = self.two_hot.outputs if self.two_hot else 1
        self.net = MLP(inputs, config.units, config.layers, outputs, out_scale=0.0 if self.two_hot else 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Value (...)."""
        out = self.net(x)
        return self.two_hot.mean(out) if self.two_hot else out[..., 0]

    def loss(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (...) whose weighted minimum is the weighted mean of the targets, and the value (...)."""
        out = self.net(x)
        if self.two_hot:
            return self.two_hot.loss(out, target), self.two_hot.mean(out).detach()
        return 0.5 * (out[..., 0] - target) ** 2, out[..., 0].detach()


def expectile_weight(error: Tensor, tau: float, upper: bool) -> Tensor:
    """|tau - 1(u < 0)| for the upper expectile and |tau - 1(u > 0)| for the lower one, u = Q - V."""
    beyond = (error < 0) if upper else (error > 0)
    return torch.abs(tau - beyond.to(error.dtype))


def lambda_return(reward: Tensor, value: Tensor, discount: Tensor, trace: float) -> Tensor:
    """Lambda-returns (N, H): ``reward`` and ``value`` (N, H) at the successors, ``discount`` (N, H) = gamma *
    continuation.
    """
    out = []
    last = value[:, -1]
    for t in reversed(range(reward.shape[1])):
        last = reward[:, t] + discount[:, t] * ((1.0 - trace) * value[:, t] + trace * last)
        out.append(last)
    return torch.stack(out[::-1], 1)


class ValuePair(nn.Module):
    """Twin Q, V and their slow copies for one signal. Reward: least twin, upper expectile; cost: largest twin,
    lower expectile.
    """

    def __init__(
        self, features: int, action: int, config: CriticConfig, world_model: WorldModelConfig, cost: bool
    ) -> None:
        super().__init__()
        self.cost = cost
        self.tau = config.cost_expectile if cost else config.reward_expectile
        self.discount = config.cost_discount if cost else config.discount
        self.q = nn.ModuleList(Head(features + action, config, world_model) for _ in range(2))
        self.v = Head(features, config, world_model)
        self.slow_q, self.slow_v = freeze(copy.deepcopy(self.q)), freeze(copy.deepcopy(self.v))

    def _twins(self, heads: nn.Module, x: Tensor) -> Tensor:
        values = torch.stack([head(x) for head in heads])  # type: ignore[attr-defined]
        return values.amax(0) if self.cost else values.amin(0)

    def value_of(self, features: Tensor, action: Tensor, slow: bool = False) -> Tensor:
        """Q(s, a) (...), the cautious one of the twins."""
        return self._twins(self.slow_q if slow else self.q, torch.cat([features, action], -1))

    def state_value(self, features: Tensor, slow: bool = False) -> Tensor:
        """V(s) (...)."""
        value: Tensor = (self.slow_v if slow else self.v)(features)
        return value

    def loss(
        self,
        batch: Transitions,
        imagined: tuple[Tensor, Tensor, Tensor] | None,
        weight: float,
        policy_action: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of Q on real targets, of Q on imagined (features, actions, targets), and of V.

        V is an expectile of Q over the data's actions; with the policy's own actions (N, A), the mean of their Q and of
        the imagined targets, which must come from rollouts of that policy.
        """
        with torch.no_grad():
            signal = batch.cost if self.cost else batch.reward
            target = signal + self.discount * batch.alive * self.state_value(batch.next_features, slow=True)
            chosen = batch.action if policy_action is None else policy_action
            known = self.value_of(batch.features, chosen, slow=True)
        x = torch.cat([batch.features, batch.action], -1)
        losses = {"q": torch.stack([head.loss(x, target)[0].mean() for head in self.q]).sum()}  # type: ignore[operator]
        if imagined is not None and weight > 0:
            features, action, target = imagined
            x = torch.cat([features, action], -1)
            parts = [head.loss(x, target)[0].mean() for head in self.q]  # type: ignore[operator]
            losses["q_imagined"] = weight * torch.stack(parts).sum()
            if policy_action is not None:
                losses["v_imagined"] = weight * self.v.loss(features, target)[0].mean()
        loss, value = self.v.loss(batch.features, known)
        if policy_action is not None:
            losses["v"] = loss.mean()
            return losses
        # normalised so that the learning rate of V does not depend on tau
        losses["v"] = (2.0 * expectile_weight(known - value, self.tau, upper=not self.cost) * loss).mean()
        return losses


class Critics(nn.Module):
    """Q_r, V_r, Q_c, V_c. ``forward`` is the loss."""

    def __init__(self, space: SpaceConfig, world_model: WorldModelConfig, config: CriticConfig) -> None:
        super().__init__()
        self.config = config
        features = feature_length(space, world_model)
        self.reward = ValuePair(features, space.action, config, world_model, cost=False)
        self.cost = ValuePair(features, space.action, config, world_model, cost=True)

    def forward(
        self,
        batch: Transitions,
        imagined: tuple[Tensor, Tensor, Tensor, Tensor] | None = None,
        policy_action: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (scalar) and its parts. ``imagined``: features (M, F), actions (M, A), reward and cost targets (M,).
        ``policy_action`` (N, A): the policy's own actions, where values follow it.
        """
        with torch.autocast(batch.features.device.type, enabled=False):
            losses: dict[str, Tensor] = {}
            for name, pair in (("reward", self.reward), ("cost", self.cost)):
                ahead = None if imagined is None else (imagined[0], imagined[1], imagined[3 if pair.cost else 2])
                parts = pair.loss(batch, ahead, self.config.imagined_weight, policy_action)
                losses |= {f"{name}_{k}": v for k, v in parts.items()}
            return torch.stack(list(losses.values())).sum(), {k: v.detach() for k, v in losses.items()}

    def update_slow(self) -> None:
        """Move the slow targets."""
        for pair in (self.reward, self.cost):
            update_slow(pair.slow_q, pair.q, self.config.slow_rate)
            update_slow(pair.slow_v, pair.v, self.config.slow_rate)
