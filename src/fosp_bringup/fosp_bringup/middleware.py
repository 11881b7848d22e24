"""How the nodes reach each other unless somebody says otherwise: on this computer only, over its loopback interface."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ament_index_python.packages import get_package_share_directory

RANGE: Final = "ROS_AUTOMATIC_DISCOVERY_RANGE"
PROFILES: Final = "FASTDDS_DEFAULT_PROFILES_FILE"
TRANSPORTS: Final = "FASTDDS_BUILTIN_TRANSPORTS"
_FAST_DDS: Final = "rmw_fastrtps"


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Variables to add to an environment.

    Where it has a discovery range of its own, only what lets Fast DDS carry whole images. Otherwise Fast DDS gets a
    profile of this package, which says why; with another middleware, or a profile of the user's, the discovery range
    keeps other computers out.
    """
    if given.get(RANGE):
        return {TRANSPORTS: given.get(TRANSPORTS, "LARGE_DATA")}
    if given.get(PROFILES) or not given.get("RMW_IMPLEMENTATION", _FAST_DDS).startswith(_FAST_DDS):
        return {RANGE: "LOCALHOST"}
    profile = Path(get_package_share_directory("fosp_bringup")) / "config" / "fastdds_loopback.xml"
    return {RANGE: "SYSTEM_DEFAULT", PROFILES: str(profile)}
