"""The identity processor and what only the node knows: when it asks, what it says if it can not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from retina_otel.model.batches import How
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind
from retina_otel.processors.identity import IdentityProcessor, IdentitySettings
from tests.unit.processors.test_identity_views import CLUSTER_ADDRESS, NODE_ADDRESS, TCP, End, World

HERE, THERE = End(NODE_ADDRESS, 9100, 2), End("10.0.1.1", 80)
SERVICE = End(CLUSTER_ADDRESS, 443)


class Told(World):
    """With what the processor says of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.asked = 0
        answer = self.owners.owners

        def counted(*ends: np.ndarray) -> np.ndarray:
            self.asked += 1
            return answer(*ends)

        self.owners.owners = counted  # type: ignore[method-assign]
        context = replace(self.processor._context, degraded=self.told.append)
        self.processor = IdentityProcessor(IdentitySettings(), context)


@pytest.fixture
def world() -> Told:
    return Told()


def test_nobody_looks_at_sockets_where_no_pod_could_own_one(world: Told) -> None:
    world.table.apply([], ["uid-agent"])
    world.table.advance(1)
    world.table.advance(100_000_000_000)
    assert world.who((HERE, THERE)) == [("here", "api")]
    assert world.asked == 0

    world.table.update([Endpoint(EndpointKind.POD, "uid-new", {}, aliases=("c2",))], source="k8s")
    assert world.who((HERE, THERE)) == [("here", "api")]
    assert world.asked


def test_what_the_node_can_not_tell_is_told_once_and_taken_back(world: Told) -> None:
    world.who((HERE, THERE), (End("10.0.0.1", 4000, 7), SERVICE))
    assert world.told == []

    world.owners.unavailable = "no sockets"
    world.nat.unavailable = "no NAT"
    for _ in range(2):
        world.who((HERE, THERE), (End("10.0.0.1", 4000, 7), SERVICE))
    sockets = "pods on the node's own network may be told as the node: no sockets"
    services = "services are told without what answers behind them: no NAT"
    assert world.told == [f"{sockets}; {services}"]

    world.owners.unavailable = ""
    world.who((HERE, THERE))
    assert world.told[1:] == [services]
    world.nat.unavailable = ""
    world.who((HERE, THERE))
    assert world.told[2:] == [""]


def test_who_had_a_socket_is_not_asked_again_for_rows_that_waited(world: Told) -> None:
    """Others may have its port by then."""
    world.owners.by_port[TCP, 9100] = frozenset({"c1"})
    batch = world.process((HERE, THERE), (THERE, HERE))
    assert batch is not None
    world.owners.by_port[TCP, 9100] = frozenset({"uid-web"})
    again = world.processor.process_metrics(batch)

    assert again is not None
    assert again.source_rows is not None
    assert again.destination_rows is not None
    assert again.source_how is not None
    rows = zip(again.source_rows.tolist(), again.destination_rows.tolist(), strict=True)
    assert [(world.name(s), world.name(d)) for s, d in rows] == [("agent", "api"), ("api", "agent")]
    assert again.source_how.tolist() == [How.SOCKET, How.ADDRESS]
