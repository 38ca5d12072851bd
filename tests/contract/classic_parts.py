"""Batches of known amounts, a pipeline of Retina's metrics, and what the page must have of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from retina_otel.encode.prometheus.classic import ClassicBlocks
from retina_otel.encode.prometheus.text import render
from retina_otel.model import signals
from retina_otel.model.batches import Column, MetricBatch, RawEnds, Window
from retina_otel.model.classic import CLASSIC, PREFIX
from retina_otel.pipeline.accumulator import Accumulator, AccumulatorSettings
from retina_otel.pipeline.classic import ClassicMetrics
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.pipeline.identity.selection import View
from retina_otel.pipeline.overlay import Overlay
from retina_otel.pipeline.pipeline import MetricsPipeline
from retina_otel.pipeline.points import PointBlock

SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND

Labels = frozenset[tuple[str, str]]
Page = dict[str, dict[Labels, float]]


def pod(name: str, owner: str, kind: str) -> Endpoint:
    named = {
        "k8s.namespace.name": "shop",
        "k8s.pod.name": name,
        "k8s.owner.name": owner,
        "k8s.owner.type": kind,
        "k8s.service.name": f"{owner}-service",
        "cloud.availability_zone": "zone-1",
    }
    return Endpoint(EndpointKind.POD, name, named)


WEB, API, WORLD = "10.0.0.1", "10.0.0.2", "198.51.100.7"
INTERFACES = {WEB: 11, API: 12}


@dataclass(frozen=True)
class Row:
    """One row of a flow: who sent how much to whom, seen at whose interface."""

    source: str
    destination: str
    direction: str
    packets: int
    octets: int
    initiator: str = "unknown"


FLOWS = [
    Row(WEB, API, "egress", 101, 10_007, "source"),
    Row(WEB, API, "ingress", 101, 10_007, "source"),
    Row(API, WEB, "egress", 53, 5_003, "destination"),
    Row(API, WEB, "ingress", 53, 5_003, "destination"),
    Row(WEB, WORLD, "egress", 7, 701),
    Row(WORLD, WEB, "ingress", 11, 1_103),
]


class Pipeline:
    """A pipeline of Retina's metrics whose ends are known, and its page."""

    def __init__(self, view: View, overlay: Overlay | None = None, *, limit: int = 20_000) -> None:
        self.table = EndpointTable()
        self.table.update([pod("web-0", "web", "deployment"), pod("api-0", "api", "statefulset")])
        self.rows = {
            address: next(
                row
                for row in range(1, 10)
                if self.table.attributes(row).get("k8s.pod.name") == name
            )
            for address, name in ((WEB, "web-0"), (API, "api-0"))
        }
        self.view = view
        self.accumulator = Accumulator(self.table, AccumulatorSettings(cardinality_limit=limit))
        classic = ClassicMetrics()
        self.accumulator.lay_over(classic.change(overlay or Overlay(), view))
        self.pipeline = MetricsPipeline("classic", (), self.accumulator, derive=classic.derive)
        self.blocks = ClassicBlocks()
        self.ticks = 0

    def add(self, *batches: MetricBatch) -> None:
        self.ticks += 1
        self.pipeline.push(batches)
        self.pipeline.tick(T0 + self.ticks * SECOND)
        report = self.pipeline.ledger.report()
        assert report.difference == 0

    def ends(self, addresses: Sequence[str], here: Sequence[bool]) -> tuple[RawEnds, np.ndarray]:
        """As the identity processor leaves them: in local context the other end is hidden."""
        told = [local or (self.view is View.REMOTE) for local in here]
        numbers = [
            0xFFFF << 32 | int.from_bytes(bytes(map(int, one.split(".")))) if tell else 0
            for one, tell in zip(addresses, told, strict=True)
        ]
        raw = RawEnds(
            np.zeros(len(addresses), np.uint64),
            np.array(numbers, np.uint64),
            np.full(len(addresses), 80, np.uint16),
            np.array(
                [INTERFACES.get(a, 0) if h else 0 for a, h in zip(addresses, here, strict=True)],
                np.uint32,
            ),
        )
        rows = [self.rows.get(a, 0) if tell else 0 for a, tell in zip(addresses, told, strict=True)]
        return raw, np.array(rows, np.int32)

    def flows(self, rows: Sequence[Row]) -> MetricBatch:
        source, source_rows = self.ends(
            [row.source for row in rows], [row.direction == "egress" for row in rows]
        )
        destination, destination_rows = self.ends(
            [row.destination for row in rows], [row.direction == "ingress" for row in rows]
        )
        return MetricBatch(
            Window(T0 + self.ticks * SECOND, T0 + (self.ticks + 1) * SECOND),
            {
                signals.FLOW_PACKETS: np.array([row.packets for row in rows], np.int64),
                signals.FLOW_IO: np.array([row.octets for row in rows], np.int64),
            },
            {
                "network.interface.direction": column([row.direction for row in rows]),
                "network.transport": column(["tcp"] * len(rows)),
                "retina.flow.initiator": column([row.initiator for row in rows]),
            },
            source,
            destination,
            source_rows,
            destination_rows,
        )

    def flags(self, counts: Sequence[tuple[Row, str, int]]) -> MetricBatch:
        batch = self.flows([row for row, _, _ in counts])
        return replace(
            batch,
            values={signals.TCP_FLAG_PACKETS: np.array([n for *_, n in counts], np.int64)},
            own={**batch.own, "retina.tcp.flag": column([flag for _, flag, _ in counts])},
        )

    def drops(self, counts: Sequence[tuple[Row, str]]) -> MetricBatch:
        batch = self.flows([row for row, _ in counts])
        return replace(
            batch,
            values={
                signals.DROP_PACKETS: batch.values[signals.FLOW_PACKETS],
                signals.DROP_IO: batch.values[signals.FLOW_IO],
            },
            own={"retina.drop.reason": column([reason for _, reason in counts])},
        )

    def page(self) -> Page:
        """Samples by name and labels, of types that Retina's are."""
        text = render(self.shown(), {}).decode()
        found: Page = {}
        for family in text_string_to_metric_families(text):
            assert family.type == "gauge"
            assert family.documentation == BRIEF[family.name]
            for sample in family.samples:
                assert sample.name == family.name
                series = found.setdefault(sample.name.removeprefix(PREFIX), {})
                labels = frozenset(sample.labels.items())
                assert labels not in series
                series[labels] = sample.value
        return found

    def shown(self) -> list[PointBlock]:
        """What an exporter renders."""
        reader = self.accumulator.reader("test", zero_points=False, stale_markers=False)
        export = reader.take()
        assert export is not None
        self.accumulator.remove(reader)
        return self.blocks.mapped(export.blocks)


BRIEF = {PREFIX + one.name: one.brief for one in CLASSIC}


def column(values: Sequence[str]) -> Column:
    distinct = list(dict.fromkeys(values))
    return Column(np.array([distinct.index(one) for one in values], np.int32), distinct)


def labels(text: str) -> Labels:
    """From `a="b", c="d"`."""
    return frozenset(re.findall(r'(\w+)="([^"]*)"', text))


WEB_LABELS = 'ip="10.0.0.1", namespace="shop", podname="web-0", workload_kind="Deployment", '
WEB_LABELS += 'workload_name="web"'
API_LABELS = 'ip="10.0.0.2", namespace="shop", podname="api-0", workload_kind="StatefulSet", '
API_LABELS += 'workload_name="api"'
WORLD_LABELS = 'ip="198.51.100.7", namespace="unknown", podname="unknown", '
WORLD_LABELS += 'workload_kind="unknown", workload_name="unknown"'


def both(source: str, destination: str) -> str:
    return ", ".join(
        f"{prefix}_{label.strip()}"
        for prefix, text in (("source", source), ("destination", destination))
        for label in text.split(",")
    )


def shown(expected: Mapping[str, float]) -> dict[Labels, float]:
    return {labels(text): value for text, value in expected.items()}


FLAG_COUNTS = [
    (FLOWS[0], "syn", 3),
    (FLOWS[0], "ack", 89),
    (FLOWS[0], "psh", 5),
    (FLOWS[2], "syn_ack", 3),
    (FLOWS[2], "fin", 2),
    (FLOWS[1], "syn", 3),
    (FLOWS[3], "syn_ack", 3),
    (FLOWS[5], "rst", 13),
    (FLOWS[5], "urg", 17),
    (FLOWS[5], "ece", 19),
    (FLOWS[5], "cwr", 23),
]
DROPS = [
    (FLOWS[0], "netfilter_drop"),
    (FLOWS[5], "no_socket"),
]

NODE: dict[str, dict[str, float]] = {
    "forward_count": {'direction="egress"': 29, 'direction="ingress"': 19 + 23 + 31 + 37},
    "forward_bytes": {'direction="egress"': 300, 'direction="ingress"': 100 + 200 + 400 + 500},
    "drop_count": {
        'reason="IPTABLE_RULE_DROP", direction="unknown"': 101,
        'reason="NO_SOCKET", direction="unknown"': 11,
    },
    "drop_bytes": {
        'reason="IPTABLE_RULE_DROP", direction="unknown"': 10_007,
        'reason="NO_SOCKET", direction="unknown"': 1_103,
    },
    "tcp_flag_gauges": {
        'direction="egress", flag="SYN"': 3,
        'direction="egress", flag="SYNACK"': 3,
        'direction="egress", flag="FIN"': 2,
        'direction="ingress", flag="SYN"': 3,
        'direction="ingress", flag="SYNACK"': 3,
        'direction="ingress", flag="RST"': 13,
    },
    "interface_stats": {
        'interface_name="all_interfaces", statistic_name="rx_dropped"': 3 + 5,
        'interface_name="all_interfaces", statistic_name="tx_dropped"': 7,
        'interface_name="all_interfaces", statistic_name="rx_errors"': 11,
        'interface_name="all_interfaces", statistic_name="rx_crc_errors"': 13,
        'interface_name="all_interfaces", statistic_name="tx_carrier_errors"': 17,
    },
}
WEB_TO_API, API_TO_WEB = both(WEB_LABELS, API_LABELS), both(API_LABELS, WEB_LABELS)
WEB_TO_WORLD, WORLD_TO_WEB = both(WEB_LABELS, WORLD_LABELS), both(WORLD_LABELS, WEB_LABELS)
REMOTE: dict[str, dict[str, float]] = {
    # Of a connection that the pod opened, the answer is EGRESS too: Retina tells the connection's.
    "adv_forward_count": {
        f'direction="EGRESS", {WEB_TO_API}': 101,
        f'direction="INGRESS", {WEB_TO_API}': 101,
        f'direction="INGRESS", {API_TO_WEB}': 53,
        f'direction="EGRESS", {API_TO_WEB}': 53,
        f'direction="EGRESS", {WEB_TO_WORLD}': 7,
        f'direction="INGRESS", {WORLD_TO_WEB}': 11,
    },
    "adv_forward_bytes": {
        f'direction="EGRESS", {WEB_TO_API}': 10_007,
        f'direction="INGRESS", {WEB_TO_API}': 10_007,
        f'direction="INGRESS", {API_TO_WEB}': 5_003,
        f'direction="EGRESS", {API_TO_WEB}': 5_003,
        f'direction="EGRESS", {WEB_TO_WORLD}': 701,
        f'direction="INGRESS", {WORLD_TO_WEB}': 1_103,
    },
    "adv_drop_count": {
        f'reason="IPTABLE_RULE_DROP", direction="INGRESS", {WEB_TO_API}': 101,
        f'reason="NO_SOCKET", direction="INGRESS", {WORLD_TO_WEB}': 11,
    },
    "adv_drop_bytes": {
        f'reason="IPTABLE_RULE_DROP", direction="INGRESS", {WEB_TO_API}': 10_007,
        f'reason="NO_SOCKET", direction="INGRESS", {WORLD_TO_WEB}': 1_103,
    },
    "adv_tcpflags_count": {
        f'flag="SYN", {WEB_TO_API}': 3 + 3,
        f'flag="ACK", {WEB_TO_API}': 89,
        f'flag="PSH", {WEB_TO_API}': 5,
        f'flag="SYNACK", {API_TO_WEB}': 3 + 3,
        f'flag="FIN", {API_TO_WEB}': 2,
        f'flag="RST", {WORLD_TO_WEB}': 13,
        f'flag="URG", {WORLD_TO_WEB}': 17,
        f'flag="ECE", {WORLD_TO_WEB}': 19,
        f'flag="CWR", {WORLD_TO_WEB}': 23,
    },
}
LOCAL: dict[str, dict[str, float]] = {
    "adv_forward_count": {
        f'direction="egress", {WEB_LABELS}': 101 + 7,
        f'direction="ingress", {WEB_LABELS}': 53 + 11,
        f'direction="egress", {API_LABELS}': 53,
        f'direction="ingress", {API_LABELS}': 101,
    },
    "adv_forward_bytes": {
        f'direction="egress", {WEB_LABELS}': 10_007 + 701,
        f'direction="ingress", {WEB_LABELS}': 5_003 + 1_103,
        f'direction="egress", {API_LABELS}': 5_003,
        f'direction="ingress", {API_LABELS}': 10_007,
    },
    "adv_drop_count": {
        f'reason="IPTABLE_RULE_DROP", direction="egress", {WEB_LABELS}': 101,
        f'reason="NO_SOCKET", direction="ingress", {WEB_LABELS}': 11,
    },
    "adv_drop_bytes": {
        f'reason="IPTABLE_RULE_DROP", direction="egress", {WEB_LABELS}': 10_007,
        f'reason="NO_SOCKET", direction="ingress", {WEB_LABELS}': 1_103,
    },
    "adv_tcpflags_count": {
        f'flag="SYN", {WEB_LABELS}': 3,
        f'flag="ACK", {WEB_LABELS}': 89,
        f'flag="PSH", {WEB_LABELS}': 5,
        f'flag="SYNACK", {API_LABELS}': 3,
        f'flag="FIN", {API_LABELS}': 2,
        f'flag="SYN", {API_LABELS}': 3,
        f'flag="SYNACK", {WEB_LABELS}': 3,
        f'flag="RST", {WEB_LABELS}': 13,
        f'flag="URG", {WEB_LABELS}': 17,
        f'flag="ECE", {WEB_LABELS}': 19,
        f'flag="CWR", {WEB_LABELS}': 23,
    },
}
EXPECTED = {View.NODE: NODE, View.LOCAL: NODE | LOCAL, View.REMOTE: NODE | REMOTE}


def interfaces(pipeline: Pipeline) -> list[MetricBatch]:
    names = ["eth0", "eth1", "eth0", "lo", "azv1"]
    way = "network.io.direction"
    window = pipeline.flows(FLOWS[:1]).window
    own = {
        "network.interface.name": column(names),
        way: column(["receive", "receive", "transmit", "receive", "receive"]),
    }
    counts = {
        signals.INTERFACE_IO: [100, 200, 300, 400, 500],
        signals.INTERFACE_DROPPED: [3, 5, 7, 1000, 1000],
        signals.INTERFACE_ERRORS: [11, 0, 0, 0, 0],
    }
    kinds = {
        "network.interface.name": column(["eth0", "eth1"]),
        way: column(["receive", "transmit"]),
        "error.type": column(["crc", "carrier"]),
    }
    packets = {signals.INTERFACE_PACKETS: np.array([19, 23, 29, 31, 37], np.int64)}
    at_device = {"system.device": column(names), "network.io.direction": own[way]}
    return [
        MetricBatch(window, packets, at_device),
        MetricBatch(window, {m: np.array(n, np.int64) for m, n in counts.items()}, own),
        MetricBatch(
            window, {signals.INTERFACE_ERRORS_BY_TYPE: np.array([13, 17], np.int64)}, kinds
        ),
    ]
