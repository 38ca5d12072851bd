"""A lane over a spool, with a backend and a clock that the test owns."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from retina_otel.delivery.compression import Compression, Compressor
from retina_otel.delivery.lane import LaneOptions
from retina_otel.delivery.lanes import EventsRoute
from retina_otel.delivery.otlp_wire import LOGS
from retina_otel.delivery.outcome import Outcome, Result
from retina_otel.delivery.packed import Packed
from retina_otel.delivery.report import DeliveryReport
from retina_otel.delivery.retry import RetryPolicy
from retina_otel.delivery.spool.lane import SpoolLane
from retina_otel.delivery.spool.queue import SpoolLimits, SpoolPlace
from retina_otel.encode.otlp import LogsEncoder
from retina_otel.model.signal_types import Event
from retina_otel.pipeline.ledger import LedgerReport
from retina_otel.testing.exporters import Bench, EventsFeed, ManualClock
from retina_otel.testing.points import Occurrence, event_block
from tests.unit.delivery.scripted_outcomes import ACCEPTED, stamps_of

EVENT = Event("retina.test", 9, "something", scope="test")
ROOMY = SpoolLimits(64 << 20, 0)


class Backend:
    """A Sender whose requests end here: it takes what `answer` says, and remembers what it took."""

    def __init__(
        self,
        answer: Callable[[bytes], Outcome] = lambda body: ACCEPTED,
        compression: Compression = Compression.GZIP,
    ) -> None:
        self.answer = answer
        self.taken: list[bytes] = []
        self.encodings: set[str] = set()
        self._compressor = Compressor(compression)

    def pack(self, body: bytes, n_items: int) -> Packed:
        return Packed(*self._compressor.compress(body), n_items, len(body))

    def send(self, packed: Packed, timeout_s: float) -> Outcome:
        self.encodings.add(packed.encoding)
        outcome = self.answer(packed.body())
        if outcome.result is Result.ACCEPTED:
            self.taken.append(packed.body())
        return outcome

    def abort(self) -> None: ...

    def close(self) -> None: ...

    def stamps(self) -> list[int]:
        """The times of all log records that were taken, in order."""
        return stamps_of(self.taken)


class Rig:
    """One process: a lane, its spool, a buffer of events, and a clock of its own."""

    def __init__(
        self,
        directory: Path,
        backend: Backend,
        *,
        limits: SpoolLimits = ROOMY,
        clock: ManualClock | None = None,
        max_bytes: int = 4 << 20,
        feed: EventsFeed | None = None,
    ) -> None:
        self.clock = clock or ManualClock()
        self.bench = Bench(self.clock)
        report = DeliveryReport(
            self.bench.ledger, self.bench.logger, self.clock, self.bench.reasons.append
        )
        self.events = feed or EventsFeed()
        self.spool = SpoolPlace(directory, "otlp-logs", limits).open(self.clock, report.damaged)
        route = EventsRoute(
            encode=lambda: LogsEncoder({}).requests,
            sender=backend,
            split=LOGS.split,
            interval_s=1.0,
            max_bytes=max_bytes,
        )
        options = LaneOptions(
            clock=self.clock, report=report, random=random.Random(7), retry=RetryPolicy()
        )
        self.lane = SpoolLane("events", [self.events], route, options, self.spool)

    def happen(self, first: int, n: int) -> None:
        """Events with the times first, first + 1, ..."""
        occurrences = [Occurrence(time_ns=time) for time in range(first, first + n)]
        self.events.append(event_block(EVENT, occurrences))

    def run(self, seconds: float) -> None:
        """Steps the lane whenever it is due, for so long."""
        end = self.clock.monotonic_ns() + round(seconds * 1e9)
        while not self.lane.finished and self.lane.due_ns < end:
            self.clock.advance_to(self.lane.due_ns)
            self.lane.step()
        self.clock.advance_to(end)

    def stop(self, seconds: float = 5.0) -> LedgerReport:
        self.lane.begin_flush(self.bench.deadline_ns(seconds))
        self.run(seconds + 1)
        assert self.lane.finished
        self.lane.close()
        return self.ledger

    def kill(self) -> None:
        """What SIGKILL leaves: files as they are, and no lock."""
        self.spool.close()

    @property
    def ledger(self) -> LedgerReport:
        report = self.bench.ledger.report()
        assert report.difference == 0
        return report
