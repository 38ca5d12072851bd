"""The selection reaches the kernel: pods that are not observed are not counted there at all, the
others and the node as before, and every book stays closed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest

from retina_otel.kernel import syscall
from retina_otel.kernel.bpf import attach
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind
from retina_otel.pipeline.identity.selection import Selection
from retina_otel.testing import traffic
from retina_otel.testing.lab import NODE4, WORLD4, Lab, Pod
from retina_otel.testing.servers import UdpServer
from tests.netns.drops_in_lab import DROPPED, address, counting, firewall, settle
from tests.netns.flows_in_lab import Flows, flows_in

WEB, API = "veth-web", "veth-api"
PROG_QUERY = 16


def identify(flows: Flows, *pods: Pod) -> None:
    """What an identity extension knows of the lab's pods."""
    flows.identity.update(
        Endpoint(
            EndpointKind.POD,
            pod.identity.uid,
            {"k8s.pod.name": pod.identity.name, "k8s.namespace.name": pod.identity.namespace},
            interfaces=(pod.host_ifindex,),
        )
        for pod in pods
    )


def all_but(*pods: Pod) -> Callable[[Endpoint], bool]:
    left_out = {pod.identity.uid for pod in pods}
    return lambda endpoint: endpoint.key not in left_out


class ProgQuery(ctypes.Structure):
    """union bpf_attr of BPF_PROG_QUERY, whole: the kernel writes `revision` whatever size it is
    told."""

    _fields_ = (
        ("target_ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("query_flags", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
        ("prog_ids", ctypes.c_uint64),
        ("count", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("prog_attach_flags", ctypes.c_uint64),
        ("link_ids", ctypes.c_uint64),
        ("link_attach_flags", ctypes.c_uint64),
        ("revision", ctypes.c_uint64),
    )


def programs(lab: Lab, interface: str) -> int:
    """How many programs the kernel has at the ingress of an interface, by its own word."""
    query = ProgQuery(lab.node.interfaces()[interface], attach.TCX_INGRESS)
    lab.node.call(lambda: syscall.bpf(PROG_QUERY, query))
    listing = lab.node.run(["tc", "filter", "show", "dev", interface, "ingress"]).stdout
    return int(query.count) + listing.count("direct-action")


@pytest.mark.parametrize("hook", ["tcx", "clsact"])
def test_a_pod_that_is_not_observed_is_not_counted_and_has_no_program(lab: Lab, hook: str) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with UdpServer(api, api.ipv4, 9) as server, flows_in(lab, hook=hook) as flows:
        identify(flows, web, api)
        first = traffic.udp(web, (api.ipv4, 9), packets=101)
        server.wait_for(101)
        flows.selection.set(observed=all_but(web))
        flows.collect()
        assert flows.receiver.attached & {WEB, API} == {API}
        assert (programs(lab, WEB), programs(lab, API)) == (0, 1)
        second = traffic.udp(web, (api.ipv4, 9), packets=1009)
        server.wait_for(101 + 1009)
        report = flows.settle()
    # What had been counted before it was deselected is read, once; nothing comes after.
    assert flows.total(interface=WEB, direction="egress") == (first.packets, first.bytes)
    assert flows.total(interface=API, direction="ingress") == (
        first.packets + second.packets,
        first.bytes + second.bytes,
    )
    assert report.difference == 0
    assert report.seen == report.drained + sum(report.not_ours.values())
    assert report.coverage[API] == 1.0
    assert WEB not in report.coverage


def test_a_pod_that_is_observed_again_is_counted_from_then_on(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with UdpServer(api, api.ipv4, 9) as server, flows_in(lab) as flows:
        identify(flows, web, api)
        counted = unseen = 0
        for round_ in range(3):
            flows.selection.set(observed=all_but(web))
            flows.collect()
            unseen += traffic.udp(web, (api.ipv4, 9), packets=211).packets
            server.wait_for(counted + unseen)
            flows.collect()
            flows.selection.set(observed=None)
            flows.collect()
            counted += traffic.udp(web, (api.ipv4, 9), packets=307 + round_).packets
            server.wait_for(counted + unseen)
            flows.collect()
        # The comparison with the interface's counters begins one tick after it was attached.
        counted += traffic.udp(web, (api.ipv4, 9), packets=1009).packets
        server.wait_for(counted + unseen)
        report = flows.settle()
    assert flows.total(interface=WEB, direction="egress")[0] == counted
    assert flows.total(interface=API, direction="ingress")[0] == counted + unseen
    assert report.difference == 0
    assert report.coverage[WEB] == 1.0
    assert report.beside["before_attach"] == 0


def test_an_interface_that_nobody_knows_is_counted(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with UdpServer(api, api.ipv4, 9) as server, flows_in(lab) as flows:
        identify(flows, api)
        flows.selection.set(observed=lambda endpoint: False)
        flows.collect()
        assert flows.receiver.attached & {WEB, API} == {WEB}
        sent = traffic.udp(web, (api.ipv4, 9), packets=101)
        server.wait_for(101)
        flows.settle()
    assert flows.total(interface=WEB, direction="egress") == (sent.packets, sent.bytes)


def test_a_pod_that_comes_and_is_not_to_be_observed_is_let_go(lab: Lab) -> None:
    api = lab.pod("api")
    with UdpServer(api, api.ipv4, 9) as server, flows_in(lab) as flows:
        flows.selection.set(observed=lambda endpoint: endpoint.key == api.identity.uid)
        job = lab.add_pod("jobs/job")
        flows.follow_interfaces()
        identify(flows, api, job)
        flows.collect()
        assert job.host_interface not in flows.receiver.attached
        lab.node.run(["ip", "link", "set", job.host_interface, "mtu", "1400"])
        flows.follow_interfaces()
        assert job.host_interface not in flows.receiver.attached
        traffic.udp(job, (api.ipv4, 9), packets=101)
        server.wait_for(101)
        flows.settle()
        assert flows.total(interface=job.host_interface) == (0, 0)
        lab.remove_pod(job)
        flows.follow_interfaces()
        flows.selection.set(observed=None)
        flows.collect()
        assert flows.degraded == ""


def test_unobserved_traffic_to_the_outside_is_not_taken_for_the_nodes(lab: Lab) -> None:
    web = lab.pod("web")
    with UdpServer(lab.outside, WORLD4, 9) as server, flows_in(lab) as flows:
        identify(flows, web)
        flows.selection.set(observed=all_but(web))
        flows.collect()
        traffic.udp(web, (WORLD4, 9), packets=101)
        server.wait_for(101)
        report = flows.settle()
    assert flows.total(transport="udp", destination=WORLD4) == (0, 0)
    assert report.not_ours["counted_elsewhere"] == 101


@pytest.mark.parametrize("namespaces", ["all", "node"])
def test_drops_of_pods_that_are_not_observed_are_not_counted(lab: Lab, namespaces: str) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    read = [firewall(pod) for pod in (web, api)]
    selection = Selection()
    with counting(lab, namespaces=namespaces, selection=selection) as drops:
        selection.set(observed=all_but(web))
        drops.take()
        sent = [
            traffic.udp(api, (address(web, "ipv4"), DROPPED), packets=101).packets,
            traffic.udp(web, (address(api, "ipv4"), DROPPED), packets=211).packets,
        ]
        for one, count in zip(read, sent, strict=True):
            settle(lambda one=one: one()[0], count)  # type: ignore[misc]
        found = {row: count for row, (count, _) in drops.counted().items() if row[1] == "udp"}
        assert found == {("netfilter_drop", "udp", web.ipv4, api.ipv4): 211}
        selection.set(observed=None)
        drops.take()
        traffic.udp(api, (address(web, "ipv4"), DROPPED), packets=307)
        settle(lambda: read[0]()[0], 101 + 307)
        found = {row: count for row, (count, _) in drops.counted().items() if row[1] == "udp"}
    assert found[("netfilter_drop", "udp", api.ipv4, web.ipv4)] == 307


def test_drops_in_the_nodes_own_namespace_count_whoever_is_observed(lab: Lab) -> None:
    web = lab.pod("web")
    read = firewall(lab.node)
    selection = Selection()
    with counting(lab, selection=selection) as drops:
        selection.set(observed=lambda endpoint: False)
        drops.take()
        traffic.udp(web, (NODE4, DROPPED), packets=101)
        settle(lambda: read()[0], 101)
        found = {row[0]: count for row, (count, _) in drops.counted().items() if row[1] == "udp"}
    assert found == {"netfilter_drop": 101}
