"""World model: DreamerV3's recurrent state-space model (Hafner et al. 2023) with reward, cost and continuation heads.

Shapes: B batch, T time, D deterministic state, Z = stoch * classes flat stochastic state, A action, P proprioception,
M flat table (``fosp_trainer.table``; 0 without one), F features: what heads, critics and actors see.
Everything but the recurrent step runs once over the whole (B, T) block.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fosp_trainer import table
from fosp_trainer.config import SpaceConfig, WorldModelConfig
from fosp_trainer.nets import MLP, ImageNorm, TwoHot, freeze
from fosp_trainer.table import Geometry, Reader, Reading

OBSTACLE_SLOTS: Final = 3
_NEAR_GRID: Final = 8
"""Cells a side of what the posterior is told of the places near obstacles."""
POSITION_SCALE_M: Final = 0.3


@dataclass
class Batch:
    """Aligned as DreamerV3: ``reward[t]`` and ``cost[t]`` were received on arriving at t, ``previous_action[t]``
    led there.
    """

    image: Tensor  # (B, T, S, S, 3 * cameras) uint8
    proprio: Tensor  # (B, T, P) in metres
    previous_action: Tensor  # (B, T, A), zero on the first step of an episode
    reward: Tensor  # (B, T)
    cost: Tensor  # (B, T)
    is_first: Tensor  # (B, T) float 0 or 1
    is_terminal: Tensor  # (B, T) float 0 or 1
    points: Tensor | None = None  # (B, T, 1 + K, 3) goal and obstacles in metres, NaN where absent or unknown
    footprints: Tensor | None = None  # (B, T, C, C) in [0, 1] how much obstacles cover; None where unknown
    seen: Tensor | None = None  # (B, T, E) what a frozen encoder makes of the images
    table: Tensor | None = None  # (B, T, M) and the tables that go with it


@dataclass
class State:
    """Latent state; any leading shape."""

    deter: Tensor  # (..., D)
    stoch: Tensor  # (..., Z) one-hot blocks
    table: Tensor  # (..., M) what is believed of the table; the world model's dynamics leave it as it is

    def flat(self) -> Tensor:
        """(..., D + Z)."""
        return torch.cat([self.deter, self.stoch], -1)

    def detach(self) -> State:
        """The same values without gradient."""
        return State(self.deter.detach(), self.stoch.detach(), self.table.detach())

    def at(self, index: Any) -> State:
        """The states at ``index`` of the leading dimensions."""
        return State(self.deter[index], self.stoch[index], self.table[index])

    @staticmethod
    def stack(states: Sequence[State], dim: int) -> State:
        """States one beside the other along a new dimension."""
        parts = (torch.stack([getattr(s, name) for s in states], dim) for name in ("deter", "stoch", "table"))
        return State(*parts)


@dataclass
class Observed:
    """A filtered sequence."""

    states: State  # (B, T, ...)
    posterior: Tensor  # (B, T, stoch, classes) log probabilities
    prior: Tensor  # (B, T, stoch, classes) log probabilities
    reading: Reading | None  # (B * T, ...) of the frames, where they were encoded now


@dataclass
class Rollout:
    """An imagined sequence: ``states`` has one step more than ``actions``; index 0 is where it started."""

    states: State  # (B, H + 1, ...)
    proprio: Tensor  # (B, H + 1, P), normalised
    actions: Tensor  # (B, H, A)


class Encoder(nn.Module):
    """Images to features at three scales."""

    def __init__(self, space: SpaceConfig, config: WorldModelConfig) -> None:
        super().__init__()
        depth, size, stride = config.cnn_depth, space.image_size // config.stem_stride, config.stem_stride
        self.warmth, self.cameras = config.colours == "warmth", space.cameras
        stages: list[nn.Module] = [
            nn.Sequential(
                nn.Conv2d(space.channels, depth, 2 * stride, stride, stride // 2), ImageNorm(depth), nn.SiLU()
            )
        ]
        widths = [depth]
        while size > 4:
            stages.append(nn.Sequential(nn.Conv2d(depth, 2 * depth, 4, 2, 1), ImageNorm(2 * depth), nn.SiLU()))
            depth, size = 2 * depth, size // 2
            widths.append(depth)
        self.stages = nn.ModuleList(stages)
        self.stages.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.widths = tuple(widths)
        self.outputs = depth * size * size

    def forward(self, image: Tensor) -> list[Tensor]:
        """uint8 images (N, S, S, C) to features (N, channels, H, W), the finest first."""
        x = image.permute(0, 3, 1, 2).float() / 255.0  # channels_last already
        if self.warmth:
            split = x.unflatten(1, (self.cameras, 3))
            x = torch.stack([split.amax(2), split.amin(2), split[:, :, 0]], 2).flatten(1, 2)
            x = x.contiguous(memory_format=torch.channels_last)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class Decoder(nn.Module):
    """State to image; upsampling by PixelShuffle, which on a CPU beats transposed convolutions."""

    def __init__(self, space: SpaceConfig, config: WorldModelConfig) -> None:
        super().__init__()
        stem, size, depth = config.stem_stride, space.image_size // config.stem_stride, config.cnn_depth
        while size > 4:
            size, depth = size // 2, 2 * depth
        self.size, self.depth = size, depth
        self.inputs = nn.Linear(config.deter + config.latent, depth * size * size)
        layers: list[nn.Module] = [ImageNorm(depth), nn.SiLU()]
        while size < space.image_size // stem:
            layers += [nn.Conv2d(depth, 2 * depth, 3, 1, 1), nn.PixelShuffle(2), ImageNorm(depth // 2), nn.SiLU()]
            depth, size = depth // 2, size * 2
        layers += [nn.Conv2d(depth, space.channels * stem * stem, 3, 1, 1)]
        self.image = nn.Sequential(*layers)
        self.image.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.shuffle = nn.PixelShuffle(stem)

    def patches(self, state: Tensor) -> Tensor:
        """(N, D + Z) to images as ``pixel_unshuffle`` lays them out: (N, C * stem^2, S / stem, S / stem)."""
        x = self.inputs(state).unflatten(-1, (self.size, self.size, self.depth)).permute(0, 3, 1, 2)
        patches: Tensor = self.image(x)
        return 0.5 + patches

    def forward(self, state: Tensor) -> Tensor:
        """(N, D + Z) to images (N, C, S, S), about [0, 1]."""
        image: Tensor = self.shuffle(self.patches(state))
        return image


def patchwise(image: Tensor, cameras: int, stem: int) -> Tensor:
    """Images (N, S, S, 3 * cameras) in the order in which ``Decoder.patches`` lie in memory where channels come last:
    (N, S / stem, S / stem, cameras, 3, stem, stem).
    """
    rows = image.unflatten(1, (-1, stem)).unflatten(3, (-1, stem))  # (N, h, stem, w, stem, C)
    tiles = rows.transpose(2, 3).contiguous().flatten(3, 4)  # (N, h, w, stem * stem, C)
    return tiles.transpose(3, 4).contiguous().unflatten(4, (stem, stem)).unflatten(3, (cameras, 3))


def table_length(config: WorldModelConfig) -> int:
    """M: length of a state's table."""
    return table.LENGTH if config.table.enabled else 0


def feature_length(space: SpaceConfig, config: WorldModelConfig) -> int:
    """F: latent state, normalised proprioception and the view of the table."""
    return config.deter + config.latent + space.proprio + (table.VIEW if config.table.enabled else 0)


class RSSM(nn.Module):
    """Recurrent state-space model: layer-normalised GRU and categorical states with 1 % uniform mix."""

    def __init__(self, config: WorldModelConfig, embedding: int, action: int) -> None:
        super().__init__()
        self.config = config
        hidden, deter, latent = config.hidden, config.deter, config.latent
        self.action_in = nn.Linear(action, hidden, bias=False)
        self.stoch_in = nn.Linear(latent, hidden, bias=False)
        self.in_norm = nn.LayerNorm(hidden, eps=1e-3)
        self.gru = nn.Linear(hidden + deter, 3 * deter, bias=False)
        self.gru_norm = nn.LayerNorm(3 * deter, eps=1e-3)
        self.prior = MLP(deter, hidden, 1, latent)
        self.embed_in = nn.Linear(embedding, hidden, bias=False)
        self.posterior_in = nn.Linear(deter, hidden, bias=False)
        self.posterior_out = nn.Sequential(nn.LayerNorm(hidden, eps=1e-3), nn.SiLU(), nn.Linear(hidden, latent))

    def initial(self, batch: int, device: torch.device | str = "cpu") -> State:
        """The state before an episode's first frame: zeros."""
        return State(
            torch.zeros(batch, self.config.deter, device=device),
            torch.zeros(batch, self.config.latent, device=device),
            torch.zeros(batch, table_length(self.config), device=device),
        )

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """(..., Z) logits to (..., stoch, classes) log probabilities with the uniform mix."""
        logits = logits.float().unflatten(-1, (self.config.stoch, self.config.classes))
        p = torch.softmax(logits, -1)
        return torch.log((1.0 - self.config.unimix) * p + self.config.unimix / self.config.classes)

    def sample(self, log_p: Tensor, noise: Tensor | None) -> Tensor:
        """One-hot (..., Z) with straight-through gradients; Gumbel ``noise`` of log_p's shape, or None for the mode."""
        scores = log_p if noise is None else log_p + noise
        one_hot = F.one_hot(scores.argmax(-1), self.config.classes).to(log_p.dtype)
        p = log_p.exp()
        return (one_hot + (p - p.detach())).flatten(-2) if p.requires_grad else one_hot.flatten(-2)

    def recur(self, deter: Tensor, stoch: Tensor, action_in: Tensor) -> Tensor:
        """Next deterministic state (N, D), with the action already projected (N, hidden)."""
        x = F.silu(self.in_norm(self.stoch_in(stoch) + action_in))
        reset, candidate, update = self.gru_norm(self.gru(torch.cat([x, deter], -1))).chunk(3, -1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1.0)
        return update * candidate + (1.0 - update) * deter

    def posterior(self, deter: Tensor, embed_in: Tensor) -> Tensor:
        """Posterior log probabilities (N, stoch, classes), with the embedding already projected (N, hidden)."""
        return self.log_probabilities(self.posterior_out(self.posterior_in(deter) + embed_in))

    def imagine_step(self, state: State, action: Tensor, noise: Tensor | None = None) -> State:
        """Prior step (N, ...) under an action (N, A)."""
        deter = self.recur(state.deter, state.stoch, self.action_in(action))
        return State(deter, self.sample(self.log_probabilities(self.prior(deter)), noise), state.table)

    def noise(
        self, *shape: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Gumbel noise (*shape, stoch, classes)."""
        uniform = torch.rand(*shape, self.config.stoch, self.config.classes, generator=generator, device=device)
        return -torch.log(-torch.log(uniform.clamp(1e-9, 1.0 - 1e-7)))


def matched_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared error (N,) a point of unordered points (N, K, 3) under the best assignment; absent targets (NaN) don't
    count.
    """
    present = torch.isfinite(target).all(-1)  # (N, K)
    target = torch.nan_to_num(target)
    pairs = ((prediction[:, :, None] - target[:, None]) ** 2).sum(-1) * present[:, None]  # (N, K, K)
    slots = torch.arange(target.shape[1])
    options = [pairs[:, list(order), slots].sum(-1) for order in itertools.permutations(range(target.shape[1]))]
    return torch.stack(options).amin(0) / present.sum(-1).clamp_min(1)


def categorical_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) in nats, summed over the categorical variables: (..., stoch, classes) to (...)."""
    return (log_p.exp() * (log_p - log_q)).sum((-2, -1))


class WorldModel(nn.Module):
    """Encoder, RSSM, decoder and heads. ``forward`` is the training loss."""

    proprio_center: Tensor
    proprio_half: Tensor

    def __init__(self, space: SpaceConfig, config: WorldModelConfig) -> None:
        super().__init__()
        self.space, self.config = space, config
        low, high = torch.tensor(space.proprio_low), torch.tensor(space.proprio_high)
        self.register_buffer("proprio_center", (low + high) / 2, persistent=False)
        self.register_buffer("proprio_half", (high - low) / 2, persistent=False)
        self.encoder = Encoder(space, config)
        self.reader = Reader(self.encoder.widths, config.table.units) if config.table.enabled else None
        self.geometry = Geometry(config.table)
        self.proprio_in = MLP(space.proprio, config.hidden // 2, 1, config.hidden // 2)
        glimpse = _NEAR_GRID**2 + space.proprio if config.table.enabled else 0
        self.rssm = RSSM(config, self.encoder.outputs + config.hidden // 2 + glimpse, space.action)
        self.decoder = Decoder(space, config)
        latent = config.deter + config.latent
        self.features_length = features = feature_length(space, config)
        self.bins = TwoHot(config.bin_count, config.bin_limit)
        self.proprio_head = MLP(latent, config.units, config.layers, space.proprio)
        self.position_head = MLP(latent, config.units, config.layers, 3 * (1 + OBSTACLE_SLOTS))
        self.reward_head = MLP(features, config.units, config.layers, self.bins.outputs, out_scale=0.0)
        self.cost_head = MLP(features, config.units, config.layers, self.bins.outputs, out_scale=0.0)
        self.continue_head = MLP(features, config.units, config.layers, 1)

    def normalize_proprio(self, proprio: Tensor) -> Tensor:
        """Metres to about [-1, 1]."""
        return (proprio - self.proprio_center) / self.proprio_half

    def freeze_encoder(self) -> None:
        """From here on nothing changes what is read from images; without a table the encoder goes on learning."""
        if self.reader is not None:
            freeze(self.encoder)
            freeze(self.reader)

    def read(self, features: list[Tensor]) -> Reading:
        """What the encoder's features show of the table. Raises ``ValueError`` without a table."""
        if self.reader is None:
            raise ValueError("this world model reads no table (world_model.table.enabled)")
        reading: Reading = self.reader(*features[-3:])
        return reading

    def look(self, image: Tensor, is_first: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Reading | None]:
        """See images (B, T, S, S, C), with the tables before them (B, M): what the encoder makes of them (B, T, E), the
        tables after each (B, T, M), and the readings (B * T, ...).
        """
        b, t = is_first.shape
        features = self.encoder(image.flatten(0, 1))
        seen = features[-1].permute(0, 2, 3, 1).flatten(1).unflatten(0, (b, t))
        if self.reader is None:
            return seen, before[:, None].expand(b, t, 0), None
        reading = self.read(features)
        with torch.no_grad():
            covers, goals = self.beliefs(reading, is_first, before)
            tables = self.geometry.table(covers.flatten(0, 1), goals.flatten(0, 1)).flat().unflatten(0, (b, t))
        return seen, tables, reading

    def beliefs(self, reading: Reading, is_first: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Beliefs of obstacles and goal (B, T, C, C) after each of the readings (B * T, ...), with the tables before
        them (B, M).
        """
        b, t = is_first.shape
        grid = (b, table.CELLS, table.CELLS)
        cover = goal = torch.zeros(grid, device=is_first.device)
        if before is not None:
            known = table.unflatten(before)
            cover, goal = known.cover, known.goal
        steps = [
            Reading(*parts)
            for parts in zip(
                *(
                    x.unflatten(0, (b, t)).unbind(1)
                    for x in (reading.cover, reading.cover_gate, reading.goal, reading.goal_gate)
                ),
                strict=True,
            )
        ]
        covers, goals = [], []
        for i, step in enumerate(steps):
            cover, goal = table.remember(cover, goal, step, is_first[:, i])
            covers.append(cover)
            goals.append(goal)
        return torch.stack(covers, 1), torch.stack(goals, 1)

    def embed(self, seen: Tensor, tables: Tensor, proprio: Tensor) -> Tensor:
        """What the posterior is told (N, ...) of images (N, E), tables (N, M) and proprioception (N, P) in metres."""
        parts = [seen, self.proprio_in(self.normalize_proprio(proprio))]
        if self.reader is not None:
            known = table.unflatten(tables)
            parts.append(F.avg_pool2d(known.near[:, None], table.CELLS // _NEAR_GRID).flatten(1))
            place = torch.cat([known.place, proprio[:, 2:]], -1)
            parts.append(self.normalize_proprio(place))
        return torch.cat(parts, -1)

    def features(self, state: State, proprio: Tensor) -> Tensor:
        """(..., F) of states (...) and normalised proprioception (..., P)."""
        parts = [state.flat(), proprio]
        if self.reader is not None:
            tool = proprio * self.proprio_half + self.proprio_center
            if tool.dim() == 2:  # as in the exported graphs, where the batch's size is not known
                parts.append(self.geometry.view(state.table, tool))
            else:
                view = self.geometry.view(state.table.flatten(0, -2), tool.flatten(0, -2))
                parts.append(view.unflatten(0, proprio.shape[:-1]))
        return torch.cat(parts, -1)

    def observe(self, batch: Batch, state: State | None = None, sample: bool = True) -> Observed:
        """Filter a batch from ``state`` (zeros when None). ``is_first`` resets state and previous action.

        ``sample=False`` takes the posterior's mode, as the deployed policy does.
        """
        b, t = batch.is_first.shape
        device = batch.is_first.device
        state = state or self.rssm.initial(b, device)
        reading = None
        if batch.seen is not None and batch.table is not None:
            seen, tables = batch.seen, batch.table
        else:
            seen, tables, reading = self.look(batch.image, batch.is_first, state.table)
        embedded = self.embed(seen.flatten(0, 1), tables.flatten(0, 1), batch.proprio.flatten(0, 1))
        embed_in = self.rssm.embed_in(embedded).unflatten(0, (b, t)).unbind(1)
        keep = (1.0 - batch.is_first)[..., None]
        action_in = self.rssm.action_in(batch.previous_action * keep).unbind(1)
        noise = self.rssm.noise(t, b, device=device).unbind(0) if sample else [None] * t
        steps = []
        for i in range(t):
            mask = keep[:, i]
            deter = self.rssm.recur(state.deter * mask, state.stoch * mask, action_in[i])
            log_q = self.rssm.posterior(deter, embed_in[i])
            state = State(deter, self.rssm.sample(log_q, noise[i]), tables[:, i])
            steps.append((deter, state.stoch, log_q))
        deters, stochs, posterior = (torch.stack(x, 1) for x in zip(*steps, strict=True))
        prior = self.rssm.log_probabilities(self.rssm.prior(deters))
        return Observed(State(deters, stochs, tables), posterior, prior, reading)

    @torch.no_grad()
    def imagine(
        self,
        state: State,
        horizon: int,
        policy: Callable[[State, Tensor], Tensor] | None = None,
        actions: Tensor | None = None,
        proprio: Tensor | None = None,
        sample: bool = True,
    ) -> Rollout:
        """``imagine_differentiable`` without gradients."""
        return self.imagine_differentiable(state, horizon, policy, actions, proprio, sample)

    def imagine_differentiable(
        self,
        state: State,
        horizon: int,
        policy: Callable[[State, Tensor], Tensor] | None = None,
        actions: Tensor | None = None,
        proprio: Tensor | None = None,
        sample: bool = True,
    ) -> Rollout:
        """Roll the prior forward from states (N, ...) under a policy(state, normalised proprio) or actions (N, H, A).

        ``proprio`` (N, P) is the known normalised proprioception at the start (decoded when None); later ones are
        decoded.
        """
        if (policy is None) == (actions is None):
            raise ValueError("give either a policy or actions")
        n = state.deter.shape[0]
        noise = self.rssm.noise(horizon, n, device=state.deter.device).unbind(0) if sample else [None] * horizon
        states = [state]
        positions = [self.proprio_head(state.flat()) if proprio is None else proprio]
        taken = []
        for i in range(horizon):
            action = policy(states[-1], positions[-1]) if policy is not None else actions[:, i]  # type: ignore[index]
            states.append(self.rssm.imagine_step(states[-1], action, noise[i]))
            positions.append(self.proprio_head(states[-1].flat()))
            taken.append(action)
        return Rollout(State.stack(states, 1), torch.stack(positions, 1), torch.stack(taken, 1))

    def reward(self, features: Tensor) -> Tensor:
        """Expected reward (...) on arriving at states with features (..., F)."""
        return self.bins.mean(self.reward_head(features))

    def cost(self, features: Tensor) -> Tensor:
        """Expected cost (...), at least 0."""
        return self.bins.mean(self.cost_head(features)).clamp_min(0.0)

    def continuation(self, features: Tensor) -> Tensor:
        """Probability (...) that the episode goes on."""
        return torch.sigmoid(self.continue_head(features).float()[..., 0])

    def image_loss(self, features: Tensor, image: Tensor, fraction: float) -> Tensor:
        """Squared error a frame, summed over pixels, with saturated and red pixels weighted up.

        ``features`` (N, D + Z), ``image`` uint8 (N, S, S, C). A random ``fraction`` of the frames is decoded.
        """
        count = max(1, round(fraction * len(features)))
        if count < len(features):
            chosen = torch.randperm(len(features), device=features.device)[:count]
            features, image = features[chosen], image[chosen]
        with torch.no_grad():
            pixels = patchwise(image, self.space.cameras, self.config.stem_stride)
            red, green, blue = pixels.unbind(4)
            other = torch.maximum(green, blue)
            high, low = torch.maximum(red, other), torch.minimum(red, torch.minimum(green, blue))
            weight = 1.0 + self.config.saturation_weight / 255.0 * (high - low).float()
            weight += self.config.red_weight / 255.0 * (high - other).float()
            root = weight.sqrt_().unsqueeze(4)
            target = pixels.float().mul_(root / 255.0)
        predicted = self.decoder.patches(features).float().permute(0, 2, 3, 1).unflatten(-1, pixels.shape[3:])
        return F.mse_loss(predicted * root, target, reduction="sum") / count

    def forward(
        self, batch: Batch, state: State | None = None, decode_fraction: float | None = None
    ) -> tuple[Tensor, dict[str, Tensor], Observed]:
        """Training loss (scalar), its parts, and the filtered sequence. ``decode_fraction`` overrides the share of
        the frames that is decoded.
        """
        config = self.config
        fraction = config.decode_fraction if decode_fraction is None else decode_fraction
        observed = self.observe(batch, state)
        latent = observed.states.flat().flatten(0, 1)  # (B * T, D + Z)
        proprio = self.normalize_proprio(batch.proprio.flatten(0, 1))
        features = self.features(observed.states, self.normalize_proprio(batch.proprio)).flatten(0, 1)  # (B * T, F)
        reward, cost = batch.reward.flatten(), batch.cost.flatten()
        events = 1.0 + (config.cost_event_weight - 1.0) * (cost > 0)
        alive = 1.0 - batch.is_terminal.flatten()
        losses: dict[str, Tensor] = {}
        if batch.points is not None and config.position_weight > 0:
            losses["position"] = config.position_weight * self.position_loss(
                self.position_head(latent), batch.points.flatten(0, 1)
            )
        if observed.reading is not None and batch.points is not None and batch.footprints is not None:
            losses |= self.reading_losses(observed.reading, batch)
        losses |= {
            "image": config.image_weight * self.image_loss(latent, batch.image.flatten(0, 1), fraction),
            "proprio": config.proprio_weight * ((self.proprio_head(latent).float() - proprio) ** 2).sum(-1).mean(),
            "reward": config.reward_weight * self.bins.loss(self.reward_head(features), reward).mean(),
            "cost": config.cost_weight * (events * self.bins.loss(self.cost_head(features), cost)).mean(),
            "continue": config.continue_weight
            * F.binary_cross_entropy_with_logits(self.continue_head(features).float()[..., 0], alive),
        }
        dynamics, representation = self.kl_losses(observed)
        losses["dynamics"] = config.dynamics_scale * dynamics
        losses["representation"] = config.representation_scale * representation
        total = torch.stack(list(losses.values())).sum()
        metrics = {name: value.detach() for name, value in losses.items()}
        metrics["kl"] = categorical_kl(observed.posterior.detach(), observed.prior.detach()).mean()
        return total, metrics, observed

    def reading_losses(self, reading: Reading, batch: Batch) -> dict[str, Tensor]:
        """Losses of readings (B * T, ...) and of the memory of them, against a batch's labels; raises ``ValueError``
        without labels.
        """
        if batch.points is None or batch.footprints is None:
            raise ValueError("the batch holds no positions or footprints")
        covers, goals = self.beliefs(reading, batch.is_first)
        footprints, place = batch.footprints.flatten(0, 1), batch.points[:, :, 0].flatten(0, 1)
        weight = self.config.table.cover_weight
        cover, goal = table.reading_loss(covers.flatten(0, 1), goals.flatten(0, 1), footprints, place, weight)
        glance, glance_goal = table.reading_loss(reading.cover, reading.goal, footprints, place, weight)
        # covered cells are few: the mean over cells is small beside the cross entropy of one place
        return {
            "cover": 100.0 * cover, "goal": goal, "glance": 30.0 * glance, "glance_goal": 0.3 * glance_goal,
        }  # fmt: skip

    def position_loss(self, predicted: Tensor, points: Tensor) -> Tensor:
        """Mean squared error (scalar) of goal and obstacles, in units of ``POSITION_SCALE_M``; predicted
        (N, 3 * (1 + K)), points (N, 1 + K, 3) in metres. Obstacles have no order: the best assignment counts.
        """
        middle = torch.stack([self.proprio_center[0], self.proprio_center[1], torch.zeros_like(self.proprio_center[0])])
        target = (points - middle) / POSITION_SCALE_M
        predicted = predicted.float().unflatten(-1, (-1, 3))
        return (
            matched_error(predicted[:, :1], target[:, :1]).mean()
            + matched_error(predicted[:, 1:], target[:, 1:]).mean()
        )

    def kl_losses(self, observed: Observed) -> tuple[Tensor, Tensor]:
        """max(free, KL(sg posterior || prior)) trains the prior; max(free, KL(posterior || sg prior)) the posterior."""
        posterior, prior = observed.posterior, observed.prior
        dynamics = categorical_kl(posterior.detach(), prior).clamp_min(self.config.free_nats).mean()
        representation = categorical_kl(posterior, prior.detach()).clamp_min(self.config.free_nats).mean()
        return dynamics, representation

    @torch.no_grad()
    def open_loop(self, batch: Batch, context: int) -> tuple[Tensor, Tensor]:
        """Filter ``context`` frames, then predict the rest of the batch from its actions alone.

        Returns predicted images (B, T, C, S, S), the first ``context`` reconstructed, and the states' flat form.
        """
        observed = self.observe(batch, sample=False)
        b, t = batch.is_first.shape
        start = observed.states.at(np.s_[:, context - 1])
        rollout = self.imagine(start, t - context, actions=batch.previous_action[:, context:], sample=False)
        flat = torch.cat([observed.states.flat()[:, :context], rollout.states.flat()[:, 1:]], 1)
        images = self.decoder(flat.flatten(0, 1)).unflatten(0, (b, t)).clamp(0.0, 1.0)
        return images, flat
