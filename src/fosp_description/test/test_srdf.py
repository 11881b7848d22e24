"""MoveIt's description fits the URDF."""

import itertools
import xml.etree.ElementTree as ET

import mujoco
import numpy as np
import pytest

from fosp_description import srdf_path, urdf_path


@pytest.fixture(scope="module")
def srdf() -> ET.Element:
    return ET.parse(srdf_path()).getroot()


@pytest.fixture(scope="module")
def urdf() -> ET.Element:
    return ET.parse(urdf_path()).getroot()


def test_names_are_those_of_the_urdf(srdf: ET.Element, urdf: ET.Element) -> None:
    links = {link.get("name") for link in urdf.iter("link")}
    assert srdf.get("name") == urdf.get("name")
    chain = srdf.find("group/chain")
    named = {chain.get("base_link"), chain.get("tip_link")}
    for pair in srdf.iter("disable_collisions"):
        named |= {pair.get("link1"), pair.get("link2")}
    assert named <= links


def test_posture_is_within_the_limits(srdf: ET.Element, urdf: ET.Element) -> None:
    limits = {j.get("name"): j.find("limit") for j in urdf.findall("joint[@type='revolute']")}
    values = {j.get("name"): float(j.get("value")) for j in srdf.findall("group_state/joint")}
    assert set(values) == set(limits)
    for name, value in values.items():
        assert float(limits[name].get("lower")) < value < float(limits[name].get("upper"))


def test_links_that_can_touch_are_tested_for_collision_and_neighbours_are_not(
    srdf: ET.Element, urdf: ET.Element
) -> None:
    model = mujoco.MjModel.from_xml_path(str(urdf_path()))
    data, rng = mujoco.MjData(model), np.random.default_rng(1)
    geoms: dict[str, list[int]] = {}
    for geom in np.flatnonzero(model.geom_contype):
        geoms.setdefault(model.body(model.geom_bodyid[geom]).name, []).append(int(geom))
    off = {frozenset((p.get("link1"), p.get("link2"))): p.get("reason") for p in srdf.iter("disable_collisions")}
    counts = dict.fromkeys(itertools.combinations(geoms, 2), 0)
    postures = 300
    for _ in range(postures):
        data.qpos[:] = rng.uniform(model.jnt_range[:, 0], model.jnt_range[:, 1])
        mujoco.mj_kinematics(model, data)
        for pair in counts:
            distances = (
                mujoco.mj_geomDistance(model, data, a, b, 0.02, None)
                for a, b in itertools.product(geoms[pair[0]], geoms[pair[1]])
            )
            counts[pair] += min(distances) < 0.0
    for pair, count in counts.items():
        reason = off.get(frozenset(pair))
        if reason == "Adjacent":
            assert count == postures, pair
        elif reason == "Never":
            assert count == 0, pair
        else:
            assert count < postures, pair
