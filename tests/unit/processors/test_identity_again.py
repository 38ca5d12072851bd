"""Rows that waited are asked about again, seconds later: what the node told of them when they were
read stays, since its sockets, translations and namespaces are others' by then."""

from __future__ import annotations

import numpy as np
import pytest

from retina_otel.model.batches import How, MetricBatch, RawEnds, Window
from retina_otel.model.signals import DROP_PACKETS
from retina_otel.pipeline.identity.endpoints import Validity
from tests.unit.processors.identity_world import (
    API,
    CLUSTER_ADDRESS,
    NODE_ADDRESS,
    POD,
    SERVICE,
    TCP,
    WEB,
    End,
    World,
    named,
)

TO_SERVICE = WEB, End(CLUSTER_ADDRESS, 443)
CONNECTION = TCP, "10.0.0.1", 4000, CLUSTER_ADDRESS, 443
NETNS = 4026533000


@pytest.fixture
def world() -> World:
    return World()


def names(world: World, batch: MetricBatch | None) -> list[tuple[str, str]]:
    assert batch is not None
    assert batch.source_rows is not None
    assert batch.destination_rows is not None
    rows = zip(batch.source_rows.tolist(), batch.destination_rows.tolist(), strict=True)
    return [(world.name(source), world.name(destination)) for source, destination in rows]


def again(world: World, batch: MetricBatch | None) -> list[tuple[str, str]]:
    assert batch is not None
    return names(world, world.processor.process_metrics(batch))


def test_a_socket_is_whose_it_was_when_the_row_was_read(world: World) -> None:
    world.owners.by_port[TCP, 9100] = frozenset({"c1"})
    batch = world.process((End(NODE_ADDRESS, 9100, 2), API), (End(NODE_ADDRESS, 9101, 2), API))
    assert names(world, batch) == [("agent", "api"), ("here", "api")]
    world.table.apply([named(POD, "other", aliases=("c2",))])
    world.owners.by_port.clear()
    world.owners.by_port.update({(TCP, 9100): frozenset({"c2"}), (TCP, 9101): frozenset({"c2"})})
    assert again(world, batch) == [("agent", "api"), ("here", "api")]


def test_a_service_is_told_with_the_backend_of_the_time_when_the_row_was_read(
    world: World,
) -> None:
    world.nat.known[CONNECTION] = ("10.0.1.1", 8443)
    batch = world.process(TO_SERVICE)
    assert names(world, batch) == [("web", "shop/api")]
    world.nat.known[CONNECTION] = ("10.0.0.2", 8443)
    assert again(world, batch) == [("web", "shop/api")]
    world.nat.known.clear()
    assert again(world, batch) == [("web", "shop/api")]


def test_a_connection_that_was_not_translated_then_has_no_backend_later(world: World) -> None:
    batch = world.process(TO_SERVICE)
    world.nat.known[CONNECTION] = ("10.0.1.1", 8443)
    assert again(world, batch) == [("web", "shop")]


def test_a_service_of_which_nobody_had_heard_has_no_backend(world: World) -> None:
    world.nat.known[TCP, "10.0.0.1", 4000, "10.96.0.99", 443] = ("10.0.1.1", 8443)
    batch = world.process((WEB, End("10.96.0.99", 443)))
    world.table.apply([named(SERVICE, "new", "10.96.0.99")])
    assert again(world, batch) == [("web", "new")]


def test_the_backend_s_address_is_its_owner_s_of_the_row_s_time(world: World) -> None:
    world.nat.known[CONNECTION] = ("10.0.1.1", 8443)
    batch = world.process(TO_SERVICE, first_ns=200, last_ns=300)
    assert names(world, batch) == [("web", "shop/api")]
    world.table.apply(
        [
            named(POD, "api", "10.0.1.1", valid=Validity(0, 0, 100, 100)),
            named(POD, "next", "10.0.1.1", valid=Validity(100, 100)),
        ]
    )
    assert again(world, batch) == [("web", "shop/next")]


def test_a_local_pod_stays_who_it_was_also_when_its_interface_leads_to_another(
    world: World,
) -> None:
    batch = world.process((WEB, API))
    world.table.apply([named(POD, "web", interfaces=()), named(POD, "next", interfaces=(7,))])
    assert again(world, batch) == [("web", "api")]


def test_whose_a_local_end_is_may_become_known_later(world: World) -> None:
    batch = world.process((End("10.0.0.9", 1, 9), API))
    assert names(world, batch) == [("", "api")]
    world.table.apply([named(POD, "new", interfaces=(9,))])
    assert again(world, batch) == [("new", "api")]


def in_namespace(world: World, first_ns: int) -> tuple[str, int]:
    """Who lives in NETNS, in which packets were dropped since `first_ns`, and how that is told."""
    none = np.zeros(1, np.uint64)
    batch = world.processor.process_metrics(
        MetricBatch(
            Window(0, 1000),
            {DROP_PACKETS: np.ones(1, np.int64)},
            source=RawEnds(
                none,
                none,
                np.zeros(1, np.uint16),
                np.zeros(1, np.uint32),
                np.array([NETNS], np.uint32),
            ),
            first_ns=np.array([first_ns]),
            last_ns=np.array([999]),
        )
    )
    assert batch is not None
    assert batch.source_rows is not None
    assert batch.source_how is not None
    return world.name(int(batch.source_rows[0])), int(batch.source_how[0])


def test_a_namespace_s_number_that_was_another_s_before_the_pod_tells_nothing_of_then(
    world: World,
) -> None:
    world.table.apply([named(POD, "new", netns=(NETNS,), valid=Validity(500, 600))])
    assert in_namespace(world, 500) == ("new", How.NAMESPACE)
    assert in_namespace(world, 499) == ("", How.NOBODY)
    world.table.apply([named(POD, "new", netns=(NETNS,), valid=Validity(400, 600))])
    assert in_namespace(world, 499) == ("new", How.NAMESPACE)


def test_a_namespace_s_number_tells_nothing_of_before_it_was_seen_to_be_the_pod_s(
    world: World,
) -> None:
    """The pod was scheduled long before (it waited for its volume), and in the meantime the number
    was another's."""
    new = named(POD, "new", netns=(NETNS,), netns_since_ns=700, valid=Validity(400, 600))
    world.table.apply([new])
    assert in_namespace(world, 700) == ("new", How.NAMESPACE)
    assert in_namespace(world, 699) == ("", How.NOBODY)
