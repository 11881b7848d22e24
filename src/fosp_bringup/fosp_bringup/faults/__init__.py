"""Faults injected into the running graph: what is broken how, and what the arm, the monitor and the operator see."""
