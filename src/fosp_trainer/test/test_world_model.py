"""The recurrent state-space model: resets, carried states, stop-gradients, and that it learns."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fosp_trainer import config as configuration
from fosp_trainer.config import Config
from fosp_trainer.data import Frames, gather, padded
from fosp_trainer.world_model import Batch, WorldModel, matched_error, patchwise

CONFIG: Config = configuration.preset("debug")


def model() -> WorldModel:
    """A debug-size model."""
    torch.manual_seed(0)
    return WorldModel(CONFIG.space, CONFIG.world_model)


def batch_of(frames: Frames) -> Batch:
    """All episodes side by side."""
    indices, _ = padded(frames, range(frames.episodes), int(frames.lengths.max()))
    return gather(frames, indices, CONFIG.space)


def part(batch: Batch, first: int, last: int) -> Batch:
    """Steps ``first`` to ``last``."""
    values = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return Batch(**{k: None if v is None else v[:, first:last] for k, v in values.items()})


def test_window_across_an_episode_boundary_equals_two_windows(frames: Frames) -> None:
    net, whole = model(), batch_of(frames)
    joined = Batch(
        **{
            f.name: None if getattr(whole, f.name) is None else getattr(whole, f.name)[:2].flatten(0, 1)[None]
            for f in dataclasses.fields(whole)
        }
    )
    # what happened before the boundary must not matter, whatever is in the first step's previous action
    joined.previous_action[:, 12] = 1.0
    with torch.no_grad():
        together = net.observe(joined, sample=False).states.flat()[0]
        apart = net.observe(part(whole, 0, 12), sample=False).states.flat()[:2].flatten(0, 1)
    torch.testing.assert_close(together, apart)


def test_carried_state_continues_a_sequence(frames: Frames) -> None:
    net, batch = model(), batch_of(frames)
    with torch.no_grad():
        whole = net.observe(batch, sample=False).states
        first = net.observe(part(batch, 0, 5), sample=False).states
        carried = first.at(np.s_[:, -1])
        rest = net.observe(part(batch, 5, 12), carried, sample=False).states
    torch.testing.assert_close(rest.flat(), whole.flat()[:, 5:])


def test_each_side_of_the_kl_trains_its_own_distribution(frames: Frames) -> None:
    net = WorldModel(CONFIG.space, dataclasses.replace(CONFIG.world_model, free_nats=0.0))
    observed = net.observe(batch_of(frames))
    dynamics, representation = net.kl_losses(observed)
    prior = list(net.rssm.prior.parameters())
    posterior = list(net.rssm.posterior_out.parameters())

    def size(loss: torch.Tensor, parameters: list[torch.nn.Parameter]) -> float:
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        return sum(float(g.abs().sum()) for g in found if g is not None)

    assert size(dynamics, prior) > 0.0
    assert size(representation, posterior) > 0.0
    assert size(representation, prior) == 0.0
    direct = torch.autograd.grad(dynamics, observed.posterior, allow_unused=True, retain_graph=True)[0]
    assert direct is None or float(direct.abs().sum()) == 0.0


def test_overfits_one_batch(frames: Frames) -> None:
    net, batch = model(), batch_of(frames)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    first = last = 0.0
    for step in range(120):
        loss, metrics, _ = net(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        fitted = float(metrics["proprio"] + metrics["reward"] + metrics["cost"])
        first, last = (fitted, fitted) if step == 0 else (first, fitted)
    assert last < 0.3 * first


def test_categorical_states_are_one_hot_with_a_floor_of_uniform_mix(frames: Frames) -> None:
    net = model()
    with torch.no_grad():
        observed = net.observe(batch_of(frames))
    stoch = observed.states.stoch.unflatten(-1, (CONFIG.world_model.stoch, CONFIG.world_model.classes))
    assert bool(((stoch == 0) | (stoch == 1)).all()) and bool((stoch.sum(-1) == 1).all())
    floor = CONFIG.world_model.unimix / CONFIG.world_model.classes
    assert float(observed.posterior.exp().min()) >= 0.999 * floor


def test_imagination_takes_the_given_actions_and_proprioception(frames: Frames) -> None:
    net, batch = model(), batch_of(frames)
    observed = net.observe(batch, sample=False)
    start = observed.states.at(np.s_[:, -1]).detach()
    actions = torch.zeros(frames.episodes, 4, 3)
    proprio = torch.full((frames.episodes, 3), 0.25)
    rollout = net.imagine(start, 4, actions=actions, proprio=proprio, sample=False)
    assert rollout.states.deter.shape[1] == 5
    assert torch.equal(rollout.proprio[:, 0], proprio) and torch.equal(rollout.actions, actions)
    other = net.imagine(start, 4, actions=actions + 1.0, sample=False)
    assert not torch.allclose(rollout.states.deter[:, 1], other.states.deter[:, 1])


def test_matched_error_knows_no_order_and_ignores_absent_points() -> None:
    rng = np.random.default_rng(0)
    target = torch.from_numpy(rng.random((5, 3, 3)).astype(np.float32))
    assert float(matched_error(target[:, [2, 0, 1]], target).max()) < 1e-12
    target[:, 1] = torch.nan
    error = matched_error(target[:, [2, 1, 0]].nan_to_num() + 0.1, target)
    torch.testing.assert_close(error, torch.full((5,), 0.03))


def test_the_image_loss_is_the_weighted_squared_error_of_the_decoded_pixels() -> None:
    config = dataclasses.replace(CONFIG.world_model, saturation_weight=2.0, red_weight=3.0)
    space = dataclasses.replace(CONFIG.space, cameras=2)
    net = WorldModel(space, config)
    features = torch.randn(3, config.deter + config.latent)
    image = torch.randint(0, 256, (3, space.image_size, space.image_size, 6), dtype=torch.uint8)
    pixels = image.permute(0, 3, 1, 2).unflatten(1, (2, 3)).double() / 255.0  # (N, cameras, 3, S, S)
    red = (pixels[:, :, 0] - pixels[:, :, 1:].amax(2)).clamp_min(0.0)
    weight = 1.0 + 2.0 * (pixels.amax(2) - pixels.amin(2)) + 3.0 * red
    error = net.decoder(features).unflatten(1, (2, 3)) - pixels
    expected = (weight[:, :, None] * error**2).sum() / 3
    torch.testing.assert_close(net.image_loss(features, image, 1.0).double(), expected, rtol=1e-5, atol=0.0)


def test_patches_of_an_image_are_those_that_the_decoder_shuffles_back() -> None:
    image = torch.randint(0, 256, (2, 8, 8, 6), dtype=torch.uint8)
    tiles = patchwise(image, cameras=2, stem=4)
    assert tiles.shape == (2, 2, 2, 2, 3, 4, 4)
    shuffled = F.pixel_shuffle(tiles.flatten(3).permute(0, 3, 1, 2), 4)
    assert torch.equal(shuffled, image.permute(0, 3, 1, 2))


@pytest.mark.parametrize(("fraction", "share"), [(None, CONFIG.world_model.decode_fraction), (0.25, 0.25), (0.0, 0.0)])
def test_the_share_of_frames_that_is_decoded_can_be_chosen_for_an_update(
    frames: Frames, monkeypatch: pytest.MonkeyPatch, fraction: float | None, share: float
) -> None:
    net, batch, decoded = model(), batch_of(frames), list[int]()
    patches = net.decoder.patches
    monkeypatch.setattr(net.decoder, "patches", lambda features: decoded.append(len(features)) or patches(features))
    net(batch, None, fraction)
    assert decoded == [max(1, round(share * batch.is_first.numel()))]
