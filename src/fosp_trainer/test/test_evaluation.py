"""What the record of an episode says of the model that drove it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fosp_core.pilot import Steered
from fosp_core.runtime import StepOutput
from fosp_core.safety import Verdict
from fosp_core.selector import Selection
from fosp_trainer import evaluation
from fosp_trainer.evaluation import Drive, discounted_reach

FRAME = {"image": np.zeros((8, 8, 3), np.uint8), "proprio": np.zeros(3, np.float32)}


class Scripted:
    """An environment whose steps cost what they are told to."""

    def __init__(self, *costs: float) -> None:
        self.costs = list(costs)

    def reset(self, seed: int) -> tuple[Any, dict[str, Any]]:
        return FRAME, {"clearance": 0.1}

    def step(self, action: Any) -> tuple[Any, ...]:
        cost = self.costs.pop(0)
        info = {"clearance": 0.1, "success": False, "violated": cost > 0}
        return FRAME, 0.0, cost, False, not self.costs, info


class Foreseeing:
    """A pilot that says of each step what it is told to, of the other candidate the contrary."""

    def __init__(self, *risks: float) -> None:
        self.risks = list(risks)

    def start(self, seed: int) -> None:
        pass

    def act(self, image: Any, proprio: Any) -> Steered:
        risk, two = self.risks.pop(0), np.zeros(2, np.float32)
        actions = np.zeros((2, 3), np.float32)
        output = StepOutput(actions, two, two, np.array([1.0 - risk, risk], np.float32), 0.0, 0.0, False)
        chosen = Selection(actions[1], 1, np.array([0.0, 1.0]))
        return Steered(actions[1], output, chosen, risk, Verdict.NONE, (), False, math.nan)


def record(costs: tuple[float, ...], risks: tuple[float, ...], drive: Drive) -> dict[str, Any]:
    return evaluation.run_episode(Scripted(*costs), Foreseeing(*risks), drive, 0)[0]  # type: ignore[arg-type]


def test_reach_counts_from_the_step_itself_to_the_next_cost() -> None:
    assert discounted_reach([0.0, 0.0, 1.0, 0.0, 2.0, 0.0], 0.5).tolist() == [0.25, 0.5, 1.0, 0.5, 1.0, 0.0]
    assert discounted_reach([], 0.5).tolist() == []


def test_error_of_the_risk_is_that_of_the_chosen_actions_against_what_happened() -> None:
    costs, drive = (0.0, 0.0, 1.0, 0.0), Drive("bundle", reach_discount=0.5)
    assert record(costs, (0.25, 0.5, 1.0, 0.0), drive)["risk_error"] == 0.0
    assert record(costs, (0.25, 0.5, 0.0, 1.0), drive)["risk_error"] == pytest.approx(0.5)
    assert "risk_error" not in record(costs, (0.0,) * 4, Drive("bundle"))
