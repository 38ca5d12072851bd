"""A node with pods, services, translations and sockets, and the identity processor that looks at
it."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from retina_otel.component import Context
from retina_otel.model.batches import Column, MetricBatch, RawEnds, Window
from retina_otel.model.namespaces import Tuples
from retina_otel.model.protocols import TRANSPORTS
from retina_otel.model.signals import FLOW_PACKETS, NETWORK_TRANSPORT
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.pipeline.identity.networks import parse
from retina_otel.pipeline.identity.selection import Selection
from retina_otel.pipeline.ledger import Ledger
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


WEB, DB, API = End("10.0.0.1", 4000, 7), End("10.0.0.2", 5432, 8), End("10.0.1.1", 80)
REMOTE_DB = End("10.0.0.2", 5432)
