"""Arm node: twist commands to joint targets by inverse kinematics, with limits and a watchdog."""
