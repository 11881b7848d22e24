"""The optimiser's limit on the gradient norm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fosp_trainer.config import OptimizerConfig
from fosp_trainer.nets import Optimizer


@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
def test_gradients_are_limited_in_norm_and_small_ones_stay_as_they_are(size: float) -> None:
    ours, plain = (nn.Linear(4, 3) for _ in range(2))
    plain.load_state_dict(ours.state_dict())
    settings = OptimizerConfig(rate=0.1, warmup=1, clip=2.0)
    optimizer = Optimizer(ours.parameters(), settings, 10)
    reference = torch.optim.AdamW(
        plain.parameters(), lr=optimizer.rate(0), weight_decay=settings.weight_decay, eps=1e-7
    )
    torch.manual_seed(0)
    for step in range(3):
        x = size * torch.randn(8, 4)
        norms = []
        for net in (ours, plain):
            net(x).square().mean().backward()
        norms.append(float(optimizer.step(step)))
        reference.param_groups[0]["lr"] = optimizer.rate(step)
        norms.append(float(nn.utils.clip_grad_norm_(plain.parameters(), settings.clip)))
        reference.step()
        reference.zero_grad()
        assert norms[0] == pytest.approx(norms[1], rel=1e-4)
        assert (norms[0] > settings.clip) is (size > 2.0) or step > 0
        torch.testing.assert_close(list(ours.parameters()), list(plain.parameters()), rtol=1e-4, atol=1e-6)
    assert ours.weight.grad is None


def test_a_norm_that_is_no_number_changes_nothing() -> None:
    net = nn.Linear(2, 1)
    optimizer = Optimizer(net.parameters(), OptimizerConfig(), 10)
    before = [p.clone() for p in net.parameters()]
    (net(torch.ones(1, 2)) * torch.nan).sum().backward()
    assert not torch.isfinite(optimizer.step(0))
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
