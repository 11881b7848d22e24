"""The closed loop without ROS: the same filter, selector and safety rules as the nodes, on a simulated clock."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fosp_core import safety
from fosp_core.bundle import Bundle
from fosp_core.images import Image, contrast
from fosp_core.runtime import PolicyRuntime, StepOutput
from fosp_core.safety import Limits, MonitorState, Now, Reason, SafetyState, Verdict
from fosp_core.selector import Mode, Selection, Selector
from fosp_core.task import CONTROL_PERIOD_S

DECISION_DELAY_S: Final = 0.005
"""From the frame to the decision on the simulated clock, of the order that the graph shows."""


@dataclass(frozen=True)
class Steered:
    """One control step: what was proposed and what may be executed, (A,) in [-1, 1]."""

    action: NDArray[np.float32]
    output: StepOutput
    selection: Selection
    risk: float
    """Largest of p(s, a) of the proposed action and its imagined future; p(s, a) alone when nobody judges."""
    verdict: Verdict
    reasons: tuple[Reason, ...]
    halted: bool
    least_risk: float = math.nan
    """Smallest such risk among the proposed action and what was judged beside it; not a number when nobody judges."""


class Pilot:
    """Acts from images, with or without the safety monitor. One pilot belongs to one thread."""

    def __init__(
        self,
        bundle: Bundle,
        monitor: bool = True,
        mode: Mode | None = None,
        noise: float = 0.0,
        seed: int = 0,
        limits: Limits | None = None,
        judge: bool = False,
    ) -> None:
        """Create the sessions.

        Args:
            bundle: a loaded bundle.
            monitor: judge every action by a filter of its own, as the monitor node does.
            mode: selection; the manifest's by default.
            noise: standard deviation of Gaussian noise on the proposed action, for exploration; >= 0.
            seed: of selection and noise.
            limits: of the monitor.
            judge: without the monitor, still judge every action as it would, and let all of them pass.

        Raises:
            BundleError: a graph that does not load.
            ValueError: a setting out of range.
        """
        if not (np.isfinite(noise) and noise >= 0.0):
            raise ValueError(f"noise must be finite and >= 0, got {noise}")
        settings = bundle.manifest.selector
        chosen: Mode = mode or settings.mode  # type: ignore[assignment]  # the manifest checks it
        self._selector = Selector(settings.kappa, settings.temperature, chosen, settings.cost_limit, seed)
        self._policy = PolicyRuntime(bundle)
        self._monitor = PolicyRuntime(bundle) if monitor else None
        self._thresholds = bundle.manifest.thresholds
        self._limits = limits or Limits()
        self._noise = noise
        self._judges = judge
        self.start(seed)

    def start(self, seed: int | None = None) -> None:
        """Begin an episode: forget the past; a halt of the last episode is taken as reset by the operator. ``seed``
        begins selection and noise anew.
        """
        if seed is not None:
            self._selector.reseed(seed)
            self._rng = np.random.default_rng(seed)
        self._policy.reset()
        if self._monitor is not None:
            self._monitor.reset()
        self._state = MonitorState()
        self._executed = np.zeros(self._policy.bundle.manifest.action_length, np.float32)
        self._steps = 0

    def branch(self, seed: int, judge: bool = False) -> Pilot:
        """A pilot that goes on from this moment by itself, with selection and noise of its own; without the monitor.

        It shares the graphs with this one, so that both belong to the same thread.

        Raises:
            ValueError: this pilot has a monitor.
        """
        if self._monitor is not None:
            raise ValueError("a pilot with a monitor has no branches")
        other = copy.copy(self)
        other._policy, other._selector = copy.copy(self._policy), copy.copy(self._selector)
        other._selector.reseed(seed)
        other._rng = np.random.default_rng(seed)
        other._judges = judge
        return other

    def act(self, image: Image, proprio: NDArray[np.floating], proposal: NDArray[np.floating] | None = None) -> Steered:
        """The action for one frame: uint8 (S, S, 3) and tool position (3,) in metres.

        ``proposal``: an action (A,) in [-1, 1] from elsewhere, in the place of the policy's own.
        """
        first = self._steps == 0
        output = self._policy.step(image, proprio, self._executed, first)
        selection = self._selector.select(output)
        proposed = selection.action if proposal is None else np.asarray(proposal, np.float32)
        if self._noise > 0.0:
            noise = self._rng.normal(0.0, self._noise, proposed.shape)
            proposed = np.clip(proposed + noise, -1.0, 1.0).astype(np.float32)
        if self._monitor is None:
            risk, least = float(output.violation_probability[selection.chosen]), math.nan
            if self._judges:
                action, *candidates = _vectors((proposed, *output.candidate_actions))
                others = safety.ways_out(action, candidates, tuple(map(float, proprio)), self._limits)
                worst = self._policy.judge(np.asarray((action, *others), np.float32)).worst
                risk, least = float(worst[0]), float(worst.min())
            steered = Steered(proposed, output, selection, risk, Verdict.NONE, (), False, least)
        else:
            steered = self._judge(self._monitor, image, proprio, first, output, selection, proposed)
        self._executed = steered.action
        self._steps += 1
        return steered

    def _judge(
        self,
        monitor: PolicyRuntime,
        image: Image,
        proprio: NDArray[np.floating],
        first: bool,
        output: StepOutput,
        selection: Selection,
        proposed: NDArray[np.float32],
    ) -> Steered:
        stamp = 1.0 + self._steps * CONTROL_PERIOD_S
        seen = monitor.step(image, proprio, self._executed, first)
        frame = safety.Frame(
            stamp=stamp,
            digest=hash(image.tobytes()),
            contrast=contrast(image),
            tool=tuple(float(v) for v in proprio),
            joint_age_s=0.0,
            surprise=seen.surprise,
            violation_probability=seen.state_violation_probability,
            is_first=seen.is_first,
        )
        limits, thresholds = self._limits, self._thresholds
        now = Now(stamp + DECISION_DELAY_S, stamp + DECISION_DELAY_S)
        state = safety.observe_frame(self._state, limits, thresholds, frame, now)
        action, *candidates = _vectors((proposed, *output.candidate_actions))
        decision = safety.Decision(stamp, now.stamp, action, tuple(candidates))
        assessment = safety.assess(state, limits, thresholds, decision, monitor.judge)
        risks = assessment.violation_probability if assessment is not None else (math.nan,)
        state, judged = safety.judge_decision(state, limits, thresholds, decision, assessment, now)
        self._state, command = safety.tick(state, limits, now)
        return Steered(
            np.asarray(command.action, np.float32), output, selection, risks[0],
            judged.verdict, tuple(dict.fromkeys((*command.reasons, *judged.reasons))),
            self._state.state is SafetyState.HALTED, min(risks),
        )  # fmt: skip


def _vectors(actions: Iterable[NDArray[np.float32]]) -> list[safety.Vector]:
    return [tuple(float(v) for v in action) for action in actions]
