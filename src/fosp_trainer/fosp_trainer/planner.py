"""Planning at decision time: the constrained cross-entropy method over imagined rollouts (safety-reward planning of
SafeDreamer, Huang et al. 2024), and a pilot that acts by it.

N action sequences, horizon H, A action.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fosp_core.images import Image
from fosp_core.pilot import Steered
from fosp_core.runtime import StepOutput
from fosp_core.safety import Verdict
from fosp_core.selector import Selection
from fosp_trainer.agent import Agent
from fosp_trainer.config import PlannerConfig
from fosp_trainer.world_model import Batch, State, categorical_kl

Score = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Return and cost (N,) of action sequences (N, H, A)."""


@dataclass(frozen=True)
class Plan:
    """An action sequence (H, A) and what is expected of it."""

    actions: Tensor
    value: float
    cost: float
    feasible: bool


def ranking(value: Tensor, cost: Tensor, limit: float, least: int = 1) -> Tensor:
    """Indices (N,), the best first: the largest return among plans with cost <= limit, the others behind by their cost.
    While fewer than ``least`` plans are feasible all go by their cost.
    """
    feasible = cost <= limit
    if int(feasible.sum()) < least:
        return torch.argsort(cost, stable=True)
    # one key: feasible plans by return, then the rest by cost, whatever the returns are
    rest = torch.argsort(cost, stable=True)
    rest = rest[~feasible[rest]]
    best = torch.argsort(value, descending=True, stable=True)
    return torch.cat([best[feasible[best]], rest])


def search(score: Score, mean: Tensor, proposals: Tensor, config: PlannerConfig, generator: torch.Generator) -> Plan:
    """The best plan found from a first guess ``mean`` (H, A) and further proposals (M, H, A): among feasible ones that
    with the largest return, else that with the least cost. Elites of an iteration are candidates in the next.
    """
    std = torch.full_like(mean, config.max_std)
    kept = torch.cat([mean[None], proposals])
    for _ in range(config.iterations):
        drawn = torch.randn(config.plans, *mean.shape, generator=generator)
        plans = torch.cat([kept, (mean + std * drawn).clamp(-1.0, 1.0)])
        value, cost = score(plans)
        elites = plans[ranking(value, cost, config.cost_limit, config.elites)[: config.elites]]
        mean, std = elites.mean(0), elites.std(0).clamp(config.min_std, config.max_std)
        chosen = int(ranking(value, cost, config.cost_limit)[0])
        best = Plan(plans[chosen], float(value[chosen]), float(cost[chosen]), bool(cost[chosen] <= config.cost_limit))
        kept = torch.cat([plans[chosen][None], elites])
    return best


def imagined_score(agent: Agent, state: State, plans: Tensor) -> tuple[Tensor, Tensor]:
    """Discounted return and cost (N,) of plans (N, H, A) from one state (1, ...), in the world model's likeliest
    future; the values stand for what comes after.
    """
    model, critics, config = agent.world_model, agent.critics, agent.config.critic
    n = len(plans)
    state = State(state.deter.expand(n, -1), state.stoch.expand(n, -1), state.table.expand(n, -1))
    value, total = torch.zeros(n), torch.zeros(n)
    kept, kept_cost = torch.ones(n), torch.ones(n)
    features = torch.zeros(0)
    for action in plans.unbind(1):
        state = model.rssm.imagine_step(state, action)
        features = model.features(state, model.proprio_head(state.flat()))
        value = value + kept * model.reward(features)
        total = total + kept_cost * model.cost(features)
        alive = model.continuation(features)
        kept, kept_cost = kept * config.discount * alive, kept_cost * config.cost_discount * alive
    return value + kept * critics.reward.state_value(features), total + kept_cost * critics.cost.state_value(features)


class PlanningPilot:
    """Acts by planning, on torch and without a monitor. One pilot belongs to one thread."""

    def __init__(self, agent: Agent, seed: int = 0) -> None:
        self.agent = agent.eval()
        self._seed = seed
        self.start()

    def start(self, seed: int | None = None) -> None:
        """Begin an episode: forget the past. The same frames then lead to the same actions. ``seed`` replaces the
        pilot's own.
        """
        self._seed = self._seed if seed is None else seed
        self._state: State | None = None
        self._executed = torch.zeros(1, 1, self.agent.config.space.action)
        self._plan: Tensor | None = None
        self._generator = torch.Generator().manual_seed(self._seed)

    @torch.no_grad()
    def act(self, image: Image, proprio: NDArray[np.floating]) -> Steered:
        """The action for one frame: uint8 (S, S, 3) and tool position (3,) in metres."""
        agent, model, config = self.agent, self.agent.world_model, self.agent.config.planner
        first = self._state is None
        zero = torch.zeros(1, 1)
        where = torch.as_tensor(np.asarray(proprio, np.float32))[None, None]
        frame = Batch(
            torch.from_numpy(np.ascontiguousarray(image))[None, None], where, self._executed, zero, zero,
            zero + float(first), zero,
        )  # fmt: skip
        observed = model.observe(frame, self._state, sample=False)
        self._state = state = observed.states.at(np.s_[:, -1])
        features = agent.features(state, where[:, 0])
        own = agent.offline(features)
        plan = search(
            lambda plans: imagined_score(agent, state, plans), self._guess(state, where[:, 0]),
            self._proposals(state, where[:, 0]), config, self._generator,
        )  # fmt: skip
        self._plan = plan.actions
        action = plan.actions[:1]
        self._executed = action[None]
        candidates = torch.cat([action, own])
        repeated = features.expand(2, -1)
        output = StepOutput(
            candidates.numpy(), agent.critics.reward.value_of(repeated, candidates).numpy(),
            agent.critics.cost.value_of(repeated, candidates).numpy(),
            agent.reach.probability(repeated, candidates).numpy(), float(agent.reach.probability(features)),
            float(categorical_kl(observed.posterior, observed.prior)), first,
        )  # fmt: skip
        chosen = action[0].numpy().copy()
        return Steered(
            chosen, output, Selection(chosen, 0, np.array([1.0, 0.0])), float(output.violation_probability[0]),
            Verdict.NONE, (), False, math.nan,
        )  # fmt: skip

    def _guess(self, state: State, where: Tensor) -> Tensor:
        """The last plan a step on (H, A); at first what the actor would do."""
        if self._plan is not None:
            return torch.cat([self._plan[1:], self._plan[-1:]])
        return self._rollout(state, where, 1, noise=False)[0]

    def _proposals(self, state: State, where: Tensor) -> Tensor:
        """What the actor proposes (M, H, A): its own way, and samples."""
        count = round(self.agent.config.planner.policy_share * self.agent.config.planner.plans)
        if count == 0:
            return torch.zeros(0, self.agent.config.planner.horizon, self.agent.config.space.action)
        own = self._rollout(state, where, 1, noise=False)
        return torch.cat([own, self._rollout(state, where, count - 1, noise=True)]) if count > 1 else own

    def _rollout(self, state: State, where: Tensor, count: int, noise: bool) -> Tensor:
        """Action sequences (count, H, A) of the actor in the likeliest future, its samples with ``noise``."""
        agent, model = self.agent, self.agent.world_model
        state = State(*(x.expand(count, -1) for x in (state.deter, state.stoch, state.table)))
        seen = agent.features(state, where.expand(count, -1))
        taken = []
        for _ in range(agent.config.planner.horizon):
            _, std, _ = agent.offline.parts(seen)
            action = agent.offline(seen)
            if noise:
                drawn = torch.randn(action.shape, generator=self._generator)
                action = (action + std.mean(-2) * drawn).clamp(-1.0, 1.0)
            taken.append(action)
            state = model.rssm.imagine_step(state, action)
            seen = model.features(state, model.proprio_head(state.flat()))
        return torch.stack(taken, 1)
