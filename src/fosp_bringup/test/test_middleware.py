"""How nodes reach each other when nobody says otherwise, and that what somebody says stands."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from fosp_bringup.middleware import PROFILES, RANGE, TRANSPORTS, environment

SPACE = {"dds": "http://www.eprosima.com"}


@pytest.mark.parametrize("given", [{}, {RANGE: "", PROFILES: ""}, {"RMW_IMPLEMENTATION": "rmw_fastrtps_dynamic_cpp"}])
def test_by_default_fast_dds_uses_the_loopback_interface_and_nothing_else(given: dict[str, str]) -> None:
    chosen = environment(given)
    assert chosen[RANGE] == "SYSTEM_DEFAULT", "any other range would add transports to those of the profile"
    profiles = ElementTree.parse(Path(chosen[PROFILES])).getroot()
    assert [e.text for e in profiles.iterfind(".//dds:interfaceWhiteList/dds:address", SPACE)] == ["127.0.0.1"]
    assert [e.text for e in profiles.iterfind(".//dds:transport_descriptor/dds:type", SPACE)] == ["UDPv4"]
    participant = profiles.find(".//dds:participant", SPACE)
    assert participant is not None and participant.get("is_default_profile") == "true"
    assert [e.text for e in participant.iterfind(".//dds:useBuiltinTransports", SPACE)] == ["false"]


@pytest.mark.parametrize("given", [{PROFILES: "/mine.xml"}, {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}])
def test_with_a_profile_or_a_middleware_of_the_users_the_range_keeps_others_out(given: dict[str, str]) -> None:
    assert environment(given) == {RANGE: "LOCALHOST"}


def test_a_range_of_the_users_stands() -> None:
    assert environment({RANGE: "SUBNET"}) == {TRANSPORTS: "LARGE_DATA"}
    assert environment({RANGE: "SUBNET", TRANSPORTS: "UDPv4"}) == {TRANSPORTS: "UDPv4"}
