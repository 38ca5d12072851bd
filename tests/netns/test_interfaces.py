"""The interfaces receiver says what the kernel's own tools say, to the packet and byte."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from retina_otel.agent.clock import SystemClock
from retina_otel.component import Context
from retina_otel.extensions.node_identity import NodeIdentity
from retina_otel.kernel.net.rtnetlink import InterfaceMonitor
from retina_otel.model.batches import MetricBatch, Window
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.pipeline.ledger import Ledger
from retina_otel.processors.identity import IdentityProcessor, IdentitySettings
from retina_otel.receivers.interfaces import InterfacesReceiver, InterfacesSettings
from retina_otel.testing import packets, traffic
from retina_otel.testing.lab import WORLD4, Lab
from retina_otel.testing.namespaces import execute
from retina_otel.testing.servers import UdpServer
from tests.e2e.agent import wait_until

Point = tuple[str, ...]
"""Metric, interface, then the other attributes' values."""


class Watching:
    """An interfaces receiver in the lab's node, and the sums of what it reported."""

    def __init__(self, lab: Lab, settings: InterfacesSettings) -> None:
        self.lab = lab
        self.monitor = lab.node.call(InterfaceMonitor)
        self.identity = EndpointTable()
        context = Context(
            id="interfaces",
            clock=SystemClock(),
            logger=logging.getLogger("interfaces"),
            ledger=Ledger("interfaces", "points"),
            identity=self.identity,
            interfaces=self.monitor,
            resource={"k8s.node.name": lab.node_name},
        )
        lab.node.call(NodeIdentity(context).start)
        self.receiver = InterfacesReceiver(settings, context)
        self.processor = IdentityProcessor(IdentitySettings(), context)
        self.sums = Counter[Point]()
        self.current: dict[Point, int] = {}
        self.owners: dict[str, dict[str, Any]] = {}
        lab.node.call(self.receiver.start)

    def tick(self) -> None:
        for batch in self.lab.node.call(lambda: self.receiver.collect(Window(0, 1), 0)).metrics:
            self._add(self.processor.process_metrics(batch))

    def _add(self, batch: MetricBatch) -> None:
        columns = [
            [str(column.values[code]) for code in column.codes.tolist()]
            for column in batch.own.values()
        ]
        assert batch.source_rows is not None
        for metric, column in batch.values.items():
            assert isinstance(column, np.ndarray)
            for number, value in enumerate(column.tolist()):
                point = (metric.name, *(values[number] for values in columns))
                if metric.monotonic:
                    self.sums[point] += value
                else:
                    self.current[point] = value
        for name, row in zip(columns[0], batch.source_rows.tolist(), strict=True):
            self.owners[name] = dict(self.identity.attributes(row))


@contextmanager
def watching(lab: Lab, **settings: Any) -> Iterator[Watching]:
    watch = Watching(lab, InterfacesSettings(**settings))
    try:
        yield watch
    finally:
        watch.receiver.stop()
        watch.monitor.close()


def listing(lab: Lab) -> dict[str, dict[str, int]]:
    """Counters by interface, as `ip -s -s link` prints them, under the kernel's field names."""
    found = execute(["ip", "-n", lab.node.name, "-j", "-s", "-s", "link"])
    return {
        link["ifname"]: {
            f"{way}_{name}": value
            for way in ("rx", "tx")
            for name, value in link["stats64"][way].items()
        }
        for link in json.loads(found.stdout)
    }


def difference(before: dict[str, Any], after: dict[str, Any]) -> Counter[Point]:
    """The change of the main counters, as points."""
    points = Counter[Point]()
    for interface, counters in after.items():
        for way, direction in (("rx", "receive"), ("tx", "transmit")):
            for metric, field in (
                ("system.network.io", "bytes"),
                ("system.network.packet.count", "packets"),
                ("system.network.packet.dropped", "dropped"),
                ("system.network.errors", "errors"),
            ):
                name = f"{way}_{field}"
                change = counters[name] - before.get(interface, {}).get(name, 0)
                points[metric, interface, direction] = change
    return points


def wait_for(lab: Lab, interface: str, field: str, count: int) -> None:
    """Until this counter has grown to `count`. What was sent is on its way for a while: on a busy
    machine a kernel thread carries it."""
    wait_until(lambda: listing(lab)[interface][field] == count, f"{field} {count} of {interface}")


def test_every_interface_counts_as_ip_does(lab: Lab) -> None:
    api = lab.pod("api")
    with watching(lab) as watch, UdpServer(api, api.ipv4, 9) as server:
        before = listing(lab)
        traffic.udp(lab.pod("web"), (api.ipv4, 9), packets=1009)
        server.wait_for(1009)
        traffic.icmp_echo(lab.pod("api"), WORLD4, packets=53)
        watch.tick()
        traffic.icmp_echo(lab.pod("web"), lab.pod("api").ipv6, packets=31)
        watch.tick()
        truth = difference(before, listing(lab))
    main = {point: n for point, n in watch.sums.items() if point[0].startswith("system.")}
    assert main == truth
    assert truth["system.network.packet.count", "veth-web", "receive"] == 1009 + 31


def test_nothing_is_counted_that_was_there_before(lab: Lab) -> None:
    traffic.icmp_echo(lab.pod("web"), lab.pod("api").ipv4, packets=11)
    with watching(lab) as watch:
        watch.tick()
    assert set(watch.sums.values()) == {0}


def test_an_interface_that_comes_is_counted_from_its_birth(lab: Lab) -> None:
    with watching(lab) as watch:
        pod = lab.add_pod("shop/late")
        sent = traffic.icmp_echo(pod, lab.pod("web").ipv4, packets=101).sent
        watch.tick()
    assert watch.sums["system.network.io", "veth-late", "receive"] == sent.bytes
    assert watch.sums["system.network.packet.count", "veth-late", "receive"] == sent.packets


def test_an_interface_that_goes_is_counted_to_its_end(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with watching(lab) as watch:
        watch.tick()
        # One direction only: as it goes, a veth still knows what it sent, not what it received.
        frame = packets.ethernet(api.mac, web.mac, bytes(46), ethertype=0x88B5)
        before = listing(lab)["veth-api"]["tx_packets"]
        sent = traffic.frames(web, [frame], repeat=211)
        wait_for(lab, "veth-api", "tx_packets", before + 211)
        lab.remove_pod(api)
        watch.tick()
        watch.tick()
    assert watch.sums["system.network.packet.count", "veth-api", "transmit"] == sent.packets
    assert watch.sums["system.network.io", "veth-api", "transmit"] == sent.bytes


def test_one_that_comes_and_goes_between_two_ticks_is_not_missed(lab: Lab) -> None:
    web = lab.pod("web")
    with watching(lab) as watch:
        pod = lab.add_pod("shop/brief")
        frame = packets.ethernet(pod.mac, web.mac, bytes(46), ethertype=0x88B5)
        sent = traffic.frames(web, [frame], repeat=103)
        wait_for(lab, "veth-brief", "tx_packets", 103)
        lab.remove_pod(pod)
        watch.tick()
    assert watch.sums["system.network.packet.count", "veth-brief", "transmit"] == sent.packets


def test_link_state_is_up_or_down(lab: Lab) -> None:
    with watching(lab) as watch:
        watch.tick()
        assert watch.current["hw.network.up", "veth-web", "veth-web"] == 1
        lab.node.ip("link set veth-web down")
        watch.tick()
        assert watch.current["hw.network.up", "veth-web", "veth-web"] == 0


def test_speed_is_in_bytes_a_second(lab: Lab) -> None:
    with watching(lab) as watch:
        watch.tick()
    # A veth says 10 Gbit/s.
    assert watch.current["hw.network.bandwidth.limit", "veth-web", "veth-web"] == 1_250_000_000


def test_a_drop_by_the_interface_stands_under_its_kind(lab: Lab) -> None:
    api = lab.pod("api")
    with watching(lab) as watch:
        lab.node.ip("link set veth-api up", "link set veth-api nomaster")
        frame = packets.ethernet("02:00:0a:f4:00:01", api.mac, bytes(46), ethertype=0x88B5)
        before = listing(lab)["veth-api"]["rx_dropped"]
        traffic.frames(api, [frame], repeat=31)
        wait_for(lab, "veth-api", "rx_dropped", before + 31)
        watch.tick()
    point = ("system.network.packet.dropped", "veth-api", "receive")
    assert watch.sums[point] == 31


def test_a_pods_wire_is_the_pods_and_the_uplink_the_nodes(lab: Lab) -> None:
    web = lab.pod("web")
    with watching(lab) as watch:
        watch.identity.update(
            [
                Endpoint(
                    EndpointKind.POD, "web", {"k8s.pod.name": "web"}, interfaces=(web.host_ifindex,)
                )
            ],
            source="test",
        )
        watch.tick()
    node = {"k8s.node.name": lab.node_name, "k8s.resource.type": "node"}
    assert watch.owners == {
        "lo": node,
        "br0": node,
        "uplink0": node,
        "veth-web": {"k8s.pod.name": "web"},
        "veth-api": {},
    }


def test_excluded_interfaces_are_left_out(lab: Lab) -> None:
    with watching(lab, exclude=["veth-*", "lo"]) as watch:
        watch.tick()
    assert {point[1] for point in watch.sums} == {"br0", "uplink0"}
