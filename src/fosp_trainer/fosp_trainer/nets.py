"""Small building blocks: normalised MLPs, two-hot distributions, optimisers, exponential averages."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fosp_trainer.config import OptimizerConfig


def symexp(x: Tensor) -> Tensor:
    """sign(x) (exp(|x|) - 1), the inverse of symlog (DreamerV3)."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


class MLP(nn.Sequential):
    """``layers`` times Linear, LayerNorm, SiLU; then a Linear whose weights start at ``out_scale`` times the
    default.
    """

    def __init__(self, inputs: int, units: int, layers: int, outputs: int, out_scale: float = 1.0) -> None:
        modules: list[nn.Module] = []
        for i in range(layers):
            modules += [
                nn.Linear(inputs if i == 0 else units, units, bias=False),
                nn.LayerNorm(units, eps=1e-3),
                nn.SiLU(),
            ]
        last = nn.Linear(units, outputs)
        with torch.no_grad():
            last.weight.mul_(out_scale)
            last.bias.mul_(out_scale)
        super().__init__(*modules, last)


class ImageNorm(nn.Module):
    """Layer norm over the channels of (N, C, H, W); cheap in channels_last, where channels are contiguous."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x.permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2)


class TwoHot(nn.Module):
    """Categorical over symexp-spaced bins, read as its mean and trained by two-hot cross entropy (DreamerV3)."""

    bins: Tensor

    def __init__(self, count: int, limit: float) -> None:
        super().__init__()
        half = torch.linspace(-limit, 0.0, (count + 1) // 2, dtype=torch.float64)
        half = symexp(half)
        self.register_buffer("bins", torch.cat([half, -half[:-1].flip(0)]).float(), persistent=False)

    @property
    def outputs(self) -> int:
        """Length of the logits."""
        return len(self.bins)

    def mean(self, logits: Tensor) -> Tensor:
        """Expected value (...) of logits (..., bins)."""
        return torch.softmax(logits.float(), -1) @ self.bins

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross entropy (...) against real-valued targets (...)."""
        with torch.no_grad():
            target = target.float().clamp(self.bins[0], self.bins[-1])
            above = torch.searchsorted(self.bins, target.contiguous(), right=True).clamp(1, len(self.bins) - 1)
            low, high = self.bins[above - 1], self.bins[above]
            weight_high = (target - low) / (high - low)
        log_p = F.log_softmax(logits.float(), -1)
        log_low = log_p.gather(-1, (above - 1)[..., None])[..., 0]
        log_high = log_p.gather(-1, above[..., None])[..., 0]
        return -(1.0 - weight_high) * log_low - weight_high * log_high


class Optimizer:
    """AdamW on some parameters with warm-up, cosine decay and a gradient norm limit."""

    def __init__(self, parameters: Iterable[nn.Parameter], config: OptimizerConfig, steps: int) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.config = config
        self.steps = max(steps, 1)
        self.adam = torch.optim.AdamW(
            self.parameters, lr=config.rate, weight_decay=config.weight_decay, eps=1e-7, fused=True
        )

    def rate(self, step: int) -> float:
        """Learning rate at ``step`` of ``steps``."""
        warmup = min(1.0, (step + 1) / max(self.config.warmup, 1))
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(step / self.steps, 1.0)))
        return self.config.rate * warmup * (self.config.final_fraction + (1.0 - self.config.final_fraction) * cosine)

    def step(self, step: int) -> Tensor:
        """Take a step with the gradients there are; returns their norm. A non-finite norm skips the step."""
        for group in self.adam.param_groups:
            group["lr"] = self.rate(step)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        if torch.isfinite(norm):
            if norm > self.config.clip:  # multiplied by one, gradients would still be read and written
                nn.utils.clip_grads_with_norm_(self.parameters, self.config.clip, norm, foreach=True)
            self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return norm


@torch.no_grad()
def update_slow(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """Move the slow copy a step of ``rate`` towards the fast one."""
    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), rate)


def freeze(module: nn.Module) -> nn.Module:
    """Take a module's parameters out of every optimiser."""
    return module.requires_grad_(False)
