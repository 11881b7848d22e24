"""Parameters, declared once: type, default, description, unit, range.

A node lists its parameters as ``Parameter`` values. ``declare`` declares them with their ranges, so that a value out of
range is refused by name, at start and while running; ``markdown`` prints the list for the documentation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from fosp_ros.errors import ConfigurationError

Value = bool | int | float | str


@dataclass(frozen=True)
class Parameter:
    """One parameter. The type is that of the default; ``low`` and ``high`` are inclusive."""

    name: str
    default: Value
    description: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    read_only: bool = False
    """Fixed from the start of the node."""
    locked_while_active: bool = False
    """Cannot be changed while the lifecycle node is active (safety parameters)."""

    def __post_init__(self) -> None:
        fault = self.fault(self.default)
        if fault:
            raise ValueError(fault)

    @property
    def type_name(self) -> str:
        """ROS name of the type."""
        return {bool: "bool", int: "integer", float: "double", str: "string"}[type(self.default)]

    @property
    def range_text(self) -> str:
        """Range or choices for people; empty when any value of the type will do."""
        if self.choices:
            return " | ".join(self.choices)
        if self.low is None and self.high is None:
            return ""
        low = "-inf" if self.low is None else f"{self.low:g}"
        high = "inf" if self.high is None else f"{self.high:g}"
        return f"[{low}, {high}]"

    @property
    def expectation(self) -> str:
        """What a value must be, for error messages."""
        unit = f" {self.unit}" if self.unit else ""
        if self.choices:
            return f"{self.name!r} must be one of: {', '.join(self.choices)}"
        within = f" in {self.range_text}" if self.range_text else ""
        example = f", e.g. {self.default}" if isinstance(self.default, float) else ""
        return f"{self.name!r} must be of type {self.type_name}{within}{unit}{example}"

    def fault(self, value: object) -> str:
        """What is wrong with a value; empty when it is acceptable."""
        acceptable = type(value) is type(self.default) and (not self.choices or value in self.choices)
        if acceptable and isinstance(value, int | float) and not isinstance(value, bool):
            low = -math.inf if self.low is None else self.low
            high = math.inf if self.high is None else self.high
            acceptable = math.isfinite(value) and low <= value <= high
        return "" if acceptable else f"parameter {self.name!r} cannot be {value!r}; {self.expectation}"

    def descriptor(self) -> ParameterDescriptor:
        """Descriptor with description and range."""
        text = self.description + (f" [{self.unit}]" if self.unit else "")
        descriptor = ParameterDescriptor(name=self.name, description=text, read_only=self.read_only)
        if self.choices:
            descriptor.additional_constraints = f"one of: {', '.join(self.choices)}"
        elif self.low is not None or self.high is not None:
            if isinstance(self.default, float):
                low = -1e308 if self.low is None else float(self.low)
                high = 1e308 if self.high is None else float(self.high)
                descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
            else:
                ilow = -(2**63) if self.low is None else int(self.low)
                ihigh = 2**63 - 1 if self.high is None else int(self.high)
                descriptor.integer_range = [IntegerRange(from_value=ilow, to_value=ihigh, step=1)]
        return descriptor


class Parameters:
    """Values of a node's declared parameters, read through the node so that changes while running are seen."""

    def __init__(
        self, node: Node, declared: Sequence[Parameter], is_locked: Callable[[], bool] = lambda: False
    ) -> None:
        """Declare all; raises ``ConfigurationError`` that names the parameter and what is wrong with its value.

        ``is_locked`` says whether parameters with ``locked_while_active`` must not change now.
        """
        self._node = node
        self._declared = {p.name: p for p in declared}
        self._is_locked = is_locked
        for parameter in declared:
            try:
                node.declare_parameter(parameter.name, parameter.default, parameter.descriptor())
            except ParameterException as error:
                raise ConfigurationError(f"{error}; {parameter.expectation}") from error
            fault = parameter.fault(self._get(parameter.name))
            if fault:
                raise ConfigurationError(fault)
        node.add_on_set_parameters_callback(self._check)

    def float(self, name: str) -> float:
        """Value of a parameter of type double."""
        return float(self._get(name))

    def integer(self, name: str) -> int:
        """Value of a parameter of type integer."""
        return int(self._get(name))

    def boolean(self, name: str) -> bool:
        """Value of a parameter of type bool."""
        return bool(self._get(name))

    def string(self, name: str) -> str:
        """Value of a parameter of type string."""
        return str(self._get(name))

    def _get(self, name: str) -> Any:
        return self._node.get_parameter(name).value

    def _check(self, changes: list[RosParameter[Any]]) -> SetParametersResult:
        for change in changes:
            declared = self._declared.get(change.name)
            if declared is None:
                continue
            fault = declared.fault(change.value)
            if not fault and declared.locked_while_active and self._is_locked():
                fault = f"parameter {change.name!r} cannot change while the node is active; deactivate it first"
            if fault:
                self._node.get_logger().warning(f"refused: {fault}")
                return SetParametersResult(successful=False, reason=fault)
        return SetParametersResult(successful=True)


def markdown(parameters: Iterable[Parameter]) -> str:
    """Table of parameters in Markdown, for the documentation."""
    lines = ["| parameter | type | default | unit | range | meaning |", "|---|---|---|---|---|---|"]
    for p in parameters:
        default = repr(p.default) if isinstance(p.default, str) else str(p.default).lower()
        meaning = p.description
        if p.read_only:
            meaning += " Fixed at start."
        if p.locked_while_active:
            meaning += " Cannot change while active."
        allowed = p.range_text.replace("|", "\\|")
        lines.append(f"| `{p.name}` | {p.type_name} | {default} | {p.unit} | {allowed} | {meaning} |")
    return "\n".join(lines) + "\n"
