"""The policy node: newest frame in, one decision out."""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from typing import Any

import numpy as np
from sensor_msgs.msg import Image

from fosp_core.images import ImageError
from fosp_core.runtime import PolicyRuntime, StepOutput
from fosp_core.selector import Selection, Selector
from fosp_core.task import ACTION_LENGTH, BASE_FRAME
from fosp_interfaces.msg import PolicyDecision, SafetyStatus
from fosp_interfaces.srv import LoadModel
from fosp_ros import names, qos, runner
from fosp_ros.diagnostics import Diagnostics, Health, Level
from fosp_ros.errors import MessageError
from fosp_ros.frames import FrameReader, ModelFrame
from fosp_ros.lifecycle import AUTOSTART, ManagedNode
from fosp_ros.model import MODEL_PARAMETERS, answer_load, open_model
from fosp_ros.parameters import Parameter, Parameters
from fosp_ros.polling import Listener, PolledSubscription
from fosp_ros.stamps import from_nanoseconds, to_nanoseconds

PARAMETERS = (
    AUTOSTART,
    *MODEL_PARAMETERS,
    Parameter(
        "selection_mode",
        "",
        "How candidates are chosen; empty: as the bundle says.",
        choices=("", "greedy", "sample", "offline", "online"),
    ),
    Parameter("kappa", -1.0, "Weight of the cost value in the selection; negative: as the bundle says.", "", -1.0, 1e3),
    Parameter("temperature", 0.0, "Temperature of the selection; 0: as the bundle says.", "", 0.0, 1e3),
    Parameter("seed", 0, "Seed of sampled selection.", low=0, high=2**31 - 1, read_only=True),
    Parameter("joint_tolerance_s", 0.05, "Largest gap between frame and joint state.", "s", 0.005, 0.5, read_only=True),
)

_REMEMBERED = 20


class PolicyNode(ManagedNode):
    """Wires filter and selector to their topics. Inference runs in a thread of its own, on the newest frame only."""

    def __init__(self) -> None:
        super().__init__(names.POLICY_NODE)
        self._p = Parameters(self, PARAMETERS)
        self._runtime: PolicyRuntime | None = None
        self._selector: Selector | None = None
        self._selection = ("", -1.0, 0.0)
        self._reader = FrameReader(self, self._p.float("joint_tolerance_s"))
        self._approved: OrderedDict[int, tuple[float, ...]] = OrderedDict()
        self._last_stamp_ns = 0
        self._decisions = 0
        self._fault = ""
        self._publisher = self.create_publisher(PolicyDecision, names.POLICY_DECISION, qos.DECISION)
        self._statuses = PolledSubscription(self, SafetyStatus, names.SAFETY_STATUS, qos.STATUS_HISTORY)
        images = PolledSubscription(self, Image, names.CAMERA_IMAGE, qos.IMAGE)
        self._inference = Listener(self, [(images, self._on_image)], self._on_error, "inference")
        self._diagnostics = Diagnostics(self, self._health)
        self.create_service(LoadModel, names.POLICY_LOAD_MODEL, self._on_load)
        self._inference.start()
        if self._p.boolean("autostart"):
            self.start()

    def configure(self) -> None:
        """Load the model."""
        runtime = open_model(self._p, self._p.string("bundle"))
        self._inference.call(lambda: self._use(runtime))

    def activate(self) -> None:
        """Begin to decide, with a filter that remembers nothing."""
        self._inference.call(self._forget)

    def cleanup(self) -> None:
        """Let go of the model."""
        self._inference.call(self._drop)

    def close(self) -> None:
        """End the inference."""
        self._inference.close()

    # Runtime and selector belong to the inference thread.

    def _use(self, runtime: PolicyRuntime) -> None:
        self._runtime, self._selector = runtime, self._make_selector(runtime)
        self.get_logger().info(f"model {runtime.bundle.id} on {runtime.provider}, selection {self._selector.mode}")

    def _forget(self) -> None:
        if self._runtime is not None:
            self._runtime.reset()

    def _drop(self) -> None:
        self._runtime = self._selector = None

    def _make_selector(self, runtime: PolicyRuntime) -> Selector:
        settings = runtime.bundle.manifest.selector
        kappa, temperature = self._p.float("kappa"), self._p.float("temperature")
        mode: Any = self._p.string("selection_mode") or settings.mode
        self._selection = self._selection_parameters()
        return Selector(
            settings.kappa if kappa < 0.0 else kappa,
            settings.temperature if temperature == 0.0 else temperature,
            mode,
            settings.cost_limit,
            self._p.integer("seed"),
        )

    def _selection_parameters(self) -> tuple[str, float, float]:
        return self._p.string("selection_mode"), self._p.float("kappa"), self._p.float("temperature")

    def _on_image(self, message: Image) -> None:
        if not self.is_active:
            return
        runtime, selector = self._runtime, self._selector
        if runtime is None or selector is None:
            return
        try:
            frame = self._reader.read(message, runtime.bundle.manifest.image_size)
        except (ImageError, MessageError) as error:
            kind = "bad_image" if isinstance(error, ImageError) else "no_joint_states"
            self._diagnostics.count(kind, str(error))
            if self._fault != kind:
                self.get_logger().warning(f"no decision: {error}")
            self._fault = kind
            return
        # What was really executed since the last frame; held or unknown counts as no motion.
        executed = self._executed(self._last_stamp_ns)
        self._last_stamp_ns = frame.stamp_ns
        started = time.perf_counter()
        output = runtime.step(frame.image, frame.tool, np.asarray(executed), frame.is_first)
        elapsed_ms = (time.perf_counter() - started) * 1e3
        if frame.running and self.is_active:
            if self._selection != self._selection_parameters():
                selector = self._selector = self._make_selector(runtime)
            selection = selector.select(output)
            self._publisher.publish(self._decision(frame, output, selection, selector, runtime.bundle.id, elapsed_ms))
            self._decisions += 1
        self._fault = ""

    def _executed(self, stamp_ns: int) -> tuple[float, ...]:
        for status in self._statuses.take():
            self._approved[to_nanoseconds(status.frame_stamp)] = tuple(status.approved_action)
        while len(self._approved) > _REMEMBERED:
            self._approved.popitem(last=False)
        return self._approved.get(stamp_ns) or (0.0,) * ACTION_LENGTH

    def _decision(
        self,
        frame: ModelFrame,
        output: StepOutput,
        selection: Selection,
        selector: Selector,
        model_id: str,
        elapsed_ms: float,
    ) -> PolicyDecision:
        message = PolicyDecision(model_id=model_id, is_first=output.is_first, chosen=selection.chosen)
        message.header.stamp = from_nanoseconds(frame.stamp_ns)
        message.header.frame_id = BASE_FRAME
        if frame.state is not None:
            message.episode_id, message.step = frame.state.episode_id, frame.state.step
        message.action = selection.action.tolist()
        message.candidate_actions = output.candidate_actions.ravel().tolist()
        message.probabilities = selection.probabilities.tolist()
        message.q_reward = output.q_reward.tolist()
        message.q_cost = output.q_cost.tolist()
        message.violation_probability = output.violation_probability.tolist()
        message.state_violation_probability = output.state_violation_probability
        message.surprise = output.surprise
        message.kappa, message.temperature = selector.kappa, selector.temperature
        message.decided_at = self.get_clock().now().to_msg()
        message.inference_ms = elapsed_ms
        return message

    def _on_load(self, request: LoadModel.Request, response: LoadModel.Response) -> LoadModel.Response:
        def use(runtime: PolicyRuntime) -> None:
            self._inference.call(lambda: self._use(runtime))

        return answer_load(self, self._p, request, response, self._runtime, self._reader.running, use)

    def _on_error(self, error: Exception) -> None:
        self._diagnostics.count("internal_error", f"{type(error).__name__}: {error}")
        if self._fault != "internal_error":
            self.get_logger().error(f"no decision: {type(error).__name__}: {error}")
        self._fault = "internal_error"

    def _health(self) -> Health:
        runtime, fault = self._runtime, self._fault
        values = {
            "model_id": runtime.bundle.id if runtime else "",
            "provider": runtime.provider if runtime else "",
            "decisions": self._decisions,
        }
        if not self.is_active:
            return Health(Level.WARN, "not active", values)
        if fault:
            return Health(Level.ERROR, f"no decision: {fault.replace('_', ' ')}", values)
        return Health(Level.OK, "deciding" if self._reader.running else "waiting for an episode", values)


def main(args: list[str] | None = None) -> int:
    """Entry point of the executable ``policy_node``."""
    return runner.run(PolicyNode, names.POLICY_NODE, args)


if __name__ == "__main__":
    sys.exit(main())
