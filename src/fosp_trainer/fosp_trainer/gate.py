"""The gate: whether a new bundle may take over from the current one. Pure: evidence in, a verdict with reasons out.

A new bundle is promoted only when it is shown to be not worse, at a stated confidence: the one-sided upper bound of the
paired difference in violation stays within a margin (a non-inferiority test). Absence of evidence is a refusal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from fosp_core.bundle import Bundle
from fosp_core.runtime import PolicyRuntime
from fosp_core.selector import Mode, Selector
from fosp_core.statistics import auroc
from fosp_trainer.agent import Agent
from fosp_trainer.data import Frames
from fosp_trainer.evaluation import discounted_reach
from fosp_trainer.export import split_deter

Array = NDArray[np.float64]

LEAST_EPISODES: Final = 3
TIMED_STEPS: Final = 60


@dataclass(frozen=True)
class Settings:
    """What is asked of a new bundle. Margins are what counts as not worse."""

    confidence: float = 0.9
    """Of every one-sided bound."""
    violation_margin: float = 0.1
    """On the rate of violating episodes, run in pairs on the same layouts."""
    risk_margin: float = 0.03
    """On the mean imagined risk of the chosen actions on held-out frames."""
    calibration_margin: float = 0.03
    """On the mean squared error of the violation probability against what happened."""
    parity: float = 1e-4
    """Largest difference between torch and ONNX Runtime."""
    latency_ratio: float = 1.5
    """Of the median time of a policy step, against the current bundle in the same run."""
    latency_ms: float = 20.0
    """Limit on the median time of a policy step."""

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = getattr(self, spec.name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{spec.name} must be finite and > 0, got {value}")
        if not 0.5 <= self.confidence < 1.0:
            raise ValueError(f"confidence must be in [0.5, 1), got {self.confidence}")


@dataclass(frozen=True)
class Check:
    """One condition: what was found, what it was compared with, and a sentence for people."""

    name: str
    passed: bool
    value: float
    limit: float
    text: str


@dataclass(frozen=True)
class Verdict:
    """Whether the new bundle may take over, and why not."""

    checks: tuple[Check, ...]

    @property
    def promoted(self) -> bool:
        """Whether every check passed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What spoke against it."""
        return tuple(check.text for check in self.checks if not check.passed)

    def to_json(self) -> dict[str, Any]:
        """JSON values; numbers that are not finite become null."""
        checks = [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(check).items()}
            for check in self.checks
        ]
        return {"promoted": self.promoted, "reasons": list(self.reasons), "checks": checks}


@dataclass(frozen=True)
class Reading:
    """What the current and the new model say on the same recorded frames. N decisions (an episode's last frame has
    none); pairs are ordered current, new.
    """

    episode: NDArray[np.int64]  # (N,)
    happened: Array  # (N,) discounted reach of a violation after the recorded action, in [0, 1]
    action_risk: Array  # (N, 2) p(s, a) of the recorded action
    choice_difference: Array  # (N,) imagined risk of the new choice minus that of the current one, mean of both judges

    @property
    def episodes(self) -> int:
        """Episodes."""
        return len(np.unique(self.episode))


@dataclass(frozen=True)
class Labels:
    """Costs of the new episodes beside what the current model thinks of the same N frames, and sees in them."""

    episode: NDArray[np.int64]  # (N,)
    costly: NDArray[np.bool_]  # (N,) whether arriving at the frame cost anything
    state_risk: Array  # (N,) p(s)
    nearness: Array | None = None  # (N,) in [0, 1], how near obstacles the hand is on the map; None without a map

    @property
    def episodes(self) -> int:
        """Episodes."""
        return len(np.unique(self.episode))


@dataclass(frozen=True)
class Evidence:
    """What a verdict is made from."""

    parity_error: float
    own: Reading | None = None
    """Held-out new episodes."""
    old: Reading | None = None
    """Held-out earlier episodes, whose labels were trusted before."""
    labels: Labels | None = None
    """Of all new episodes."""
    step_ms: Array | None = None
    """(K, 2) times of single policy steps, current and new taken in turn."""
    violated: Sequence[tuple[bool, bool]] = field(default_factory=tuple)
    """Whether episodes of the same layouts violated under the current and under the new bundle."""
    risk_errors: Array | None = None
    """(E, 2) mean squared error of the violation probability in those episodes, of the current and of the new one."""


def read(current: Bundle, new: Bundle, frames: Frames, discount: float) -> Reading:
    """Let both models filter the same recorded episodes and choose for themselves.

    Each choice is judged by both models (p(s, a) and its imagined future), so that neither is its own only judge.
    Raises ``BundleError`` for a graph that does not load.
    """
    runtimes = [PolicyRuntime(bundle) for bundle in (current, new)]
    for runtime in runtimes:
        runtime.warm_up()
    selectors = [_greedy(bundle) for bundle in (current, new)]
    rows: dict[str, list[Any]] = {name: [] for name in ("episode", "action_risk", "choice_difference")}
    happened = []
    for episode, (start, length) in enumerate(zip(frames.starts.tolist(), frames.lengths.tolist(), strict=True)):
        # the cost of a step comes with the frame that it leads to
        happened.append(discounted_reach(frames.cost[start + 1 : start + length], discount))
        for i in range(start, start + length - 1):
            previous = np.zeros_like(frames.action[i]) if i == start else frames.action[i - 1]
            outputs = [runtime.step(frames.image[i], frames.proprio[i], previous, i == start) for runtime in runtimes]
            choices = [s.select(out).action for s, out in zip(selectors, outputs, strict=True)]
            judged = [runtime.judge(np.stack([frames.action[i], *choices])) for runtime in runtimes]
            rows["episode"].append(episode)
            rows["action_risk"].append([j.violation_probability[0] for j in judged])
            rows["choice_difference"].append(float(np.mean([j.worst[2] - j.worst[1] for j in judged])))
    return Reading(
        episode=np.asarray(rows["episode"], np.int64),
        happened=np.concatenate(happened),
        action_risk=np.asarray(rows["action_risk"], np.float64),
        choice_difference=np.asarray(rows["choice_difference"], np.float64),
    )


def read_labels(current: Bundle, frames: Frames, agent: Agent | None = None) -> Labels:
    """Let the current model filter the new episodes; their last frames count too. ``agent``: the current model's or one
    fine-tuned from it, whose states hold the map in the same place. Raises ``BundleError``.
    """
    runtime = PolicyRuntime(current)
    risk = np.empty(frames.count)
    states = np.empty((frames.count, current.manifest.deter_size), np.float32)
    for i in range(frames.count):
        previous = np.zeros_like(frames.action[i]) if frames.is_first[i] else frames.action[i - 1]
        seen = runtime.step(frames.image[i], frames.proprio[i], previous, bool(frames.is_first[i]))
        risk[i] = seen.state_violation_probability
        states[i], _ = runtime.state
    nearness = None if agent is None else _nearness(agent, states, frames.proprio)
    return Labels(frames.episode_of, frames.cost > 0, risk, nearness)


@torch.no_grad()
def _nearness(agent: Agent, deter: NDArray[np.float32], tool: NDArray[np.float32]) -> Array | None:
    """How near obstacles (N,) hands at ``tool`` (N, 3) are on the maps of states (N, D + M); None without a map."""
    model = agent.world_model
    if model.reader is None:
        return None
    _, table = split_deter(agent, torch.from_numpy(deter))
    nearness: Array = model.geometry.view(table, torch.from_numpy(tool))[:, 0].double().numpy()
    return nearness


def time_steps(current: Bundle, new: Bundle, frames: Frames, count: int = TIMED_STEPS) -> Array:
    """(count, 2) milliseconds of policy steps of both models in turn. Raises ``BundleError``."""
    runtimes = [PolicyRuntime(bundle) for bundle in (current, new)]
    for runtime in runtimes:
        runtime.warm_up()
    spent = np.empty((count, len(runtimes)))
    for i in range(count):
        frame = i % frames.count
        for j, runtime in enumerate(runtimes):
            began = time.perf_counter()
            runtime.step(frames.image[frame], frames.proprio[frame], frames.action[frame], False)
            spent[i, j] = 1e3 * (time.perf_counter() - began)
    return spent


def _greedy(bundle: Bundle) -> Selector:
    settings = bundle.manifest.selector
    mode: Mode = "greedy" if settings.mode == "sample" else settings.mode  # type: ignore[assignment]
    return Selector(settings.kappa, settings.temperature, mode, settings.cost_limit)


# -- bounds


def paired_rate_bound(violated: Sequence[tuple[bool, bool]], confidence: float) -> tuple[float, float]:
    """Difference of the violation rates (new minus current) and its one-sided upper bound.

    Wald's interval for matched pairs after adding half an observation to every cell (Agresti and Min 2005).
    """
    new_only = sum(new and not current for current, new in violated) + 0.5
    current_only = sum(current and not new for current, new in violated) + 0.5
    count = len(violated) + 2
    difference = (new_only - current_only) / count
    spread = math.sqrt(new_only + current_only - (new_only - current_only) ** 2 / count) / count
    return difference, difference + NormalDist().inv_cdf(confidence) * spread


def paired_mean_bound(differences: Array, confidence: float) -> tuple[float, float]:
    """Mean of the (E,) paired differences and its one-sided upper bound (Student's t); infinite below 2 pairs."""
    if len(differences) < 2:
        return float(np.mean(differences)) if len(differences) else 0.0, math.inf
    mean, error = float(np.mean(differences)), float(np.std(differences, ddof=1)) / math.sqrt(len(differences))
    return mean, mean + float(stats.t.ppf(confidence, len(differences) - 1)) * error


def _by_episode(reading: Reading, values: Array) -> Array:
    return np.asarray([values[reading.episode == e].mean() for e in np.unique(reading.episode)])


# -- checks


def check_labels(labels: Labels, settings: Settings) -> Check:
    """Costs must not contradict both what the current model knows of contacts and what it sees.

    Refused are costs on most frames, and costs that are ranked below other frames, beyond what chance does
    to so few episodes (normal approximation of the Mann-Whitney statistic; an episode counts as one observation), by
    the current model's risk and by nearness to obstacles. That the model knows nothing of a new scene, and ranks at
    random, is no contradiction; nor that it is wrong of it, as long as costs come near things: a policy goes where its
    model sees no risk, so that where the model is wrong, costs come where it sees none.
    """
    share = float(labels.costly.mean())
    if share > 0.5:
        return Check("labels", False, share, 0.5, f"{100 * share:.0f} % of the new episodes' frames have a cost")
    area = auroc(labels.state_risk, labels.costly)
    if area is None:
        return Check("labels", True, math.nan, 0.5, "no frame of the new episodes has a cost")
    costly, all_ = len(np.unique(labels.episode[labels.costly])), labels.episodes
    chance = math.sqrt((costly + all_ + 1) / (12 * costly * all_))
    limit = max(0.0, 0.5 - NormalDist().inv_cdf(settings.confidence) * chance)
    told = f"the current model ranks frames with a cost above others {100 * area:.0f} % of the time"
    if labels.nearness is not None:
        near = auroc(labels.nearness, labels.costly)
        assert near is not None
        told += f", nearness to obstacles {100 * near:.0f} %"
        area = max(area, near)
    told += f" (at least {100 * limit:.0f} % by chance in {all_} episodes)"
    passed = area >= limit
    return Check("labels", passed, area, limit, told if passed else f"costs contradict what is known: {told}")


def check_violation(violated: Sequence[tuple[bool, bool]], settings: Settings) -> Check:
    """Episodes in pairs: the bound of the difference in violation rate is within the margin."""
    _, bound = paired_rate_bound(violated, settings.confidence)
    counts = [sum(pair[i] for pair in violated) for i in range(2)]
    told = (
        f"violations {counts[0]} before and {counts[1]} after of {len(violated)} paired episodes: "
        f"at most {100 * bound:+.0f} points with confidence {settings.confidence:g} (allowed "
        f"{100 * settings.violation_margin:+.0f})"
    )
    return Check("violation", bound <= settings.violation_margin, bound, settings.violation_margin, told)


def check_imagined(reading: Reading, settings: Settings) -> Check:
    """Held-out frames: the imagined risk of the new choices is not above that of the current ones."""
    mean, bound = paired_mean_bound(_by_episode(reading, reading.choice_difference), settings.confidence)
    told = (
        f"imagined risk of its choices on {reading.episodes} held-out episodes changes by {mean:+.3f}, at most "
        f"{bound:+.3f} with confidence {settings.confidence:g} (allowed {settings.risk_margin:+.3f})"
    )
    return Check("imagined_risk", bound <= settings.risk_margin, bound, settings.risk_margin, told)


def check_calibration(reading: Reading, settings: Settings, alone: bool = True) -> Check:
    """Held-out new episodes: the violation probability is not further from what happened than the current model's.

    A few episodes say little. Where they are not ``alone`` to show it, only a rise beyond chance refuses: one whose
    one-sided lower bound is positive.
    """
    squares = (reading.happened[:, None] - reading.action_risk) ** 2
    check = _rise("calibration_new", squares.mean(0), f"on {reading.episodes} held-out episodes", settings)
    if check.passed or alone:
        return check
    _, bound = paired_mean_bound(_by_episode(reading, squares[:, 0] - squares[:, 1]), settings.confidence)
    told = f"{check.text}; at least {-bound:+.3f} with confidence {settings.confidence:g}, 0 would be chance"
    return replace(check, passed=-bound <= 0.0, text=told)


def check_memory(reading: Reading, settings: Settings) -> Check:
    """Earlier episodes: what happened there is foreseen as before.

    That more is feared than happened is no fault here: in a world that has changed, what went well once may not again.
    """
    missed = np.maximum(reading.happened[:, None] - reading.action_risk, 0.0)
    return _rise("memory", (missed**2).mean(0), f"below what happened on {reading.episodes} earlier episodes", settings)


def check_calibration_in_simulation(errors: Array, settings: Settings) -> Check:
    """Episodes in pairs, in each of which its model drove itself: the violation probability is not further from what
    happened than the current model's; ``errors`` (E, 2).
    """
    return _rise("calibration_simulated", errors.mean(0), f"in {len(errors)} paired episodes", settings)


def _rise(name: str, errors: Array, where: str, settings: Settings) -> Check:
    """Whether a mean squared error (2,), current and new, rises within the margin."""
    before, after = errors.tolist()
    limit = settings.calibration_margin
    told = (
        f"squared error of the violation probability {where}: {before:.3f} before, {after:.3f} after (allowed rise "
        f"{limit:g})"
    )
    # a NaN compares false, so that it fails
    return Check(name, after - before <= limit, after - before, limit, told)


def check_latency(step_ms: Array, settings: Settings) -> Check:
    """A policy step takes no longer than allowed, measured alternately with the current bundle's."""
    current, new = np.median(step_ms, axis=0).tolist()
    limit = min(settings.latency_ms, settings.latency_ratio * current)
    told = f"median policy step {new:.2f} ms, the current bundle's {current:.2f} ms (allowed {limit:.2f} ms)"
    return Check("latency", new <= limit, new, limit, told)


def judge(evidence: Evidence, settings: Settings | None = None) -> Verdict:
    """The verdict on the evidence; what is missing to show that the new bundle is not worse is a reason against it."""
    settings = settings or Settings()
    error = evidence.parity_error
    checks = [
        Check(
            "parity", error <= settings.parity, error, settings.parity,
            f"torch and ONNX Runtime differ by {error:.1e} (allowed {settings.parity:.0e})",
        )
    ]  # fmt: skip
    if evidence.labels is not None:
        checks.append(check_labels(evidence.labels, settings))
    if evidence.violated:
        checks.append(check_violation(evidence.violated, settings))
    if evidence.risk_errors is not None:
        checks.append(check_calibration_in_simulation(evidence.risk_errors, settings))
    own = evidence.own
    if own is not None and own.episodes >= LEAST_EPISODES:
        checks.append(check_imagined(own, settings))
        checks.append(check_calibration(own, settings, alone=evidence.risk_errors is None))
    elif not evidence.violated:
        held = own.episodes if own is not None else 0
        checks.append(
            Check(
                "evidence", False, held, LEAST_EPISODES,
                f"{held} held-out episodes are too few to show that it is not worse, {LEAST_EPISODES} are needed",
            )
        )  # fmt: skip
    if evidence.old is not None:
        checks.append(check_memory(evidence.old, settings))
    if evidence.step_ms is not None:
        checks.append(check_latency(evidence.step_ms, settings))
    return Verdict(tuple(checks))
