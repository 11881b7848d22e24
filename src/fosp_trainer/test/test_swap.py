"""All nodes change their model or none does."""

from __future__ import annotations

from pathlib import Path

import pytest

from fosp_core import models, task
from fosp_core.bundle import BundleError, newest, update_manifest
from fosp_core.testing import make_bundle
from fosp_trainer.swap import Loader, Reply, change, finish_interrupted, swap


class Node:
    """A node that refuses some bundles; ``deaf`` ones change but their answer is lost."""

    def __init__(self, name: str, refuses: tuple[str, ...] = (), deaf: bool = False) -> None:
        self.model, self.refuses, self.deaf, self.name = "old", refuses, deaf, name

    def load(self, bundle: str) -> Reply:
        if bundle in self.refuses:
            return Reply(False, "damaged")
        self.model = bundle
        return Reply(False, "no answer") if self.deaf and bundle == "new" else Reply(True)

    @property
    def loader(self) -> Loader:
        return Loader(self.name, self.load)


def test_all_nodes_change_when_all_accept() -> None:
    nodes = [Node("monitor"), Node("policy")]
    done = swap([n.loader for n in nodes], "new", "old")
    assert done.success and done.consistent
    assert [n.model for n in nodes] == ["new", "new"]


@pytest.mark.parametrize("refusing", [0, 1])
def test_none_changes_when_one_refuses_whichever_it_is(refusing: int) -> None:
    nodes = [Node("monitor"), Node("policy")]
    nodes[refusing].refuses = ("new",)
    done = swap([n.loader for n in nodes], "new", "old")
    assert not done.success and done.consistent
    assert nodes[refusing].name in done.message and "damaged" in done.message
    assert [n.model for n in nodes] == ["old", "old"]


def test_node_whose_answer_was_lost_is_brought_back_too() -> None:
    nodes = [Node("monitor"), Node("policy", deaf=True)]
    assert not swap([n.loader for n in nodes], "new", "old").success
    assert [n.model for n in nodes] == ["old", "old"]


def test_nodes_that_disagree_in_the_end_are_named() -> None:
    nodes = [Node("monitor", refuses=("old",)), Node("policy", refuses=("new",))]
    done = swap([n.loader for n in nodes], "new", "old")
    assert not done.success and not done.consistent
    assert "could not go back" in done.message and "monitor" in done.message


NEW, OLD = "safereach/.rounds/new", "safereach/old"


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A models folder with ``old`` in use and ``new`` waiting."""
    pytest.importorskip("onnx")
    make_bundle(tmp_path / task.TASK / "old")
    bundle = make_bundle(tmp_path / task.TASK / models.ROUNDS / "new")
    origin = {"parent": "old", "created": "2026-01-01T00:00:00+00:00"}
    update_manifest(bundle, provenance=origin, evaluation={"gate": {"promoted": True}})
    return tmp_path


def test_change_is_in_force_when_all_nodes_have_loaded(root: Path) -> None:
    nodes = [Node("monitor"), Node("policy")]
    done = change(root, [n.loader for n in nodes], "new", "old", lambda: models.promote(root, "new"))
    assert done.success and [n.model for n in nodes] == [NEW, NEW]
    assert newest(root).name == "new" and models.unfinished_swap(root) is None


def test_change_that_cannot_be_put_in_force_is_undone(root: Path) -> None:
    nodes = [Node("monitor"), Node("policy")]

    def commit() -> None:
        raise OSError("read-only file system")

    done = change(root, [n.loader for n in nodes], "new", "old", commit)
    assert not done.success and done.consistent and "read-only" in done.message
    assert [n.model for n in nodes] == [OLD, OLD] and newest(root).name == "old"


def test_nodes_that_disagree_leave_the_note_for_another_attempt(root: Path) -> None:
    nodes = [Node("monitor", refuses=(OLD,)), Node("policy", refuses=(NEW,))]
    assert not change(root, [n.loader for n in nodes], "new", "old", lambda: None).consistent
    assert models.unfinished_swap(root) == models.Swap("new", "old")


@pytest.mark.parametrize("moment", ["before the monitor", "before the policy", "before the rename", "after the rename"])
def test_killed_at_any_moment_all_nodes_come_to_the_model_that_graphs_start_with(root: Path, moment: str) -> None:
    nodes = [Node("monitor"), Node("policy")]
    for node in nodes:
        node.model = OLD

    def killing(node: Node) -> Loader:
        def load(bundle: str) -> Reply:
            if moment == f"before the {node.name}":
                raise Killed
            return node.load(bundle)

        return Loader(node.name, load)

    def commit() -> None:
        if moment == "after the rename":
            models.promote(root, "new")
        raise Killed

    with pytest.raises(Killed):
        change(root, [killing(n) for n in nodes], "new", "old", commit)
    # the policy runs the old model, or the whole new one that passed the gate
    assert all(n.model in (OLD, NEW) for n in nodes)
    active = nodes[0].model.rsplit("/", 1)[-1]
    told = finish_interrupted(root, [n.loader for n in nodes], active)
    expected = "safereach/new" if moment == "after the rename" else OLD
    assert [n.model for n in nodes] == [expected, expected] and "interrupted" in told
    assert newest(root).name == expected.rsplit("/", 1)[-1]
    assert finish_interrupted(root, [n.loader for n in nodes], active) == ""


def test_graph_that_was_started_with_a_third_model_is_left_alone(root: Path) -> None:
    models.begin_swap(root, models.Swap("new", "old"))
    node = Node("monitor")
    assert "third" in finish_interrupted(root, [node.loader], "third")
    assert node.model == "old" and models.unfinished_swap(root) is None


def test_node_that_cannot_load_keeps_the_note(root: Path) -> None:
    models.begin_swap(root, models.Swap("new", "old"))
    with pytest.raises(BundleError, match="damaged"):
        finish_interrupted(root, [Node("monitor", refuses=(OLD,)).loader], "old")
    assert models.unfinished_swap(root) is not None
