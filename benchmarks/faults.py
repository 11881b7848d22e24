"""Inject every fault of the safety contract into the running graph, and measure what it leads to.

Simulation, camera, policy, monitor and arm are the real processes over DDS; relays in the streams of images, joint
states and decisions spoil what passes. The model is a small test bundle that moves the tool steadily and whose risk
follows the brightness of the image. Ctrl-C keeps what was measured.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from recording import RESULTS, record
from rich.console import Console
from rich.table import Table

from fosp_bringup.faults.catalogue import ELSEWHERE, FAULTS
from fosp_bringup.faults.suite import Outcome, Suite, UnknownFaultError, chosen


@dataclass
class Options:
    """What is injected, and how often."""

    only: tuple[str, ...] = ()
    """Names of faults; all when none is given."""
    repeats: int = 5
    """Trials of each fault."""
    list: bool = False
    """Print the faults and end."""
    name: str = "faults"
    """Name of the result file."""
    merge: bool = False
    """Keep what the result file says of other faults."""
    keep: Path | None = None
    """Folder for logs and records, kept afterwards; by default a temporary one."""


def table(outcomes: list[Outcome]) -> Table:
    """Fault, what is expected, time to hold command, hold target and rest, and whether it passed."""
    shown = Table("fault", "what", "expected", "limit ms", "command ms p50", "p99", "arm ms p50", "p99", "rest", "pass")
    for outcome in outcomes:
        figures = outcome.figures()
        times = [_ms(figures[name][at]) for name in ("hold_command_ms", "hold_arm_ms") for at in ("p50", "p99")]
        verdict = "skipped" if outcome.skipped else "yes" if outcome.passed else "NO"
        fault = outcome.fault
        limit = "" if fault.limit_ms is None else f"{fault.limit_ms:g}"
        shown.add_row(fault.name, fault.what, fault.expected, limit, *times, _ms(figures["rest_ms"]["p50"]), verdict)
    return shown


def figures_of(outcomes: list[Outcome], options: Options, load_before: float, interrupted: bool) -> dict[str, Any]:
    """For the result file."""
    measured_at = {"load_before": round(load_before, 2), "niceness": os.nice(0)}
    new = {outcome.fault.name: {**outcome.figures(), **measured_at} for outcome in outcomes}
    path = RESULTS / f"{options.name}.json"
    old: dict[str, Any] = {}
    if options.merge and path.exists():
        old = {fault["name"]: fault for fault in json.loads(path.read_text(encoding="utf-8"))["figures"]["faults"]}
    merged = {**old, **new}
    results = [merged[fault.name] for fault in FAULTS if fault.name in merged]
    return {
        "interrupted": interrupted,
        "passed": sum(result["passed"] for result in results),
        "failed": sum(not result["passed"] and not result["skipped"] for result in results),
        "skipped": sum(bool(result["skipped"]) for result in results),
        "not_injected": [fault.name for fault in FAULTS if fault.name not in merged],
        "tested_elsewhere": ELSEWHERE,
        "faults": results,
    }


def main(options: Options) -> int:
    """Run the suite; 0 when everything passed, 1 otherwise, 130 after Ctrl-C."""
    try:
        faults = chosen(options.only)
        if options.repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {options.repeats}")
    except (UnknownFaultError, ValueError) as error:
        print(f"faults: {error}", file=sys.stderr)
        return 2
    if options.list:
        for fault in faults:
            print(f"{fault.name:24} {fault.what}: {fault.expected}")
        return 0
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    outcomes: list[Outcome] = []
    interrupted = False
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary) / "faults").absolute()
        try:
            with Suite(folder) as suite:
                for index, fault in enumerate(faults, start=1):
                    outcome = Outcome(fault, [])
                    outcomes.append(outcome)
                    for outcome in suite.run(fault, options.repeats):
                        outcomes[-1] = outcome
                    print(f"[{index}/{len(faults)}] {_line(outcome)}", flush=True)
                    unfinished = figures_of(outcomes, options, load_before, interrupted=True)
                    record(options.name, _without(folder, unfinished))
        except KeyboardInterrupt:
            interrupted = True
    outcomes = [outcome for outcome in outcomes if outcome.trials or outcome.skipped]
    figures = figures_of(outcomes, options, load_before, interrupted)
    path = record(options.name, _without(folder, figures))
    Console(width=None if sys.stdout.isatty() else 160).print(table(outcomes))
    print(f"{figures['passed']} passed, {figures['failed']} failed, {figures['skipped']} skipped; raw data in {path}")
    if interrupted:
        return 130
    return 0 if all(outcome.passed or outcome.skipped for outcome in outcomes) else 1


def _line(outcome: Outcome) -> str:
    name = outcome.fault.name
    if outcome.skipped:
        return f"{name}: skipped, {outcome.skipped}"
    times = f", hold {min(outcome.holds_ms):.0f} to {max(outcome.holds_ms):.0f} ms" if outcome.holds_ms else ""
    disturbed = sum(trial.disturbed for trial in outcome.trials)
    busy = f", machine busy in {disturbed}" if disturbed else ""
    late = f", {outcome.late} late (limit {outcome.fault.limit_ms:g} ms)" if outcome.late else ""
    problems = f": {'; '.join(outcome.problems)}" if outcome.problems else ""
    return f"{name}: {'pass' if outcome.passed else 'FAIL'}{times}{late}{busy}{problems}"


def _without(folder: Path, figures: dict[str, Any]) -> dict[str, Any]:
    """Figures whose texts name the run's folder FOLDER: another run has another one."""
    named: dict[str, Any] = json.loads(json.dumps(figures).replace(str(folder), "FOLDER"))
    return named


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
