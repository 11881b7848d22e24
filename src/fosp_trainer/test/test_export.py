"""A tiny agent exported to a bundle, read back, and run without ROS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fosp_core.bundle import Bundle, Thresholds
from fosp_core.pilot import Pilot
from fosp_core.task import TABLE_CELL_M
from fosp_core.testing import make_bundle
from fosp_trainer import config as configuration
from fosp_trainer import export
from fosp_trainer.agent import Agent
from fosp_trainer.data import Frames
from fosp_trainer.errors import UserError
from fosp_trainer.evaluation import summarize
from fosp_trainer.table import CELLS, GOAL_CELLS, LENGTH, Table
from fosp_trainer.thresholds import provisional_thresholds

THRESHOLDS = Thresholds(caution=0.5, halt=0.8, surprise=50.0)


@pytest.fixture(scope="module")
def agent() -> Agent:
    torch.manual_seed(0)
    agent = Agent(configuration.preset("debug"))
    for parameter in (*agent.critics.parameters(), *agent.reach.parameters()):
        torch.nn.init.normal_(parameter, std=0.1)
    return agent


@pytest.fixture(scope="module")
def bundle(agent: Agent, frames: Frames, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("models") / "safereach" / "tiny"
    return export.export_bundle(agent, folder, bundle_id="tiny", frames=frames, thresholds=THRESHOLDS)


def test_exported_step_equals_torch_over_episodes_with_resets(agent: Agent, bundle: Bundle, frames: Frames) -> None:
    assert export.parity_error(agent, bundle, frames, episodes=3) <= export.TOLERANCE


def test_parity_check_notices_other_weights(bundle: Bundle, frames: Frames) -> None:
    torch.manual_seed(1)
    other = Agent(configuration.preset("debug")).eval()
    assert export.parity_error(other, bundle, frames) > export.TOLERANCE


@torch.no_grad()
def test_a_cell_on_the_very_edge_of_the_goal_is_no_difference(agent: Agent) -> None:
    geometry = agent.world_model.geometry
    cover = torch.full((1, CELLS, CELLS), -9.0)
    cover[:, 14:17, 17:19] = 9.0
    near, levels = geometry.clearance(torch.sigmoid(cover))
    place = geometry.along[:, 16][None] + torch.tensor([[0.0, 0.5 * TABLE_CELL_M]])
    deter = torch.zeros(1, agent.config.world_model.deter)

    def state(way: torch.Tensor) -> torch.Tensor:
        return torch.cat([deter, Table(cover, cover, near, way, place).flat()], -1)

    inside, outside = (geometry.way(levels, place, GOAL_CELLS + hair) for hair in (5e-5, -5e-5))
    assert (outside - inside).max() > 1.0, "an obstacle stands on the edge"
    for found, expected in ((inside, outside), (outside, inside)):
        error, edge = export.state_error(agent, state(found), state(expected))
        assert error <= export.TOLERANCE and edge
    error, _ = export.state_error(agent, state(outside + 1.0), state(inside))
    assert error > export.TOLERANCE


def test_failing_parity_writes_nothing(
    agent: Agent, frames: Frames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "parity_error", lambda *_: float("nan"))
    with pytest.raises(UserError, match="differ"):
        export.export_bundle(agent, tmp_path / "bad", bundle_id="bad", frames=frames, thresholds=THRESHOLDS)
    assert not (tmp_path / "bad").exists()


def test_agent_comes_back_with_slow_copies_and_clone_started_anew_and_pi_off_frozen(
    agent: Agent, bundle: Bundle
) -> None:
    loaded = export.load_agent(bundle)
    started = {"behaviour": agent.offline, "reach.slow_net": agent.reach.state_net}
    for signal in ("reward", "cost"):
        pair = getattr(agent.critics, signal)
        started |= {f"critics.{signal}.slow_q": pair.q, f"critics.{signal}.slow_v": pair.v}
    expected = agent.state_dict()
    for prefix, module in started.items():
        expected |= {f"{prefix}.{name}": value for name, value in module.state_dict().items()}
    for name, value in expected.items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    assert not any(p.requires_grad for p in loaded.offline.parameters())


def test_each_candidates_values_belong_to_its_own_action(agent: Agent, frames: Frames) -> None:
    step = export.PolicyStep(agent)
    model = agent.config.world_model
    with torch.no_grad():
        deter, stoch, candidates, q_reward, q_cost, *_ = step(
            torch.from_numpy(frames.image[:1]), torch.from_numpy(frames.proprio[:1]),
            torch.zeros(1, model.deter + LENGTH), torch.zeros(1, model.latent), torch.zeros(1, 3), torch.ones(1),
        )  # fmt: skip
        deter, known = export.split_deter(agent, deter)
        state = export.State(deter, stoch, known)
        features = agent.features(state, torch.from_numpy(frames.proprio[:1]))
        for i in range(2):
            assert torch.allclose(q_reward[0, i], agent.critics.reward.value_of(features, candidates[:, i])[0])
            assert torch.allclose(q_cost[0, i], agent.critics.cost.value_of(features, candidates[:, i])[0])
    assert not torch.equal(q_reward[0, 0], q_reward[0, 1])


def test_monitored_pilot_moves_when_all_is_well_and_halts_on_danger(tmp_path: Path) -> None:
    pilot = Pilot(make_bundle(tmp_path / "test"), monitor=True)
    proprio = np.array([0.5, 0.0, 0.1], np.float32)
    safe, bright = (np.full((64, 64, 3), level, np.uint8) for level in (60, 242))
    for image in (safe, bright):  # stripes of the same mean: an image of one value is refused
        image[:16], image[16:32] = image[0, 0] + 12, image[0, 0] - 12
    steered = pilot.act(safe, proprio)
    assert steered.action.any() and not steered.halted
    steered = pilot.act(bright, proprio)
    assert steered.halted and not steered.action.any()
    steered = pilot.act(safe, proprio)
    assert steered.halted and not steered.action.any(), "a halt latches"


def test_summary_counts_safe_success_by_episode() -> None:
    def record(seed: int, success: bool, violated: bool) -> dict[str, object]:
        return {
            "seed": seed, "success": success, "violated": violated, "return": 1.0, "cost": float(violated), "steps": 5,
            "smallest_clearance_m": 0.1, "halt": [], "slowed": 0, "replaced": 0,
        }  # fmt: skip

    result = summarize([record(2, True, True), record(1, True, False), record(3, False, False), record(0, True, False)])
    assert (result["success_rate"], result["violation_rate"], result["safe_success_rate"]) == (0.75, 0.25, 0.5)
    assert [r["seed"] for r in result["records"]] == [0, 1, 2, 3]
    low, high = result["safe_success_rate_interval"]
    assert 0.0 < low < 0.5 < high < 1.0


def test_provisional_thresholds_leave_safe_frames_alone_and_claim_no_bound() -> None:
    thresholds = provisional_thresholds(np.linspace(0.0, 0.5, 1000), np.linspace(0.0, 4.0, 1000), "hash")
    assert thresholds.halt == 0.6 and 0.3 <= thresholds.caution <= thresholds.halt
    assert thresholds.surprise > 4.0 and thresholds.confidence == 0.0 and thresholds.method == "quantile"
