"""Rows of the comparison: each moves what it should, and nothing else."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fosp_trainer import config as configuration
from fosp_trainer.agent import Agent
from fosp_trainer.config import Config
from fosp_trainer.critics import Transitions
from fosp_trainer.data import Frames, split
from fosp_trainer.errors import UserError
from fosp_trainer.pretrain import Latents, Trainer, actor_loss, critic_loss
from fosp_trainer.testing import STEPS, random_episodes
from fosp_trainer.variants import VARIANTS, configure, differences, trained_like

BASE = dataclasses.replace(configuration.preset("debug"), stages=STEPS)


def scramble(module: nn.Module) -> None:
    """Other weights, none of them zero."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)


def agent_of(name: str, seed: int = 0, **actor: object) -> Agent:
    """A row's agent whose heads all have something to say."""
    config = configure(name, BASE)
    config = dataclasses.replace(config, actor=dataclasses.replace(config.actor, **actor))  # type: ignore[arg-type]
    torch.manual_seed(seed)
    agent = Agent(config)
    for module in (agent.world_model.reward_head, agent.world_model.cost_head, agent.critics, agent.reach):
        scramble(module)
    return agent


@pytest.fixture(scope="module")
def batch() -> Transitions:
    agent = agent_of("safedreamer")
    latents = Latents(agent, random_episodes(4), (False,))
    torch.manual_seed(5)
    return latents.draw(24)


def actor_gradient(agent: Agent, batch: Transitions) -> Tensor:
    """Of the actor's loss, flat."""
    torch.manual_seed(9)
    agent = copy.deepcopy(agent)
    loss, _ = actor_loss(agent, agent.offline, batch)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(agent.offline.parameters()))])


def critic_gradients(agent: Agent, batch: Transitions) -> dict[str, Tensor]:
    """Of the critics' loss, by parameter."""
    torch.manual_seed(9)
    agent = copy.deepcopy(agent)
    loss, _ = critic_loss(agent, batch, agent.offline)
    loss.backward()
    return {name: p.grad for name, p in agent.named_parameters() if p.grad is not None}


def without_cost(agent: Agent) -> Agent:
    """The agent with other beliefs about all that costs."""
    other = copy.deepcopy(agent)
    torch.manual_seed(77)
    for module in (other.critics.cost, other.reach, other.world_model.cost_head):
        scramble(module)
    return other


def test_dreamerv3_does_not_care_what_anything_costs(batch: Transitions) -> None:
    agent = agent_of("dreamerv3")
    assert torch.equal(actor_gradient(agent, batch), actor_gradient(without_cost(agent), batch))
    dearer = dataclasses.replace(batch, cost=1.0 - batch.cost, cost_here=1.0 - batch.cost_here)
    before, after = critic_gradients(agent, batch), critic_gradients(agent, dearer)
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("critics.reward"))
    assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith("critics.cost"))


@pytest.mark.parametrize("name", ["fosp", "safedreamer", "no-in-sample", "no-ref", "closed-form"])
def test_the_safe_rows_care(name: str, batch: Transitions) -> None:
    agent = agent_of(name, multiplier=1.0)
    assert not torch.equal(actor_gradient(agent, batch), actor_gradient(without_cost(agent), batch))


@pytest.mark.parametrize(("name", "cares"), [("fosp", True), ("no-ref", False), ("safedreamer", False)])
def test_only_rows_with_reachability_weigh_by_it(name: str, cares: bool, batch: Transitions) -> None:
    agent = agent_of(name)
    other = copy.deepcopy(agent)
    torch.manual_seed(78)
    scramble(other.reach)
    assert torch.equal(actor_gradient(agent, batch), actor_gradient(other, batch)) != cares


@pytest.mark.parametrize(("name", "follows"), [("fosp", False), ("no-in-sample", True), ("dreamerv3", True)])
def test_values_follow_the_policy_or_the_data(name: str, follows: bool, batch: Transitions) -> None:
    config = configure(name, BASE)
    agent = agent_of(name)
    # real transitions alone: rollouts are the policy's own in every row
    agent.config = dataclasses.replace(config, critic=dataclasses.replace(config.critic, imagined_weight=0.0))
    agent.offline.min_std = agent.offline.max_std = 1e-6
    v = "critics.reward.v.net.0.weight"
    known = critic_gradients(agent, batch)[v]
    others_act = dataclasses.replace(batch, action=-batch.action)
    assert torch.allclose(known, critic_gradients(agent, others_act)[v]) == follows
    turned = copy.deepcopy(agent)
    torch.manual_seed(79)
    scramble(turned.offline)
    assert torch.allclose(known, critic_gradients(turned, batch)[v]) != follows


def test_multiplier_pulls_the_actor_towards_less_imagined_cost(batch: Transitions) -> None:
    """Descending along what the multiplier adds to the gradient lowers the imagined cost."""
    free, bound = agent_of("safedreamer", multiplier=0.0, penalty=1e-9), agent_of("safedreamer", multiplier=5.0)
    pull = actor_gradient(bound, batch) - actor_gradient(free, batch)
    assert float(pull.abs().sum()) > 0.0

    def imagined_cost(agent: Agent) -> float:
        torch.manual_seed(9)
        return float(actor_loss(agent, agent.offline, batch)[1]["imagined_cost"])

    moved = copy.deepcopy(free)
    step = 1e-2 / float(pull.norm())
    begin = 0
    with torch.no_grad():
        for parameter in moved.offline.parameters():
            part = pull[begin : begin + parameter.numel()]
            parameter -= step * part.view_as(parameter)
            begin += parameter.numel()
    assert imagined_cost(moved) < imagined_cost(free)


def test_imagined_returns_rise_under_the_loss_that_asks_for_them(batch: Transitions) -> None:
    agent = agent_of("dreamerv3")
    optimizer = torch.optim.Adam(agent.offline.parameters(), lr=3e-3)

    def returns() -> float:
        torch.manual_seed(9)
        return float(actor_loss(agent, agent.offline, batch)[1]["returns"])

    before = returns()
    for _ in range(30):
        loss, _ = actor_loss(agent, agent.offline, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert returns() > before + 0.05


@pytest.fixture(scope="module")
def frames() -> tuple[Frames, Frames]:
    return split(random_episodes(6), 0.2)


def trained(config: Config, frames: tuple[Frames, Frames], folder: Path, crash_at: int | None = None) -> Trainer:
    """A trainer that went through critics and actor on latents, or broke before."""
    trainer = Trainer(config, *frames, folder, quiet=True)
    trainer.stages = ("critics", "actor", "done")
    if not trainer.resume():
        trainer.stage = "critics"
    torch_state = torch.get_rng_state()
    trainer.latents = Latents(trainer.agent, frames[0], (False,))
    torch.set_rng_state(torch_state)
    if crash_at is not None:
        original, taken = trainer._take, iter(range(crash_at))

        def take() -> dict[str, Tensor]:
            next(taken)  # raises at the end
            return original()

        trainer._take = take  # type: ignore[method-assign]
    trainer.run()
    return trainer


@pytest.mark.parametrize("name", ["dreamerv3", "safedreamer", "no-in-sample"])
def test_rows_train_repeatably_resume_and_leave_the_world_model_alone(
    name: str, frames: tuple[Frames, Frames], tmp_path: Path
) -> None:
    config = configure(name, BASE)
    torch.manual_seed(config.seed)
    before = {k: v.clone() for k, v in Agent(config).state_dict().items()}
    whole = trained(config, frames, tmp_path / "whole")
    after = whole.agent.state_dict()
    assert len(whole.history) == STEPS.critic_steps + STEPS.actor_steps
    untouched = ("world_model", "online")
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith(untouched))
    for part in ("critics.reward.v", "critics.cost.q", "reach.state_net", "behaviour.net", "offline.net"):
        assert any(not torch.equal(before[k], after[k]) for k in before if k.startswith(part)), part
    with pytest.raises(StopIteration):
        trained(config, frames, tmp_path / "broken", crash_at=8)
    resumed = trained(config, frames, tmp_path / "broken")
    for key, value in after.items():
        assert torch.equal(value, resumed.agent.state_dict()[key]), key


@pytest.mark.parametrize(("name", "beside"), [("fosp", False), ("fosp", True), ("no-in-sample", False)])
def test_critics_learn_beside_the_actor_where_they_are_asked_or_have_to(
    name: str, beside: bool, frames: tuple[Frames, Frames], tmp_path: Path
) -> None:
    config = configure(name, BASE)
    config = dataclasses.replace(config, stages=dataclasses.replace(STEPS, critics_beside_actor=beside))
    trainer = Trainer(config, *frames, tmp_path, quiet=True)
    trainer.latents = Latents(trainer.agent, frames[0], (False,))
    trainer.stage = "actor"
    before = {k: v.clone() for k, v in trainer.agent.critics.state_dict().items()}
    trainer.run()
    after = trainer.agent.critics.state_dict()
    learned = beside or not config.critic.in_sample
    assert any(not torch.equal(before[k], after[k]) for k in before) == learned
    expected = STEPS.critic_steps + (STEPS.actor_steps if learned else 0)
    assert trainer.optimizers["critics"].steps == expected


def test_every_row_names_its_switches_and_unknown_rows_are_refused() -> None:
    for name in VARIANTS:
        changed = differences(configure(name, BASE), BASE)
        assert bool(changed) == (name != "fosp"), name
    assert differences(configure("no-ref", BASE), BASE) == {"actor.feasibility": False}
    with pytest.raises(UserError, match="dreamerv3"):
        configure("ppo", BASE)


def test_rows_that_differ_after_training_share_it() -> None:
    def same(a: str, b: str) -> bool:
        return trained_like(configure(a, BASE)) == trained_like(configure(b, BASE))

    assert same("fosp", "no-expansion") and same("fosp", "proposals") and same("safedreamer", "safedreamer-planning")
    assert not same("fosp", "no-ref") and not same("dreamerv3", "safedreamer") and not same("fosp", "no-in-sample")
