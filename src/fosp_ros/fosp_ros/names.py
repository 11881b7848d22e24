"""Names of the topics, services and actions of the graph, in one place."""

from __future__ import annotations

from typing import Final

CAMERA_IMAGE: Final = "/camera/image_raw"
CAMERA_INFO: Final = "/camera/camera_info"
OVERVIEW_IMAGE: Final = "/camera/overview/image_raw"
JOINT_STATES: Final = "/joint_states"
JOINT_TRAJECTORY: Final = "/panda_arm_controller/joint_trajectory"
POLICY_DECISION: Final = "/fosp/policy/decision"
ARM_COMMAND: Final = "/fosp/arm/command"
ARM_DRY_RUN: Final = "/fosp/arm/dry_run"
SAFETY_STATUS: Final = "/fosp/safety/status"
TASK_STATE: Final = "/fosp/task/state"
DIAGNOSTICS: Final = "/diagnostics"

SAFETY_HALT: Final = "/fosp/safety/halt"
SAFETY_RESET: Final = "/fosp/safety/reset"
SAFETY_LOAD_MODEL: Final = "/fosp/safety/load_model"
POLICY_LOAD_MODEL: Final = "/fosp/policy/load_model"
SCENE_RESET: Final = "/fosp/scene/reset"
SCENE_START: Final = "/fosp/scene/start"
SCENE_STOP: Final = "/fosp/scene/stop"
TASK_READY: Final = "/fosp/task/ready"
TASK_CONTACT: Final = "/fosp/task/contact"
TASK_FALLEN: Final = "/fosp/task/fallen"
TASK_TEACH_GOAL: Final = "/fosp/task/teach_goal"

RUN_EPISODES: Final = "/fosp/episodes/run"
FINE_TUNE: Final = "/fosp/trainer/fine_tune"

POLICY_NODE: Final = "policy_node"
SAFETY_MONITOR: Final = "safety_monitor"
ARM_NODE: Final = "arm_node"
CAMERA_NODE: Final = "camera_node"
SIMULATION_NODE: Final = "simulation_node"
TASK_EVALUATOR: Final = "task_evaluator"
EPISODE_NODE: Final = "episode_node"
TRAINER_NODE: Final = "trainer_node"
RVIZ_NODE: Final = "rviz_node"
CONSOLE_NODE: Final = "console_node"
