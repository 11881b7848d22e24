import pytest
from builtin_interfaces.msg import Time

from fosp_ros import stamps


def test_nanoseconds_are_exact():
    ns = 1_750_000_000_123_456_789
    assert stamps.to_nanoseconds(stamps.from_nanoseconds(ns)) == ns


def test_seconds_round_trip():
    assert stamps.to_seconds(stamps.from_seconds(12.5)) == 12.5


def test_age_is_negative_for_the_future():
    assert stamps.age_s(Time(sec=2), 1_500_000_000) == pytest.approx(-0.5)


@pytest.mark.parametrize("ns", [-1, 2**31 * 10**9])
def test_times_outside_of_a_stamp_are_refused(ns):
    with pytest.raises(ValueError, match="no time"):
        stamps.from_nanoseconds(ns)
