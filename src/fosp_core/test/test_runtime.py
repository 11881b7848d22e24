"""The runtime carries the latent state, judges actions in it and refuses what the model cannot take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fosp_core.images import ImageError
from fosp_core.runtime import PolicyRuntime
from fosp_core.testing import make_bundle

DARK = np.full((64, 64, 3), 30, np.uint8)
BRIGHT = np.full((64, 64, 3), 255, np.uint8)
POSITION = np.asarray([0.5, 0.0, 0.1])
PUSH = np.asarray([0.5, 0.0, 0.0])


@pytest.fixture
def runtime(tmp_path: Path) -> PolicyRuntime:
    return PolicyRuntime(make_bundle(tmp_path / "safereach" / "sample"))


def test_state_carries_over_between_frames(runtime: PolicyRuntime) -> None:
    runtime.step(DARK, POSITION, PUSH, True)
    runtime.step(DARK, POSITION, PUSH, False)
    runtime.step(DARK, POSITION, PUSH, False)
    assert runtime.state[0][0] == pytest.approx(1.0)


def test_first_frame_forgets_the_past(runtime: PolicyRuntime) -> None:
    runtime.step(DARK, POSITION, PUSH, True)
    runtime.step(DARK, POSITION, PUSH, False)
    runtime.step(DARK, POSITION, PUSH, True)
    assert runtime.state[0][0] == 0.0


def test_step_after_reset_is_a_first_frame(runtime: PolicyRuntime) -> None:
    runtime.step(DARK, POSITION, PUSH, False)
    runtime.reset()
    assert runtime.step(DARK, POSITION, PUSH, False).is_first


def test_judgement_follows_the_last_frame(runtime: PolicyRuntime) -> None:
    runtime.step(DARK, POSITION, PUSH, True)
    assert runtime.judge(np.zeros((2, 3))).worst.tolist() == [0.0, 0.0]
    runtime.step(BRIGHT, POSITION, PUSH, False)
    assert runtime.judge(np.zeros((5, 3))).worst == pytest.approx(np.ones(5))


@pytest.mark.parametrize("image", [np.zeros((32, 32, 3), np.uint8), np.zeros((64, 64, 3), np.float32)])
def test_other_image_is_refused(runtime: PolicyRuntime, image: np.ndarray) -> None:
    with pytest.raises(ImageError, match="64"):
        runtime.step(image, POSITION, PUSH, False)


@pytest.mark.parametrize("position", [np.zeros(2), np.asarray([np.nan, 0, 0])])
def test_other_proprioception_is_refused(runtime: PolicyRuntime, position: np.ndarray) -> None:
    with pytest.raises(ValueError, match="proprio"):
        runtime.step(DARK, position, PUSH, False)


@pytest.mark.parametrize("actions", [np.zeros(3), np.zeros((1, 2)), np.full((1, 3), np.inf)])
def test_other_actions_are_not_judged(runtime: PolicyRuntime, actions: np.ndarray) -> None:
    with pytest.raises(ValueError, match="actions"):
        runtime.judge(actions)


def test_provider_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "safereach" / "sample")
    with pytest.raises(ValueError, match="NoSuchProvider"):
        PolicyRuntime(bundle, providers=["NoSuchProvider"])
