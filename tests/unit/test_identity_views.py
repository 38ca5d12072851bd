"""The identity processor: views, selection, services and their backends, sockets, zones, times."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest

from retina_otel.component import Context
from retina_otel.model.batches import Column, How, MetricBatch, RawEnds, Window
from retina_otel.model.namespaces import Tuples
from retina_otel.model.protocols import TRANSPORTS
from retina_otel.model.signals import FLOW_INTER_ZONE, FLOW_PACKETS, NETWORK_TRANSPORT
from retina_otel.pipeline.endpoints import Endpoint, EndpointKind, EndpointTable, Validity
from retina_otel.pipeline.ledger import Ledger
from retina_otel.pipeline.networks import parse
from retina_otel.pipeline.selection import Selection, View
from retina_otel.processors.identity import IdentityProcessor, IdentitySettings

POD, NODE, SERVICE = EndpointKind.POD, EndpointKind.NODE, EndpointKind.SERVICE
CLUSTER_ADDRESS, NODE_ADDRESS, OTHER_NODE = "10.96.0.10", "192.168.0.1", "192.168.0.2"
TCP, UDP = 6, 17


@dataclass
class Nat:
    """Translations that are told beforehand: by protocol and (client, service), each with port."""

    known: dict[tuple[int, str, int, str, int], tuple[str, int]] = field(default_factory=dict)
    unavailable: str = ""

    def backends(
        self, tuples: Tuples
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.uint16]]:
        found = []
        bases = {
            (protocol, parse(client).base, client_port, parse(to).base, port): backend
            for (protocol, client, client_port, to, port), backend in self.known.items()
        }
        for row in range(len(tuples)):
            client = int(tuples.source_hi[row]) << 64 | int(tuples.source_lo[row])
            to = int(tuples.destination_hi[row]) << 64 | int(tuples.destination_lo[row])
            ports = int(tuples.source_port[row]), int(tuples.destination_port[row])
            key = (int(tuples.protocol[row]), client, ports[0], to, ports[1])
            address, port = bases.get(key, ("::", 0))
            base = parse(address).base
            found.append((base >> 64, base & (2**64 - 1), port))
        return (
            np.array([one[0] for one in found], np.uint64),
            np.array([one[1] for one in found], np.uint64),
            np.array([one[2] for one in found], np.uint16),
        )


@dataclass
class Owners:
    """Owners of the node's sockets by protocol and local port."""

    by_port: dict[tuple[int, int], frozenset[str]]
    unavailable: str = ""

    @property
    def workloads(self) -> Sequence[frozenset[str]]:
        return tuple(self.by_port.values())

    def owners(
        self,
        protocol: npt.NDArray[np.uint8],
        hi: npt.NDArray[np.uint64],
        lo: npt.NDArray[np.uint64],
        port: npt.NDArray[np.uint16],
    ) -> npt.NDArray[np.int32]:
        keys = list(self.by_port)
        pairs = zip(protocol.tolist(), port.tolist(), strict=True)
        return np.array([keys.index(p) if p in keys else -1 for p in pairs], np.int32)


@dataclass(frozen=True)
class End:
    address: str
    port: int = 0
    ifindex: int = 0


def raw(ends: Sequence[End]) -> RawEnds:
    bases = [parse(end.address).base for end in ends]
    return RawEnds(
        np.array([base >> 64 for base in bases], np.uint64),
        np.array([base & (2**64 - 1) for base in bases], np.uint64),
        np.array([end.port for end in ends], np.uint16),
        np.array([end.ifindex for end in ends], np.uint32),
    )


def named(kind: EndpointKind, name: str, *addresses: str, **more: object) -> Endpoint:
    attribute = {POD: "k8s.pod.name", NODE: "k8s.node.name", SERVICE: "k8s.service.name"}[kind]
    attributes = {attribute: name, "k8s.namespace.name": "shop"}
    if zone := more.pop("zone", None):
        attributes["cloud.availability_zone"] = str(zone)
    return Endpoint(kind, f"uid-{name}", attributes, addresses, **more)  # type: ignore[arg-type]


class World:
    def __init__(self) -> None:
        self.table = EndpointTable()
        own = os.stat("/proc/thread-self/ns/net").st_ino
        self.table.update(
            [
                named(NODE, "here", NODE_ADDRESS, netns=(own,), interfaces=(2,), zone="a"),
                named(NODE, "there", OTHER_NODE, zone="b"),
                named(POD, "web", "10.0.0.1", interfaces=(7,), zone="a"),
                named(POD, "db", "10.0.0.2", interfaces=(8,), zone="a"),
                named(POD, "api", "10.0.1.1", zone="b"),
                named(POD, "agent", aliases=("c1",), zone="a"),
                named(SERVICE, "shop", CLUSTER_ADDRESS, node_ports=(TCP << 16 | 30080,)),
            ]
        )
        self.selection = Selection()
        self.ledger = Ledger("identity", "rows")
        self.nat = Nat()
        self.owners = Owners({})
        self.processor = IdentityProcessor(
            IdentitySettings(),
            Context(
                id="identity",
                clock=None,  # type: ignore[arg-type]
                logger=logging.getLogger("identity"),
                ledger=self.ledger,
                identity=self.table,
                interfaces=None,  # type: ignore[arg-type]
                selection=self.selection,
                translations=self.nat,
                sockets=self.owners,
            ),
        )

    def process(
        self,
        *pairs: tuple[End, End],
        protocol: int = TCP,
        first_ns: int = 0,
        last_ns: int = 1,
    ) -> MetricBatch | None:
        count = len(pairs)
        return self.processor.process_metrics(
            MetricBatch(
                Window(first_ns, last_ns),
                {FLOW_PACKETS: np.ones(count, np.int64)},
                {NETWORK_TRANSPORT.name: Column(np.full(count, protocol, np.int32), TRANSPORTS)},
                raw([source for source, _ in pairs]),
                raw([destination for _, destination in pairs]),
            )
        )

    def who(self, *pairs: tuple[End, End], protocol: int = TCP) -> list[tuple[str, str]]:
        """Names of both ends of each row that is left; of a combined one, with its service."""
        batch = self.process(*pairs, protocol=protocol)
        if batch is None:
            return []
        assert batch.source_rows is not None
        assert batch.destination_rows is not None
        rows = zip(batch.source_rows.tolist(), batch.destination_rows.tolist(), strict=True)
        return [(self.name(source), self.name(destination)) for source, destination in rows]

    def name(self, row: int) -> str:
        attributes = self.table.attributes(row)
        names = (f"k8s.{what}.name" for what in ("service", "pod", "node"))
        return "/".join(str(attributes[name]) for name in names if name in attributes)


@pytest.fixture
def world() -> World:
    return World()


WEB, DB, API = End("10.0.0.1", 4000, 7), End("10.0.0.2", 5432, 8), End("10.0.1.1", 80)
REMOTE_DB = End("10.0.0.2", 5432)


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
    pairs = [(WEB, node_port), (DB, node_port), (WEB, End(OTHER_NODE, 22))]
    assert world.who(*pairs) == [("web", "shop/api"), ("db", "shop"), ("web", "there")]
    assert world.who((WEB, node_port), protocol=UDP) == [("web", "there")]


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
