"""ROS domains of this computer: which are taken, and by whom."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Final

# RTPS 2.5, 9.6.2.3: the ports of domain d are 7400 + 250 d and up.
_PORT_BASE: Final = 7400
_PORTS_PER_DOMAIN: Final = 250
_LAST_DOMAIN: Final = 101
"""Beyond it, ports meet those that Linux gives out."""
_SOCKET_TABLES: Final = (Path("/proc/net/udp"), Path("/proc/net/udp6"))


def used_domains(tables: Iterable[Path] = _SOCKET_TABLES) -> set[int]:
    """Domains that some DDS participant on this computer listens in, seen from its UDP ports."""
    ports: set[int] = set()
    for table in tables:
        try:
            lines = table.read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            address, port = line.split()[1].rsplit(":", 1)
            if address:
                ports.add(int(port, 16))
    domains = {(port - _PORT_BASE) // _PORTS_PER_DOMAIN for port in ports if port >= _PORT_BASE}
    return {d for d in domains if 0 <= d <= _LAST_DOMAIN}


def free_domain(used: set[int] | None = None) -> int:
    """A domain that nobody on this computer uses, chosen at random; ``RuntimeError`` when all are taken."""
    taken = used_domains() if used is None else used
    # Not 0: every ROS installation that sets nothing is there.
    candidates = [d for d in range(1, _LAST_DOMAIN + 1) if d not in taken]
    if not candidates:
        raise RuntimeError("all ROS domains of this computer are in use; stop a graph or set ROS_DOMAIN_ID")
    return random.SystemRandom().choice(candidates)


def current_domain() -> int:
    """The domain that ``ROS_DOMAIN_ID`` names, 0 when it is not set; ``ValueError`` when it is no domain."""
    text = os.environ.get("ROS_DOMAIN_ID", "") or "0"
    if not text.isdigit() or int(text) > 232:
        raise ValueError(f"ROS_DOMAIN_ID must be a whole number in [0, 232], got {text!r}")
    return int(text)
