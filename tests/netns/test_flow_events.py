"""Events of real flows: exactly one for each interface and direction, exact, and at the right time.

The truth is the sender's tally; the metrics of the same run must say the same.
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from retina_otel.model.batches import Column, EventBatch, RawEnds, Window
from retina_otel.testing import traffic
from retina_otel.testing.lab import Lab, Pod
from retina_otel.testing.servers import TcpServer, UdpServer
from tests.netns.flows_in_lab import Flow, Flows, flows_in

STAMP_NS = 50_000_000
"""Stamps are ticks of jiffies, which lag a few ticks on a busy machine."""


@dataclass(frozen=True)
class Told:
    packets: int
    bytes: int
    first: int
    last: int
    values: dict[str, object]


def address(pod: Pod, family: int) -> str:
    return pod.ipv6 if family == 6 else pod.ipv4


def told(flows: Flows) -> list[tuple[Flow, Told]]:
    return [one for batch in flows.events for one in _told(batch)]


def _told(batch: EventBatch) -> list[tuple[Flow, Told]]:
    columns = {
        name: (np.asarray([*column.values, None], object)[column.codes]).tolist()
        if isinstance(column, Column)
        else column.tolist()
        for name, column in batch.own.items()
    }
    assert batch.time_ns.tolist() == columns["retina.event.last_seen"]
    found = []
    for row, values in enumerate(zip(*columns.values(), strict=True)):
        own = dict(zip(columns, values, strict=True))
        flow = Flow(
            own.pop("network.interface.name"),
            own.pop("network.interface.direction"),
            own.pop("network.transport"),
            *_end(batch.source, row),
            *_end(batch.destination, row),
        )
        packets, octets, first, last = (
            own.pop("retina.event." + name)
            for name in ("packets", "bytes", "first_seen", "last_seen")
        )
        found.append((flow, Told(packets, octets, first, last, own)))
    return found


def _end(end: RawEnds | None, row: int) -> tuple[str, int]:
    assert end is not None
    number = ipaddress.IPv6Address(int(end.hi[row]) << 64 | int(end.lo[row]))
    return str(number.ipv4_mapped or number), int(end.port[row])


def assert_events_are_the_metrics(flows: Flows) -> None:
    packets: Counter[Flow] = Counter()
    octets: Counter[Flow] = Counter()
    for flow, event in told(flows):
        packets[flow] += event.packets
        octets[flow] += event.bytes
    assert packets == flows.packets
    assert octets == flows.bytes


@pytest.mark.parametrize("family", [4, 6])
def test_a_tcp_connection_has_one_end_event_for_each_interface_and_direction(
    lab: Lab, family: int
) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with TcpServer(api, address(api, family), 8080), flows_in(lab, events="end") as flows:
        begun_ns = time.time_ns()
        exchange = traffic.tcp(web, (address(api, family), 8080), requests=101)
        flows.collect()
        ended_ns = time.time_ns()
        assert [event for flow, event in told(flows) if flow.transport == "tcp"] == []
        flows.collect()
    events = {flow: event for flow, event in told(flows) if flow.transport == "tcp"}
    assert len(events) == 4
    assert len([flow for flow, _ in told(flows) if flow.transport == "tcp"]) == 4
    expected = {
        ("veth-web", "egress"): exchange.sent,
        ("veth-web", "ingress"): exchange.received,
        ("veth-api", "egress"): exchange.received,
        ("veth-api", "ingress"): exchange.sent,
    }
    for flow, event in events.items():
        tally = expected.pop((flow.interface, flow.direction))
        assert (event.packets, event.bytes) == (tally.packets, tally.bytes)
        assert (flows.packets[flow], flows.bytes[flow]) == (tally.packets, tally.bytes)
        assert begun_ns - STAMP_NS <= event.first <= event.last <= ended_ns
        first, last = flows.seen[flow]
        # The row's times hold the flow's between them, since stamps lag.
        assert first == pytest.approx(event.first, abs=STAMP_NS)
        assert event.last <= last <= event.last + STAMP_NS
        to_server = flow.destination_port == 8080
        assert event.values == {
            "network.type": f"ipv{family}",
            "retina.flow.end_reason": "finished",
            "retina.flow.initiator": "source" if to_server else "destination",
            "retina.tcp.flags": "fin|syn|psh|ack" if to_server else "fin|syn_ack|psh|ack",
        }
        ends = [(flow.source, flow.source_port), (flow.destination, flow.destination_port)]
        assert (address(api, family), 8080) == ends[to_server]
        assert ends[not to_server][0] == address(web, family)
    assert expected == {}


def test_refused_connections_are_reset_in_both_directions(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with flows_in(lab, events="end") as flows:
        traffic.tcp_refused(web, (api.ipv4, 8080), attempts=11)
        flows.settle()
    events = [(flow, event) for flow, event in told(flows) if flow.transport == "tcp"]
    assert Counter(
        (
            event.packets,
            event.values["retina.tcp.flags"],
            event.values["retina.flow.end_reason"],
            flow.interface,
            flow.direction,
        )
        for flow, event in events
    ) == {
        (1, "syn", "reset", "veth-web", "egress"): 11,
        (1, "syn", "reset", "veth-api", "ingress"): 11,
        (1, "rst|ack", "reset", "veth-web", "ingress"): 11,
        (1, "rst|ack", "reset", "veth-api", "egress"): 11,
    }


def test_udp_ends_when_it_was_idle_for_the_timeout(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    settings = {"events": "end", "idle_timeout": "2s"}
    with UdpServer(api, api.ipv4, 9), flows_in(lab, **settings) as flows:
        sent = traffic.udp(web, (api.ipv4, 9), packets=1009, source_port=5000)
        sent += traffic.udp(web, (api.ipv4, 9), packets=101, source_port=5000)
        flows.collect()
        assert [flow for flow, _ in told(flows) if flow.transport == "udp"] == []
        time.sleep(2.1)
        flows.collect()
    events = {flow: event for flow, event in told(flows) if flow.transport == "udp"}
    assert len([flow for flow, _ in told(flows) if flow.transport == "udp"]) == 2
    assert {(flow.interface, flow.direction) for flow in events} == {
        ("veth-web", "egress"),
        ("veth-api", "ingress"),
    }
    for flow, event in events.items():
        assert flow.source_port == 5000
        assert (event.packets, event.bytes) == (sent.packets, sent.bytes)
        assert event.values["retina.flow.end_reason"] == "idle"
        assert event.values["retina.tcp.flags"] is None


@pytest.mark.parametrize("mode", ["interval", "end"])
def test_events_add_up_to_the_metrics_over_generations(lab: Lab, mode: str) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with TcpServer(api, api.ipv4, 8080), flows_in(lab, events=mode) as flows:
        for _ in range(3):
            traffic.tcp(web, (api.ipv4, 8080), requests=101, connections=3)
            traffic.icmp_echo(web, api.ipv4, packets=11)
            flows.collect()
        report = flows.settle()
        flows.events.extend(flows.receiver.finish(Window(0, time.time_ns())).events)
    assert report.difference == 0
    assert report.held == 0
    assert_events_are_the_metrics(flows)


def test_one_event_an_interval_though_two_cpus_have_rows_of_the_flow(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with UdpServer(api, api.ipv4, 9), flows_in(lab, events="interval") as flows:
        sent = traffic.two_cpus(web, (api.ipv4, 9), packets_each=10_007)
        flows.settle()
    udp = [(flow, event) for flow, event in told(flows) if flow.transport == "udp"]
    assert sorted(flow.interface for flow, _ in udp) == ["veth-api", "veth-web"]
    assert {(event.packets, event.bytes) for _, event in udp} == {(sent.packets, sent.bytes)}
    assert {"retina.flow.end_reason" in event.values for _, event in udp} == {False}


def test_a_full_table_of_living_flows_tells_of_all_of_them(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    settings = {"events": "end", "max_flows": 1024, "ring_bytes": 4 << 20}
    with UdpServer(api, api.ipv4, 9), flows_in(lab, **settings) as flows:
        sent = traffic.many_flows(web, api, flows=5003, packets_each=3)
        report = flows.settle()
        flows.events.extend(flows.receiver.finish(Window(0, 1)).events)
    assert sum(report.lost.values()) == 0
    assert flows.total(interface="veth-web", direction="egress") == (sent.packets, sent.bytes)
    assert_events_are_the_metrics(flows)
    reasons = Counter(event.values["retina.flow.end_reason"] for _, event in told(flows))
    assert reasons["shutdown"] == 1024
    assert reasons.keys() == {"evicted", "shutdown"}


def test_without_events_there_are_none(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with flows_in(lab) as flows:
        traffic.icmp_echo(web, api.ipv4, packets=11)
        flows.settle()
        assert list(flows.receiver.finish(Window(0, 1)).events) == []
    assert flows.events == []
