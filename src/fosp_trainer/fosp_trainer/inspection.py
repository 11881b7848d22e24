"""What a trained agent knows and believes, held against what happened: figures and plots for people.

World models fail silently. Read the plots in this order: does the latent know where things are, does imagination
follow the truth, do the critics rank what comes, does the actor do what good episodes did.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fosp_trainer import diagnostics
from fosp_trainer.agent import Agent
from fosp_trainer.data import Frames, gather, padded
from fosp_trainer.pretrain import Latents

TRACES = 4
BINS = 10


@dataclass
class Future:
    """What came after each frame (N,), within its episode."""

    returned: NDArray[np.float64]
    """Discounted reward to come."""
    cost: NDArray[np.float64]
    """Discounted cost to come."""
    violates: NDArray[np.bool_]
    """Whether a violation comes, this frame's own included."""
    steps_left: NDArray[np.float64]
    """Steps until the first violation from here on; infinite without one."""


def future(frames: Frames, discount: float, cost_discount: float) -> Future:
    """Look ahead in recorded episodes; frame i's own reward and cost count as past, its own violation as now."""
    n = frames.count
    returned, cost = np.zeros(n), np.zeros(n)
    violates, left = np.zeros(n, np.bool_), np.full(n, np.inf)
    for start, length in zip(frames.starts, frames.lengths, strict=True):
        last = start + length - 1
        for i in range(last, start - 1, -1):
            here = frames.cost[i] > 0
            if i < last:
                returned[i] = frames.reward[i + 1] + discount * returned[i + 1]
                cost[i] = frames.cost[i + 1] + cost_discount * cost[i + 1]
                violates[i], left[i] = violates[i + 1], left[i + 1] + 1
            if here:
                violates[i], left[i] = True, 0.0
    return Future(returned, cost, violates, left)


@dataclass
class Beliefs:
    """What the agent thinks at each frame (N,)."""

    reward_value: NDArray[np.float32]
    cost_value: NDArray[np.float32]
    reach: NDArray[np.float32]
    actor_error: NDArray[np.float32]
    """Distance between pi_off's mean and the recorded action, in units of the action."""
    surprise: NDArray[np.float32]


@torch.no_grad()
def beliefs(agent: Agent, frames: Frames, batch: int = 4096) -> Beliefs:
    """Filter episodes and ask critics, reachability and pi_off."""
    latents = Latents(agent, frames, (False,))
    parts: list[list[torch.Tensor]] = [[], [], [], []]
    for features, action in zip(latents.features.split(batch), latents.action.split(batch), strict=True):
        answers = (
            agent.critics.reward.state_value(features), agent.critics.cost.state_value(features),
            agent.reach.probability(features), (agent.offline(features) - action).norm(dim=-1),
        )  # fmt: skip
        for part, answer in zip(parts, answers, strict=True):
            part.append(answer)
    reward, cost, reach, error = (torch.cat(part).numpy() for part in parts)
    return Beliefs(reward, cost, reach, error, latents.surprise.numpy())


def reliability(p: NDArray[Any], happened: NDArray[Any], bins: int = BINS) -> list[dict[str, float]]:
    """Mean prediction and frequency in equally wide bins of ``p`` in [0, 1] (N,); empty bins are left out."""
    index = np.minimum((p * bins).astype(int), bins - 1)
    return [
        {"predicted": float(p[index == b].mean()), "seen": float(happened[index == b].mean()), "frames": int(n)}
        for b, n in enumerate(np.bincount(index, minlength=bins))
        if n
    ]


def correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Pearson's; 0 where one of them does not vary."""
    return float(np.corrcoef(a, b)[0, 1]) if np.std(a) > 0 and np.std(b) > 0 else 0.0


def inspect(agent: Agent, train: Frames, held_out: Frames, folder: Path, probe_steps: int = 1500) -> dict[str, Any]:
    """Write plots and a video into ``folder``; returns the figures. Probes are fitted on ``train``, all else is about
    ``held_out``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, critic = agent.world_model, agent.config.critic
    truth = future(held_out, critic.discount, critic.cost_discount)
    seen = beliefs(agent, held_out)
    good = np.repeat(held_out.success & ~held_out.violated, held_out.lengths)
    acting = np.ones(held_out.count, np.bool_)
    acting[np.append(held_out.starts[1:], held_out.count) - 1] = False  # no action follows an episode's last frame
    figures: dict[str, Any] = {
        "episodes": held_out.episodes,
        "frames": held_out.count,
        "probe_cm": diagnostics.probe_errors(model, train, held_out, steps=probe_steps),
        "reading": diagnostics.reading_errors(model, held_out),
        "open_loop_mse": diagnostics.open_loop_errors(model, held_out),
        "reward_value_correlation": correlation(seen.reward_value, truth.returned),
        "cost_value_correlation": correlation(seen.cost_value, truth.cost),
        "reach_reliability": reliability(seen.reach, truth.violates),
        "actor_error_on_good_episodes": float(seen.actor_error[good & acting].mean()) if good.any() else None,
        "surprise_nats": {"p50": float(np.median(seen.surprise)), "p99": float(np.quantile(seen.surprise, 0.99))},
    }
    diagnostics.save_png(diagnostics.open_loop_grid(model, held_out), folder / "open_loop.png")
    if model.reader is not None:
        diagnostics.save_png(diagnostics.reading_grid(model, held_out), folder / "table.png")
    _video(agent, held_out, folder / "open_loop.gif")
    _value_plot(seen, truth, folder / "values.png")
    _reach_plot(held_out, seen, truth, figures["reach_reliability"], folder / "reachability.png")
    _actor_plot(seen, good & acting, ~good & acting, folder / "actor.png")
    return figures


def _video(agent: Agent, frames: Frames, path: Path, rows: int = 4, context: int = 5, scale: int = 4) -> None:
    from PIL import Image

    chosen = np.argsort(-frames.lengths, kind="stable")[:rows].tolist()
    length = int(frames.lengths[chosen].min())
    indices, _ = padded(frames, chosen, length)
    batch = gather(frames, indices, agent.config.space, agent.world_model.proprio_center.device)
    predicted, _ = agent.world_model.open_loop(batch, min(context, length - 1))
    shown = (predicted[:, :, :3] * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).cpu().numpy()
    true = batch.image[..., :3].cpu().numpy()
    pictures = [
        Image.fromarray(np.concatenate([np.concatenate(true[:, t], 1), np.concatenate(shown[:, t], 1)]))
        for t in range(length)
    ]
    larger = [p.resize((p.width * scale, p.height * scale), Image.Resampling.NEAREST) for p in pictures]
    larger[0].save(path, save_all=True, append_images=larger[1:], duration=150, loop=0)


def _figure(columns: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0 * columns, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _value_plot(seen: Beliefs, truth: Future, path: Path) -> None:
    figure, axes = _figure(2)
    pairs = (("reward", seen.reward_value, truth.returned), ("cost", seen.cost_value, truth.cost))
    for axis, (name, value, outcome) in zip(axes, pairs, strict=True):
        axis.hexbin(outcome, value, gridsize=40, bins="log", mincnt=1)
        low, high = float(min(outcome.min(), value.min())), float(max(outcome.max(), value.max()))
        axis.plot((low, high), (low, high), "k:", lw=1)
        axis.set(xlabel=f"discounted {name} that came", ylabel=f"V of {name}", title=f"Value of {name}, held out")
    figure.savefig(path, dpi=120)


def _reach_plot(frames: Frames, seen: Beliefs, truth: Future, bins: list[dict[str, float]], path: Path) -> None:
    figure, axes = _figure(2)
    axes[0].plot((0, 1), (0, 1), "k:", lw=1)
    axes[0].plot([b["predicted"] for b in bins], [b["seen"] for b in bins], "o-")
    axes[0].set(xlabel="predicted probability", ylabel="share that violated later", title="Reachability, held out")
    violating = np.flatnonzero(frames.violated)[:TRACES]
    for episode in violating:
        part = slice(frames.starts[episode], frames.starts[episode] + frames.lengths[episode])
        ahead = truth.steps_left[part]
        before = np.isfinite(ahead)
        axes[1].plot(-ahead[before], seen.reach[part][before], label=f"layout {frames.layout_seed[episode]}")
    axes[1].set(xlabel="steps before the violation", ylabel="p(s)", title="Before violations", ylim=(0, 1))
    if len(violating):
        axes[1].legend(fontsize="small")
    figure.savefig(path, dpi=120)


def _actor_plot(seen: Beliefs, good: NDArray[np.bool_], other: NDArray[np.bool_], path: Path) -> None:
    figure, axes = _figure(1)
    for name, chosen in (("good episodes", good), ("other episodes", other)):
        if chosen.any():
            axes[0].hist(seen.actor_error[chosen], bins=40, range=(0.0, 2.0), density=True, alpha=0.6, label=name)
    axes[0].set(xlabel="distance of pi_off's mean from the recorded action", ylabel="density", title="Actor, held out")
    axes[0].legend()
    figure.savefig(path, dpi=120)
