"""The policy at run time: one ONNX call a frame for filter and candidates, one for judging actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from fosp_core.bundle import Bundle, BundleError
from fosp_core.images import Image, ImageError

Array = NDArray[np.float32]

PREFERRED_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


@dataclass(frozen=True)
class StepOutput:
    """What the model says about one frame. Candidates are ordered offline, online."""

    candidate_actions: Array  # (2, A) in [-1, 1]
    q_reward: Array  # (2,)
    q_cost: Array  # (2,)
    violation_probability: Array  # (2,) p(s, a)
    state_violation_probability: float  # p(s)
    surprise: float  # nats
    is_first: bool


@dataclass(frozen=True)
class Judgement:
    """What the model says about proposed actions in the state after the last step."""

    q_reward: Array  # (N,)
    q_cost: Array  # (N,)
    violation_probability: Array  # (N,) p(s, a)
    lookahead: Array  # (N, H) p after 1..H imagined steps

    @property
    def worst(self) -> Array:
        """(N,) largest probability over the action and its imagined future."""
        return np.asarray(np.maximum(self.violation_probability, self.lookahead.max(axis=1, initial=0.0)))


class PolicyRuntime:
    """Latent filter and action evaluation of one bundle.

    Not thread-safe: one runtime belongs to one thread.
    """

    def __init__(self, bundle: Bundle, providers: Sequence[str] | None = None, threads: int = 1) -> None:
        """Create the sessions and check their signature against the manifest.

        Args:
            bundle: a loaded bundle.
            providers: ONNX Runtime providers in order of preference; by default CUDA where present, then CPU. A
                provider asked for by name must be available.
            threads: intra-op threads, >= 1.

        Raises:
            BundleError: a graph that does not load or has another signature than the manifest says.
            ValueError: a provider that is not available, or threads < 1.
        """
        if threads < 1:
            raise ValueError(f"threads must be >= 1, got {threads}")
        available = onnxruntime.get_available_providers()
        if providers is None:
            providers = [p for p in PREFERRED_PROVIDERS if p in available]
        missing = [p for p in providers if p not in available]
        if missing:
            raise ValueError(
                f"ONNX Runtime provider {missing[0]} is not available here; available: {', '.join(available)}"
            )
        self.bundle = bundle
        manifest = bundle.manifest
        self._size = manifest.image_size
        self._proprio = manifest.proprio_length
        self._actions = manifest.action_length
        self._deter_size, self._stoch_size = manifest.deter_size, manifest.stoch_size
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.log_severity_level = 3
        s, p, a, d, z = self._size, self._proprio, self._actions, self._deter_size, self._stoch_size
        self._step = self._session(
            "policy_step.onnx",
            options,
            providers,
            {
                "image": [1, s, s, 3],
                "proprio": [1, p],
                "deter": [1, d],
                "stoch": [1, z],
                "previous_action": [1, a],
                "is_first": [1],
            },
            {
                "next_deter": [1, d],
                "next_stoch": [1, z],
                "candidate_actions": [1, 2, a],
                "q_reward": [1, 2],
                "q_cost": [1, 2],
                "violation_probability": [1, 2],
                "state_violation_probability": [1],
                "surprise": [1],
            },
        )
        self._judge = self._session(
            "judge.onnx",
            options,
            providers,
            {"deter": [1, d], "stoch": [1, z], "proprio": [1, p], "actions": [None, a]},
            {
                "q_reward": [None],
                "q_cost": [None],
                "violation_probability": [None],
                "lookahead": [None, manifest.lookahead_steps],
            },
        )
        self.provider: str = self._step.get_providers()[0]
        if self.provider != providers[0]:
            raise ValueError(f"ONNX Runtime fell back to {self.provider} although {providers[0]} was asked for")
        self.reset()

    def _session(
        self,
        file: str,
        options: onnxruntime.SessionOptions,
        providers: Sequence[str],
        inputs: dict[str, list[int | None]],
        outputs: dict[str, list[int | None]],
    ) -> onnxruntime.InferenceSession:
        path = self.bundle.path / file
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:
            raise BundleError(f"{path}: ONNX Runtime cannot load the graph: {error}") from error
        for kind, nodes, expected in (
            ("input", session.get_inputs(), inputs),
            ("output", session.get_outputs(), outputs),
        ):
            found = {node.name: list(node.shape) for node in nodes}
            for name, shape in expected.items():
                if name not in found:
                    raise BundleError(f"{path}: {kind} {name!r} is missing; found {', '.join(found)}")
                if not _shape_fits(found[name], shape):
                    raise BundleError(f"{path}: {kind} {name!r} has shape {found[name]}, the manifest needs {shape}")
        return session

    def reset(self) -> None:
        """Forget the past: the next step starts an episode, whatever its ``is_first``."""
        self._deter = np.zeros((1, self._deter_size), dtype=np.float32)
        self._stoch = np.zeros((1, self._stoch_size), dtype=np.float32)
        self._last_proprio = np.zeros((1, self._proprio), dtype=np.float32)
        self._fresh = True

    @property
    def state(self) -> tuple[Array, Array]:
        """Copies of the latent state: deter (D,), stoch (Z,)."""
        return self._deter[0].copy(), self._stoch[0].copy()

    def warm_up(self) -> None:
        """Run both graphs once so that the first frame is not slower, then reset."""
        self.step(
            np.zeros((self._size, self._size, 3), dtype=np.uint8),
            np.zeros(self._proprio, dtype=np.float32),
            np.zeros(self._actions, dtype=np.float32),
            True,
        )
        self.judge(np.zeros((1, self._actions), dtype=np.float32))
        self.reset()

    def step(
        self,
        image: Image,
        proprio: NDArray[np.floating],
        previous_action: NDArray[np.floating],
        is_first: bool,
    ) -> StepOutput:
        """Advance the latent state by one frame.

        Args:
            image: uint8 (S, S, 3) RGB, already cropped and resized.
            proprio: (P,) as the manifest names it (tool position in metres).
            previous_action: (A,) in [-1, 1], what was executed since the last frame.
            is_first: the frame starts an episode.

        Raises:
            ImageError: an image of another shape or type.
            ValueError: proprioception or action of another length, or not finite.
        """
        if image.shape != (self._size, self._size, 3) or image.dtype != np.uint8:
            raise ImageError(f"the model needs uint8 ({self._size}, {self._size}, 3), got {image.dtype} {image.shape}")
        first = bool(is_first) or self._fresh
        position = _row("proprio", proprio, self._proprio)
        deter, stoch, actions, q_reward, q_cost, violation, state_violation, surprise = self._step.run(
            [
                "next_deter",
                "next_stoch",
                "candidate_actions",
                "q_reward",
                "q_cost",
                "violation_probability",
                "state_violation_probability",
                "surprise",
            ],
            {
                "image": image[None],
                "proprio": position,
                "deter": self._deter,
                "stoch": self._stoch,
                "previous_action": _row("previous_action", previous_action, self._actions),
                "is_first": np.asarray([float(first)], dtype=np.float32),
            },
        )
        self._deter, self._stoch, self._last_proprio, self._fresh = deter, stoch, position, False
        return StepOutput(
            candidate_actions=actions[0],
            q_reward=q_reward[0],
            q_cost=q_cost[0],
            violation_probability=violation[0],
            state_violation_probability=float(state_violation[0]),
            surprise=float(surprise[0]),
            is_first=first,
        )

    def judge(self, actions: NDArray[np.floating]) -> Judgement:
        """Evaluate actions (N, A) in [-1, 1] in the state after the last step.

        Raises:
            ValueError: wrong shape or values that are not finite.
        """
        batch = np.asarray(actions, dtype=np.float32)
        if batch.ndim != 2 or batch.shape[1] != self._actions or not np.all(np.isfinite(batch)):
            raise ValueError(f"actions must be finite (N, {self._actions}), got {batch.shape}")
        q_reward, q_cost, violation, lookahead = self._judge.run(
            ["q_reward", "q_cost", "violation_probability", "lookahead"],
            {"deter": self._deter, "stoch": self._stoch, "proprio": self._last_proprio, "actions": batch},
        )
        return Judgement(q_reward, q_cost, violation, lookahead)


def _row(name: str, values: NDArray[np.floating], length: int) -> Array:
    row = np.asarray(values, dtype=np.float32).reshape(1, -1)
    if row.shape[1] != length or not np.all(np.isfinite(row)):
        raise ValueError(f"{name} must be {length} finite values, got {np.asarray(values).tolist()}")
    return row


def _shape_fits(found: list[int | str | None], expected: list[int | None]) -> bool:
    return len(found) == len(expected) and all(e is None or f == e for f, e in zip(found, expected, strict=True))
