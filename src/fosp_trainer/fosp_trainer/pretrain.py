"""Pretraining: encoder, world model, cached latents, critics with reachability, actors; resumable at any update."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from fosp_trainer import checkpoint, diagnostics, table
from fosp_trainer import config as configuration
from fosp_trainer.actor import Actor
from fosp_trainer.agent import Agent
from fosp_trainer.config import Config, OptimizerConfig
from fosp_trainer.critics import Transitions, lambda_return
from fosp_trainer.data import Frames, Indices, StreamSampler, WindowSampler, check_space, gather, make_sampler, split
from fosp_trainer.errors import UserError
from fosp_trainer.latents import Glimpses, Tick, encode, glimpse, recall
from fosp_trainer.nets import Optimizer
from fosp_trainer.progress import Interrupted, Log, Stopper, bar, console
from fosp_trainer.world_model import State

STAGES: Final = ("encoder", "world_model", "critics", "actor", "done")
JOINT_STAGES: Final = ("joint", "done")


class Latents:
    """Transitions of encoded episodes, and batches of them. Mirrored copies count as episodes of their own.

    All tensors have a row per frame; a transition leads from frame i to frame i + 1 of the same episode.
    """

    def __init__(
        self,
        agent: Agent,
        frames: Frames,
        flips: tuple[bool, ...],
        tick: Tick | None = None,
        glimpses: Mapping[bool, Glimpses] | None = None,
    ) -> None:
        """``glimpses``: what the encoder makes of the frames, by flip, where that is known already."""
        space, model = agent.config.space, agent.world_model
        mirror = torch.tensor(space.mirror_action)
        action = torch.from_numpy(frames.action)
        known = dict(glimpses or {})
        parts = []
        for flip in flips:
            if flip not in known and model.reader is not None:
                known[flip] = glimpse(model, frames, flip)
            encoded = encode(model, frames, flip=flip, tick=tick, glimpses=known.get(flip))
            parts.append((encoded.features, action * mirror if flip else action, encoded.surprise))
        copies = len(flips)
        self.features, self.action, self.surprise = (torch.cat(x) for x in zip(*parts, strict=True))
        self.reward = torch.from_numpy(frames.reward).repeat(copies)
        self.cost = torch.from_numpy(frames.cost).repeat(copies)
        self.alive = 1.0 - torch.from_numpy(frames.is_terminal).float().repeat(copies)
        good = torch.from_numpy(frames.success & ~frames.violated)[torch.from_numpy(frames.episode_of)]
        self.good = good.float().repeat(copies)
        last = np.zeros(frames.count, np.bool_)
        last[np.append(frames.starts[1:], frames.count) - 1] = True
        self.sources = torch.from_numpy(np.flatnonzero(np.tile(~last, copies)))
        # only imagination starts from tables; they are large
        imagines = agent.config.critic.imagined_weight > 0 or agent.config.actor.imagines
        self._tables = [(len(self.features), [known[f] for f in flips])] if known and imagines else []

    def batch(self, index: Tensor) -> Transitions:
        """The transitions that start at frames ``index`` (N,)."""
        after = index + 1
        return Transitions(
            self.features[index], self.action[index], self.cost[index], self.reward[after], self.cost[after],
            self.features[after], self.alive[after], self.good[index], self.tables(index),
        )  # fmt: skip

    def tables(self, index: Tensor) -> Tensor:
        """Tables (N, M) of frames (N,) to imagine from; (N, 0) where nothing is imagined."""
        if not self._tables:
            return torch.zeros(len(index), 0)
        out = torch.empty(len(index), table.LENGTH)
        begin = 0
        for total, copies in self._tables:
            frames = total // len(copies)
            for glimpses in copies:
                chosen = (index >= begin) & (index < begin + frames)
                out[chosen] = glimpses.tables(index[chosen] - begin)
                begin += frames
        return out

    def extend(self, other: Latents) -> None:
        """Take in further episodes."""
        self.sources = torch.cat([self.sources, other.sources + len(self.features)])
        self._tables = [*self._tables, *other._tables]
        for name in ("features", "action", "surprise", "reward", "cost", "alive", "good"):
            setattr(self, name, torch.cat([getattr(self, name), getattr(other, name)]))

    def draw(self, count: int) -> Transitions:
        """Random transitions."""
        return self.batch(self.sources[torch.randint(len(self.sources), (count,))])


def merge(parts: list[Transitions]) -> Transitions:
    """Lay batches of transitions end to end."""
    return Transitions(*(torch.cat([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(Transitions)))


def flips_of(config: Config) -> tuple[bool, ...]:
    """Which copies of an episode are encoded."""
    return (False, True) if config.data.flip else (False,)


def split_state(agent: Agent, batch: Transitions) -> tuple[State, Tensor]:
    """Latent states and normalised proprioception (N, P) of a batch that holds its tables."""
    model = agent.config.world_model
    deter, stoch, proprio, _ = batch.features.split(
        [
            model.deter, model.latent, agent.config.space.proprio,
            batch.features.shape[-1] - model.deter - model.latent - agent.config.space.proprio,
        ],
        -1,
    )  # fmt: skip
    return State(deter, stoch, batch.table), proprio


def head_of(batch: Transitions, count: int) -> Transitions:
    """The first transitions of a batch."""
    return Transitions(*(getattr(batch, f.name)[:count] for f in dataclasses.fields(batch)))


@torch.no_grad()
def imagined_targets(
    agent: Agent, batch: Transitions, policy: nn.Module
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Roll a policy from a batch's states (N, F): features (N * H, F), actions, reward and cost lambda-returns,
    reachability targets (N * H,).
    """
    config, model = agent.config.critic, agent.world_model
    state, proprio = split_state(agent, batch)
    rollout = model.imagine(
        state,
        config.imagined_horizon,
        policy=lambda s, p: policy.sample(model.features(s, p)),  # type: ignore[operator]
        proprio=proprio,
    )
    seen = model.features(rollout.states, rollout.proprio)  # (N, H + 1, F)
    after = seen[:, 1:].contiguous()  # of a slice, torch makes a product for each rollout
    reward, cost, alive = model.reward(after), model.cost(after), model.continuation(after)
    critics = agent.critics
    reward_return = lambda_return(
        reward, critics.reward.state_value(after, slow=True), config.discount * alive, config.trace
    )
    cost_return = lambda_return(
        cost, critics.cost.state_value(after, slow=True), config.cost_discount * alive, config.trace
    )
    # predicted costs are expectations: from one half on a violation is the likelier outcome
    reach = torch.maximum((cost > 0.5).float(), config.reach_discount * alive * agent.reach.slow_probability(after))
    return (
        seen[:, :-1].flatten(0, 1),
        rollout.actions.flatten(0, 1),
        reward_return.flatten(),
        cost_return.flatten(),
        reach.flatten(),
    )


def critic_loss(
    agent: Agent, batch: Transitions, policy: nn.Module, imagined: int | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss (scalar) of critics and reachability, with imagined rollouts of ``policy`` where configured; its parts.
    ``imagined`` overrides from how many states.
    """
    config = agent.config.critic
    ahead = reach_ahead = None
    count = config.imagined_batch if imagined is None else imagined
    if config.imagined_weight > 0 and count > 0:
        features, action, reward, cost, reach = imagined_targets(agent, head_of(batch, count), policy)
        ahead, reach_ahead = (features, action, reward, cost), (features, action, reach)
    chosen = None
    if not config.in_sample:
        with torch.no_grad():
            chosen = policy.sample(batch.features)  # type: ignore[operator]
    values, metrics = agent.critics(batch, ahead, chosen)
    reachability, reach_metrics = agent.reach(batch, reach_ahead)
    return values + reachability, metrics | {f"reach_{k}": v for k, v in reach_metrics.items()}


def actor_loss(agent: Agent, actor: Actor, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss (scalar) of the configured extraction, with the imagined cost where configured; its figures."""
    config, extraction = agent.config.actor, agent.extraction
    features = actions = torch.zeros(0)
    if config.imagines:
        state, proprio = split_state(agent, head_of(batch, config.imagined_batch))
        features, actions = extraction.imagine(agent.world_model, actor, state, proprio)
    if config.extraction == "returns":
        loss, metrics = extraction.returns_loss(
            agent.world_model, actor, agent.critics, features, actions, agent.config.critic
        )
    else:
        loss, metrics = extraction.loss(actor, agent.critics, agent.reach, batch)
    if config.imagined_cost:
        critics = agent.critics if config.imagined_cost_ahead else None
        cost = extraction.imagined_cost(agent.world_model, features, agent.config.critic, critics)
        loss = loss + extraction.lagrangian(cost)
        extraction.lagrangian.update(cost.detach())
        metrics |= {"imagined_cost": cost.detach(), "multiplier": extraction.lagrangian.multiplier.clone()}
    return loss, metrics


class Trainer:
    """A run: its folder, its agent, its optimisers and where it is. Steps are taken by ``world_model_step`` and its
    siblings.
    """

    def __init__(self, config: Config, train: Frames, held_out: Frames, folder: Path, quiet: bool = False) -> None:
        check_space(train, config.space)
        self.config, self.train, self.held_out, self.folder, self.quiet = config, train, held_out, folder, quiet
        torch.set_num_threads(config.hardware.threads)
        hardware = config.hardware
        self.fabric = Fabric(
            accelerator=hardware.accelerator,
            strategy=hardware.strategy,
            devices=hardware.devices,
            precision=hardware.precision,
        )
        torch.manual_seed(config.seed)
        self.rng = np.random.default_rng(config.seed)
        self.agent = Agent(config)
        self.stages: tuple[str, ...] = STAGES if config.stages.mode == "staged" else JOINT_STAGES
        self.stage, self.step, self.update = self.stages[0], 0, 0
        self.round = 0
        """Round of own episodes that is or was trained on last; 0 is pretraining."""
        self.duration_s = 0.0
        self.history: list[float] = []
        """Losses of this process's updates, for tests of determinism."""
        self.totals = self._totals()
        agent = self.agent
        self._parts: dict[str, tuple[list[nn.Module], OptimizerConfig, str]] = {
            "encoder": (
                [m for m in (agent.world_model.encoder, agent.world_model.reader) if m is not None],
                config.encoder_optimizer,
                "encoder",
            ),
            "world_model": ([agent.world_model], config.world_model_optimizer, "world_model"),
            "critics": ([agent.critics, agent.reach], config.critic_optimizer, "critics"),
            "behaviour": ([agent.behaviour], config.actor_optimizer, "critics"),
            "offline": ([agent.offline], config.actor_optimizer, "actor"),
        }
        self.optimizers: dict[str, Optimizer] = {}
        for name in self._parts:
            self.restart(name)
        self.model, adam = self.fabric.setup(self.agent.world_model, self.optimizers["world_model"].adam)
        self.optimizers["world_model"].adam = adam
        self.sampler: StreamSampler | WindowSampler = make_sampler(train, config.data, self.rng)
        self.carry: State | None = None
        self.latents: Latents | None = None
        self.glimpses: dict[bool, Glimpses] = {}
        """What the frozen encoder makes of the training frames, by flip."""
        self.extra: Latents | None = None
        """Latents of the policy's own episodes, in online rounds."""

    def _totals(self) -> dict[str, int]:
        stages = self.config.stages
        labelled = self.config.world_model.table.enabled and self.train.labelled
        return {
            "encoder": stages.encoder_steps if labelled else 0,
            "world_model": stages.world_model_steps,
            "joint": stages.world_model_steps,
            "critics": stages.critic_steps,
            "actor": stages.actor_steps,
        }

    @property
    def encoder_frozen(self) -> bool:
        """Whether the encoder learns in a stage of its own only."""
        return "encoder" in self.stages and self.totals["encoder"] > 0

    @property
    def critics_beside_actor(self) -> bool:
        """Whether critics go on learning in the actor's stage."""
        return self.config.stages.critics_beside_actor or not self.config.critic.in_sample

    def _updates(self, name: str) -> int:
        """How many updates the part ``name`` gets in all."""
        if "joint" in self.stages:
            return self.totals["joint"]
        beside = self.totals["actor"] if name == "critics" and self.critics_beside_actor else 0
        return self.totals[self._parts[name][2]] + beside

    def restart(self, name: str) -> None:
        """Give the part ``name`` a new optimiser, whose schedule is as long as its updates are many."""
        modules, settings, _ = self._parts[name]
        self.optimizers[name] = Optimizer((p for m in modules for p in m.parameters()), settings, self._updates(name))

    def set_totals(self, **totals: int) -> None:
        """Change how many steps stages take, and their schedules."""
        self.totals |= totals
        for name in self._parts:
            self.optimizers[name].steps = max(self._updates(name), 1)

    # -- steps

    def encoder_step(self) -> dict[str, Tensor]:
        """One update of the encoder and its reader: a few frames of random episodes, in their order; returns its
        losses.
        """
        rows, glances = self.config.stages.encoder_batch, self.config.world_model.table.glances
        episode = self.rng.integers(0, self.train.episodes, (rows, 1))
        offset = np.sort((self.rng.random((rows, glances)) * self.train.lengths[episode]).astype(np.int64), axis=1)
        flip = np.repeat((self.rng.random((rows, 1)) < 0.5) & self.config.data.flip, glances, 1)
        chosen = Indices(self.train.starts[episode] + offset, np.full_like(offset, -1), flip)
        batch = gather(self.train, chosen, self.config.space, self.fabric.device, labels=True)
        batch.is_first = torch.zeros_like(batch.is_first)
        batch.is_first[:, 0] = 1.0
        model = self.agent.world_model
        losses = model.reading_losses(model.read(model.encoder(batch.image.flatten(0, 1))), batch)
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        norm = self.optimizers["encoder"].step(self.step)
        return {"loss": loss.detach(), **{k: v.detach() for k, v in losses.items()}, "gradient_norm": norm}

    def world_model_step(self) -> dict[str, Tensor]:
        """One update of the world model; returns its losses."""
        self.model.train()
        indices = self.sampler.sample()
        batch = gather(self.train, indices, self.config.space, self.fabric.device, labels=not self.glimpses)
        if self.glimpses:
            recall(self.glimpses, batch, indices)
        loss, metrics, observed = self.model(batch, self.carry)
        self.fabric.backward(loss)
        metrics["gradient_norm"] = self.optimizers["world_model"].step(self.step)
        metrics["loss"] = loss.detach()
        self.carry = None
        if isinstance(self.sampler, StreamSampler):
            self.carry = observed.states.at(np.s_[:, -1]).detach()
        self._last = (batch, observed)
        return metrics

    def draw(self, count: int) -> Transitions:
        """Transitions of the offline data, and of the policy's own episodes where there are any."""
        assert self.latents is not None
        if self.extra is None:
            return self.latents.draw(count)
        own = round(self.config.stages.online_share * count)
        return merge([self.latents.draw(count - own), self.extra.draw(own)])

    def critic_step(self, batch: Transitions, policy: nn.Module, step: int | None = None) -> dict[str, Tensor]:
        """One update of critics and reachability, with rollouts of ``policy``, the ``step``-th of them; returns their
        losses.
        """
        loss, metrics = critic_loss(self.agent, batch, policy)
        loss.backward()
        metrics["gradient_norm"] = self.optimizers["critics"].step(self.step if step is None else step)
        self.agent.critics.update_slow()
        self.agent.reach.update_slow()
        metrics["loss"] = loss.detach()
        return metrics

    def clone_step(self, batch: Transitions) -> Tensor:
        """One update of the behaviour policy; returns its loss."""
        loss, _ = self.agent.extraction.loss(
            self.agent.behaviour, self.agent.critics, self.agent.reach, batch, kind="bc"
        )
        loss.backward()
        self.optimizers["behaviour"].step(self.step)
        return loss.detach()

    def actor_step(self, batch: Transitions, name: str) -> dict[str, Tensor]:
        """One update of the actor ``name`` by the configured extraction; returns its figures."""
        loss, metrics = actor_loss(self.agent, getattr(self.agent, name), batch)
        optimizer = self.optimizers[name]
        gradients = torch.autograd.grad(loss, optimizer.parameters, allow_unused=True)
        for parameter, gradient in zip(optimizer.parameters, gradients, strict=True):
            parameter.grad = gradient
        metrics["gradient_norm"] = optimizer.step(self.step)
        metrics["loss"] = loss.detach()
        return metrics

    def joint_step(self) -> dict[str, Tensor]:
        """World model, critics, reachability and actors in one update on the same batch (the paper's way)."""
        metrics = {f"world_model_{k}": v for k, v in self.world_model_step().items()}
        batch, observed = self._last
        with torch.no_grad():
            states = observed.states.detach()
            features = self.agent.features(states, batch.proprio).float()
            follows = 1.0 - batch.is_first[:, 1:]
            # the action that led to t + 1 is the one taken at t
            parts = (
                features[:, :-1], batch.previous_action[:, 1:], batch.cost[:, :-1], batch.reward[:, 1:],
                batch.cost[:, 1:],
                features[:, 1:], 1.0 - batch.is_terminal[:, 1:], torch.ones_like(follows), states.table[:, :-1],
            )  # fmt: skip
            keep = follows.flatten() > 0
            flat = Transitions(*(x.flatten(0, 1)[keep] for x in parts))
        metrics |= {f"critics_{k}": v for k, v in self.critic_step(flat, self.agent.offline).items()}
        metrics["behaviour"] = self.clone_step(flat)
        metrics |= {f"actor_{k}": v for k, v in self.actor_step(flat, "offline").items()}
        metrics["loss"] = metrics["world_model_loss"]
        return metrics

    # -- stages

    def run(self) -> None:
        """Go through the remaining stages. Raises ``Interrupted`` after saving when asked to stop."""
        log = Log(self.folder)
        try:
            with Stopper() as stopper:
                while self.stage != "done":
                    self._run_stage(log, stopper)
                    self.stage = self.stages[self.stages.index(self.stage) + 1]
                    self.step = 0
                    self.save()
        finally:
            log.close()

    def _enter(self) -> None:
        flips = flips_of(self.config)
        if self.stage in ("world_model", "critics", "actor") and self.encoder_frozen and self.latents is None:
            with bar("look", self.train.count * len(flips), quiet=self.quiet) as shown:
                for flip in flips:
                    if flip not in self.glimpses:
                        self.glimpses[flip] = glimpse(
                            self.agent.world_model, self.train, flip, tick=lambda n: shown.advance(n, "")
                        )
        if self.stage == "world_model" and self.encoder_frozen:
            self.agent.world_model.freeze_encoder()
        if self.stage in ("critics", "actor") and self.latents is None:
            with bar("encode", self.train.count * len(flips), quiet=self.quiet) as shown:
                self.latents = Latents(
                    self.agent, self.train, flips, lambda n: shown.advance(n, ""), self.glimpses or None
                )
            self.glimpses = {}
        if self.stage == "actor" and self.step == 0:
            self.agent.offline.load_state_dict(self.agent.behaviour.state_dict())

    def _take(self) -> dict[str, Tensor]:
        stages = self.config.stages
        if self.stage == "encoder":
            return self.encoder_step()
        if self.stage == "world_model":
            return self.world_model_step()
        if self.stage == "joint":
            return self.joint_step()
        if self.stage == "critics":
            batch = self.draw(stages.critic_batch)
            cloning = self.clone_step(batch)
            policy = self.agent.behaviour if self.round == 0 else self.agent.offline
            return {**self.critic_step(batch, policy), "behaviour": cloning}
        beside: dict[str, Tensor] = {}
        if self.critics_beside_actor:
            batch, step = self.draw(stages.critic_batch), self.totals["critics"] + self.step
            beside = self.critic_step(batch, self.agent.offline, step)
        metrics = self.actor_step(self.draw(stages.actor_batch), "offline")
        return {**metrics, **{f"critics_{name}": value for name, value in beside.items()}}

    def _run_stage(self, log: Log, stopper: Stopper) -> None:
        stages, total, name = self.config.stages, self.totals[self.stage], self.stage
        self._enter()
        with bar(name, total, self.step, self.quiet) as shown:
            while self.step < total:
                began = time.monotonic()
                metrics = self._take()
                self.history.append(float(metrics["loss"]))
                if not np.isfinite(self.history[-1]):
                    raise UserError(
                        f"{name} diverged at step {self.step}: the loss is {self.history[-1]}; lower the learning rate"
                    )
                self.step += 1
                self.update += 1
                if self.step % stages.log_every == 0 or self.step == total:
                    values = {k: float(v) for k, v in metrics.items()}
                    values["rate"] = self.optimizers[
                        "world_model" if name == "joint" else {"actor": "offline"}.get(name, name)
                    ].rate(self.step)
                    log.scalars(name, values, self.step)
                    keys = [
                        k
                        for k in (
                            "image",
                            "proprio",
                            "reward",
                            "cost",
                            "kl",
                            "reach_state",
                            "cost_q",
                            "improvement",
                            "bc",
                        )
                        if k in values
                    ]
                    shown.advance(0, " ".join([f"loss {values['loss']:.3g}", *(f"{k} {values[k]:.3g}" for k in keys)]))
                shown.advance(1)
                if name == "encoder" and self.step == total and not self.quiet:
                    told = diagnostics.reading_errors(self.agent.world_model, self.held_out)
                    console.print("reading the table: " + ", ".join(f"{k} {v:.2f}" for k, v in told.items()))
                if (
                    name in ("world_model", "joint")
                    and stages.probe_every
                    and (self.step % stages.probe_every == 0 or self.step == total)
                ):
                    self._diagnose(log)
                self.duration_s += time.monotonic() - began
                if stopper.asked:
                    self.save()
                    raise Interrupted
                if self.step % stages.checkpoint_every == 0:
                    self.save()

    def _diagnose(self, log: Log) -> None:
        if self.held_out.episodes == 0:
            return
        self.agent.world_model.eval()
        errors = diagnostics.probe_errors(self.agent.world_model, self.train, self.held_out)
        ahead = diagnostics.open_loop_errors(self.agent.world_model, self.held_out)
        log.scalars(
            "probe", {f"{k}_cm": v for k, v in errors.items()} | {f"mse_{k}": v for k, v in ahead.items()}, self.step
        )
        grid = diagnostics.open_loop_grid(self.agent.world_model, self.held_out)
        log.image("open_loop", grid, self.step)
        diagnostics.save_png(grid, self.folder / "open_loop.png")
        if not self.quiet:
            told = ", ".join(f"{k} {v:.1f} cm" for k, v in errors.items()) or "no labels"
            quality = ", ".join(f"{k} {v:.5f}" for k, v in ahead.items())
            console.print(f"step {self.step}: probe errors: {told}; mean squared pixel error: {quality}")

    # -- saving

    def save(self) -> Path:
        """Write a checkpoint from which ``resume`` continues exactly."""
        tensors: dict[str, Tensor] = {
            "random/torch": torch.get_rng_state(),
            "sampler/rows": torch.from_numpy(self.sampler.rows),
        }
        for name, optimizer in self.optimizers.items():
            tensors |= checkpoint.optimizer_tensors(name, optimizer.adam)
        if self.carry is not None:
            tensors |= {f"carry/{f.name}": getattr(self.carry, f.name) for f in dataclasses.fields(State)}
        state = {
            "stage": self.stage, "step": self.step, "update": self.update, "round": self.round,
            "duration_s": round(self.duration_s, 1),
            "random": self.rng.bit_generator.state, "data": self.train.fingerprint(),
        }  # fmt: skip
        return checkpoint.save(self.folder / "checkpoints", self.agent.state_dict(), tensors, state)

    def resume(self) -> bool:
        """Continue from the newest checkpoint, if there is one. Raises ``CheckpointError`` when it does not fit."""
        path = checkpoint.latest(self.folder / "checkpoints")
        if path is None:
            return False
        saved = checkpoint.load(path)
        if saved.state["data"] != self.train.fingerprint():
            raise checkpoint.CheckpointError(
                f"{path} was trained on other data; give the same dataset or start a new run"
            )
        missing = self.agent.load_weights(saved.weights, str(path))
        tensors = saved.optimizer
        for name, optimizer in self.optimizers.items():
            if name not in missing:
                checkpoint.restore_optimizer(name, optimizer.adam, tensors)
        self.sampler.rows = tensors["sampler/rows"].numpy().copy()
        names = [f"carry/{f.name}" for f in dataclasses.fields(State)]
        self.carry = State(*(tensors[name] for name in names)) if names[0] in tensors else None
        self.stage, self.step, self.update = saved.state["stage"], saved.state["step"], saved.state["update"]
        self.round, self.duration_s = saved.state.get("round", 0), saved.state["duration_s"]
        self.rng.bit_generator.state = saved.state["random"]
        torch.set_rng_state(tensors["random/torch"])
        return True


def prepare_folder(folder: Path, config: Config, resume: bool, provenance: Mapping[str, Any]) -> Config:
    """Make or reopen a run folder; returns the configuration to use. Raises ``UserError``."""
    import json

    file = folder / "config.json"
    if resume:
        if not file.is_file():
            raise UserError(f"{folder} holds no run to resume (no config.json)")
        return configuration.load(file)
    if file.exists():
        raise UserError(f"{folder} already holds a run; continue it with --resume or choose another --run")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        configuration.save(config, file)
        (folder / "provenance.json").write_text(json.dumps(dict(provenance), indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error}") from error
    return config


def pretrain(
    frames: Frames, folder: Path, config: Config, resume: bool = False, quiet: bool = False, until: str = "done"
) -> Trainer:
    """Train an agent on offline episodes in a run folder; ``until`` names a stage to stop before.

    Raises:
        UserError: bad data, a run folder in use, a checkpoint that does not fit, divergence.
        Interrupted: stopped by a signal, after saving.
    """
    train, held_out = split(frames, config.data.held_out)
    trainer = Trainer(config, train, held_out, folder, quiet)
    if resume and trainer.resume() and not quiet:
        console.print(f"continuing at {trainer.stage} step {trainer.step}")
    if until not in trainer.stages:
        raise UserError(f"unknown stage {until!r}; this run's stages: {', '.join(trainer.stages)}")
    trainer.stages = (*trainer.stages[: trainer.stages.index(until)], "done")
    trainer.run()
    return trainer
