"""Typed configuration, checked on construction, and the three presets ``debug``, ``cpu`` and ``paper``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_type_hints

from fosp_core import task
from fosp_trainer.errors import UserError

Extraction = Literal["bc", "awr", "pg_bc", "returns"]
PresetName = Literal["debug", "cpu", "paper"]


class ConfigError(UserError):
    """A configuration value that makes no sense; the text names the field and its range."""


def _require(condition: bool, name: str, value: object, what: str) -> None:
    if not condition:
        raise ConfigError(f"{name} = {value!r}: must be {what}")


def _positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value > 0, f"{type(config).__name__}.{name}", value, "greater than 0")


def _non_negative(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value >= 0, f"{type(config).__name__}.{name}", value, "at least 0")


def _fraction(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(0.0 <= value <= 1.0, f"{type(config).__name__}.{name}", value, "between 0 and 1")


@dataclass(frozen=True)
class SpaceConfig:
    """What the agent sees and does. Lengths follow the task; ``mirror_*`` say how a left-right flip acts on them."""

    image_size: int = task.IMAGE_SIZE
    """Side of the square image in pixels (a multiple of 32)."""
    cameras: int = 1
    """Images stacked along the channels."""
    proprio_low: tuple[float, ...] = task.WORKSPACE.low
    """Proprioception mapped to -1 (m)."""
    proprio_high: tuple[float, ...] = task.WORKSPACE.high
    """Proprioception mapped to +1 (m)."""
    action: int = task.ACTION_LENGTH
    mirror_proprio: tuple[float, ...] = (1.0, -1.0, 1.0)
    """Signs of the normalised proprioception under a flip of y. The camera faces the robot, so y runs along image x."""
    mirror_action: tuple[float, ...] = (1.0, -1.0, 1.0)

    def __post_init__(self) -> None:
        _positive(self, "image_size", "cameras", "action")
        _require(self.image_size % 32 == 0, "SpaceConfig.image_size", self.image_size, "a multiple of 32")
        _require(
            len(self.proprio_low) == len(self.proprio_high),
            "SpaceConfig.proprio_low",
            self.proprio_low,
            "as long as proprio_high",
        )
        _require(
            len(self.mirror_proprio) == self.proprio,
            "SpaceConfig.mirror_proprio",
            self.mirror_proprio,
            "as long as proprio_low",
        )
        _require(
            len(self.mirror_action) == self.action,
            "SpaceConfig.mirror_action",
            self.mirror_action,
            "as long as the action",
        )

    @property
    def proprio(self) -> int:
        """Length of the proprioception."""
        return len(self.proprio_low)

    @property
    def channels(self) -> int:
        """Image channels."""
        return 3 * self.cameras


@dataclass(frozen=True)
class TableConfig:
    """The map of the table that is read from the images, and the way on it (``fosp_trainer.table``). It is learned from
    labels that a simulation has.
    """

    enabled: bool = True
    units: int = 16
    """Width of the reader."""
    cover_weight: float = 2.0
    """Weight of covered places against free ones: above 1 the map rather shows too much."""
    glances: int = 4
    """Frames of one episode from which the memory learns in an update."""
    doubt: float = 0.15
    """Probability of being covered up to which a cell counts as free,"""
    certainty: float = 0.6
    """and from which on it counts as covered; in between in proportion."""
    prices: tuple[float, ...] = (40.0, 5.0, 1.5, 0.4)
    """What a cell of the way costs beyond its length where the hand would touch, and within 2, 4 and 6 cm of that."""
    wall_price: float = 30.0
    """The same out of the arm's reach and at the border."""
    sweeps: int = 48
    """Of value iteration: the longest way, in cells, that is found."""

    def __post_init__(self) -> None:
        _positive(self, "units", "cover_weight", "glances", "sweeps")
        _fraction(self, "doubt", "certainty")
        _require(self.certainty > self.doubt, "TableConfig.certainty", self.certainty, "above doubt")
        _require(len(self.prices) == 4 and min(self.prices) >= 0, "TableConfig.prices", self.prices, "four, at least 0")
        _non_negative(self, "wall_price")


@dataclass(frozen=True)
class WorldModelConfig:
    """Recurrent state-space model of DreamerV3 (Hafner et al. 2023)."""

    deter: int = 256
    stoch: int = 16
    """Number of categorical variables."""
    classes: int = 16
    """Classes of each."""
    hidden: int = 256
    """Width inside the recurrent block, prior and posterior."""
    units: int = 256
    """Width of the heads."""
    layers: int = 1
    """Hidden layers of the heads."""
    cnn_depth: int = 24
    colours: Literal["rgb", "warmth"] = "warmth"
    """``warmth``: the encoder sees the largest and the smallest channel and red: hues of one warmth look alike."""
    table: TableConfig = field(default_factory=TableConfig)
    stem_stride: Literal[2, 4] = 4
    """Stride of the first convolution (kernel twice as large); 4 is the fast one on a CPU."""
    unimix: float = 0.01
    bin_count: int = 255
    bin_limit: float = 6.0
    """Two-hot bins span symexp(-limit) to symexp(limit); DreamerV3 uses 20."""
    free_nats: float = 1.0
    dynamics_scale: float = 0.5
    representation_scale: float = 0.1
    decode_fraction: float = 0.25
    """Share of a batch's frames that is decoded to images in an update: the decoder is the dearest part."""
    image_weight: float = 0.05
    """Weight of the reconstruction, whose squared error is summed over pixels and so outweighs all else."""
    saturation_weight: float = 15.0
    """Extra reconstruction weight of a fully saturated pixel."""
    red_weight: float = 15.0
    """Extra reconstruction weight of a fully red pixel (the goal is small and red)."""
    position_weight: float = 300.0
    """Weight of the positions of goal and obstacles, where the data labels them (a simulation does). Only a training
    signal for small things that the decoder is slow to notice: nothing reads them when the policy acts. 0 is off.
    The encoder itself learns from the table.
    """
    proprio_weight: float = 200.0
    reward_weight: float = 10.0
    cost_weight: float = 1.0
    cost_event_weight: float = 10.0
    """Weight of the cost loss on steps with a cost, which are rare."""
    continue_weight: float = 1.0

    def __post_init__(self) -> None:
        _positive(self, "deter", "stoch", "hidden", "units", "layers", "cnn_depth", "bin_limit")
        _require(self.classes >= 2, "WorldModelConfig.classes", self.classes, "at least 2")
        _require(
            self.bin_count >= 3 and self.bin_count % 2 == 1,
            "WorldModelConfig.bin_count",
            self.bin_count,
            "odd and at least 3",
        )
        _fraction(self, "unimix", "decode_fraction")
        _non_negative(
            self, "free_nats", "dynamics_scale", "representation_scale", "image_weight", "saturation_weight",
            "red_weight",
            "position_weight", "proprio_weight", "reward_weight", "cost_weight", "cost_event_weight", "continue_weight",
        )  # fmt: skip

    @property
    def latent(self) -> int:
        """Length of the flat stochastic state."""
        return self.stoch * self.classes


@dataclass(frozen=True)
class CriticConfig:
    """In-sample critics (implicit Q-learning, Kostrikov et al. 2021) and the reachability estimate (RESPO, Ganai et
    al. 2023).
    """

    units: int = 256
    layers: int = 2
    head: Literal["two_hot", "scalar"] = "two_hot"
    discount: float = 0.98
    """Discount of reward."""
    cost_discount: float = 0.97
    reach_discount: float = 0.97
    """Discount of the violation probability."""
    reward_expectile: float = 0.8
    """V_r is this upper expectile of Q_r over dataset actions."""
    cost_expectile: float = 0.8
    """V_c weighs Q_c below V_c with this: a lower expectile, the least cost that the data supports."""
    trace: float = 0.95
    """Lambda of the imagined lambda-returns."""
    in_sample: bool = True
    """Whether V is an expectile of Q over the data's actions. Otherwise it is the mean of Q over the policy's own, and
    of the returns of its imagined rollouts where there are any; critics then go on learning beside the actor.
    """
    imagined_weight: float = 0.0
    """Weight of targets on imagined rollouts; 0 turns them off. They take two thirds of an update."""
    imagined_batch: int = 64
    imagined_horizon: int = 6
    slow_rate: float = 0.01
    """EMA rate of the slow targets."""

    def __post_init__(self) -> None:
        _positive(self, "units", "layers", "imagined_batch", "imagined_horizon", "slow_rate")
        _fraction(
            self,
            "discount",
            "cost_discount",
            "reach_discount",
            "reward_expectile",
            "cost_expectile",
            "trace",
            "slow_rate",
        )
        _non_negative(self, "imagined_weight")


@dataclass(frozen=True)
class ActorConfig:
    """Gaussian policy and how it is extracted from the critics (``extraction``)."""

    units: int = 256
    layers: int = 2
    components: int = 1
    """Mixture components; 1 is a unimodal Gaussian."""
    min_std: float = 0.1
    max_std: float = 0.6
    extraction: Extraction = "pg_bc"
    """``bc``: clone good episodes; ``awr``: the paper's closed form; ``pg_bc``: through the critic,
    behaviour-regularised; ``returns``: the most reward along imagined rollouts, whatever the data does (DreamerV3).
    """
    cost_limit: float = 0.15
    """Q_c up to which an action counts as safe."""
    reward_temperature: float = 3.0
    """beta_r of the closed form."""
    cost_temperature: float = 3.0
    """beta_c of the closed form."""
    weight_clip: float = 20.0
    kappa: float = 1.0
    """Weight of Q_c against Q_r (both in units of their advantage's percentile range)."""
    bc_weight: float = 10.0
    """Weight of behaviour cloning beside the critic in ``pg_bc``."""
    feasibility: bool = True
    """Weigh Q_r by u = 1 - p(s)."""
    bc_bad_weight: float = 0.1
    """Cloning weight of frames from episodes that did not reach their goal or violated; those of good episodes
    count 1.
    """
    imagined_cost: bool = False
    """Augmented-Lagrangian constraint on the cost of imagined rollouts."""
    imagined_cost_limit: float = 0.05
    """d: allowed mean discounted cost of an imagined rollout."""
    imagined_cost_ahead: bool = False
    """Whether V_c stands for the cost after a rollout's end (SafeDreamer)."""
    imagined_horizon: int = 8
    imagined_batch: int = 64
    entropy: float = 3e-4
    """Weight of the entropy in ``returns``."""
    multiplier: float = 0.01
    """Initial Lagrange multiplier."""
    penalty: float = 0.01
    """Initial penalty coefficient c; grows and never shrinks."""
    penalty_growth: float = 1e-3
    penalty_max: float = 10.0

    def __post_init__(self) -> None:
        _positive(
            self, "units", "layers", "components", "min_std", "max_std", "weight_clip", "imagined_horizon",
            "imagined_batch",
            "penalty", "penalty_max",
        )  # fmt: skip
        _non_negative(
            self, "cost_limit", "reward_temperature", "cost_temperature", "kappa", "bc_weight", "imagined_cost_limit",
            "multiplier", "penalty_growth", "entropy",
        )  # fmt: skip
        _require(self.max_std >= self.min_std, "ActorConfig.max_std", self.max_std, "at least min_std")
        _fraction(self, "bc_bad_weight")

    @property
    def imagines(self) -> bool:
        """Whether the actor's loss looks at imagined rollouts."""
        return self.imagined_cost or self.extraction == "returns"


@dataclass(frozen=True)
class ProposalConfig:
    """Constrained proposals: perturbations around the actor's mean, the best Q_r among those with Q_c within the
    limit.
    """

    count: int = 48
    """Proposals including the mean itself; 1 is off."""
    sigma: float = 0.25
    cost_limit: float = 0.15

    def __post_init__(self) -> None:
        _positive(self, "count", "sigma")
        _non_negative(self, "cost_limit")


@dataclass(frozen=True)
class PlannerConfig:
    """Constrained cross-entropy method over imagined rollouts at decision time, instead of the actor's action
    (SafeDreamer, Huang et al. 2024). Runs on torch, in simulation only: no bundle's graphs hold it.
    """

    enabled: bool = False
    horizon: int = 8
    """Imagined steps; the values stand for what comes after."""
    plans: int = 96
    """Action sequences in an iteration, beside those kept from the one before."""
    policy_share: float = 0.25
    """Share of the first iteration's sequences that the actor proposes."""
    elites: int = 12
    iterations: int = 4
    min_std: float = 0.1
    max_std: float = 0.5
    cost_limit: float = 0.15
    """Discounted cost, imagined and beyond, up to which a plan counts as feasible."""

    def __post_init__(self) -> None:
        _positive(self, "horizon", "plans", "elites", "iterations", "min_std", "max_std")
        _non_negative(self, "cost_limit")
        _fraction(self, "policy_share")
        _require(self.max_std >= self.min_std, "PlannerConfig.max_std", self.max_std, "at least min_std")
        _require(self.plans > self.elites, "PlannerConfig.plans", self.plans, "more than elites")


@dataclass(frozen=True)
class DataConfig:
    """How batches are drawn."""

    batch: int = 16
    length: int = 8
    sampling: Literal["stream", "windows"] = "stream"
    """``stream``: every row walks through whole episodes and carries its latent from batch to batch; ``windows``:
    random windows.
    """
    flip: bool = True
    """Left-right flips (image, y of the tool and of the action)."""
    held_out: float = 0.08
    """Share of layouts that are never trained on."""

    def __post_init__(self) -> None:
        _positive(self, "batch")
        _require(self.length >= 2, "DataConfig.length", self.length, "at least 2")
        _require(0.0 <= self.held_out < 1.0, "DataConfig.held_out", self.held_out, "in [0, 1)")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up and a cosine decay."""

    rate: float = 4e-4
    final_fraction: float = 0.1
    """Learning rate at the end as a share of ``rate``."""
    warmup: int = 200
    clip: float = 100.0
    """Gradient norm limit."""
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        _positive(self, "rate", "clip")
        _fraction(self, "final_fraction")
        _non_negative(self, "warmup", "weight_decay")


@dataclass(frozen=True)
class StageConfig:
    """Steps of each pretraining stage, and how often things are written down."""

    mode: Literal["staged", "joint"] = "staged"
    """``staged``: world model, then critics on cached latents, then the actor. ``joint``: all in every update (the
    paper's way).
    """
    encoder_steps: int = 4_000
    """Steps in which the encoder alone learns to read the table, from single frames and from a few of one episode: an
    order of magnitude cheaper than through the recurrent model. Then it is frozen. Skipped where data has no labels.
    """
    encoder_batch: int = 24
    """Episodes, of each of which a few frames are seen."""
    world_model_steps: int = 5_000
    critic_steps: int = 3_500
    critic_batch: int = 256
    actor_steps: int = 2_500
    actor_batch: int = 256
    log_every: int = 50
    probe_every: int = 2_500
    checkpoint_every: int = 500
    critics_beside_actor: bool = False
    """Whether critics go on learning in the actor's stage, an update for each of the actor's; they always do where they
    have to follow it (``critic.in_sample`` off).
    """
    online_share: float = 0.5
    """Share of a critic or actor batch that comes from the policy's own episodes, once there are any."""

    def __post_init__(self) -> None:
        _non_negative(self, "encoder_steps", "world_model_steps", "critic_steps", "actor_steps", "probe_every")
        _positive(self, "encoder_batch", "critic_batch", "actor_batch", "log_every", "checkpoint_every")
        _fraction(self, "online_share")


@dataclass(frozen=True)
class OnlineConfig:
    """Rounds of the policy's own episodes in simulation, with a frozen world model."""

    episodes: int = 500
    """Episodes of one round."""
    greedy_share: float = 0.34
    noisy_share: float = 0.33
    """The rest is run with constrained proposals."""
    varied_share: float = 0.3
    """Share of each kind that is run in the scene ``varied``."""
    noise: float = 0.3
    """Standard deviation of the noisy episodes' action noise."""
    critic_steps: int = 3_000
    actor_steps: int = 2_000

    def __post_init__(self) -> None:
        _positive(self, "episodes")
        _non_negative(self, "noise", "critic_steps", "actor_steps")
        _fraction(self, "greedy_share", "noisy_share", "varied_share")
        _require(
            self.greedy_share + self.noisy_share <= 1.0,
            "OnlineConfig.noisy_share",
            self.noisy_share,
            "at most 1 - greedy_share",
        )


@dataclass(frozen=True)
class FineTuneConfig:
    """A round on few own episodes while deployed. A gradient step is ``world_model_updates`` updates of the world
    model; after the last one the episodes are encoded again and every step is ``critic_updates`` updates of critics and
    reachability, then ``actor_updates`` of pi_on.
    """

    expansion: bool = True
    """Whether pi_on stands beside the frozen pi_off; otherwise it acts alone, and pi_off only looks ahead for the
    monitor.
    """
    steps: int = 40
    world_model_updates: int = 1
    decode_fraction: float = 0.05
    """Share of a batch's frames that is decoded to images: nothing that acts reads them, the decoder need only follow.
    """
    critic_updates: int = 7
    """Reachability and Q_c decide what is safe and adapt cheaply on encoded episodes: most of the time goes there."""
    actor_updates: int = 3
    batch: int = 64
    """Transitions in a batch of critics and pi_on. Smaller ones are hardly cheaper: the parameters are what costs."""
    imagined_batch: int = 0
    """States of a critic batch from which rollouts are imagined; 0 is off: they cost half of an update, and the world
    model has hardly seen the new scene.
    """
    own_share: float = 0.8
    """Share of every batch from the new episodes, where there are old ones to mix in. Where the world has changed, old
    episodes say otherwise than new ones.
    """
    eager_from: float = 0.2
    """Share of violating episodes among the new ones from which on ``own_share`` and the rates of critics and pi_on
    hold in full. With fewer there is less to learn and as much to forget: they sink to half where none violated.
    """
    replay_episodes: int = 240
    """Old episodes that are mixed in at most. They hold the violations that own ones lack; all are encoded in every
    round.
    """
    held_out: float = 0.2
    """Share of the new episodes' layouts that the gate judges on and that are not trained on."""
    world_model_rate: float = 2e-4
    """Learning rate; small, because the frozen pi_off reads the same latent states."""
    critic_rate: float = 2e-4
    actor_rate: float = 2e-4

    def __post_init__(self) -> None:
        _positive(
            self, "steps", "batch", "replay_episodes", "world_model_rate", "critic_rate", "actor_rate", "eager_from"
        )
        _non_negative(self, "world_model_updates", "critic_updates", "actor_updates", "imagined_batch")
        _fraction(self, "own_share", "decode_fraction")
        _require(0.0 <= self.held_out < 1.0, "FineTuneConfig.held_out", self.held_out, "in [0, 1)")


@dataclass(frozen=True)
class RefitConfig:
    """Reachability fitted again, to episodes of the policy itself in simulation."""

    own: tuple[int, int] = (250, 350)
    """Episodes of the policy itself in the scenes ``standard`` and ``varied``."""
    noise: tuple[float, ...] = (0.3, 0.6, 1.0)
    """Standard deviations of the noisy variants' action noise."""
    noisy: int = 100
    """Episodes of each noisy variant in each scene."""
    replay: int = 1_400
    """Earlier episodes that are mixed in."""
    share: float = 0.7
    """Share of own episodes in each batch."""
    batch: int = 512
    """Transitions of an update."""
    steps: int = 3_000
    """Updates."""
    rate: float = 5e-4
    """Learning rate."""

    def __post_init__(self) -> None:
        _positive(self, "share", "batch", "rate")
        _non_negative(self, "noisy", "replay", "steps")
        _fraction(self, "share")
        for name in ("own", "noise"):
            _require(min(getattr(self, name), default=0) >= 0, f"RefitConfig.{name}", getattr(self, name), ">= 0")
        _require(
            sum(self.own) + self.noisy * len(self.noise) > 0, "RefitConfig.own", self.own, "> 0, without noisy variants"
        )


@dataclass(frozen=True)
class HardwareConfig:
    """Passed to Lightning Fabric."""

    accelerator: str = "cpu"
    devices: int = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Of the world model; critics and reachability stay in float32."""
    strategy: str = "auto"
    threads: int = 2

    def __post_init__(self) -> None:
        _positive(self, "devices", "threads")


@dataclass(frozen=True)
class Config:
    """Everything that decides a training run, beside the data."""

    preset: PresetName = "cpu"
    """Where the other options' defaults come from."""
    seed: int = 0
    space: SpaceConfig = field(default_factory=SpaceConfig)
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    proposals: ProposalConfig = field(default_factory=ProposalConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    encoder_optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(rate=1e-3, warmup=50, final_fraction=0.05)
    )
    world_model_optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(rate=1e-3))
    critic_optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(rate=5e-4, clip=10.0, final_fraction=0.2)
    )
    actor_optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(rate=5e-4, clip=10.0, final_fraction=0.1)
    )
    stages: StageConfig = field(default_factory=StageConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)
    fine_tune: FineTuneConfig = field(default_factory=FineTuneConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    lookahead: int = 5
    """Imagined steps that the exported judge looks ahead."""

    def __post_init__(self) -> None:
        _non_negative(self, "seed")
        _positive(self, "lookahead")

    def proposing(self, count: int) -> Config:
        """The same with ``count`` constrained proposals; 1 is the actor alone. Raises ``ConfigError``."""
        return dataclasses.replace(self, proposals=dataclasses.replace(self.proposals, count=count))


def _cpu() -> Config:
    return Config()


def _debug() -> Config:
    return Config(
        preset="debug",
        world_model=WorldModelConfig(
            deter=32, stoch=4, classes=4, hidden=32, units=32, cnn_depth=4, bin_count=41,
            table=TableConfig(units=4, glances=2, sweeps=24),
        ),
        critic=CriticConfig(units=32, layers=1, imagined_weight=0.25, imagined_batch=8, imagined_horizon=3),
        actor=ActorConfig(units=32, layers=1, imagined_batch=8, imagined_horizon=3),
        proposals=ProposalConfig(count=8),
        planner=PlannerConfig(horizon=3, plans=8, elites=3, iterations=2),
        data=DataConfig(batch=4, length=8, held_out=0.2),
        world_model_optimizer=OptimizerConfig(rate=2e-3, warmup=5),
        stages=StageConfig(
            encoder_steps=10, encoder_batch=8, world_model_steps=30,
            critic_steps=30, critic_batch=32, actor_steps=30, actor_batch=32, log_every=10,
            probe_every=30, checkpoint_every=10,
        ),
        online=OnlineConfig(episodes=6, critic_steps=5, actor_steps=5),
        fine_tune=FineTuneConfig(
            steps=3, critic_updates=2, actor_updates=2, batch=32, imagined_batch=4, replay_episodes=4
        ),
        hardware=HardwareConfig(threads=1),
        lookahead=3,
    )  # fmt: skip


def _paper() -> Config:
    return Config(
        preset="paper",
        space=SpaceConfig(cameras=1),
        world_model=WorldModelConfig(
            deter=512,
            stoch=48,
            classes=48,
            hidden=512,
            units=1024,
            layers=5,
            cnn_depth=32,
            stem_stride=2,
            bin_limit=20.0,
            decode_fraction=1.0,
            image_weight=1.0,
            position_weight=0.0,
            colours="rgb",
            table=TableConfig(enabled=False),
        ),
        critic=CriticConfig(
            units=1024,
            layers=5,
            discount=0.997,
            cost_discount=0.997,
            imagined_batch=1024,
            imagined_horizon=15,
            imagined_weight=1.0,
        ),
        actor=ActorConfig(units=1024, layers=5, extraction="awr", imagined_cost=True, imagined_horizon=15),
        data=DataConfig(batch=16, length=64, sampling="windows", flip=False),
        world_model_optimizer=OptimizerConfig(rate=1e-4, clip=1000.0, final_fraction=1.0),
        critic_optimizer=OptimizerConfig(rate=3e-5, clip=100.0, final_fraction=1.0),
        actor_optimizer=OptimizerConfig(rate=3e-5, clip=100.0, final_fraction=1.0),
        stages=StageConfig(mode="joint", world_model_steps=100_000, critic_batch=1024, actor_batch=1024),
        lookahead=15,
    )


PRESETS: Final = {"debug": _debug, "cpu": _cpu, "paper": _paper}


def preset(name: str) -> Config:
    """The preset ``name``; raises ``ConfigError`` that lists the known ones."""
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; known presets: {', '.join(PRESETS)}")
    return PRESETS[name]()


def to_dict(config: Any) -> dict[str, Any]:
    """A JSON-ready dictionary."""
    return dataclasses.asdict(config)


def from_dict(values: Mapping[str, Any], kind: type = Config) -> Any:
    """Rebuild a configuration of ``kind``; unknown or ill-typed fields raise ``ConfigError``."""
    hints = get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"{kind.__name__} has no field {', '.join(unknown)}")
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            arguments[name] = from_dict(value, hints[name])
        else:
            arguments[name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ConfigError(f"{kind.__name__}: {error}") from error


def save(config: Config, path: Path) -> None:
    """Write a configuration as JSON."""
    path.write_text(json.dumps(to_dict(config), indent=2) + "\n")


def load(path: Path) -> Config:
    """Read a configuration written by ``save``; raises ``ConfigError``."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    loaded: Config = from_dict(values)
    return loaded
