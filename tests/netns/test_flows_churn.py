"""Interfaces that go, receivers that stop, readings that fail: nothing stays behind, nothing is
lost with them."""

from __future__ import annotations

import errno

import pytest

from retina_otel.errors import KernelError
from retina_otel.testing import traffic
from retina_otel.testing.lab import Lab
from retina_otel.testing.servers import UdpServer
from tests.netns.flows_in_lab import flows_in


def test_the_ledger_lets_go_of_interfaces_that_are_gone_and_still_closes(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with UdpServer(api, api.ipv4, 9), flows_in(lab) as flows:
        sent = 0
        for number in range(3):
            pod = lab.add_pod(f"jobs/job{number}")
            flows.follow_interfaces()
            sent += traffic.udp(pod, (api.ipv4, 9), packets=101 + number).packets
            flows.collect()
            assert flows.receiver.ledger_of(pod.host_interface)["ingress"]["buffers"] >= 101
            lab.remove_pod(pod)
            flows.settle()
            assert flows.receiver.ledger_of(pod.host_interface) == {}
        sent += traffic.udp(web, (api.ipv4, 9), packets=1009).packets
        report = flows.settle()
    assert flows.total(interface="veth-api", direction="ingress")[0] == sent
    assert report.difference == 0
    assert report.seen == report.drained + sum(report.not_ours.values())
    assert report.coverage["veth-web"] == 1.0


def test_an_interface_that_came_and_went_unseen_leaves_no_complaint(lab: Lab) -> None:
    with flows_in(lab, interfaces={"pods": ["veth-*"]}) as flows:
        lab.remove_pod(lab.add_pod("jobs/brief"))
        flows.follow_interfaces()
        assert flows.degraded == ""


def test_a_receiver_that_has_stopped_attaches_to_nothing_new(lab: Lab) -> None:
    with flows_in(lab) as flows:
        flows.receiver.stop()
        lab.add_pod("jobs/late")
        flows.follow_interfaces()
        assert flows.degraded == ""


def test_what_was_drained_is_handed_on_though_interfaces_can_not_be_read(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    web, api = lab.pod("web"), lab.pod("api")

    def busy() -> None:
        raise KernelError("netlink dump", errno.EAGAIN)

    with UdpServer(api, api.ipv4, 9), flows_in(lab) as flows:
        sent = traffic.udp(web, (api.ipv4, 9), packets=1009)
        with monkeypatch.context() as patch:
            patch.setattr(flows.monitor, "read_stats", busy)
            flows.collect()
        report = flows.settle()
    assert flows.total(interface="veth-web", direction="egress") == (sent.packets, sent.bytes)
    assert report.difference == 0
