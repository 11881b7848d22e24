"""Runs faults on graphs, a new graph whenever the last one is spent, and judges what they led to."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from fosp_bringup.faults.catalogue import FAULTS, small_disk
from fosp_bringup.faults.rig import Rig, RigError, make_models
from fosp_bringup.faults.trial import Fault, Trial
from fosp_core.statistics import summarize_latency

ATTEMPTS: Final = 3


class UnknownFaultError(ValueError):
    """No fault has this name; the message lists those that exist."""


@dataclass
class Outcome:
    """All trials of one fault."""

    fault: Fault
    trials: list[Trial]
    skipped: str = ""
    """Why it was not injected; empty when it was."""

    @property
    def holds_ms(self) -> list[float]:
        """Time to hold, as the limit means it, of each trial that held."""
        return _finite(self._hold_ms(trial) for trial in self.trials)

    def _hold_ms(self, trial: Trial) -> float | None:
        return _arm_ms(trial) if self.fault.timed_at_arm else _command_ms(trial)

    @property
    def late(self) -> int:
        """Trials that held later than the contract allows, or not at all."""
        limit = self.fault.limit_ms
        if limit is None:
            return 0
        timed = [self._hold_ms(trial) for trial in self.trials if trial.held is None or trial.held.moving]
        return sum(ms is None or ms > limit for ms in timed)

    @property
    def problems(self) -> list[str]:
        """What went otherwise than it must, each once."""
        return list(dict.fromkeys(problem for trial in self.trials for problem in trial.problems))

    @property
    def passed(self) -> bool:
        """Whether every trial did what it must, in time."""
        timed = self.fault.limit_ms is None or bool(self.holds_ms)
        return bool(self.trials) and not self.problems and not self.late and timed

    def figures(self) -> dict[str, Any]:
        """For the result file."""
        fault = self.fault
        return {
            "name": fault.name,
            "what": fault.what,
            "expected": fault.expected,
            "limit_ms": fault.limit_ms,
            "skipped": self.skipped,
            "passed": self.passed,
            "late": self.late,
            "disturbed": sum(trial.disturbed for trial in self.trials),
            "problems": self.problems,
            "timed_at_arm": fault.timed_at_arm,
            "hold_command_ms": summarize_latency(_finite(map(_command_ms, self.trials))),
            "hold_arm_ms": summarize_latency(_finite(map(_arm_ms, self.trials))),
            "rest_ms": summarize_latency(_finite(t.held.rest_ms for t in self.trials if t.held and t.held.moving)),
            "trials": [asdict(trial) for trial in self.trials],
        }


class Suite:
    """Injects faults one after another. A context manager that owns the graph in use."""

    def __init__(self, folder: Path) -> None:
        """``folder``: for models, logs and records; must be empty or absent."""
        self._folder = folder
        self._models = make_models(folder / "models")
        self._stack = ExitStack()
        self._rig: Rig | None = None
        self._started_for: tuple[tuple[str, ...], tuple[str, ...]] | None = None
        self._graphs = 0

    def __enter__(self) -> Suite:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def run(self, fault: Fault, repeats: int) -> Iterator[Outcome]:
        """Inject a fault ``repeats`` times; gives the outcome so far after each."""
        outcome = Outcome(fault, [])
        prefix: Sequence[str] = ()
        options = fault.runner_options
        if fault.name == "disk_full":
            disk = self._folder / "small_disk" / "records"
            disk.mkdir(parents=True, exist_ok=True)
            found = small_disk(disk)
            if found is None:
                outcome.skipped = "mounting a small disk is not permitted here"
                yield outcome
                return
            prefix = found
        for _ in range(repeats):
            try:
                rig = self._graph(tuple(options), tuple(prefix))
                outcome.trials.append(_undisturbed(fault, rig))
            except RigError as error:
                outcome.trials.append(Trial(problems=[str(error)]))
                self._end()
            if fault.spends_graph or outcome.trials[-1].problems:
                self._end()
            yield outcome

    def _graph(self, options: tuple[str, ...], prefix: tuple[str, ...]) -> Rig:
        if self._rig is None or self._started_for != (options, prefix):
            self._end()
            self._graphs += 1
            folder = self._folder / ("small_disk" if prefix else f"graph_{self._graphs:03d}")
            self._rig = self._stack.enter_context(Rig(self._models, folder, prefix, options))
            self._started_for = options, prefix
        return self._rig

    def _end(self) -> None:
        self._rig = self._started_for = None
        stack, self._stack = self._stack, ExitStack()
        stack.close()


def chosen(names: Sequence[str]) -> list[Fault]:
    """The faults of these names, all when there are none; raises ``UnknownFaultError``."""
    known = {fault.name: fault for fault in FAULTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UnknownFaultError(f"unknown fault {', '.join(unknown)}; known: {', '.join(known)}")
    return [known[name] for name in names] if names else list(FAULTS)


def _undisturbed(fault: Fault, rig: Rig) -> Trial:
    """A trial; tried again where other programs kept the processors or had stopped the arm just before."""
    before, attempt = rig.false_starts, 1
    while True:
        start = time.monotonic()
        trial = fault.run(rig)
        trial.stall_ms = round(1e3 * rig.stall_since(start), 1)
        trial.figures.update(false_starts=rig.false_starts - before, attempts=attempt)
        at_rest = trial.held is not None and not trial.held.moving
        loaded = fault.limit_ms is None
        if fault.spends_graph or attempt == ATTEMPTS or (not at_rest and (loaded or not trial.disturbed)):
            return trial
        attempt += 1


def _command_ms(trial: Trial) -> float | None:
    return trial.held.command_ms if trial.held is not None and trial.held.moving else None


def _arm_ms(trial: Trial) -> float | None:
    return trial.held.arm_ms if trial.held is not None and trial.held.moving else None


def _finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
