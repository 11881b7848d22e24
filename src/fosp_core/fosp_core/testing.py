"""A tiny bundle with known behaviour, so that tests and first trials run the real runtime without a trained model."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fosp_core import task
from fosp_core.bundle import Bundle, Manifest, SelectorSettings, Thresholds, write_bundle

DETER, STOCH, LOOKAHEAD = 4, 2, 3


def make_bundle(
    folder: Path | str,
    *,
    offline_action: Sequence[float] = (0.5, 0.0, 0.0),
    online_action: Sequence[float] = (0.0, 0.5, 0.0),
    q_reward: Sequence[float] = (1.0, 2.0),
    image_size: int = task.IMAGE_SIZE,
    task_name: str = task.TASK,
    caution: float = 0.3,
    halt: float = 0.6,
    surprise: float = 5.0,
) -> Bundle:
    """Write a valid bundle whose outputs follow the image by hand-made rules.

    - Violation probability: 0 up to a mean brightness of 0.6 of full scale, rising linearly to 1 at 0.85.
    - Surprise in nats: 50 times the excess of mean blue over mean red beyond 0.2 of full scale.
    - Candidates and Q_r are constants; Q_c equals the violation probability.

    Needs the ``onnx`` package.
    """
    target = Path(folder)
    with tempfile.TemporaryDirectory() as scratch:
        paths = {name: Path(scratch) / name for name in ("policy_step.onnx", "judge.onnx", "weights.safetensors")}
        _write_step(paths["policy_step.onnx"], image_size, offline_action, online_action, q_reward)
        _write_judge(paths["judge.onnx"])
        paths["weights.safetensors"].write_bytes((2).to_bytes(8, "little") + b"{}")
        return write_bundle(
            target,
            Manifest(
                id=target.name,
                task=task_name,
                deter_size=DETER,
                stoch_size=STOCH,
                lookahead_steps=LOOKAHEAD,
                image_size=image_size,
                thresholds=Thresholds(caution=caution, halt=halt, surprise=surprise, method="test"),
                selector=SelectorSettings(),
                provenance={"command": "fosp_core.testing.make_bundle", "created": "2000-01-01T00:00:00+00:00"},
            ),
            paths,
        )


def _write_step(
    path: Path, size: int, offline: Sequence[float], online: Sequence[float], q_reward: Sequence[float]
) -> None:
    from onnx import TensorProto, helper, numpy_helper

    f32 = TensorProto.FLOAT
    proprio, action = task.PROPRIO_LENGTH, task.ACTION_LENGTH
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.UINT8, [1, size, size, 3]),
        helper.make_tensor_value_info("proprio", f32, [1, proprio]),
        helper.make_tensor_value_info("deter", f32, [1, DETER]),
        helper.make_tensor_value_info("stoch", f32, [1, STOCH]),
        helper.make_tensor_value_info("previous_action", f32, [1, action]),
        helper.make_tensor_value_info("is_first", f32, [1]),
    ]
    outputs = [
        helper.make_tensor_value_info("next_deter", f32, [1, DETER]),
        helper.make_tensor_value_info("next_stoch", f32, [1, STOCH]),
        helper.make_tensor_value_info("candidate_actions", f32, [1, 2, action]),
        helper.make_tensor_value_info("q_reward", f32, [1, 2]),
        helper.make_tensor_value_info("q_cost", f32, [1, 2]),
        helper.make_tensor_value_info("violation_probability", f32, [1, 2]),
        helper.make_tensor_value_info("state_violation_probability", f32, [1]),
        helper.make_tensor_value_info("surprise", f32, [1]),
    ]
    # Deter carries [sum of previous actions (3), brightness]; is_first clears the sum.
    constants = {
        "scale": np.float32(1 / 255),
        "one": np.ones(1, np.float32),
        "zero_row": np.zeros((1, 1), np.float32),
        "candidates": np.asarray([[offline, online]], np.float32),
        "values": np.asarray([q_reward], np.float32),
        "sum_mask": np.asarray([[1, 1, 1, 0]], np.float32),
        "two": np.ones((1, 2), np.float32),
        "flat": np.asarray([-1], np.int64),
        "blue_minus_red": np.asarray([[-50.0], [0.0], [50.0]], np.float32),
        "surprise_offset": np.float32(10.0),
        "pixel_axes": np.asarray([1, 2], np.int64),
        "channel_axes": np.asarray([1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=f32),
        helper.make_node("ReduceMean", ["pixels", "pixel_axes"], ["channel_sums"], keepdims=0),
        helper.make_node("Mul", ["channel_sums", "scale"], ["channels"]),
        helper.make_node("ReduceMean", ["channels", "channel_axes"], ["brightness"], keepdims=1),
        helper.make_node("Sub", ["one", "is_first"], ["keep"]),
        helper.make_node("Mul", ["deter", "sum_mask"], ["past"]),
        helper.make_node("Concat", ["previous_action", "zero_row"], ["moved"], axis=1),
        helper.make_node("Add", ["past", "moved"], ["summed"]),
        helper.make_node("Mul", ["summed", "keep"], ["kept"]),
        helper.make_node("Concat", ["zero_row", "zero_row", "zero_row", "brightness"], ["seen"], axis=1),
        helper.make_node("Add", ["kept", "seen"], ["next_deter"]),
        helper.make_node("Mul", ["stoch", "keep"], ["next_stoch"]),
        *_risk_nodes("brightness", "risk"),
        helper.make_node("Mul", ["risk", "two"], ["violation_probability"]),
        helper.make_node("Identity", ["violation_probability"], ["q_cost"]),
        helper.make_node("Reshape", ["risk", "flat"], ["state_violation_probability"]),
        helper.make_node("Identity", ["candidates"], ["candidate_actions"]),
        helper.make_node("Identity", ["values"], ["q_reward"]),
        helper.make_node("MatMul", ["channels", "blue_minus_red"], ["blueness"]),
        helper.make_node("Sub", ["blueness", "surprise_offset"], ["excess"]),
        helper.make_node("Relu", ["excess"], ["surprise_row"]),
        helper.make_node("Reshape", ["surprise_row", "flat"], ["surprise"]),
        # Graph inputs must be used; proprioception has no influence here.
        helper.make_node("Identity", ["proprio"], ["unused"]),
    ]
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in {**constants, **_RISK}.items()]
    _save(path, helper.make_graph(nodes, "policy_step", inputs, outputs, initializers))


def _write_judge(path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper

    f32 = TensorProto.FLOAT
    inputs = [
        helper.make_tensor_value_info("deter", f32, [1, DETER]),
        helper.make_tensor_value_info("stoch", f32, [1, STOCH]),
        helper.make_tensor_value_info("proprio", f32, [1, task.PROPRIO_LENGTH]),
        helper.make_tensor_value_info("actions", f32, ["N", task.ACTION_LENGTH]),
    ]
    outputs = [
        helper.make_tensor_value_info("q_reward", f32, ["N"]),
        helper.make_tensor_value_info("q_cost", f32, ["N"]),
        helper.make_tensor_value_info("violation_probability", f32, ["N"]),
        helper.make_tensor_value_info("lookahead", f32, ["N", LOOKAHEAD]),
    ]
    constants = {
        "pick": np.asarray([[0.0], [0.0], [0.0], [1.0]], np.float32),
        "zero_column": np.zeros((task.ACTION_LENGTH, 1), np.float32),
        "steps": np.ones((1, LOOKAHEAD), np.float32),
        "flat": np.asarray([-1], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["deter", "pick"], ["brightness"]),
        *_risk_nodes("brightness", "risk"),
        helper.make_node("MatMul", ["actions", "zero_column"], ["zeros"]),
        helper.make_node("Add", ["zeros", "risk"], ["risks"]),
        helper.make_node("Reshape", ["risks", "flat"], ["violation_probability"]),
        helper.make_node("Identity", ["violation_probability"], ["q_cost"]),
        helper.make_node("Reshape", ["zeros", "flat"], ["q_reward"]),
        helper.make_node("Mul", ["risks", "steps"], ["lookahead"]),
        helper.make_node("Identity", ["stoch"], ["unused_stoch"]),
        helper.make_node("Identity", ["proprio"], ["unused_proprio"]),
    ]
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in {**constants, **_RISK}.items()]
    _save(path, helper.make_graph(nodes, "judge", inputs, outputs, initializers))


_RISK = {
    "risk_start": np.float32(0.6),
    "risk_slope": np.float32(4.0),
    "risk_low": np.float32(0.0),
    "risk_high": np.float32(1.0),
}


def _risk_nodes(source: str, target: str) -> list[Any]:
    from onnx import helper

    return [
        helper.make_node("Sub", [source, "risk_start"], [f"{target}_shifted"]),
        helper.make_node("Mul", [f"{target}_shifted", "risk_slope"], [f"{target}_scaled"]),
        helper.make_node("Clip", [f"{target}_scaled", "risk_low", "risk_high"], [target]),
    ]


def _save(path: Path, graph: Any) -> None:
    import onnx
    from onnx import helper

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
