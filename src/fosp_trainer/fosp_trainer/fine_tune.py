"""A round on few episodes of a new scene while deployed (FOSP, section 4.3): pi_off stays, everything else adapts.

Three stages of N gradient steps: the world model on sequences of own and old episodes; critics and reachability on
the episodes encoded anew; pi_on by the configured extraction, from where it stands.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from fosp_trainer.agent import Agent
from fosp_trainer.config import FineTuneConfig, OptimizerConfig
from fosp_trainer.critics import Transitions
from fosp_trainer.data import Frames, Indices, StreamSampler, check_space, concatenate, gather
from fosp_trainer.errors import UserError
from fosp_trainer.latents import glimpse, join, recall
from fosp_trainer.nets import Optimizer
from fosp_trainer.pretrain import Latents, actor_loss, critic_loss, flips_of, merge
from fosp_trainer.replay import Replay
from fosp_trainer.world_model import State

STAGES: Final = ("world_model", "critics", "actor")
MINIMUM_FRAMES: Final = 16
CLIP: Final = {"world_model": 100.0, "critics": 10.0, "actor": 10.0}


class Cancelled(Exception):
    """The round was cancelled; the agent is half changed and must be thrown away."""


@dataclass(frozen=True)
class Progress:
    """Where a round is. ``step`` of ``steps`` are done in ``stage``."""

    stage: str
    step: int
    steps: int
    losses: dict[str, float]
    seconds_left: float


@dataclass
class Report:
    """What a round did."""

    steps: int
    seed: int
    own_episodes: int
    old_episodes: int
    """0 when there was nothing to mix in: the round then saw the new scene only."""
    eagerness: float = 1.0
    """What ``FineTuneConfig.own_share`` and its rates were multiplied by."""
    duration_s: float = 0.0
    losses: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """By stage and name, the first and the last value."""

    def note(self) -> str:
        """One sentence for people."""
        mixed = f"{self.old_episodes} old ones mixed in" if self.old_episodes else "no old ones to mix in"
        return f"{self.steps} gradient steps on {self.own_episodes} new episodes, {mixed}, {self.duration_s:.0f} s"


def without_labels(frames: Frames) -> Frames:
    """The same episodes without positions of goal and obstacles, which only a simulation knows."""
    unknown = {name: np.full_like(getattr(frames, name), np.nan) for name in ("goal", "obstacles")}
    return dataclasses.replace(frames, **unknown)


def eagerness(own: Frames, config: FineTuneConfig) -> float:
    """How much there is to learn of own episodes, in [1/2, 1]; see ``FineTuneConfig.eager_from``."""
    violating = len(np.unique(own.episode_of[own.cost > 0])) / own.episodes
    return 0.5 + 0.5 * min(1.0, violating / config.eager_from)


def fine_tune(
    agent: Agent,
    own: Frames,
    old: Replay | None = None,
    config: FineTuneConfig | None = None,
    seed: int = 0,
    on_step: Callable[[Progress], bool] = lambda _: True,
) -> Report:
    """Train an agent in place on own episodes, mixed with a sample of the old ones where given.

    pi_off is bit for bit what it was. The same arguments give the same weights (on one machine and thread count).

    Args:
        agent: as ``export.load_agent`` gives it.
        own: new episodes; labels of positions are not used.
        old: earlier episodes, so that what was learned is not forgotten. There are more of them than are needed: they
            are not mirrored.
        config: the agent's own by default.
        seed: of batches and noise.
        on_step: hears of every gradient step; answers whether to go on.

    Raises:
        Cancelled: ``on_step`` answered no.
        DataError: episodes of another shape.
        UserError: too few frames, or a loss that is not finite. The agent must be thrown away then.
    """
    config = config or agent.config.fine_tune
    for frames in (own, *([old.frames] if old else [])):
        check_space(frames, agent.config.space)
    if own.count < MINIMUM_FRAMES:
        raise UserError(
            f"{own.count} frames of new episodes are too few, {MINIMUM_FRAMES} are needed; run more episodes"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        agent.freeze_offline()
        try:
            return _Round(agent, without_labels(own), old, config, seed, on_step).run()
        finally:
            agent.eval()


class _Round:
    def __init__(
        self,
        agent: Agent,
        own: Frames,
        old: Replay | None,
        config: FineTuneConfig,
        seed: int,
        on_step: Callable[[Progress], bool],
    ) -> None:
        eager = eagerness(own, config)
        self.agent, self.on_step = agent, on_step
        self.config = dataclasses.replace(
            config,
            own_share=eager * config.own_share,
            critic_rate=eager * config.critic_rate,
            actor_rate=eager * config.actor_rate,
        )
        self.rng = np.random.default_rng(seed)
        self.own = own
        self.old = None if old is None else old.frames
        self.report = Report(config.steps, seed, own.episodes, self.old.episodes if self.old else 0, eager)
        self.started = time.monotonic()
        self.spent: dict[str, float] = {}
        model = agent.world_model
        model.freeze_encoder()
        # without a table the encoder goes on learning, and nothing can be looked at beforehand
        flips = flips_of(agent.config) if model.reader is not None else ()
        self.own_glimpses = {flip: glimpse(model, self.own, flip) for flip in flips}
        known = None if old is None else old.glimpses(model)
        self.old_glimpses = {} if known is None else {False: known}

    def run(self) -> Report:
        self._world_model()
        self._critics_and_actor()
        self.report.duration_s = time.monotonic() - self.started
        return self.report

    def _optimizer(self, modules: list[nn.Module], rate: float, stage: str) -> Optimizer:
        settings = OptimizerConfig(rate=rate, final_fraction=0.2, warmup=3, clip=CLIP[stage])
        return Optimizer((p for m in modules for p in m.parameters()), settings, self.config.steps)

    def _world_model(self) -> None:
        if self.config.world_model_updates == 0:
            return
        model, data = self.agent.world_model, self.agent.config.data
        frames = self.own if self.old is None else concatenate([self.own, self.old])
        rows = data.batch if self.old is None else max(1, round(self.config.own_share * data.batch))
        samplers = [(StreamSampler(self.own, dataclasses.replace(data, batch=rows), self.rng), 0)]
        if self.old is not None and rows < data.batch:
            rest = dataclasses.replace(data, batch=data.batch - rows, flip=False)
            samplers.append((StreamSampler(self.old, rest, self.rng), self.own.count))
        # of old episodes nothing mirrored is drawn: what stands in for it is not looked at
        old_glimpses = self.old_glimpses.values()
        glimpses = {flip: join([known, *old_glimpses]) for flip, known in self.own_glimpses.items()}
        optimizer = self._optimizer([model], self.config.world_model_rate, "world_model")
        carry: State | None = None

        def update(step: int) -> dict[str, Tensor]:
            nonlocal carry
            indices = _beside(samplers)
            batch = gather(frames, indices, self.agent.config.space)
            if glimpses:
                recall(glimpses, batch, indices)
            loss, metrics, observed = model(batch, carry, self.config.decode_fraction)
            loss.backward()
            norm = optimizer.step(step)
            carry = observed.states.at(np.s_[:, -1]).detach()
            return {"loss": loss.detach(), "kl": metrics["kl"], "image": metrics["image"], "gradient_norm": norm}

        model.train()
        self._stage("world_model", self.config.world_model_updates, update)
        model.eval()

    def _critics_and_actor(self) -> None:
        agent, config = self.agent, self.config
        own = Latents(agent, self.own, flips_of(agent.config), glimpses=self.own_glimpses)
        old = Latents(agent, self.old, (False,), glimpses=self.old_glimpses) if self.old is not None else None

        def draw() -> Transitions:
            if old is None:
                return own.draw(config.batch)
            count = round(config.own_share * config.batch)
            return merge([own.draw(count), old.draw(config.batch - count)])

        critics = self._optimizer([agent.critics, agent.reach], config.critic_rate, "critics")
        actor = self._optimizer([agent.online], config.actor_rate, "actor")

        def update_critics(step: int) -> dict[str, Tensor]:
            loss, metrics = critic_loss(agent, draw(), agent.online, config.imagined_batch)
            loss.backward()
            norm = critics.step(step)
            agent.critics.update_slow()
            agent.reach.update_slow()
            shown = {name: metrics[name] for name in ("reward_q", "cost_q", "reach_state", "reach_action")}
            return {"loss": loss.detach(), **shown, "gradient_norm": norm}

        def update_actor(step: int) -> dict[str, Tensor]:
            loss, metrics = actor_loss(agent, agent.online, draw())
            gradients = torch.autograd.grad(loss, actor.parameters, allow_unused=True)
            for parameter, gradient in zip(actor.parameters, gradients, strict=True):
                parameter.grad = gradient
            return {"loss": loss.detach(), **metrics, "gradient_norm": actor.step(step)}

        self._stage("critics", config.critic_updates, update_critics)
        self._stage("actor", config.actor_updates, update_actor)

    def _stage(self, name: str, updates: int, update: Callable[[int], dict[str, Tensor]]) -> None:
        if updates == 0:
            return
        began = time.monotonic()
        for step in range(self.config.steps):
            for _ in range(updates):
                losses = {key: float(value) for key, value in update(step).items()}
                bad = next((key for key, value in losses.items() if not np.isfinite(value)), None)
                if bad is not None:
                    raise UserError(
                        f"{name} diverged at gradient step {step}: {bad} is {losses[bad]}; the model stays as it was. "
                        "Look at the episodes, or lower the learning rate"
                    )
            kept = self.report.losses.setdefault(name, {key: [value, value] for key, value in losses.items()})
            for key, value in losses.items():
                kept[key][1] = value
            self.spent[name] = time.monotonic() - began
            progress = Progress(name, step + 1, self.config.steps, losses, self._left(name, step + 1))
            if not self.on_step(progress):
                raise Cancelled(f"cancelled in stage {name} at gradient step {step + 1} of {self.config.steps}")

    def _left(self, stage: str, done: int) -> float:
        """Seconds to the end at this stage's pace; stages to come count with their shares of a round's updates."""
        pace = self.spent[stage] / done
        shares: dict[str, Any] = {
            "world_model": 4.0 * self.config.world_model_updates,
            "critics": 1.0 * self.config.critic_updates,
            "actor": 0.6 * self.config.actor_updates,
        }
        ahead = sum(shares[name] for name in STAGES[STAGES.index(stage) + 1 :])
        return pace * (self.config.steps - done) + pace * self.config.steps * ahead / shares[stage]


def _beside(samplers: list[tuple[StreamSampler, int]]) -> Indices:
    """The samplers' rows one below the other, each moved to where its frames lie."""
    parts = []
    for sampler, offset in samplers:
        drawn = sampler.sample()
        previous = np.where(drawn.previous >= 0, drawn.previous + offset, -1)
        parts.append((drawn.frame + offset, previous, drawn.flip))
    return Indices(*(np.concatenate(part) for part in zip(*parts, strict=True)))
