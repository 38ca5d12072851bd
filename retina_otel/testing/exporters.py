"""What a test of an exporter needs: a source of known amounts, readers, a clock, a context.

The readers keep the contract of `retina_otel.pipeline.points`: what is not acknowledged comes
again, metrics in newer form, events as they were.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from retina_otel.component import Context
from retina_otel.model.batches import Column, EventBatch, MetricBatch, Window
from retina_otel.model.interfaces import Interface
from retina_otel.model.signal_types import Attribute, Event, Kind, Metric
from retina_otel.pipeline.accumulator import Accumulator
from retina_otel.pipeline.events import EventBuffer, EventBufferSettings
from retina_otel.pipeline.identity.endpoints import EndpointTable
from retina_otel.pipeline.ledger import Ledger
from retina_otel.pipeline.points import EventBlock, EventsExport, MetricsExport, PointBlock

WHO = Attribute("test.who", "string", "which series")
NUMBER = Attribute("test.number", "int", "which event")
METRIC = Metric("test.packets", Kind.COUNTER, "{packet}", "Packets.", (WHO,), scope="test")
EVENT = Event("test.event", 9, "something happened", (NUMBER,), scope="test")


class Source:
    """The ends of two pipelines, an accumulator and an event buffer, fed with known amounts."""

    def __init__(self, most_event_bytes: int = 1 << 20) -> None:
        endpoints = EndpointTable()
        self.accumulator = Accumulator(endpoints)
        self.buffer = EventBuffer(endpoints, EventBufferSettings(max_bytes=most_event_bytes))
        self.truth: dict[str, int] = {}
        """What was added to each series so far."""
        self.events = 0
        self._end_ns = time.time_ns()

    def count(self, **amounts: int) -> None:
        """One tick: adds to series, and publishes."""
        batch = MetricBatch(
            Window(self._end_ns, self.now_ns()),
            {METRIC: np.array(list(amounts.values()), np.int64)},
            own={WHO.name: Column(np.arange(len(amounts), dtype=np.int32), tuple(amounts))},
        )
        for who, amount in amounts.items():
            self.truth[who] = self.truth.get(who, 0) + amount
        self.accumulator.add(batch)
        self.accumulator.snapshot(self._end_ns)

    def now_ns(self) -> int:
        """A time after all that was counted, to end a window at."""
        self._end_ns = max(time.time_ns(), self._end_ns + 5_000_000)
        return self._end_ns

    def happen(self, n: int) -> None:
        """n events, numbered on."""
        now = time.time_ns()
        numbers = np.arange(self.events, self.events + n, dtype=np.int64)
        self.events += n
        self.buffer.append(
            EventBatch(EVENT, Window(now - 1, now), np.full(n, now), {NUMBER.name: numbers})
        )

    def expected(self) -> dict[tuple[str, frozenset[tuple[str, str]]], int]:
        """The total of each series so far, by metric and attributes."""
        return {
            (METRIC.name, frozenset({(WHO.name, who)})): total for who, total in self.truth.items()
        }


class MetricsFeed:
    """A MetricsReader whose snapshots the test publishes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: MetricsExport | None = None
        self.acknowledged: list[int] = []
        """Sequence numbers, in the order in which they were acknowledged."""
        self.taken = 0

    def publish(self, sequence: int, blocks: Sequence[PointBlock]) -> None:
        with self._lock:
            self._newest = MetricsExport(sequence, tuple(blocks))

    def take(self) -> MetricsExport | None:
        with self._lock:
            self.taken += 1
            return self._newest

    def let_go(self) -> None: ...

    def acknowledge(self, export: MetricsExport) -> None:
        with self._lock:
            self.acknowledged.append(export.sequence)


class EventsFeed:
    """An EventsReader over blocks that the test appends; each block is one export."""

    def __init__(self, most_blocks: int = 1000) -> None:
        self._lock = threading.Lock()
        self._blocks: list[tuple[int, EventBlock]] = []
        self._most = most_blocks
        self._sequence = 0
        self._shed = 0

    def append(self, block: EventBlock) -> None:
        """Sheds the oldest block when there are more than `most_blocks`."""
        with self._lock:
            self._sequence += 1
            self._blocks.append((self._sequence, block))
            if len(self._blocks) > self._most:
                self._shed += len(self._blocks.pop(0)[1].time_ns)

    def take(self, max_bytes: int) -> EventsExport | None:
        with self._lock:
            if not self._blocks:
                return None
            sequence, block = self._blocks[0]
            return EventsExport(sequence, (block,))

    def let_go(self) -> None: ...

    def acknowledge(self, export: EventsExport) -> None:
        with self._lock:
            self._blocks = [each for each in self._blocks if each[0] > export.sequence]

    @property
    def shed(self) -> int:
        with self._lock:
            return self._shed


class SystemClock:
    """The machine's clocks."""

    def wall_ns(self) -> int:
        return time.time_ns()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def offset_ns(self) -> int:
        return time.time_ns() - time.monotonic_ns()


class ManualClock:
    """A clock that moves when the test says so."""

    def __init__(self, wall_ns: int = 1_800_000_000 * 10**9) -> None:
        self._wall_ns = wall_ns
        self._passed_ns = 0

    def wall_ns(self) -> int:
        return self._wall_ns + self._passed_ns

    def monotonic_ns(self) -> int:
        return 10**9 + self._passed_ns

    def offset_ns(self) -> int:
        return self._wall_ns - 10**9

    def advance(self, seconds: float) -> None:
        self._passed_ns += round(seconds * 1e9)

    def advance_to(self, monotonic_ns: int) -> None:
        self._passed_ns = max(self._passed_ns, monotonic_ns - 10**9)


class NoInterfaces:
    """An InterfaceRegistry of a machine without interfaces."""

    def current(self) -> Mapping[int, Interface]:
        return {}

    def subscribe(self, callback: object) -> None: ...

    def unsubscribe(self, callback: object) -> None: ...

    def addresses_in(self, netnsid: int) -> Sequence[str]:
        return ()

    def read_stats(self) -> Mapping[int, Interface]:
        return {}


@dataclass
class Bench:
    """A context for one exporter, and what the exporter said through it."""

    clock: SystemClock | ManualClock = field(default_factory=SystemClock)
    id: str = "exporter"
    resource: dict[str, str | int | bool] = field(
        default_factory=lambda: {"service.name": "retina-otel"}
    )
    reasons: list[str] = field(default_factory=list)
    """Each reason that was given for being degraded; "" says that it is over."""

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.id, "items")
        self.logger = logging.getLogger(f"test.{self.id}.{random.getrandbits(32):08x}")

    def context(self) -> Context:
        return Context(
            id=self.id,
            clock=self.clock,
            logger=self.logger,
            ledger=self.ledger,
            identity=EndpointTable(),
            interfaces=NoInterfaces(),
            resource=self.resource,
            degraded=self.reasons.append,
        )

    def deadline_ns(self, seconds: float) -> int:
        return self.clock.monotonic_ns() + round(seconds * 1e9)
