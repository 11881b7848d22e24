"""The client of the graph: what it does about answers that do not come."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from rclpy.task import Future

from fosp_bringup import client as clients
from fosp_bringup.client import GraphClient, SilenceError
from fosp_bringup.domain import free_domain


class LossyClient:
    """A client of a service whose first answer is lost."""

    def __init__(self, successful: bool) -> None:
        self.asked: list[Any] = []
        self._successful = successful

    def service_is_ready(self) -> bool:
        return True

    def call_async(self, request: Any) -> Any:
        self.asked.append(request)
        future: Any = Future()
        if len(self.asked) > 1:
            future.set_result(SimpleNamespace(results=[SimpleNamespace(successful=self._successful, reason="no")]))
        return future


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[GraphClient]:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(free_domain()))
    monkeypatch.setattr(clients, "ASK_AGAIN_S", 0.1)
    with GraphClient() as client:
        monkeypatch.setattr(client.node, "destroy_client", lambda _: True)
        yield client


def test_request_whose_answer_is_lost_is_repeated(client: GraphClient, monkeypatch: pytest.MonkeyPatch) -> None:
    lossy = LossyClient(successful=True)
    monkeypatch.setattr(client.node, "create_client", lambda *_: lossy)
    client.set_parameter("somebody", "number", 3, lambda: None)
    assert len(lossy.asked) == 2 and lossy.asked[0] is lossy.asked[1]


def test_refused_parameter_is_said_by_name(client: GraphClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.node, "create_client", lambda *_: LossyClient(successful=False))
    with pytest.raises(SilenceError, match="somebody did not take number = 3: no"):
        client.set_parameter("somebody", "number", 3, lambda: None)
