"""Choice of a ROS domain."""

from __future__ import annotations

from pathlib import Path

import pytest

from fosp_bringup import domain

HEADER = "  sl  local_address rem_address   st\n"


def test_domains_are_seen_from_udp_ports(tmp_path: Path) -> None:
    table = tmp_path / "udp"
    ports = (7400 + 250 * 3 + 10, 7400 + 250 * 42 + 249, 53, 60000)
    table.write_text(HEADER + "".join(f"  0: 00000000:{port:04X} 00000000:0000 07\n" for port in ports))
    assert domain.used_domains([table]) == {3, 42}


def test_missing_table_means_nothing_is_known(tmp_path: Path) -> None:
    assert domain.used_domains([tmp_path / "absent"]) == set()


def test_free_domain_is_not_used_and_not_the_default_one() -> None:
    used = set(range(1, 102)) - {17}
    assert domain.free_domain(used) == 17


def test_no_free_domain_is_said() -> None:
    with pytest.raises(RuntimeError, match="in use"):
        domain.free_domain(set(range(102)))


@pytest.mark.parametrize("text", ["abc", "-1", "233"])
def test_impossible_domain_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", text)
    with pytest.raises(ValueError, match="ROS_DOMAIN_ID"):
        domain.current_domain()


def test_unset_domain_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROS_DOMAIN_ID", raising=False)
    assert domain.current_domain() == 0
