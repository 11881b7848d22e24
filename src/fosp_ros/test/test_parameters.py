import math

import pytest
import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from fosp_ros.errors import ConfigurationError
from fosp_ros.parameters import Parameter, Parameters, markdown

RATE = Parameter("rate_hz", 10.0, "Frames a second.", unit="Hz", low=1.0, high=60.0)
COUNT = Parameter("count", 3, "How many.", low=0, high=5)
MODE = Parameter("mode", "greedy", "How to choose.", choices=("greedy", "sample"))
LIMIT = Parameter("limit_s", 0.2, "Oldest frame.", unit="s", low=0.01, locked_while_active=True)
FIXED = Parameter("device", "", "Where from.", read_only=True)
ALL = [RATE, COUNT, MODE, LIMIT, FIXED]


@pytest.fixture
def context():
    rclpy.init(domain_id=None)
    yield
    rclpy.shutdown()


def make_node(**overrides) -> Node:
    return Node("parameter_test", parameter_overrides=[RosParameter(k, value=v) for k, v in overrides.items()])


def test_defaults_and_overrides(context):
    node = make_node(rate_hz=20.0, mode="sample")
    p = Parameters(node, ALL)
    assert (p.float("rate_hz"), p.integer("count"), p.string("mode"), p.float("limit_s")) == (20.0, 3, "sample", 0.2)
    node.destroy_node()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("rate_hz", 500.0, r"rate_hz.*\[1, 60\] Hz"),
        ("rate_hz", 20, r"rate_hz.*double"),
        ("rate_hz", math.nan, "rate_hz"),
        ("count", 9, r"count.*\[0, 5\]"),
        ("mode", "best", "mode.*greedy, sample"),
    ],
)
def test_wrong_value_at_start_is_named(context, name, value, expected):
    node = make_node(**{name: value})
    with pytest.raises(ConfigurationError, match=expected):
        Parameters(node, ALL)
    node.destroy_node()


def test_changes_while_running_are_checked(context):
    node = make_node()
    locked = True
    p = Parameters(node, ALL, is_locked=lambda: locked)

    def change(name, value):
        return node.set_parameters([RosParameter(name, value=value)])[0]

    assert change("rate_hz", 30.0).successful
    assert p.float("rate_hz") == 30.0
    assert not change("rate_hz", 0.0).successful
    refused = change("mode", "best")
    assert not refused.successful
    assert "greedy, sample" in refused.reason
    refused = change("limit_s", 5.0)
    assert not refused.successful
    assert "active" in refused.reason
    assert not change("device", "/dev/video0").successful
    locked = False
    assert change("limit_s", 5.0).successful
    assert (p.float("rate_hz"), p.string("mode"), p.float("limit_s")) == (30.0, "greedy", 5.0)
    node.destroy_node()


def test_a_default_out_of_range_is_a_programming_error():
    with pytest.raises(ValueError, match="rate"):
        Parameter("rate", 0.0, "", low=1.0)


def test_documentation_lists_every_parameter():
    table = markdown(ALL)
    assert "| `rate_hz` | double | 10.0 | Hz | [1, 60] | Frames a second. |" in table
    assert all(f"`{p.name}`" in table for p in ALL)
