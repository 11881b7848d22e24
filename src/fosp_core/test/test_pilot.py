"""The closed loop without ROS, with a model whose risk follows the brightness of the image."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fosp_core.bundle import Bundle
from fosp_core.pilot import Pilot, Steered
from fosp_core.runtime import Judgement, PolicyRuntime
from fosp_core.safety import Reason, Verdict, ways_out
from fosp_core.testing import make_bundle

TOOL = np.array([0.5, 0.0, 0.1])
ONLINE = (0.0, 0.5, 0.0)
OUTSIDE = np.array([1.0, 0.0, 0.0])


def image(brightness: float) -> NDArray[np.uint8]:
    """Of one mean brightness, with stripes: an image of nothing would be a fault of its own."""
    rows = np.full((64, 64, 3), brightness * 255.0)
    rows[::2] += 10.0
    rows[1::2] -= 10.0
    return np.clip(rows, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("models") / "tiny", online_action=ONLINE)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many actions each call of the judge's graph was asked about."""
    counts: list[int] = []
    judge = PolicyRuntime.judge

    def counted(self: PolicyRuntime, actions: NDArray[np.floating]) -> Judgement:
        counts.append(len(actions))
        return judge(self, actions)

    monkeypatch.setattr(PolicyRuntime, "judge", counted)
    return counts


def act(pilot: Pilot, brightness: float, proposal: NDArray[np.floating] | None = None) -> Steered:
    return pilot.act(image(brightness), TOOL, proposal)


def test_a_safe_proposal_is_judged_alone_and_passes(bundle: Bundle, asked: list[int]) -> None:
    steered = act(Pilot(bundle), 0.3)
    assert asked == [1]
    assert steered.verdict is Verdict.FORWARDED
    np.testing.assert_allclose(steered.action, ONLINE)
    assert steered.risk == steered.least_risk == 0.0


def test_a_risky_proposal_is_slowed_and_the_ways_out_are_judged(bundle: Bundle, asked: list[int]) -> None:
    steered = act(Pilot(bundle), 0.7)
    assert asked[0] == 1 and asked[1] > 3 and len(asked) == 2
    assert steered.verdict is Verdict.SLOWED and Reason.RISK_CAUTION in steered.reasons
    np.testing.assert_allclose(steered.action, np.multiply(0.5, ONLINE))


def test_danger_halts_until_the_next_start(bundle: Bundle) -> None:
    pilot = Pilot(bundle)
    assert act(pilot, 0.9).halted
    assert not act(pilot, 0.3).action.any()
    pilot.start()
    assert act(pilot, 0.3).action.any()


def test_a_proposal_from_elsewhere_goes_through_the_same_monitor(bundle: Bundle) -> None:
    proposal = np.array([-0.5, 0.25, 0.0])
    np.testing.assert_allclose(act(Pilot(bundle), 0.3, proposal).action, proposal)
    slowed = act(Pilot(bundle), 0.7, proposal)
    np.testing.assert_allclose(slowed.action, 0.5 * proposal)
    at_the_edge = Pilot(bundle).act(image(0.3), np.array([0.795, 0.0, 0.1]), OUTSIDE)
    assert 0.0 < at_the_edge.action[0] < 0.2 and Reason.WORKSPACE in at_the_edge.reasons


def test_without_the_monitor_everything_passes_and_may_still_be_judged(bundle: Bundle, asked: list[int]) -> None:
    passed = act(Pilot(bundle, monitor=False), 0.9, OUTSIDE)
    np.testing.assert_allclose(passed.action, OUTSIDE)
    assert asked == [] and passed.verdict is Verdict.NONE and np.isnan(passed.least_risk)
    judged = act(Pilot(bundle, monitor=False, judge=True), 0.9)
    np.testing.assert_allclose(judged.action, ONLINE)
    assert judged.risk == judged.least_risk == pytest.approx(1.0)
    # The price of a halt depends on every way out that the monitor would have had.
    limits = Pilot(bundle)._limits
    assert asked == [1 + len(ways_out(ONLINE, ((0.5, 0.0, 0.0), ONLINE), tuple(TOOL), limits))]


def test_noise_starts_anew_with_the_seed_and_not_with_the_pilot(bundle: Bundle) -> None:
    def actions(pilot: Pilot, seed: int) -> list[tuple[float, ...]]:
        pilot.start(seed)
        return [tuple(act(pilot, 0.3).action) for _ in range(3)]

    pilot = Pilot(bundle, monitor=False, noise=0.5)
    first, other = actions(pilot, 7), actions(pilot, 8)
    assert first != other
    assert actions(pilot, 7) == actions(Pilot(bundle, monitor=False, noise=0.5), 7) == first


def test_branches_go_on_from_here_and_leave_the_pilot_alone(bundle: Bundle) -> None:
    pilot, undisturbed = (Pilot(bundle, monitor=False, noise=0.5, seed=3) for _ in range(2))
    for each in (pilot, undisturbed):
        act(each, 0.2)
    branches = [pilot.branch(seed) for seed in (1, 1, 2)]
    futures = [[act(branch, brightness).action for brightness in (0.3, 0.6)] for branch in branches]
    np.testing.assert_array_equal(futures[0], futures[1])
    assert not np.array_equal(futures[0], futures[2])
    for brightness in (0.3, 0.6):
        left, right = act(pilot, brightness), act(undisturbed, brightness)
        np.testing.assert_array_equal(left.action, right.action)
        assert left.output.surprise == right.output.surprise


def test_a_branch_judges_where_it_is_asked_to_and_there_is_none_behind_a_monitor(
    bundle: Bundle, asked: list[int]
) -> None:
    pilot = Pilot(bundle, monitor=False, judge=True)
    act(pilot, 0.2)
    act(pilot.branch(0), 0.2)
    assert len(asked) == 1
    act(pilot.branch(0, judge=True), 0.2)
    assert len(asked) == 2
    with pytest.raises(ValueError, match="monitor"):
        Pilot(bundle).branch(0)
