"""The identity processor: views, selection, services and their backends, sockets, zones, times."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.batches import EventBatch, How, MetricBatch, Window
from retina_otel.model.signals import FLOW_EVENT, FLOW_INTER_ZONE, FLOW_PACKETS
from retina_otel.pipeline.identity.endpoints import Validity
from retina_otel.pipeline.identity.selection import View
from retina_otel.pipeline.series.projection import Choice, Projection
from tests.unit.processors.identity_world import (
    API,
    CLUSTER_ADDRESS,
    DB,
    NODE_ADDRESS,
    OTHER_NODE,
    POD,
    REMOTE_DB,
    TCP,
    UDP,
    WEB,
    End,
    World,
    named,
    raw,
)


@pytest.fixture
def world() -> World:
    return World()


def test_a_remote_end_is_told_in_the_remote_view_only(world: World) -> None:
    assert world.who((WEB, API)) == [("web", "api")]
    world.selection.set(view=View.LOCAL)
    assert world.who((WEB, API), (REMOTE_DB, WEB)) == [("web", ""), ("", "web")]
    world.selection.set(view=View.NODE)
    assert world.who((WEB, API), (REMOTE_DB, WEB)) == [("here", ""), ("", "here")]


def test_rows_of_pods_that_are_not_observed_are_left_out_and_counted(world: World) -> None:
    world.selection.set(observed=lambda endpoint: endpoint.key == "uid-web")
    left = world.who((WEB, API), (DB, API), (API, DB), (API, WEB), (End(NODE_ADDRESS, 1, 2), API))
    assert left == [("web", "api"), ("api", "web"), ("here", "api")]
    assert world.who((DB, API)) == []
    report = world.ledger.report()
    assert (report.seen, report.filtered, report.difference) == (3, 3, 0)
    world.selection.set(observed=lambda endpoint: endpoint.key == "uid-db")
    assert world.who((WEB, API), (DB, API)) == [("db", "api")]


def test_a_service_is_told_with_the_backend_that_answers_in_its_place(world: World) -> None:
    service = End(CLUSTER_ADDRESS, 443)
    assert world.who((WEB, service)) == [("web", "shop")]
    world.nat.known[TCP, "10.0.0.1", 4000, CLUSTER_ADDRESS, 443] = ("10.0.1.1", 8443)
    both = world.who((WEB, service), (service, WEB), (DB, service))
    assert both == [("web", "shop/api"), ("shop/api", "web"), ("db", "shop")]
    batch = world.process((WEB, service), (DB, service))
    assert batch is not None
    assert batch.destination_how is not None
    assert batch.destination_how.tolist() == [How.BACKEND, How.ADDRESS]


def test_a_service_is_told_at_its_port_of_any_node(world: World) -> None:
    node_port = End(OTHER_NODE, 30080)
    world.nat.known[TCP, "10.0.0.1", 4000, OTHER_NODE, 30080] = ("10.0.1.1", 8443)
    db = replace(DB, port=32768)
    pairs = [(WEB, node_port), (db, node_port), (node_port, db), (WEB, End(OTHER_NODE, 22))]
    assert world.who(*pairs) == [
        ("web", "shop/api"),
        ("db", "shop"),
        ("shop", "db"),
        ("web", "there"),
    ]
    assert world.who((WEB, node_port), protocol=UDP) == [("web", "there")]


def test_a_client_behind_a_node_is_no_service_whatever_port_it_was_given(world: World) -> None:
    """What a node masquerades may leave it from any port, also from one that is a service's."""
    masqueraded = End(OTHER_NODE, 30080)
    assert world.who((masqueraded, DB), (DB, masqueraded)) == [("there", "db"), ("db", "there")]
    batch = world.process((masqueraded, DB))
    assert batch is not None
    again = world.processor.process_metrics(batch)
    assert again is not None
    assert again.source_rows is not None
    assert world.name(int(again.source_rows[0])) == "there"


def test_a_combined_row_follows_its_parts(world: World) -> None:
    world.nat.known[TCP, "10.0.0.1", 4000, CLUSTER_ADDRESS, 443] = ("10.0.1.1", 8443)
    batch = world.process((WEB, End(CLUSTER_ADDRESS, 443)))
    assert batch is not None
    assert batch.destination_rows is not None
    row = int(batch.destination_rows[0])
    assert world.table.attributes(row) == {
        "k8s.pod.name": "api",
        "k8s.namespace.name": "shop",
        "k8s.service.name": "shop",
        "cloud.availability_zone": "b",
    }
    assert world.table.kind(row) is POD
    epoch = world.table.epoch
    world.table.apply([named(POD, "api", "10.0.1.1", zone="c")])
    assert world.table.attributes(row)["cloud.availability_zone"] == "c"
    assert world.table.index.changed[row] > epoch
    world.table.apply(removed=["uid-api"])
    assert not world.table.index.present[row]


def test_a_pod_on_the_node_s_network_is_told_by_its_socket(world: World) -> None:
    world.owners.by_port.update({(TCP, 9100): frozenset({"c1"}), (UDP, 53): frozenset({"nobody"})})
    by_uplink, by_address = End(NODE_ADDRESS, 9100, 2), End(NODE_ADDRESS, 9100)
    pairs = [(by_uplink, API), (WEB, by_address), (End(NODE_ADDRESS, 22, 2), API)]
    assert world.who(*pairs) == [("agent", "api"), ("web", "agent"), ("here", "api")]
    assert world.who((End(NODE_ADDRESS, 53, 2), API), protocol=UDP) == [("here", "api")]
    assert world.who((WEB, End(OTHER_NODE, 9100))) == [("web", "there")]


def test_zones_are_compared_where_both_are_known(world: World) -> None:
    batch = world.process((WEB, API), (WEB, REMOTE_DB), (WEB, End("8.8.8.8")))
    assert batch is not None
    column = batch.own[FLOW_INTER_ZONE.name]
    assert [*column.values, None][column.codes[0]] is True
    assert [[*column.values, None][code] for code in column.codes] == [True, False, None]


def test_an_owner_that_changed_within_the_row_s_time_is_ambiguous(world: World) -> None:
    world.table.apply(
        [
            named(POD, "old", "10.0.2.1", valid=Validity(0, 0, 100, 100)),
            named(POD, "new", "10.0.2.1", valid=Validity(100, 100)),
        ]
    )
    for first, last, name, how in (
        (50, 99, "old", How.ADDRESS),
        (50, 100, "", How.AMBIGUOUS),
        (100, 101, "new", How.ADDRESS),
    ):
        batch = world.process((WEB, End("10.0.2.1")), first_ns=first, last_ns=last)
        assert batch is not None
        assert batch.destination_rows is not None
        assert batch.destination_how is not None
        assert world.name(int(batch.destination_rows[0])) == name
        assert batch.destination_how.tolist() == [how]


def shown(world: World, batch: MetricBatch | None) -> list[set[str]]:
    """What is said of the addresses and ports of each row, where all of it is asked for."""
    assert batch is not None
    sets = AttributeSets()
    choice = Choice.of(FLOW_PACKETS, ["*.address", "*.port"])
    source, destination, _ = Projection(world.table, sets, choice).project(batch)
    return [
        {f"{name}={value}" for end in ends for name, value in sets.get(end)}
        for ends in zip(source.tolist(), destination.tolist(), strict=True)
    ]


@pytest.mark.parametrize("view", [View.LOCAL, View.NODE])
def test_series_say_nothing_of_a_remote_end_where_only_local_ones_are_told(
    world: World, view: View
) -> None:
    web = "source.address=10.0.0.1", "source.port=4000"
    api = "destination.address=10.0.1.1", "destination.port=80"
    unknown = End("10.0.0.9", 1, 9)
    assert shown(world, world.process((WEB, API))) == [{*web, *api}]
    world.selection.set(view=view)
    both = shown(world, world.process((WEB, API), (unknown, API), (REMOTE_DB, WEB)))
    assert both == [
        {*web},
        {"source.address=10.0.0.9", "source.port=1"},
        {"destination.address=10.0.0.1", "destination.port=4000"},
    ]


def test_an_event_says_where_its_packets_went_in_every_view(world: World) -> None:
    world.selection.set(view=View.LOCAL)
    raw_of = raw([WEB]), raw([API])
    batch = world.processor.process_events(
        EventBatch(FLOW_EVENT, Window(0, 1), np.ones(1, np.int64), {}, *raw_of)
    )
    assert batch is not None
    assert batch.destination is not None
    assert (batch.destination.lo.tolist(), batch.destination.port.tolist()) == (
        raw_of[1].lo.tolist(),
        [80],
    )
