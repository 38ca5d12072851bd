"""Interfaces that come and go, offloads, programs of others, and what stays when we are gone."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from retina_otel.testing import traffic
from retina_otel.testing.lab import Lab
from retina_otel.testing.servers import TcpServer, UdpServer
from tests.netns.flows_in_lab import flipping, flows_in
from tests.netns.foreign import add_filter, add_tcx, foreign_programs


@pytest.mark.parametrize("hook", ["tcx", "clsact"])
def test_pods_that_come_and_go_under_traffic_are_counted_from_their_first_packet(
    lab: Lab, hook: str
) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with UdpServer(api, api.ipv4, 9), flows_in(lab, hook=hook) as flows, flipping(flows):
        background: list[traffic.Tally] = []
        thread = threading.Thread(
            target=lambda: background.append(
                traffic.udp(web, (api.ipv4, 9), packets=20_011, per_second=20_000)
            )
        )
        thread.start()
        expected = {}
        for number in range(7):
            pod = lab.add_pod(f"jobs/job{number}")
            flows.wait_attached(pod.host_interface)
            sent = traffic.udp(pod, (api.ipv4, 9), packets=101 + number)
            expected[pod.host_interface] = (sent.packets, sent.bytes)
            lab.remove_pod(pod)
        thread.join()
        flows.settle()
    report = flows.ledger.report()
    for interface, counts in expected.items():
        assert flows.total(interface=interface, direction="egress") == counts
    (sent,) = background
    assert flows.total(interface="veth-web", direction="egress") == (sent.packets, sent.bytes)
    arrived = sent.packets + sum(packets for packets, _ in expected.values())
    assert flows.total(interface="veth-api", direction="ingress")[0] == arrived
    assert (report.difference, sum(report.lost.values())) == (0, 0)
    assert report.beside["before_attach"] == 0
    assert not flows.degraded


@pytest.mark.parametrize("family", [4, 6])
def test_offloaded_buffers_are_segments_to_flows_and_buffers_to_the_ledger(
    offloaded_lab: Lab, family: int
) -> None:
    lab = offloaded_lab
    web, api = lab.pod("web"), lab.pod("api")
    request, response = 200_003, 300_007
    target = api.ipv6 if family == 6 else api.ipv4
    with TcpServer(api, target, 8080), flows_in(lab) as flows:
        before = web.host_counters()
        exchange = traffic.tcp(web, (target, 8080), requests=11, request=request, response=response)
        flows.settle()
        carried = web.host_counters() - before
        ledger = flows.receiver.ledger_of("veth-web")
    # The ledger is in the interface's own terms: buffers, their headers once each.
    assert ledger["ingress"]["buffers"] == carried.rx_packets
    assert ledger["egress"]["buffers"] == carried.tx_packets
    assert ledger["egress"]["bytes"] == carried.tx_bytes
    assert ledger["ingress"]["bytes"] == carried.rx_bytes
    # The metrics are in the wire's terms: what remains without the headers is the payload.
    out, out_bytes = flows.total(interface="veth-web", direction="egress")
    back, back_bytes = flows.total(interface="veth-web", direction="ingress")
    assert out == exchange.sent.packets
    assert back == exchange.received.packets
    assert out > carried.rx_packets  # else nothing was offloaded, and this test shows nothing
    header = 14 + (40 if family == 6 else 20) + 32  # link, IP, TCP with time stamps
    syn = 8  # options that only SYNs have: 40 bytes of TCP header
    assert out_bytes - out * header - syn == 11 * request
    assert back_bytes - back * header - syn == 11 * response


def test_coverage_is_one_where_everything_was_counted(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with UdpServer(api, api.ipv4, 9), flows_in(lab) as flows:
        traffic.udp(web, (api.ipv4, 9), packets=1009)
        report = flows.settle()
    assert report.coverage == {"veth-web": 1.0, "veth-api": 1.0}


def test_coverage_falls_where_another_program_takes_packets_before_us(
    lab: Lab, tmp_path: Path
) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with (
        UdpServer(api, api.ipv4, 9),
        foreign_programs(tmp_path) as foreign,
        flows_in(lab, hook="clsact", position="last") as flows,
    ):
        add_filter(lab, "veth-web", foreign.programs["foreign_drop"], 1)
        # The interface has received them; our place behind the other's never sees them.
        traffic.udp(web, (api.ipv4, 9), packets=1009)
        report = flows.settle()
    assert report.coverage == {"veth-web": 0.0}


@pytest.mark.parametrize("hook", ["tcx", "clsact"])
def test_a_foreign_clsact_filter_sees_every_packet_and_outlives_us(
    lab: Lab, tmp_path: Path, hook: str
) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with UdpServer(api, api.ipv4, 9), foreign_programs(tmp_path) as foreign:
        lab.node.run(["tc", "qdisc", "add", "dev", "veth-web", "clsact"])
        add_filter(lab, "veth-web", foreign.programs["foreign_pass"], 77)
        with flows_in(lab, hook=hook) as flows:
            sent = traffic.udp(web, (api.ipv4, 9), packets=1009)
            flows.settle()
            assert foreign.seen == 1009
        traffic.udp(web, (api.ipv4, 9), packets=11)
        assert foreign.seen == 1020
        shown = lab.node.run(["tc", "filter", "show", "dev", "veth-web", "ingress"]).stdout
    assert flows.total(interface="veth-web", direction="egress") == (sent.packets, sent.bytes)
    assert shown.count("foreign_pass") == 1
    assert "flows" not in shown


def test_a_foreign_tcx_program_sees_every_packet_and_outlives_us(lab: Lab, tmp_path: Path) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with (
        UdpServer(api, api.ipv4, 9),
        foreign_programs(tmp_path) as foreign,
        add_tcx(lab, "veth-web", foreign.programs["foreign_pass"]),
    ):
        with flows_in(lab, hook="tcx") as flows:
            sent = traffic.udp(web, (api.ipv4, 9), packets=1009)
            flows.settle()
            assert foreign.seen == 1009
        traffic.udp(web, (api.ipv4, 9), packets=11)
        assert foreign.seen == 1020
    assert flows.total(interface="veth-web", direction="egress") == (sent.packets, sent.bytes)


@pytest.mark.parametrize("hook", ["tcx", "clsact"])
def test_nothing_of_ours_is_attached_after_stop(lab: Lab, hook: str) -> None:
    with flows_in(lab, hook=hook):
        assert "flows" in _attached(lab)
    assert "flows" not in _attached(lab)
    assert "clsact" not in lab.node.run(["tc", "qdisc", "show", "dev", "veth-web"]).stdout


def _attached(lab: Lab) -> str:
    """All tc programs of the node's interfaces; tcx ones too, which old tools do not show."""
    filters = "".join(
        lab.node.run(["tc", "filter", "show", "dev", name, "ingress"]).stdout
        for name in ("veth-web", "veth-api", "uplink0")
    )
    links = json.loads(lab.node.run(["bpftool", "-j", "link", "show"]).stdout)
    ours = {lab.node.interfaces()[name] for name in ("veth-web", "veth-api", "uplink0")}
    tcx = [link for link in links if link.get("ifindex") in ours or link.get("type") == 11]
    programs = json.loads(lab.node.run(["bpftool", "-j", "prog", "show"]).stdout)
    names = {program["id"]: program.get("name", "") for program in programs}
    return filters + " ".join(names.get(link["prog_id"], "") for link in tcx)


def test_an_uplink_without_ethernet_headers_is_named_and_not_miscounted(lab: Lab) -> None:
    lab.node.ip("tuntap add tun0 mode tun", "link set tun0 up")
    with flows_in(lab, interfaces={"uplinks": ["tun0", "uplink0"]}) as flows:
        assert flows.degraded == (
            "tun0 is not counted: its packets have no Ethernet header; "
            "name another in interfaces.uplinks"
        )
        assert flows.receiver.attached == {"veth-web", "veth-api", "uplink0"}
