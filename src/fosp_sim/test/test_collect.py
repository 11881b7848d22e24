"""Data collection: four kinds, reproducible, into a dataset that reads back."""

import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import minari
import numpy as np
import pytest

from fosp_core import task
from fosp_core.episode import from_minari
from fosp_sim import collect as module
from fosp_sim.collect import DEFAULT_MIX, Job, Setting, collect, main, outcomes, run_episode
from fosp_sim.environment import SafeReachEnv


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "small"
    return collect(folder, episodes=10, seed_index=40, image_size=32, workers=2, quiet=True)


def test_the_dataset_reads_back_as_the_episodes_collected(dataset: Path) -> None:
    episodes = [from_minari(e) for e in minari.MinariDataset(dataset / "data").iterate_episodes()]
    assert len(episodes) == 10
    env = SafeReachEnv(image_size=32, visual_randomization=True)
    provenance = json.loads((dataset / "provenance.json").read_text())
    kinds = module._kinds(provenance["mix"], 10, 40)
    for index in (0, 7):
        stored = episodes[index]
        again = run_episode(env, Job(task.data_seed(40 + index), kinds[index]))
        for name in ("image", "proprio", "action", "reward", "cost", "is_first", "is_terminal", "obstacles", "tool"):
            np.testing.assert_array_equal(getattr(stored, name), getattr(again, name), err_msg=name)
        assert stored.goal is not None and stored.clearance is not None
        assert stored.metadata["layout_seed"] == task.data_seed(40 + index)
        assert stored.success == again.success and stored.violated == again.violated
    env.close()


def test_episodes_line_up_as_the_trainer_expects(dataset: Path) -> None:
    for data in minari.MinariDataset(dataset / "data").iterate_episodes():
        episode = from_minari(data)
        assert episode.reward[0] == 0.0 and episode.cost[0] == 0.0
        assert episode.is_first[0] and not episode.is_first[1:].any()
        assert not episode.is_terminal[:-1].any()
        assert not episode.action[-1].any() and np.abs(episode.action).max() <= 1.0
        assert episode.steps <= task.MAX_STEPS
        np.testing.assert_array_equal(episode.proprio, episode.tool)


def test_provenance_says_where_the_data_came_from(dataset: Path) -> None:
    provenance = json.loads((dataset / "provenance.json").read_text())
    assert provenance["scene"] == "standard" and provenance["episodes"] == 10
    assert provenance["seeds"] == [task.data_seed(40), task.data_seed(49)]
    assert provenance["versions"]["mujoco"] == version("mujoco")
    assert sum(provenance["mix"].values()) == pytest.approx(1.0)
    assert "10 scripted episodes" in (dataset / "README.md").read_text()


def test_the_mix_decides_who_acts() -> None:
    kinds = module._kinds(module._normalised(DEFAULT_MIX), 600, 0)
    assert [kinds.count(kind) for kind in ("planner", "straight", "noisy", "random")] == [210, 180, 120, 90]
    assert set(module._kinds(module._normalised({"straight": 2.0}), 5, 0)) == {"straight"}


def test_all_four_outcomes_are_well_represented() -> None:
    env = SafeReachEnv(image_size=16, images=False)
    kinds = module._kinds(module._normalised(DEFAULT_MIX), 80, 0)
    shares = outcomes([run_episode(env, Job(task.data_seed(i), kind)) for i, kind in enumerate(kinds)])
    assert shares["reached_safe"] > 0.25 and shares["reached_violated"] > 0.15
    assert shares["missed_safe"] > 0.01 and shares["missed_violated"] > 0.01


def test_an_existing_folder_is_never_overwritten(dataset: Path) -> None:
    with pytest.raises(FileExistsError, match="exists already"):
        collect(dataset, episodes=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scene": "kitchen"}, "unknown scene"),
        ({"episodes": 0}, "> 0"),
        ({"workers": 0}, "> 0"),
        ({"mix": {"teleoperated": 1.0}}, "unknown kind teleoperated"),
        ({"mix": {"planner": 0.0}}, "positive sum"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collect(tmp_path / "x", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()


def test_an_interruption_keeps_the_finished_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = SafeReachEnv(image_size=16, images=False)

    def interrupted(setting: Setting, jobs: list[Job], workers: int, quiet: bool) -> Iterator[object]:
        for job in islice(jobs, 3):
            yield run_episode(env, job)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_run", interrupted)
    folder = collect(tmp_path / "part", episodes=8, image_size=16, quiet=True)
    assert minari.MinariDataset(folder / "data").total_episodes == 3
    assert json.loads((folder / "provenance.json").read_text())["requested"] == 8


def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["fosp-collect", "--output", str(tmp_path / "x"), "--scene", "kitchen"])
    with pytest.raises(SystemExit, match="fosp-collect: unknown scene 'kitchen'"):
        main()
