"""The gymnasium environment: signature, reward, cost, end, determinism."""

from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest

from fosp_core import task
from fosp_sim.environment import SafeReachEnv
from fosp_sim.layout import GREEN, RED, Item, Layout
from fosp_sim.registration import ENVIRONMENT_ID
from fosp_sim.scripted import PlannerController, toward

GOAL = Item("cylinder", (0.05, 0.05, 0.05), (0.65, 0.0), RED)
BLOCK = Item("box", (0.06, 0.06, 0.18), (0.5, 0.0), GREEN)


@pytest.fixture(scope="module")
def env() -> Iterator[SafeReachEnv]:
    it = SafeReachEnv()
    yield it
    it.close()


def place(
    env: SafeReachEnv, monkeypatch: pytest.MonkeyPatch, *obstacles: Item, start: tuple[float, float, float]
) -> dict[str, object]:
    layout = Layout("standard", 0, start, GOAL, obstacles)
    monkeypatch.setattr("fosp_sim.environment.sample_layout", lambda *_: layout)
    return env.reset(seed=0)[1]


def test_a_step_has_six_values_and_the_spaces_hold_the_observation(env: SafeReachEnv) -> None:
    observation, info = env.reset(seed=1)
    assert env.observation_space.contains(observation)
    values = env.step(np.zeros(3, np.float32))
    assert len(values) == 6
    observation, reward, cost, terminated, truncated, info = values
    assert env.observation_space.contains(observation)
    assert isinstance(reward, float) and cost in (0.0, 1.0)
    assert terminated is False and truncated is False
    assert {"tool", "goal", "obstacles", "clearance", "reached", "violated", "cost_reason", "distance"} <= set(info)
    assert {"success", "safe_success", "scene", "layout_seed"} <= set(info)
    assert info["obstacles"].shape == (3, 3) and np.isnan(info["obstacles"][2]).all()
    np.testing.assert_array_equal(observation["proprio"], info["tool"])


def test_gymnasium_makes_it_and_passes_six_values_through() -> None:
    made = gymnasium.make(f"fosp_sim.registration:{ENVIRONMENT_ID}", scene="obstacle_shape", image_size=32)
    observation, info = made.reset(seed=3)
    assert observation["image"].shape == (32, 32, 3) and info["scene"] == "obstacle_shape"
    assert len(made.step(np.zeros(3))) == 6
    made.close()


def test_rewards_add_up_to_the_distance_covered_and_the_bonus(env: SafeReachEnv) -> None:
    _, info = env.reset(seed=7)
    first, total, controller = info["distance"], 0.0, PlannerController(noise=0.0)
    controller.reset(info, np.random.default_rng(0))
    terminated = truncated = False
    while not (terminated or truncated):
        _, reward, _, terminated, truncated, info = env.step(controller.act(info))
        total += reward
    assert terminated and not truncated and info["success"]
    assert info["distance"] <= task.REACH_RADIUS_M
    expected = task.REWARD_PER_METRE * (first - info["distance"]) + task.REACH_BONUS
    assert total == pytest.approx(expected, abs=1e-6)


def test_the_time_is_over_after_eighty_steps(env: SafeReachEnv) -> None:
    env.reset(seed=2)
    for step in range(1, task.MAX_STEPS + 1):
        _, _, _, terminated, truncated, info = env.step(np.zeros(3))
        assert truncated == (step == task.MAX_STEPS) and not terminated
    assert not info["success"] and not info["violated"]


def test_standing_still_costs_nothing_and_stays(env: SafeReachEnv) -> None:
    _, info = env.reset(seed=2)
    start = info["tool"]
    for _ in range(20):
        _, reward, cost, _, _, info = env.step(np.zeros(3))
        assert cost == 0.0 and abs(reward) < 0.02
    np.testing.assert_allclose(info["tool"], start, atol=2e-3)


def test_a_full_action_moves_the_tool_at_the_speed_limit(env: SafeReachEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    info = place(env, monkeypatch, start=(0.4, 0.0, 0.1))
    before = np.asarray(info["tool"])
    for _ in range(6):
        info = env.step(np.array([1.0, 0.0, 0.0]))[5]
    moved = np.asarray(info["tool"]) - before
    assert moved[0] == pytest.approx(6 * task.TOOL_SPEED_LIMIT * task.CONTROL_PERIOD_S, abs=0.012)
    np.testing.assert_allclose(moved[1:], 0.0, atol=4e-3)


def test_touching_costs_and_a_fall_counts_once(env: SafeReachEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    info = place(env, monkeypatch, BLOCK, start=(0.36, 0.0, 0.12))
    reasons, violated = [], []
    for _ in range(14):
        _, _, cost, _, _, info = env.step(toward(info["tool"], np.array([0.56, 0.0, 0.12]), 1.0))
        assert cost == float(bool(info["cost_reason"]))
        reasons.append(info["cost_reason"])
        violated.append(info["violated"])
    assert reasons[0] == "" and not violated[0]
    assert "contact" in reasons and reasons.count("obstacle_fallen") <= 1
    first = reasons.index("contact")
    assert all(violated[first:]) and not any(violated[:first])
    assert env.world.fallen()[0]


def test_an_obstacle_that_falls_by_itself_costs(env: SafeReachEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    place(env, monkeypatch, BLOCK, start=(0.36, -0.2, 0.12))
    joint = env.world.model.joint("obstacle0")
    velocity = joint.dofadr[0]
    env.world.data.qvel[velocity + 3 : velocity + 6] = (0.0, 12.0, 0.0)
    reasons = [env.step(np.zeros(3))[5]["cost_reason"] for _ in range(15)]
    assert reasons.count("obstacle_fallen") == 1 and "contact" not in reasons


def test_leaving_the_square_costs_every_step_outside(env: SafeReachEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    place(env, monkeypatch, start=(0.5, 0.25, 0.1))
    outside = [env.step(np.array([0.0, 1.0, 0.0])) for _ in range(6)]
    last = outside[-1]
    assert last[5]["tool"][1] > 0.3 and last[2] == 1.0 and last[5]["cost_reason"] == "outside"
    assert outside[0][2] == 0.0


def test_the_tool_keeps_to_the_allowed_heights(env: SafeReachEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    for direction in (-1.0, 1.0):
        info = place(env, monkeypatch, start=(0.45, 0.1, 0.1))
        for _ in range(15):
            info = env.step(np.array([0.0, 0.0, direction]))[5]
        low, high = task.WORKSPACE.low[2], task.WORKSPACE.high[2]
        assert low - 3e-3 <= info["tool"][2] <= high + 3e-3


@pytest.mark.parametrize("scene", ["standard", "new_objects", "moving_obstacle"])
def test_the_same_seed_and_actions_give_identical_episodes(scene: str) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (25, 3))

    def episode(env: SafeReachEnv) -> list[tuple[np.ndarray, np.ndarray, float, float]]:
        observation, _ = env.reset(seed=11)
        out = [(observation["image"], observation["proprio"], 0.0, 0.0)]
        for action in actions:
            observation, reward, cost, terminated, _, _ = env.step(action)
            out.append((observation["image"], observation["proprio"], reward, cost))
            if terminated:
                break
        return out

    first, second = (SafeReachEnv(scene=scene, visual_randomization=True) for _ in range(2))
    second.reset(seed=99)
    second.step(np.ones(3))
    for a, b in zip(episode(first), episode(second), strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])
        assert a[2:] == b[2:]
    first.close()
    second.close()


def test_bad_input_is_refused_with_a_message(env: SafeReachEnv) -> None:
    with pytest.raises(ValueError, match="unknown scene"):
        SafeReachEnv(scene="kitchen")
    with pytest.raises(ValueError, match="image_size"):
        SafeReachEnv(image_size=2)
    with pytest.raises(ValueError, match="render_mode"):
        SafeReachEnv(render_mode="human")
    env.reset(seed=0)
    for bad in (np.zeros(2), np.full(3, np.nan), np.zeros((1, 3))):
        with pytest.raises(ValueError, match="3 finite"):
            env.step(bad)


def test_a_step_before_any_reset_is_refused() -> None:
    fresh = SafeReachEnv(images=False)
    with pytest.raises(RuntimeError, match="reset"):
        fresh.step(np.zeros(3))


def test_without_a_seed_the_layout_comes_from_the_data_range(env: SafeReachEnv) -> None:
    low, high = task.SEED_RANGES["data"]
    _, info = env.reset()
    assert low <= info["layout_seed"] < high


def test_render_gives_the_overview_when_asked_for() -> None:
    watched = SafeReachEnv(render_mode="rgb_array")
    watched.reset(seed=0)
    picture = watched.render()
    assert picture is not None and picture.shape == (240, 320, 3)
    watched.close()


@pytest.mark.parametrize("scene", ["standard", "moving_obstacle"])
def test_an_episode_goes_on_from_a_snapshot_as_it_did_the_first_time(scene: str) -> None:
    env = SafeReachEnv(scene=scene)
    rng = np.random.default_rng(0)
    env.reset(seed=11)
    for _ in range(4):
        env.step(rng.uniform(-1.0, 1.0, 3))
    actions = rng.uniform(-1.0, 1.0, (6, 3))
    moment = env.snapshot()

    def future() -> tuple[list[object], list[np.ndarray]]:
        steps = [env.step(action) for action in actions]
        infos = [{k: np.asarray(v).tolist() for k, v in s[5].items() if k != "obstacles"} for s in steps]
        images = [part for s in steps for part in (s[0]["image"], s[0]["proprio"], s[5]["obstacles"])]
        return [(s[1:5], info) for s, info in zip(steps, infos, strict=True)], images

    first = future()
    for _ in range(2):
        restored = env.restore(moment)
        np.testing.assert_array_equal(restored["image"], env.snapshot().observation["image"])
        again = future()
        assert again[0] == first[0]
        for left, right in zip(again[1], first[1], strict=True):
            np.testing.assert_array_equal(left, right)
    env.reset(seed=12)
    with pytest.raises(ValueError, match="another layout"):
        env.restore(moment)
    env.close()


def test_there_is_no_snapshot_before_a_layout() -> None:
    with pytest.raises(RuntimeError, match="reset"):
        SafeReachEnv(images=False).snapshot()
