"""All nodes change their model or none does."""

from __future__ import annotations

import pytest

from fosp_trainer.swap import Loader, Reply, swap


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
