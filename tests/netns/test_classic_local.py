"""Retina's pod-level metrics in local context, from real packets: each pod has what it sent and
got, whoever the other end was."""

from __future__ import annotations

import logging
import time
from collections import Counter

import numpy as np

from retina_otel.agent.clock import SystemClock
from retina_otel.component import Collected, Context
from retina_otel.encode.prometheus.classic import ClassicBlocks
from retina_otel.model.batches import MetricBatch, Window
from retina_otel.model.classic import PREFIX
from retina_otel.pipeline.accumulator import Accumulator
from retina_otel.pipeline.classic import ClassicMetrics
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.pipeline.identity.selection import Selection, View
from retina_otel.pipeline.ledger import Ledger
from retina_otel.pipeline.overlay import Overlay
from retina_otel.pipeline.pipeline import MetricsPipeline
from retina_otel.processors.identity import IdentityProcessor, IdentitySettings
from retina_otel.testing import traffic
from retina_otel.testing.lab import Lab, Pod
from retina_otel.testing.servers import UdpServer
from tests.netns.drops_in_lab import DROPPED, counting, firewall, settle
from tests.netns.flows_in_lab import Flows, flows_in


class Local:
    """A pipeline of Retina's metrics in local context."""

    def __init__(self, endpoints: EndpointTable) -> None:
        self.accumulator = Accumulator(endpoints)
        classic = ClassicMetrics()
        self.accumulator.lay_over(classic.change(Overlay(), View.LOCAL))
        self.pipeline = MetricsPipeline("local", (), self.accumulator, derive=classic.derive)

    def sums(self, name: str, *labels: str) -> Counter[tuple[str, ...]]:
        """Totals of a metric by some of its labels."""
        self.accumulator.snapshot(time.time_ns())
        reader = self.accumulator.reader("test", zero_points=False)
        export = reader.take()
        assert export is not None
        counted: Counter[tuple[str, ...]] = Counter()
        for block in ClassicBlocks().mapped(export.blocks):
            assert isinstance(block.values, np.ndarray)
            for row, value in enumerate(block.values.tolist()):
                ids = (block.source[row], block.destination[row], block.own[row])
                found = dict(pair for number in ids for pair in block.sets.get(int(number)))
                if block.metric.name == PREFIX + name:
                    counted[tuple(str(found[label]) for label in labels)] += value
        return counted


def pod_at_its_wire(pod: Pod) -> Endpoint:
    named = {"k8s.namespace.name": pod.identity.namespace, "k8s.pod.name": pod.identity.name}
    return Endpoint(EndpointKind.POD, pod.identity.uid, named, interfaces=(pod.host_ifindex,))


def collected(lab: Lab, flows: Flows) -> list[MetricBatch]:
    """Two ticks after the traffic has ended, with local ends known and remote ones hidden."""
    flows.identity.update(map(pod_at_its_wire, lab.pods))
    flows.selection.set(view=View.LOCAL)
    context = Context(
        id="identity",
        clock=SystemClock(),
        logger=logging.getLogger("identity"),
        ledger=Ledger("identity", "rows"),
        identity=flows.identity,
        interfaces=flows.monitor,
        selection=flows.selection,
    )
    processor = IdentityProcessor(IdentitySettings(), context)

    def tick() -> Collected:
        flows.monitor.poll()
        window = Window(time.time_ns() - 1, time.time_ns())
        return flows.receiver.collect(window, time.monotonic_ns() + 5_000_000_000)

    raw = [batch for _ in range(2) for batch in lab.node.call(tick).metrics]
    found = [processor.process_metrics(batch) for batch in raw]
    return [batch for batch in found if batch is not None]


def test_each_pod_has_what_it_sent_and_what_it_got(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with UdpServer(api, api.ipv4, 9), flows_in(lab) as flows:
        sent = traffic.udp(web, (api.ipv4, 9), packets=1009)
        pinged = traffic.icmp_echo(api, web.ipv6, packets=53)
        local = Local(flows.identity)
        local.pipeline.push(collected(lab, flows))
    labels = ("direction", "podname", "namespace", "ip")
    assert local.sums("adv_forward_count", *labels) == {
        ("egress", "web", "shop", web.ipv4): sent.packets,
        ("ingress", "api", "shop", api.ipv4): sent.packets,
        ("egress", "api", "shop", api.ipv6): pinged.sent.packets,
        ("ingress", "web", "shop", web.ipv6): pinged.sent.packets,
        ("egress", "web", "shop", web.ipv6): pinged.received.packets,
        ("ingress", "api", "shop", api.ipv6): pinged.received.packets,
    }
    assert local.sums("adv_forward_bytes", "direction", "podname", "ip") == {
        ("egress", "web", web.ipv4): sent.bytes,
        ("ingress", "api", api.ipv4): sent.bytes,
        ("egress", "api", api.ipv6): pinged.sent.bytes,
        ("ingress", "web", web.ipv6): pinged.sent.bytes,
        ("egress", "web", web.ipv6): pinged.received.bytes,
        ("ingress", "api", api.ipv6): pinged.received.bytes,
    }


def test_a_drop_is_the_pods_in_whose_namespace_it_was(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    truth = firewall(api)
    selection = Selection()
    selection.set(view=View.LOCAL)
    with counting(lab, selection=selection) as drops:
        traffic.udp(web, (api.ipv4, DROPPED), packets=101, payload=97)
        settle(lambda: truth()[0], 101)
        drops.take()
        local = Local(drops.identity)
        local.pipeline.push(drops.metrics)
    key = ("IPTABLE_RULE_DROP", "ingress", "api", api.ipv4)
    labels = ("reason", "direction", "podname", "ip")
    assert local.sums("adv_drop_count", *labels) == {key: truth()[0]}
    assert local.sums("adv_drop_bytes", *labels) == {key: truth()[1]}
    assert local.sums("drop_count", "reason", "direction") == {(key[0], "unknown"): truth()[0]}
