"""Who may do what in the graph, as the SROS 2 policy (DDS-Security) says, and the enclave of each node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

VERSION: Final = "0.2.0"
"""Of the policy's schema, as the command ``ros2 security`` of ROS 2 Jazzy and Kilted reads it."""
ROOT: Final = "/fosp"
ENABLED: Final = ("ROS_SECURITY_ENABLE", "true")
OVERRIDE: Final = "ROS_SECURITY_ENCLAVE_OVERRIDE"
_KINDS: Final = {
    "topics": ("topic", {"publish", "subscribe"}),
    "services": ("service", {"reply", "request"}),
    "actions": ("action", {"execute", "call"}),
}


class PolicyError(ValueError):
    """A policy that is not one; the message says what is wrong with it."""


@dataclass(frozen=True)
class Permissions:
    """Absolute names of topics, services and actions, by what may be done with them."""

    publish: frozenset[str] = frozenset()
    subscribe: frozenset[str] = frozenset()
    reply: frozenset[str] = frozenset()
    request: frozenset[str] = frozenset()
    execute: frozenset[str] = frozenset()
    call: frozenset[str] = frozenset()

    def __or__(self, other: Permissions) -> Permissions:
        return Permissions(*(getattr(self, f.name) | getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Permissions) -> Permissions:
        return Permissions(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def lines(self) -> list[str]:
        """One line for each permission."""
        return [f"{f.name} {name}" for f in fields(self) for name in sorted(getattr(self, f.name))]


def enclave(node: str) -> str:
    """Enclave of a node of the graph."""
    return f"{ROOT}/{node}"


def environment(node: str, given: Mapping[str, str]) -> dict[str, str]:
    """What to add to a node's environment: with security on, its own enclave in the place of the launcher's."""
    name, value = ENABLED
    return {OVERRIDE: enclave(node)} if given.get(name) == value else {}


def read_policy(path: Path) -> dict[str, Permissions]:
    """Permissions by enclave.

    Relative names and ``~`` are resolved as ``ros2 security`` does: by namespace and node of the profile.

    Raises:
        PolicyError: not a policy of this version, or something in it that the schema does not know.
    """
    try:
        policy = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise PolicyError(f"{path}: {error}") from error
    if policy.tag != "policy" or policy.get("version") != VERSION:
        raise PolicyError(f"{path}: not a policy of version {VERSION}")
    (enclaves,) = _children(policy, "enclaves")
    found: dict[str, Permissions] = {}
    for each in _children(enclaves, "enclave"):
        where = each.get("path", "")
        if where in found or not where.startswith("/"):
            raise PolicyError(f"{path}: enclave {where!r} is given twice or has no absolute path")
        found[where] = Permissions()
        for profiles in _children(each, "profiles"):
            for profile in _children(profiles, "profile"):
                found[where] |= _profile(profile, f"{path}: {where}")
    return found


def _profile(profile: ElementTree.Element, where: str) -> Permissions:
    namespace, node = profile.get("ns", ""), profile.get("node", "")
    if not namespace.startswith("/") or not node:
        raise PolicyError(f"{where}: a profile needs an absolute ns, and a node")
    granted: dict[str, set[str]] = {}
    for section in profile:
        if section.tag not in _KINDS:
            raise PolicyError(f"{where}: unknown section {section.tag}")
        tag, verbs = _KINDS[section.tag]
        if not section.attrib or not set(section.attrib) <= verbs or set(section.attrib.values()) != {"ALLOW"}:
            raise PolicyError(f"{where}: {section.tag} needs one of {', '.join(sorted(verbs))}, ALLOW")
        names = {_absolute(child.text or "", namespace, node) for child in _children(section, tag)}
        for verb in section.attrib:
            granted.setdefault(verb, set()).update(names)
    return Permissions(**{verb: frozenset(names) for verb, names in granted.items()})


def _absolute(name: str, namespace: str, node: str) -> str:
    base = namespace.rstrip("/")
    if name.startswith("/"):
        return name
    return f"{base}/{node}{name[1:]}" if name.startswith("~") else f"{base}/{name}"


def _children(element: ElementTree.Element, tag: str) -> list[ElementTree.Element]:
    children = list(element)
    if not children or any(child.tag != tag for child in children):
        raise PolicyError(f"{element.tag} must hold {tag} elements only, and at least one")
    return children
