"""ROS messages to the recorder's samples, and summaries back."""

from __future__ import annotations

import array
from dataclasses import fields

import cv2
import numpy as np
from geometry_msgs.msg import Point
from sensor_msgs.msg import CompressedImage, Image

from fosp_episodes.recorder import DecisionSample, StatusSample, Summary, TaskSample
from fosp_interfaces.msg import EpisodeSummary, PolicyDecision, SafetyStatus, TaskState
from fosp_ros import images, stamps

JPEG_QUALITY = 85


def task_sample(message: TaskState) -> TaskSample:
    """The task state of a frame."""
    return TaskSample(
        stamp_ns=stamps.to_nanoseconds(message.header.stamp),
        phase=int(message.phase),
        episode_id=int(message.episode_id),
        step=int(message.step),
        is_first=bool(message.is_first),
        tool=_point(message.tool),
        goal=_point(message.goal),
        distance=float(message.distance),
        clearance=float(message.clearance),
        reward=float(message.reward),
        cost=float(message.cost),
        cost_reason=str(message.cost_reason),
        reached=bool(message.reached),
        truncated=bool(message.truncated),
        violated=bool(message.violated),
    )


def decision_sample(message: PolicyDecision) -> DecisionSample:
    """The policy's decision on a frame."""
    return DecisionSample(
        stamp_ns=stamps.to_nanoseconds(message.header.stamp),
        model_id=str(message.model_id),
        action=_floats(message.action),
        chosen=min(int(message.chosen), PolicyDecision.ONLINE),
        candidate_actions=_floats(message.candidate_actions),
        probabilities=_floats(message.probabilities),
        q_reward=_floats(message.q_reward),
        q_cost=_floats(message.q_cost),
        violation_probability=_floats(message.violation_probability),
        state_violation_probability=float(message.state_violation_probability),
        surprise=float(message.surprise),
        inference_ms=float(message.inference_ms),
    )


def status_sample(message: SafetyStatus) -> StatusSample:
    """The monitor's status."""
    return StatusSample(
        stamp_ns=stamps.to_nanoseconds(message.header.stamp),
        frame_stamp_ns=stamps.to_nanoseconds(message.frame_stamp),
        state=int(message.state),
        verdict=int(message.verdict),
        reasons=tuple(str(name) for name in message.reason_names),
        text=str(message.text),
        approved_action=_floats(message.approved_action),
        violation_probability=float(message.violation_probability),
        lookahead_probability=float(message.lookahead_probability),
        caution_threshold=float(message.caution_threshold),
        halt_threshold=float(message.halt_threshold),
        surprise=float(message.surprise),
        surprise_bound=float(message.surprise_bound),
        surprise_average=float(message.surprise_average),
        surprise_average_bound=float(message.surprise_average_bound),
        frame_age_s=float(message.frame_age_s),
        decision_age_s=float(message.decision_age_s),
        model_id=str(message.model_id),
    )


def summary_message(summary: Summary) -> EpisodeSummary:
    """The summary as a message."""
    message = EpisodeSummary()
    for name in (f.name for f in fields(Summary)):
        value = getattr(summary, name)
        setattr(message, name, list(value) if isinstance(value, tuple) else value)
    return message


def compressed(message: Image) -> CompressedImage:
    """The image as JPEG; raises ``fosp_core.images.ImageError`` when it is malformed."""
    rgb = images.from_message(message)
    parameters = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), parameters)
    result = CompressedImage(header=message.header, format="rgb8; jpeg compressed bgr8")
    result.data = array.array("B", np.asarray(data).tobytes())
    return result


def _point(point: Point) -> tuple[float, float, float]:
    return float(point.x), float(point.y), float(point.z)


def _floats(values: object) -> tuple[float, ...]:
    return tuple(np.asarray(values, dtype=np.float64).tolist())
