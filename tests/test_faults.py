"""Faults injected into the running graph: the arm holds, the monitor says why, and the operator brings it back.

All of them: ``make faults``. Times are measured there; here it only counts what happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from fosp_bringup.faults.suite import Suite

    with Suite(tmp_path_factory.mktemp("faults") / "graphs") as suite:
        yield suite


@pytest.mark.parametrize(
    "name",
    [
        "image_black",
        "stamps_future",
        "decision_nan",
        "policy_stopped",
        "monitor_stopped",
        "second_publisher",
        "parameter_live",
        "bundle_hash",
        "swap_in_motion",
        "reachability_nan",
    ],
)
def test_a_fault_leads_to_a_hold_with_its_reason_and_a_way_back(suite: Any, name: str) -> None:
    from fosp_bringup.faults.suite import chosen

    (fault,) = chosen([name])
    *_, outcome = suite.run(fault, 1)
    (trial,) = outcome.trials
    assert outcome.problems == [], trial
    assert trial.recovery


def test_a_killed_launcher_leaves_a_holding_arm_and_no_process(suite: Any) -> None:
    from fosp_bringup.faults.suite import chosen

    (fault,) = chosen(["launcher_killed"])
    *_, outcome = suite.run(fault, 1)
    assert outcome.problems == [], outcome.trials


def test_every_fault_has_a_name_of_its_own_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    from fosp_bringup.faults.catalogue import FAULTS
    from fosp_bringup.faults.suite import UnknownFaultError, chosen

    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    with pytest.raises(UnknownFaultError, match="no_such_fault"):
        chosen(["image_black", "no_such_fault"])
