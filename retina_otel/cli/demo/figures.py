"""What the agent says on its Prometheus endpoint, as the sums that the demo shows and checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from retina_otel.agent import own_metrics as own
from retina_otel.encode.prometheus.names import family_name, label_name
from retina_otel.model.signals import (
    CIDR,
    DROP_PACKETS,
    DROP_REASON,
    FLOW_IO,
    FLOW_PACKETS,
    K8S_NAMESPACE_NAME,
    K8S_NODE_NAME,
    K8S_POD_NAME,
    NETWORK_INTERFACE_DIRECTION,
    NETWORK_INTERFACE_NAME,
    NETWORK_TRANSPORT,
    Attribute,
    Kind,
    Metric,
)
from retina_otel.testing.scrape import Sample

FLOWS_LEDGER, DROPS_LEDGER = "receiver/flows", "receiver/drops"
EGRESS, INGRESS = "egress", "ingress"


@dataclass(frozen=True, slots=True)
class Flow:
    """Packets of one pair of ends in one direction, seen at one of them."""

    source: str
    destination: str
    transport: str
    direction: str
    """`egress`: seen where they leave the source; `ingress`: where they enter the destination."""


@dataclass(frozen=True, slots=True)
class Drop:
    reason: str
    source: str
    destination: str
    transport: str


@dataclass(frozen=True, slots=True)
class Books:
    """A ledger: accounts without reasons, and `not_ours` and `lost` by reason."""

    accounts: Mapping[str, int]
    not_ours: Mapping[str, int]
    lost: Mapping[str, int]
    difference: int


@dataclass(frozen=True, slots=True)
class Figures:
    packets: Mapping[Flow, int] = field(default_factory=dict)
    bytes: Mapping[Flow, int] = field(default_factory=dict)
    drops: Mapping[Drop, int] = field(default_factory=dict)
    books: Mapping[str, Books] = field(default_factory=dict)
    """By ledger, as in "receiver/flows"."""
    coverage: Mapping[str, float] = field(default_factory=dict)
    collections: Mapping[str, int] = field(default_factory=dict)
    """How often each receiver was collected from."""
    states: Mapping[str, str] = field(default_factory=dict)
    """State of each receiver: `running`, `degraded`, `failed`, ..."""

    @property
    def pod_drops(self) -> Mapping[Drop, int]:
        """Those that name a pod: what else the machine drops meanwhile is not the lab's."""
        return {d: n for d, n in self.drops.items() if "/" in d.source or "/" in d.destination}

    @property
    def counted(self) -> tuple[Mapping[Flow, int], Mapping[Drop, int], int]:
        """What stays the same when nobody sends: flows, drops, packets in the books of flows."""
        books = self.books.get(FLOWS_LEDGER)
        return self.packets, self.pod_drops, books.accounts.get("seen", 0) if books else 0

    def of_pair(
        self, source: str, destination: str, transport: str, direction: str
    ) -> tuple[int, int]:
        """Packets and bytes."""
        flow = Flow(source, destination, transport, direction)
        return self.packets.get(flow, 0), self.bytes.get(flow, 0)

    def leaving(self, pod: str) -> tuple[int, int]:
        """Packets and bytes that the pod sent, to anybody."""
        return self._sum([f for f in self.packets if f.direction == EGRESS and f.source == pod])

    def entering(self, pod: str) -> tuple[int, int]:
        """Packets and bytes that came to the pod, from anybody."""
        return self._sum(
            [f for f in self.packets if f.direction == INGRESS and f.destination == pod]
        )

    def dropped(self, reason: str, source: str, destination: str, transport: str) -> int:
        return self.drops.get(Drop(reason, source, destination, transport), 0)

    def _sum(self, flows: Iterable[Flow]) -> tuple[int, int]:
        chosen = list(flows)
        return (
            sum(self.packets[flow] for flow in chosen),
            sum(self.bytes.get(flow, 0) for flow in chosen),
        )


def figures(samples: Iterable[Sample]) -> Figures:
    """Adds up the samples of one scrape."""
    packets: Counter[Flow] = Counter()
    octets: Counter[Flow] = Counter()
    drops: Counter[Drop] = Counter()
    ledger_counts: list[tuple[str, str, str, int]] = []
    differences: dict[str, int] = {}
    coverage: dict[str, float] = {}
    collections: dict[str, int] = {}
    states: dict[str, str] = {}
    for sample in samples:
        labels, value = sample.labels, sample.value
        if sample.name == _FLOW_PACKETS:
            packets[_flow(labels)] += int(value)
        elif sample.name == _FLOW_IO:
            octets[_flow(labels)] += int(value)
        elif sample.name == _DROP_PACKETS:
            drops[
                Drop(
                    _get(labels, DROP_REASON),
                    end_name(labels, "source"),
                    end_name(labels, "destination"),
                    _get(labels, NETWORK_TRANSPORT),
                )
            ] += int(value)
        elif sample.name == _LEDGER_COUNT:
            names = (own.LEDGER_NAME, own.LEDGER_ACCOUNT, own.LEDGER_REASON)
            name, account, reason = (_get(labels, attribute) for attribute in names)
            ledger_counts.append((name, account, reason, int(value)))
        elif sample.name == _LEDGER_DIFFERENCE:
            differences[_get(labels, own.LEDGER_NAME)] = int(value)
        elif sample.name == _COVERAGE:
            coverage[_get(labels, NETWORK_INTERFACE_NAME)] = value
        elif sample.name == _COLLECTIONS:
            collections[_get(labels, own.COMPONENT_ID)] = int(value)
        elif sample.name == _STATUS and value and _get(labels, own.COMPONENT_KIND) == "receiver":
            states[_get(labels, own.COMPONENT_ID)] = _get(labels, own.COMPONENT_STATE)
    return Figures(
        packets,
        octets,
        drops,
        _books(ledger_counts, differences),
        coverage,
        collections,
        states,
    )


def end_name(labels: Mapping[str, str], end: str) -> str:
    """What a person calls one end: namespace/pod, a network, a node, or "unknown"."""

    def part(attribute: Attribute) -> str:
        return labels.get(label_name(f"{end}.{attribute.name}"), "")

    if pod := part(K8S_POD_NAME):
        return f"{part(K8S_NAMESPACE_NAME)}/{pod}"
    return part(CIDR) or part(K8S_NODE_NAME) or "unknown"


def _books(
    counts: Iterable[tuple[str, str, str, int]], differences: Mapping[str, int]
) -> dict[str, Books]:
    accounts: dict[str, Counter[str]] = {}
    reasons: dict[tuple[str, str], Counter[str]] = {}
    for name, account, reason, value in counts:
        accounts.setdefault(name, Counter())[account] += value
        reasons.setdefault((name, account), Counter())[reason] += value
    return {
        name: Books(
            of,
            reasons.get((name, "not_ours"), {}),
            reasons.get((name, "lost"), {}),
            differences.get(name, 0),
        )
        for name, of in accounts.items()
    }


def _flow(labels: Mapping[str, str]) -> Flow:
    return Flow(
        end_name(labels, "source"),
        end_name(labels, "destination"),
        _get(labels, NETWORK_TRANSPORT),
        _get(labels, NETWORK_INTERFACE_DIRECTION),
    )


def _get(labels: Mapping[str, str], attribute: Attribute) -> str:
    return labels.get(label_name(attribute.name), "")


def _sample_name(metric: Metric) -> str:
    family = family_name(metric.name, metric.unit, metric.kind)
    suffix = {Kind.COUNTER: "_total", Kind.HISTOGRAM: "_count"}.get(metric.kind, "")
    return family + suffix


_FLOW_PACKETS = _sample_name(FLOW_PACKETS)
_FLOW_IO = _sample_name(FLOW_IO)
_DROP_PACKETS = _sample_name(DROP_PACKETS)
_LEDGER_COUNT = _sample_name(own.LEDGER_COUNT)
_LEDGER_DIFFERENCE = _sample_name(own.LEDGER_DIFFERENCE)
_COVERAGE = _sample_name(own.COVERAGE)
_COLLECTIONS = _sample_name(own.COLLECTION_DURATION)
_STATUS = _sample_name(own.COMPONENT_STATUS)
