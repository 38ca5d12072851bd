"""Runs the real flows receiver in a lab's node and adds up what it reports, flow by flow."""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from retina_otel.component import Collected, Context
from retina_otel.kernel.net.rtnetlink import InterfaceMonitor
from retina_otel.model.batches import EventBatch, MetricBatch, Window
from retina_otel.model.signals import FLOW_IO, FLOW_PACKETS, TCP_FLAG_PACKETS
from retina_otel.pipeline.identity.endpoints import EndpointTable
from retina_otel.pipeline.identity.selection import Selection
from retina_otel.pipeline.ledger import Ledger, LedgerReport
from retina_otel.receivers.flows import FlowsReceiver, FlowsSettings
from retina_otel.testing.lab import Lab


class WallClock:
    def wall_ns(self) -> int:
        return time.time_ns()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def offset_ns(self) -> int:
        return time.time_ns() - time.monotonic_ns()


@dataclass(frozen=True, slots=True)
class Flow:
    """What tells one reported flow from another."""

    interface: str
    direction: str
    transport: str
    source: str
    source_port: int
    destination: str
    destination_port: int


class Flows:
    """The receiver, and the sums of everything it has reported."""

    def __init__(self, lab: Lab, settings: FlowsSettings) -> None:
        self._lab = lab
        self._ticking = threading.Lock()
        self.degraded = ""
        self.monitor = lab.node.call(InterfaceMonitor)
        self.ledger = Ledger("flows", "packets")
        self.identity = EndpointTable()
        self.selection = Selection()
        self.receiver = FlowsReceiver(
            settings,
            Context(
                id="flows",
                clock=WallClock(),
                logger=logging.getLogger("flows"),
                ledger=self.ledger,
                identity=self.identity,
                interfaces=self.monitor,
                degraded=self._on_degraded,
                selection=self.selection,
            ),
        )
        self.packets: Counter[Flow] = Counter()
        self.bytes: Counter[Flow] = Counter()
        self.flags: Counter[tuple[str, str, str]] = Counter()
        """By (interface, direction, flag)."""
        self.initiators: dict[Flow, str] = {}
        self.seen: dict[Flow, tuple[int, int]] = {}
        """Wall time of the first and the last packet."""
        self.events: list[EventBatch] = []
        self.collections = 0

    def _on_degraded(self, reason: str) -> None:
        self.degraded = reason

    def start(self) -> None:
        self._lab.node.call(self.receiver.start)

    def follow_interfaces(self) -> None:
        """What the agent does when the monitor's descriptor is readable."""
        with self._ticking:
            self._lab.node.call(self.monitor.poll)

    def wait_attached(self, interface: str, within_s: float = 1.0) -> None:
        """Until packets of an interface are counted; somebody else follows the interfaces."""
        deadline = time.monotonic() + within_s
        while interface not in self.receiver.attached:
            if time.monotonic() > deadline:
                raise AssertionError(f"{interface} was not attached within {within_s} s")
            time.sleep(0.002)

    def collect(self, *, keep_rows: bool = True) -> None:
        window = Window(time.time_ns() - 1, time.time_ns())
        deadline = time.monotonic_ns() + 5_000_000_000

        def tick() -> Collected:
            self.monitor.poll()
            return self.receiver.collect(window, deadline)

        # Tests collect beside a thread that flips; an agent has one thread for it.
        with self._ticking:
            self._take(self._lab.node.call(tick), keep_rows)
            self.collections += 1

    def finish(self) -> None:
        """What the agent does after the last tick."""
        self._take(self.receiver.finish(Window(time.time_ns() - 1, time.time_ns())), True)

    def settle(self) -> LedgerReport:
        """Two ticks after the traffic has ended: held rows are decided, everything is read."""
        self.collect()
        self.collect()
        return self.ledger.report()

    def total(self, **wanted: object) -> tuple[int, int]:
        """(packets, bytes) of the flows whose fields are as wanted."""
        chosen = [
            flow
            for flow in self.packets
            if all(getattr(flow, name) == value for name, value in wanted.items())
        ]
        return sum(self.packets[f] for f in chosen), sum(self.bytes[f] for f in chosen)

    def stop(self) -> None:
        self.receiver.stop()
        self.monitor.close()

    def _take(self, collected: Collected, keep_rows: bool) -> None:
        self.events.extend(collected.events)
        for batch in collected.metrics:
            self._add(batch, keep_rows)

    def _add(self, batch: MetricBatch, keep_rows: bool) -> None:
        columns = {
            name: np.asarray(column.values, object)[column.codes]
            for name, column in batch.own.items()
        }
        interface = columns["network.interface.name"]
        direction = columns["network.interface.direction"]
        if TCP_FLAG_PACKETS in batch.values:
            values = batch.values[TCP_FLAG_PACKETS]
            flags = columns["retina.tcp.flag"]
            for i in range(len(batch)):
                self.flags[interface[i], direction[i], flags[i]] += int(values[i])
            return
        packets, octets = batch.values[FLOW_PACKETS], batch.values[FLOW_IO]
        transport = columns["network.transport"]
        source, destination = batch.source, batch.destination
        assert source is not None
        assert destination is not None
        for i in range(len(batch)):
            flow = Flow(
                interface[i],
                direction[i],
                transport[i],
                _text(source.hi[i], source.lo[i]) if keep_rows else "",
                int(source.port[i]) if keep_rows else 0,
                _text(destination.hi[i], destination.lo[i]) if keep_rows else "",
                int(destination.port[i]) if keep_rows else 0,
            )
            self.packets[flow] += int(packets[i])
            self.bytes[flow] += int(octets[i])
            if batch.first_ns is not None and batch.last_ns is not None:
                first, last = self.seen.get(flow, (2**63, 0))
                times = int(batch.first_ns[i]), int(batch.last_ns[i])
                self.seen[flow] = min(first, times[0]), max(last, times[1])
            if "retina.flow.initiator" in columns:
                self.initiators[flow] = columns["retina.flow.initiator"][i]


def _text(hi: np.uint64, lo: np.uint64) -> str:
    address = ipaddress.IPv6Address(int(hi) << 64 | int(lo))
    return str(address.ipv4_mapped or address)


@contextmanager
def flows_in(lab: Lab, **settings: object) -> Iterator[Flows]:
    """The receiver, started in the lab's node."""
    flows = Flows(lab, FlowsSettings.model_validate(settings))
    flows.start()
    flows.collect()
    try:
        yield flows
    finally:
        flows.stop()


@contextmanager
def flipping(flows: Flows, every_s: float = 0.05) -> Iterator[None]:
    """Ends a generation every 50 ms on a thread of its own while the body runs."""
    done = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        while not done.wait(every_s):
            try:
                flows.collect(keep_rows=False)
            except BaseException as error:
                failures.append(error)
                return

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failures:
        raise failures[0]
