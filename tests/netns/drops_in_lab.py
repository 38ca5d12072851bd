"""A drops receiver in a lab's node, and the independent truths that its counts are held against."""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from retina_otel.agent.clock import SystemClock
from retina_otel.component import Context
from retina_otel.extensions.node_identity import NodeIdentity
from retina_otel.kernel.net.rtnetlink import InterfaceMonitor
from retina_otel.model import signals
from retina_otel.model.batches import Column, EventBatch, MetricBatch, RawEnds, Window
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.pipeline.identity.selection import Selection
from retina_otel.pipeline.ledger import Ledger
from retina_otel.processors.identity import IdentityProcessor, IdentitySettings
from retina_otel.receivers.drops.receiver import DropsReceiver
from retina_otel.receivers.drops.settings import DropsSettings
from retina_otel.testing.lab import Lab, Pod
from retina_otel.testing.namespaces import Namespace

WINDOW = Window(0, 1)
DROPPED = 8

FIREWALL = f"""
table inet t {{
  counter dropped {{ }}
  chain in {{
    type filter hook input priority 0;
    udp dport {DROPPED} counter name dropped drop;
  }}
}}
"""

Row = tuple[str, str, str, str]
"""Reason, transport, source address, destination address."""


class Counting:
    """A drops receiver that runs in the lab's node, and what it has counted."""

    def __init__(
        self, lab: Lab, settings: DropsSettings, known: Sequence[Pod], selection: Selection
    ) -> None:
        self.identity = EndpointTable()
        self.identity.update(
            [
                Endpoint(
                    EndpointKind.POD, pod.identity.uid, {"k8s.pod.name": pod.identity.name},
                    netns=(pod.inode,),
                )
                for pod in known
            ]
        )  # fmt: skip
        self.monitor = lab.node.call(InterfaceMonitor)
        self.ledger = Ledger("drops", "packets")
        context = Context(
            id="drops",
            clock=SystemClock(),
            logger=logging.getLogger("drops"),
            ledger=self.ledger,
            identity=self.identity,
            interfaces=self.monitor,
            selection=selection,
        )
        lab.node.call(NodeIdentity(context).start)
        self.receiver = DropsReceiver(settings, context)
        self.processor = IdentityProcessor(IdentitySettings(), context)
        self.metrics: list[MetricBatch] = []
        self.events: list[EventBatch] = []
        lab.node.call(self.receiver.start)

    def take(self) -> None:
        """One tick; the books must close at each."""
        collected = self.receiver.collect(WINDOW, 0)
        self.metrics += map(self.processor.process_metrics, collected.metrics)
        self.events += map(self.processor.process_events, collected.events)
        assert self.ledger.report().difference == 0

    def counted(self) -> dict[Row, tuple[int, int]]:
        """Packets and bytes."""
        self.take()
        found: Counter[Row] = Counter()
        sizes: Counter[Row] = Counter()
        for batch in self.metrics:
            rows = list(
                zip(
                    texts(batch.own[signals.DROP_REASON.name]),
                    texts(batch.own[signals.NETWORK_TRANSPORT.name]),
                    addresses(batch.source),
                    addresses(batch.destination),
                    strict=True,
                )
            )
            for row, count, size in zip(
                rows,
                values(batch, signals.DROP_PACKETS),
                values(batch, signals.DROP_IO),
                strict=True,
            ):
                found[row] += count
                sizes[row] += size
        return {row: (found[row], sizes[row]) for row in found}


@contextmanager
def counting(
    lab: Lab, *known: Pod, selection: Selection | None = None, **settings: Any
) -> Iterator[Counting]:
    """Counts in the lab's node and pods, or in the pods given."""
    chosen = DropsSettings(**{"namespaces": "node", **settings})
    drops = Counting(lab, chosen, known or lab.pods, selection or Selection())
    try:
        drops.take()
        drops.metrics.clear()
        drops.events.clear()
        yield drops
    finally:
        drops.receiver.stop()
        drops.monitor.close()


def texts(column: Column) -> list[str]:
    return [str(column.values[code]) if code >= 0 else "" for code in column.codes.tolist()]


def addresses(ends: RawEnds | None) -> list[str]:
    assert ends is not None
    found = []
    for hi, lo in zip(ends.hi.tolist(), ends.lo.tolist(), strict=True):
        address = ipaddress.IPv6Address(hi << 64 | lo)
        found.append(str(address.ipv4_mapped or address))
    return found


def values(batch: MetricBatch, metric: signals.Metric) -> list[int]:
    column = batch.values[metric]
    assert isinstance(column, np.ndarray)
    return [int(value) for value in column]


def address(pod: Pod, family: str) -> str:
    return pod.ipv4 if family == "ipv4" else pod.ipv6


def settle(read: Callable[[], int], wanted: int) -> None:
    """Waits until the independent truth has arrived where the sender says it will."""
    deadline = time.monotonic() + 10
    while read() != wanted:
        assert time.monotonic() < deadline, f"{read()} of {wanted}"
        time.sleep(0.01)


def firewall(
    where: Namespace, rules: str = FIREWALL, family: str = "inet"
) -> Callable[[], tuple[int, int]]:
    """Drops what comes to a port; returns how to read the rule's packets and bytes."""
    where.nft(rules)

    def read() -> tuple[int, int]:
        listing = where.run(["nft", "-j", "list", "counter", family, "t", "dropped"])
        (found,) = [o["counter"] for o in json.loads(listing.stdout)["nftables"] if "counter" in o]
        return found["packets"], found["bytes"]

    return read


def snmp(namespace: Namespace, group: str, name: str) -> int:
    """A counter of the namespace's IP stack ("Udp", "NoPorts"; "Udp6", "NoPorts")."""
    if group.endswith("6"):
        text = namespace.call(lambda: Path("/proc/thread-self/net/snmp6").read_text())
        found = re.search(rf"^{group}{name}\s+(\d+)$", text, re.MULTILINE)
        assert found
        return int(found[1])
    text = namespace.call(lambda: Path("/proc/thread-self/net/snmp").read_text())
    names, numbers = (
        line.split()[1:] for line in text.splitlines() if line.startswith(group + ":")
    )
    return int(numbers[names.index(name)])
