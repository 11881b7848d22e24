"""The task's phases as the simulation node runs them."""

from collections.abc import Iterator

import numpy as np
import pytest

from fosp_core import task
from fosp_sim.session import TICKS_PER_FRAME, FrameState, Phase, PhaseError, Session
from fosp_sim.world import World


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as it:
        yield it


@pytest.fixture
def session(world: World) -> Session:
    return Session(world)


def next_frame(session: Session, targets: np.ndarray | None = None) -> FrameState:
    for _ in range(TICKS_PER_FRAME):
        session.tick(targets)
    return session.frame()


def test_phases_follow_reset_start_and_stop(session: Session) -> None:
    assert next_frame(session).phase is Phase.IDLE
    session.reset(session.sample("standard", 3), 7)
    first, second = next_frame(session), next_frame(session)
    assert first.phase is Phase.READY and first.is_first and not second.is_first
    assert (first.episode_id, first.seed, first.step) == (7, 3, 0)
    session.start()
    first, second = next_frame(session), next_frame(session)
    assert first.phase is Phase.RUNNING and first.is_first and (first.step, second.step) == (0, 1)
    assert first.reward == 0.0 and first.cost == 0.0
    session.stop()
    assert next_frame(session).phase is Phase.ENDED


def test_requests_in_the_wrong_phase_are_refused(session: Session) -> None:
    with pytest.raises(PhaseError, match="reset the scene first"):
        session.start()
    with pytest.raises(PhaseError, match="nothing to stop"):
        session.stop()
    with pytest.raises(ValueError, match="unknown scene"):
        session.reset(session.sample("kitchen", 0), 0)
    assert session.phase is Phase.IDLE


def test_targets_before_the_start_move_nothing(session: Session, world: World) -> None:
    session.reset(session.sample("standard", 3), 1)
    start = next_frame(session).tool
    moved = next_frame(session, world.joints + 0.2).tool
    np.testing.assert_allclose(moved, start, atol=2e-3)
    session.start()
    assert np.linalg.norm(next_frame(session, world.joints + 0.05).tool - start) > 5e-3


def test_the_time_runs_out_after_eighty_steps(session: Session) -> None:
    session.reset(session.sample("standard", 3), 1)
    session.start()
    states = [next_frame(session) for _ in range(task.MAX_STEPS + 2)]
    assert [s.step for s in states[:3]] == [0, 1, 2]
    ended = next(i for i, s in enumerate(states) if s.phase is Phase.ENDED)
    assert ended == task.MAX_STEPS and states[ended].truncated and not states[ended].reached
    assert states[-1].step == task.MAX_STEPS


def test_the_planned_way_reaches_and_the_rewards_add_up(session: Session, world: World) -> None:
    session.reset(session.sample("standard", 3), 1)
    session.start()
    goal = next_frame(session).goal
    joints, total, first = world.joints, 0.0, float(np.linalg.norm(world.tool - goal))
    for _ in range(60):
        step = goal + np.array([0.0, 0.0, 0.02]) - world.tool
        joints = world.kinematics.solve(joints, world.tool + step * min(1.0, 0.02 / np.linalg.norm(step)))
        state = next_frame(session, joints)
        total += state.reward
        if state.phase is Phase.ENDED:
            break
    assert state.reached and not state.truncated
    assert total == pytest.approx(task.REWARD_PER_METRE * (first - state.distance) + task.REACH_BONUS, abs=1e-6)


def test_a_reset_after_the_end_begins_anew(session: Session) -> None:
    session.reset(session.sample("standard", 3), 1)
    session.start()
    session.stop()
    session.reset(session.sample("new_objects", 4), 2)
    state = next_frame(session)
    assert state.phase is Phase.READY and state.scene == "new_objects" and state.step == 0 and not state.violated
